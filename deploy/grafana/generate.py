"""Dashboards as code: `python deploy/grafana/generate.py` writes dashboards/*.json, which Grafana reads at start."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import DataSourceRef
from panels import DASHBOARDS, Panel

FOLDER = Path(__file__).with_name("dashboards")
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
WIDTH = 24


def main() -> None:
    """Write every dashboard."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text)


def texts() -> dict[str, str]:
    """File name → JSON of each dashboard."""
    return {f"{_slug(title)}.json": _dashboard(title, rows) for title, rows in DASHBOARDS.items()}


def _slug(title: str) -> str:
    return re.sub(r"[^a-z]+", "-", title.lower()).strip("-")


def _dashboard(title: str, rows: dict[str, list[Panel]]) -> str:
    made = dashboard.Dashboard(f"cifake: {title}").uid(f"cifake-{_slug(title)}").tags(["cifake"])
    made = made.refresh("30s").time("now-3h", "now").timezone("browser")
    for row, panels in rows.items():
        made = made.with_row(dashboard.Row(row))
        for panel in panels:
            made = made.with_panel(_panel(panel, max(4, WIDTH // len(panels))))
    return json.dumps(made.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _panel(panel: Panel, width: int) -> Any:
    if panel.kind == "stat":
        made: Any = stat.Panel().color_mode(common.BigValueColorMode.NONE).graph_mode(common.BigValueGraphMode.NONE)
    else:
        made = timeseries.Panel().fill_opacity(10).show_points(common.VisibilityMode.NEVER)
    made = made.title(panel.title).unit(panel.unit).datasource(SOURCE).span(width).height(7)
    if panel.about:
        made = made.description(panel.about)
    for letter, (query, legend) in zip("ABCDEF", panel.queries, strict=False):
        target = prometheus.Dataquery().expr(query).ref_id(letter).legend_format(legend or "__auto")
        made = made.with_target(target.instant() if panel.kind == "stat" else target.range())
    return made


if __name__ == "__main__":
    main()

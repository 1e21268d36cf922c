"""The gate as users meet it: what is set aside, what is refused, what is kept, and what the page shows."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from cifake_core.cli import main
from cifake_core.errors import ConfigurationError, DatasetError
from cifake_core.images import codec, dataset
from cifake_core.settings import settings
from cifake_core.storage import Store
from cifake_core.validation import gate, result
from cifake_core.validation.balance import balance


def _spoilt(rows, count: int):
    """As many train images, every tenth, that are PNG."""
    for row in rows["train"][: 10 * count : 10]:
        buffer = io.BytesIO()
        Image.fromarray(codec.decode(row["image"]["bytes"]).pixels).save(buffer, "PNG")
        row["image"]["bytes"] = buffer.getvalue()
    return rows


@pytest.fixture(scope="module")
def set_aside(clean, write_version, tmp_path_factory):
    """A version with three PNG among 600 images, validated twice: store, manifest, and both results."""
    folder = tmp_path_factory.mktemp("gate")
    store = Store((folder / "store").as_uri())
    manifest = write_version(store, _spoilt(clean(), 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIFAKE_HOME", str(folder))
        settings.cache_clear()
        verdicts = [gate.validate(store, manifest.version) for _ in range(2)]
    settings.cache_clear()
    return store, manifest, *verdicts


def test_bad_rows_are_set_aside_and_the_rest_becomes_a_new_version(set_aside):
    store, before, verdict, _ = set_aside
    assert verdict.success
    assert verdict.quarantined == {"images.jpeg": 3}
    cleaned = dataset.load(store, verdict.dataset_version)
    assert cleaned.version != before.version
    assert (cleaned.rows, cleaned.parent, cleaned.removed) == (before.rows - 3, before.version, {"images.jpeg": 3})
    kept = dataset.read(store, cleaned, "train")["image"].to_pylist()
    original = dataset.read(store, before, "train")["image"].to_pylist()  # nothing was deleted
    bad = pq.read_table(io.BytesIO(store.read(f"validation/{before.version}/quarantine.parquet"))).to_pylist()
    assert [row["reason"] for row in bad] == ["images.jpeg"] * 3
    assert {row["split"] for row in bad} == {"train"}
    assert sorted([*(i["path"] for i in kept), *(row["image"]["path"] for row in bad)]) == sorted(
        i["path"] for i in original
    )


def test_what_was_found_is_kept_for_both_versions(set_aside):
    store, before, verdict, _ = set_aside
    assert result.load(store, verdict.dataset_version) == verdict
    refused = result.load(store, before.version)
    assert refused is not None
    assert not refused.success  # as it is, with its bad rows, it is not to be trained on
    assert refused.dataset_version == verdict.dataset_version
    assert result.load(store, "0123456789abcdef") is None


def test_checking_again_finds_the_same(set_aside):
    store, before, verdict, again = set_aside
    assert again == verdict
    assert dataset.versions(store) == sorted([before.version, verdict.dataset_version])


def test_more_bad_rows_than_allowed_refuse_the_whole(clean, write, run, store: Store):
    manifest = write(_spoilt(clean(), 7))  # 1.2 %
    verdict = run(manifest, "images", "shards")
    assert not verdict.success
    assert [f.expectation for f in verdict.failed] == ["images.jpeg"]
    assert verdict.dataset_version == manifest.version
    assert verdict.quarantine_url is None
    assert dataset.versions(store) == [manifest.version]
    page = store.read(f"validation/{manifest.version}/report.html").decode()
    assert "refused" in page
    assert page.count("data:image/png") >= 7  # the culprits, to look at
    assert run(manifest, "images", "shards", max_quarantine=0.02).success


def test_the_verb_names_what_failed_with_counts_and_examples_and_exits_with_1(clean, write):
    manifest = write(_spoilt(clean(), 9))
    done = CliRunner().invoke(main, ["validate", "--dataset", manifest.version, "--json"])
    assert done.exit_code == 1
    shown = json.loads(done.stdout.splitlines()[-1])
    assert shown["success"] is False
    assert (shown["failed"][0]["expectation"], shown["failed"][0]["unexpected"]) == ("images.jpeg", 9)
    assert re.search(r"split=train row=\d+ path=\S+", shown["failed"][0]["examples"][0])
    assert "refused by images.jpeg; see file://" in done.stderr
    assert "Traceback" not in done.output


def test_the_page_holds_all_it_shows(set_aside):
    store, _, verdict, _ = set_aside
    folder = f"validation/{verdict.dataset_version}"
    page = store.read(f"{folder}/report.html").decode()
    assert not re.search(r'(?:src|href)="(?!data:|data_docs/|result\.json|metrics\.prom|#)', page)
    for shown in ("accepted", "images.jpeg", "colourfulness", "Easy baseline", "airplane"):
        assert shown in page
    assert page.count("data:image/jpeg") >= 10
    assert page.count("data:image/png") == 3
    assert b"images" in store.read(f"{folder}/data_docs/index.html")


def test_figures_for_prometheus_are_kept_and_say_what_the_result_says(set_aside):
    store, before, verdict, _ = set_aside
    text = store.read(f"validation/{verdict.dataset_version}/metrics.prom").decode()
    found = {
        (s.name, *sorted(s.labels.items())): s.value for f in text_string_to_metric_families(text) for s in f.samples
    }
    version = ("dataset_version", before.version)
    assert found["cifake_validation_success", version] == 1
    assert found["cifake_validation_rows", version] == before.rows
    assert found["cifake_validation_quarantined_rows", version, ("reason", "images.jpeg")] == 3
    aucs = {a.part: a.auc for a in verdict.shortcuts if a.audit == "trivial"}
    assert aucs
    for part, auc in aucs.items():
        assert found["cifake_validation_shortcut_auc", ("audit", "trivial"), version, ("part", part)] == auc


@pytest.fixture
def gateway() -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    """An HTTP server that takes what is pushed: its URL, and the requests it got."""
    got: list[tuple[str, str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            got.append(("PUT", self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()


def test_figures_are_pushed_where_there_is_a_gateway(clean, write, run, gateway, monkeypatch):
    url, got = gateway
    manifest = write(clean())
    monkeypatch.setenv("CIFAKE_PUSH_GATEWAY", url)
    settings.cache_clear()
    assert run(manifest, "shards").success
    ((method, path, body),) = got
    assert (method, path) == ("PUT", "/metrics/job/validate")
    assert f'cifake_validation_success{{dataset_version="{manifest.version}"}} 1.0' in body.decode()


def test_a_gateway_that_is_down_fails_nothing(clean, write, run, monkeypatch, caplog):
    monkeypatch.setenv("CIFAKE_PUSH_GATEWAY", "http://127.0.0.1:9")
    settings.cache_clear()
    assert run(write(clean()), "shards").success
    assert "the push gateway took no figures" in caplog.text


def _darker(rows, label: int):
    for part in rows.values():
        for row in part:
            if row["label"] == label:
                pixels = codec.decode(row["image"]["bytes"]).pixels
                row["image"]["bytes"] = codec.encode((pixels * 0.6).astype(np.uint8))
    return rows


def test_drift_from_another_version_names_feature_and_label(clean, write, run):
    reference = write(clean())
    changed = run(write(_darker(clean(), 0)), "drift", against=reference.version)
    assert changed.success  # seen before it is trained on, not forbidden
    (psi,) = [f for f in changed.warnings if f.expectation == "drift.psi_small"]
    assert any("label=FAKE" in example and "feature=" in example for example in psi.examples)
    assert not any("label=REAL" in example for example in psi.examples)


def test_no_drift_from_the_same_images(clean, write, run):
    reference = write(clean())
    assert run(reference, "drift", against=reference.version).warnings == []


def test_a_version_balanced_by_greyscale_is_matched_and_repeatable(clean, write, store: Store):
    rows = clean()
    for row in rows["train"][:60:2]:
        pixels = codec.decode(row["image"]["bytes"]).pixels
        grey = np.repeat(pixels.mean(2, keepdims=True), 3, axis=2).astype(np.uint8)
        row["image"]["bytes"] = codec.encode(grey)
    manifest = write(rows)
    matched = balance(store, manifest, "greyscale")
    assert matched.parent == manifest.version
    assert all(counts["FAKE"] == counts["REAL"] for counts in matched.counts.values())
    assert matched.removed["balance:greyscale"] == manifest.rows - matched.rows > 0
    assert balance(store, manifest, "greyscale").version == matched.version
    with pytest.raises(ConfigurationError, match="known: greyscale, colourfulness"):
        balance(store, manifest, "beauty")


def test_an_unknown_version_is_named(store: Store):
    with pytest.raises(DatasetError, match="no dataset version 'nothing'"):
        gate.validate(store, "nothing")

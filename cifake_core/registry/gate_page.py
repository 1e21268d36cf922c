"""The gate's report as one HTML page: checks, models side by side, and the images on which they disagree."""

from __future__ import annotations

import numpy as np

from cifake_core.evaluation import pages
from cifake_core.evaluation.testset import WHOLE
from cifake_core.registry.gates import Contest, Verdict
from cifake_core.settings import LABELS

SHOWN = 24


def page(verdict: Verdict, contest: Contest) -> str:
    """The page of a verdict."""
    return pages.render(
        "gate.html",
        v=verdict,
        name=contest.candidate.name,
        notes=contest.images.notes,
        groups=_groups(verdict, contest),
    )


def _groups(verdict: Verdict, contest: Contest) -> list[dict[str, object]]:
    """The images only one model answers rightly, the candidate's largest change of score first."""
    if not verdict.comparisons or contest.champion_scored is None:
        return []
    ours, theirs = contest.scored[WHOLE], contest.champion_scored[WHOLE]
    change = np.abs(ours.scores - theirs.scores)
    groups = []
    for title, chosen in (
        ("Only the candidate is right", ours.correct & ~theirs.correct),
        ("Only the champion is right", ~ours.correct & theirs.correct),
    ):
        rows = sorted(np.flatnonzero(chosen), key=lambda i: -change[i])
        tiles = [
            {
                "src": pages.picture(np.asarray(contest.images.images[i])),
                "truth": LABELS[ours.labels[i]],
                "kind": contest.images.classes[i],
                "ours": ours.scores[i],
                "theirs": theirs.scores[i],
            }
            for i in rows[:SHOWN]
        ]
        groups.append({"title": title, "total": len(rows), "tiles": tiles})
    return groups

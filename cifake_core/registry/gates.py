"""The gate: may this version become champion? Champion and candidate are scored on the same images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cifake_core import bundle
from cifake_core.errors import CifakeError, ModelError
from cifake_core.evaluation import metrics, testset
from cifake_core.evaluation.testset import WHOLE, Scored, TestSet
from cifake_core.registry.artifacts import ModelVersion, fetch, shipped
from cifake_core.registry.policy import Part, Policy
from cifake_core.settings import REAL
from cifake_core.storage import Store

MADE_ELSEWHERE = "the detector that ships with cifake: its model card says how, and of what data, it was made"


class Check(Part, frozen=True):
    """One condition: what was measured, what is asked, and a sentence that says so."""

    name: str
    passed: bool
    measured: float | None = None
    limit: float | None = None
    why: str


class Comparison(Part, frozen=True):
    """Accuracy on one slice, side by side; `better` and `worse` count images only one model answers rightly."""

    name: str
    rows: int
    candidate: float
    champion: float | None = None
    better: int = 0
    worse: int = 0

    @property
    def gain(self) -> float:
        """Candidate minus champion."""
        return (self.better - self.worse) / self.rows


class Verdict(Part, frozen=True):
    """The gate's answer, with everything it looked at."""

    policy: int
    candidate: int
    champion: int | None
    dataset_version: str
    bundle_sha256: str = ""
    checks: list[Check]
    comparisons: tuple[Comparison, ...] = ()

    @property
    def passed(self) -> bool:
        """Do all checks hold?"""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """One sentence per check that failed."""
        return [check.why for check in self.checks if not check.passed]


class Contest:
    """A candidate against the champion (or none) on one test set: loads, scores and checks, each once.

    A broken candidate is a failed check. So is a broken champion when the gate is overruled anyway.

    Raises:
        ModelError: the *champion* cannot be fetched or scored, and `overruled` is not set.
    """

    def __init__(
        self,
        candidate: ModelVersion,
        champion: ModelVersion | None,
        images: TestSet,
        store: Store,
        policy: Policy,
        overruled: bool = False,
    ) -> None:
        self.candidate, self.champion, self.images, self.store, self.policy = candidate, champion, images, store, policy
        self.overruled = overruled
        self.folder: Path | None = None
        self.problem = self.champion_problem = ""
        try:
            self.folder = fetch(candidate)
            self.detector = bundle.Detector(self.folder, threads=1)
            self.parity = _graphs_differ(self.detector, images.images[:64])
        except ModelError as exc:
            self.problem = str(exc)

    @cached_property
    def ships(self) -> bool:
        """Is the candidate the very detector that ships? How that was made is not in this registry."""
        kept = shipped()
        return bool(kept and self.folder and bundle.sha256(kept[1] / bundle.FILE) == self.folder.name)

    @cached_property
    def scored(self) -> dict[str, Scored]:
        """The candidate's scores per slice."""
        return _score(self.detector, self.images, self.policy)

    @cached_property
    def champion_scored(self) -> dict[str, Scored] | None:
        """The champion's scores per slice, of the very same pixels."""
        if self.champion_detector is None:
            return None
        return _score(self.champion_detector, self.images, self.policy)

    @cached_property
    def champion_detector(self) -> bundle.Detector | None:
        """The champion, loaded; None when there is none, or when it is broken and the gate is overruled."""
        if self.champion is None:
            return None
        try:
            return bundle.Detector(fetch(self.champion), threads=1)
        except ModelError as exc:
            self.champion_problem = f"champion version {self.champion.version} cannot be scored ({exc})"
            if self.overruled:
                return None
            raise ModelError(f"{self.champion_problem}; roll back, or promote with --force") from exc

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All slices side by side."""
        out = []
        for name, ours in self.scored.items():
            theirs = self.champion_scored[name].correct if self.champion_scored else None
            out.append(
                Comparison(
                    name=name,
                    rows=len(ours.labels),
                    candidate=float(ours.correct.mean()),
                    champion=None if theirs is None else float(theirs.mean()),
                    better=0 if theirs is None else int((ours.correct & ~theirs).sum()),
                    worse=0 if theirs is None else int((~ours.correct & theirs).sum()),
                )
            )
        return tuple(out)

    def verdict(self) -> Verdict:
        """Run all checks."""
        facts: dict[str, Any] = {
            "policy": self.policy.version,
            "candidate": self.candidate.version,
            "champion": self.champion.version if self.champion else None,
            "dataset_version": self.images.dataset_version,
        }
        if self.folder is None or self.problem:
            return Verdict(**facts, checks=[Check(name="bundle", passed=False, why=self.problem)])
        checks = [check for make in _CHECKS for check in make(self)]
        return Verdict(**facts, bundle_sha256=self.folder.name, checks=checks, comparisons=self.comparisons)


def _score(detector: bundle.Detector, images: TestSet, policy: Policy) -> dict[str, Scored]:
    return testset.score_slices(detector.probability_real, images, detector.info.threshold, policy.slices.damage_rows)


def _graphs_differ(detector: bundle.Detector, images: np.ndarray) -> float:
    images = np.ascontiguousarray(images)
    worst = float(np.abs(detector.explain(images).logits - detector.score(images)[0]).max())
    scale = max(1.0, float(np.abs(detector.score(images)[0]).max()))
    if worst > bundle.PARITY_TOLERANCE * scale:
        raise ModelError(
            f"{detector.folder}: the explanation graph's logits differ from the score graph's by {worst:.2g}"
        )
    return worst


def _graphs(contest: Contest) -> Iterator[Check]:
    """Loading a bundle has already checked its hashes and replayed Keras' own answers."""
    yield Check(
        name="graphs",
        passed=True,
        measured=contest.parity,
        limit=bundle.PARITY_TOLERANCE,
        why=f"hashes hold, the graphs agree with Keras' recorded answers and with each other ({contest.parity:.1g})",
    )


def _floor(contest: Contest) -> Iterator[Check]:
    accuracy, floor = float(contest.scored[WHOLE].correct.mean()), contest.policy.accuracy.floor
    yield Check(
        name="accuracy-floor",
        passed=accuracy >= floor,
        measured=accuracy,
        limit=floor,
        why=f"accuracy {100 * accuracy:.2f} %, at least {100 * floor:.2f} % is asked of any champion",
    )


def _better(contest: Contest) -> Iterator[Check]:
    if contest.champion is None:
        return
    if contest.champion_scored is None:
        yield Check(name="champion", passed=False, why=contest.champion_problem)
        return
    whole, policy = contest.comparisons[0], contest.policy.accuracy
    p = metrics.mcnemar(whole.better, whole.worse)
    enough, certain = whole.gain > 0 and whole.gain >= policy.minimum_gain, p <= policy.alpha
    said = (
        f"accuracy {100 * whole.candidate:.2f} % against the champion's {100 * (whole.champion or 0):.2f} % on "
        f"the same {whole.rows:,} images: {100 * whole.gain:+.2f} points (p = {p:.2g})"
    )
    if not enough:
        said += f"; a gain of {100 * policy.minimum_gain:.2f} points or more is asked" if whole.gain > 0 else ""
    elif not certain:
        said += f"; chance alone would do that: p at most {policy.alpha} is asked"
    yield Check(
        name="better-than-champion",
        passed=enough and certain,
        measured=whole.gain,
        limit=policy.minimum_gain,
        why=said,
    )


def _slices(contest: Contest) -> Iterator[Check]:
    if contest.champion_scored is None:
        return
    policy = contest.policy.slices
    if unknown := policy.overrides.keys() - contest.scored.keys():
        names = ", ".join(sorted(unknown))
        yield Check(name="slices", passed=False, why=f"gates.yaml asks for slices that were not measured: {names}")
    for part in contest.comparisons[1:]:
        tolerance = policy.overrides.get(part.name, policy.tolerance)
        p = metrics.mcnemar(part.worse, part.better)
        yield Check(
            name=part.name,
            passed=-part.gain <= tolerance or p > policy.alpha,
            measured=part.gain,
            limit=-tolerance,
            why=f"{part.name}: {100 * part.candidate:.2f} % against the champion's {100 * (part.champion or 0):.2f} % "
            f"on {part.rows:,} images (p = {p:.2g}); it may fall by {100 * tolerance:.2f} points at most",
        )


def _explanations(contest: Contest) -> Iterator[Check]:
    """Insertion minus deletion of the same images' heatmaps, each model explaining its own verdicts."""
    policy = contest.policy.explanations
    chosen = np.linspace(0, len(contest.images.images) - 1, policy.images).round().astype(int)
    images = np.ascontiguousarray(contest.images.images[np.unique(chosen)])
    ours = _faithfulness(contest.detector, images, policy.method)
    said = f"heatmaps by {policy.method} score {ours.mean():+.3f} (insertion minus deletion"
    if contest.champion_detector is None:
        yield Check(name="explanations", passed=True, measured=float(ours.mean()), why=f"{said})")
        return
    change = ours - _faithfulness(contest.champion_detector, images, policy.method)
    gain, p = float(change.mean()), metrics.paired_p(change)
    yield Check(
        name="explanations",
        passed=-gain <= policy.tolerance or p > policy.alpha,
        measured=gain,
        limit=-policy.tolerance,
        why=f"{said}) against the champion's {(ours - change).mean():+.3f} on the same {len(images)} images "
        f"(p = {p:.2g}); they may fall by {policy.tolerance:g} at most",
    )


def _faithfulness(detector: bundle.Detector, images: np.ndarray, method: str) -> np.ndarray:
    from cifake_core.explain import explainer, faithfulness

    target = (detector.probability_real(images) >= detector.info.threshold).astype(int)
    blocks = explainer.choose_blocks([block.name for block in detector.info.blocks])
    maps = explainer.heatmaps(detector, images, method=method, blocks=blocks, target=target)
    areas = faithfulness.insertion_deletion(detector.score, images, maps, target)
    return areas.insertion - areas.deletion


def _bounds(contest: Contest) -> Iterator[Check]:
    whole, bounds = contest.scored[WHOLE], contest.policy.bounds
    alarms = float((~whole.correct)[whole.labels == REAL].mean()) if (whole.labels == REAL).any() else 0.0
    ece = metrics.ece(whole.labels, whole.scores)
    folder = contest.detector.folder
    size = sum((folder / name).stat().st_size for name in ("score.onnx", "explain.onnx")) / 1e6
    latency = contest.detector.latency_ms(contest.images.images[:1])
    for name, measured, limit, text in (
        ("calibration", ece, bounds.ece, f"expected calibration error {ece:.4f}"),
        ("false-alarms", alarms, bounds.false_alarm_rate, f"{100 * alarms:.2f} % of REAL is called FAKE"),
        ("latency", latency, bounds.latency_ms, f"one image takes {latency:.2f} ms"),
        ("size", size, bounds.size_mb, f"the graphs are {size:.1f} MB"),
    ):
        yield Check(
            name=name,
            passed=measured <= limit,
            measured=measured,
            limit=limit,
            why=f"{text}; at most {limit:g} is allowed",
        )


def _validated(contest: Contest) -> Iterator[Check]:
    if not contest.policy.require.validated:
        return
    if contest.ships:
        yield Check(name="validated", passed=True, why=MADE_ELSEWHERE)
        return
    data = contest.candidate.dataset_version
    name = f"validation/{data}/result.json"
    if not contest.store.exists(name):
        passed, said = False, f"no validation result; run `cifake validate --dataset {data}`"
    else:
        try:
            passed = json.loads(contest.store.read(name))["success"] is True
        except (ValueError, KeyError, TypeError):
            passed = False
        said = "validated" if passed else "its validation failed"
    yield Check(name="validated", passed=passed, why=f"training data {data}: {said}")


def _lineage(contest: Contest) -> Iterator[Check]:
    if not contest.policy.require.lineage:
        return
    if contest.ships:
        yield Check(name="lineage", passed=True, why=MADE_ELSEWHERE)
        return
    version, info = contest.candidate, contest.detector.info
    gaps = []
    if not version.run_id or info.run_id not in (None, version.run_id):
        gaps.append(f"the bundle says run {info.run_id}, the registry {version.run_id or 'none'}")
    if info.dataset_version != version.dataset_version:
        gaps.append(f"the bundle says data {info.dataset_version}, the registry {version.dataset_version or 'none'}")
    if info.seed is None:
        gaps.append("no seed")
    try:
        from cifake_core.images import dataset

        dataset.load(contest.store, version.dataset_version)
    except CifakeError as exc:
        gaps.append(str(exc))
    said = "; ".join(gaps) or f"run {version.run_id}, data {version.dataset_version}, {info.topology}, seed {info.seed}"
    yield Check(name="lineage", passed=not gaps, why=f"lineage: {said}")


_CHECKS: tuple[Callable[[Contest], Iterator[Check]], ...] = (
    _graphs, _floor, _better, _slices, _explanations, _bounds, _validated, _lineage,
)  # fmt: skip

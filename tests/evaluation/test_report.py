"""The report says what was measured, on one page that carries its pictures; tiles of other generators are read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cifake_core.errors import DatasetError
from cifake_core.evaluation import averaging, report, testset
from cifake_core.evaluation.report import Evaluation
from cifake_core.evaluation.testset import TestSet
from cifake_core.images.dataset import Manifest
from cifake_core.storage import Store


def write_tiles(path: Path, count: int, **columns: list[str]) -> str:
    """A Parquet file of `count` lossless tiles of noise by two generators of one family."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": "tile.png"})
    named = {"generator": [f"net <{i % 2}>" for i in range(count)], "family": ["GAN"] * count, **columns}
    pq.write_table(pa.table({"image": encoded, **named}), path)
    return str(path)


def brightness(images: np.ndarray) -> np.ndarray:
    """A poor detector: bright is REAL."""
    return images.mean((1, 2, 3)) / 255


@pytest.fixture
def images(store: Store, make_dataset: Callable[..., Manifest], tmp_path: Path) -> TestSet:
    manifest = make_dataset(store, train_rows=20, test_rows=100)
    return testset.load(store, manifest.version, write_tiles(tmp_path / "tiles.parquet", 6))


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.sources += [values[name] or "" for name in ("src", "href") if name in values]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_figures_are_those_of_the_scores(images: TestSet) -> None:
    evaluation = report.summarise("some model", images, testset.score_slices(brightness, images))
    scores = brightness(images.images)
    assert evaluation.whole.accuracy == np.mean((scores >= 0.5) == images.labels)
    assert evaluation.whole.rows == 100
    figures = evaluation.scalars()
    assert figures["accuracy"] == evaluation.whole.accuracy
    assert figures["slice/damage/greyscale"] == pytest.approx(figures["accuracy"], abs=0.05)
    assert figures["unseen/GAN/recall"] == next(u.recall for u in evaluation.unseen if u.name == "GAN")
    assert {u.name: u.rows for u in evaluation.unseen} == {"GAN": 6, "GAN/net <0>": 3, "GAN/net <1>": 3}
    assert Evaluation.model_validate(json.loads(evaluation.model_dump_json())) == evaluation


def test_the_page_is_whole_needs_no_network_and_escapes_names(images: TestSet) -> None:
    scored = testset.score_slices(brightness, images)
    evaluation = report.summarise("<b>model</b>", images, scored)
    page = _Page(report.page(evaluation, images, scored))
    assert page.open == []
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "Evaluation of <b>model</b>" in page.words
    assert "GAN/net <0>" in page.words
    assert f"{100 * evaluation.whole.accuracy:.2f} %" in page.words
    for name in ("damage:blur-1", "class:cat"):
        assert name in page.words


def test_averaging_is_an_extra_row_that_changes_no_other_figure(images: TestSet) -> None:
    scored = testset.score_slices(brightness, images)
    averages = averaging.measure(brightness, images, scored["all"], 40)
    plain, extra = report.summarise("m", images, scored), report.summarise("m", images, scored, averages)
    assert extra.model_copy(update={"averages": []}) == plain
    assert plain.scalars().items() <= extra.scalars().items()
    assert extra.scalars()["averaged/flip/accuracy"] == averages[0].averaged
    assert "With test-time averaging" in _Page(report.page(extra, images, scored)).words
    assert "With test-time averaging" not in report.page(plain, images, scored)
    assert Evaluation.model_validate_json(extra.model_dump_json()) == extra


def test_a_perfect_score_leaves_nothing_to_show_as_wrong(images: TestSet) -> None:
    answers = dict(zip((i.tobytes() for i in images.images), images.labels, strict=True))

    def oracle(pixels: np.ndarray) -> np.ndarray:
        return np.array([float(answers.get(i.tobytes(), 0)) for i in pixels])

    scored = testset.score_slices(oracle, images)
    evaluation = report.summarise("oracle", images, scored)
    assert evaluation.whole.accuracy == 1
    assert evaluation.whole.ece == 0
    page = report.page(evaluation, images, scored)
    assert "None." in page.partition("Most confidently wrong")[2]


def test_tiles_pass_the_codec_before_they_are_judged(tmp_path: Path) -> None:
    tiles = testset.load_tiles(write_tiles(tmp_path / "tiles.parquet", 4))
    lossless = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert tiles.images.shape == (4, 32, 32, 3)
    assert not np.array_equal(tiles.images[0], lossless)
    assert tiles.generators.tolist() == ["net <0>", "net <1>"] * 2


def test_tiles_in_another_layout_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    pq.write_table(pa.table({"image": ["x"]}), tmp_path / "columns.parquet")
    for name in ("text.parquet", "columns.parquet"):
        with pytest.raises(DatasetError, match=f"{name}: expected a Parquet file with columns"):
            testset.load_tiles(str(tmp_path / name))
    broken = [{"bytes": b"text", "path": None}]
    pq.write_table(pa.table({"image": broken, "generator": ["x"], "family": ["y"]}), tmp_path / "broken.parquet")
    with pytest.raises(DatasetError, match=r"broken\.parquet: row 0: "):
        testset.load_tiles(str(tmp_path / "broken.parquet"))


def test_a_dataset_version_without_a_test_split_is_refused(store: Store, make_dataset: Callable[..., Manifest]) -> None:
    manifest = make_dataset(store, train_rows=20, test_rows=0)
    with pytest.raises(DatasetError, match="has no test split"):
        testset.load(store, manifest.version)

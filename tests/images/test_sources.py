import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cifake_core.errors import CifakeError, ConfigurationError, DataNotFoundError
from cifake_core.images import codec, records, sample, sources
from cifake_core.settings import CLASSES, FAKE, REAL, settings

NAMES = ["0001.jpg", "0001 (2).jpg", "0001 (7).jpg", "0001 (10).jpg"]
NAME_CLASSES = ["airplane", "automobile", "frog", "truck"]


@pytest.fixture
def jpegs(rng) -> list[bytes]:
    return [codec.encode(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(8)]


def write_cifake(file: Path, jpegs: list[bytes], names: list[str] | None = None, folder: str = "") -> None:
    """Eight rows in CIFAKE's hub layout: four FAKE, then four REAL."""
    names = names or ["FAKE", "REAL"]
    feature = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    table = pa.table(
        {
            "image": [{"bytes": data, "path": folder + NAMES[i % 4]} for i, data in enumerate(jpegs)],
            "label": [names.index("FAKE" if i < 4 else "REAL") for i in range(8)],
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": feature}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


def use(monkeypatch, location: object) -> None:
    monkeypatch.setenv("CIFAKE_DATA", str(location))
    settings.cache_clear()


def facts(table: pa.Table) -> list[tuple]:
    return list(zip(*(table[c].to_pylist() for c in ("label", "class", "source", "generator")), strict=True))


CIFAKE_FACTS = [(FAKE, name, "cifake", "stable-diffusion-v1-4") for name in NAME_CLASSES] + [
    (REAL, name, "cifar10", None) for name in NAME_CLASSES
]


@pytest.mark.parametrize(
    "layout",
    ["{}.parquet", "{}-00000-of-00001.parquet", "data/{}-00000-of-00001.parquet"],
    ids=["flat", "root", "data"],
)
def test_cifake_in_the_hub_layout(tmp_path, monkeypatch, jpegs, layout):
    for side in sources.SIDES:
        write_cifake(tmp_path / layout.format(side), jpegs, folder=f"{side}/x/")
    use(monkeypatch, tmp_path)
    source = sources.resolve()
    table = source.read("train")
    assert source.name == "cifake"
    assert facts(table) == CIFAKE_FACTS
    assert records.image_bytes(table) == jpegs
    assert table.schema.equals(records.SCHEMA)
    assert facts(source.read("test", REAL)) == CIFAKE_FACTS[4:]


def test_a_mirror_that_counts_its_labels_the_other_way_round(tmp_path, jpegs):
    for side in sources.SIDES:
        write_cifake(tmp_path / f"{side}.parquet", jpegs, names=["REAL", "FAKE"])
    assert facts(sources.open_source(str(tmp_path)).read("train")) == CIFAKE_FACTS


def test_several_files_a_side_are_read_in_order(tmp_path, jpegs):
    for part in range(2):
        write_cifake(tmp_path / f"data/train-0000{part}-of-00002.parquet", jpegs[:: 1 - 2 * part])
    write_cifake(tmp_path / "data/test-00000-of-00001.parquet", jpegs)
    assert records.image_bytes(sources.open_source(str(tmp_path)).read("train")) == jpegs + jpegs[::-1]


def test_cifar10_in_the_hub_layout_is_all_real(tmp_path, monkeypatch, jpegs):
    for side in sources.SIDES:
        rows = {"img": [{"bytes": data, "path": None} for data in jpegs], "label": [6, 9, 9, 4, 1, 1, 2, 7]}
        (tmp_path / "plain_text").mkdir(exist_ok=True)
        pq.write_table(pa.table(rows), tmp_path / f"plain_text/{side}-00000-of-00001.parquet")
    use(monkeypatch, tmp_path)
    source = sources.resolve()
    table = source.read("train", REAL)
    assert source.name == "cifar10"
    assert facts(table)[:4] == [(REAL, CLASSES[number], "cifar10", None) for number in (6, 9, 9, 4)]
    assert table["image"][0].as_py()["path"] == "train/frog/00000.png"
    with pytest.raises(DataNotFoundError, match="holds no FAKE images"):
        source.read("train", FAKE)


def write_kaggle_tree(folder: Path, jpegs: list[bytes]) -> None:
    for side in ("train", "test"):
        for i, data in enumerate(jpegs):
            path = folder / side / ("FAKE" if i < 4 else "REAL") / NAMES[i % 4]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def test_kaggle_folders(tmp_path, monkeypatch, jpegs):
    write_kaggle_tree(tmp_path, jpegs)
    (tmp_path / "train/REAL/Thumbs.db").write_bytes(b"not an image")
    use(monkeypatch, tmp_path.as_uri())
    table = sources.resolve().read("train")
    assert sorted(facts(table), key=str) == sorted(CIFAKE_FACTS, key=str)
    by_path = dict(zip([i["path"] for i in table["image"].to_pylist()], records.image_bytes(table), strict=True))
    assert by_path["train/FAKE/0001 (7).jpg"] == jpegs[2]
    assert by_path["train/REAL/0001.jpg"] == jpegs[4]


def test_ones_own_folders_are_not_taken_for_cifake(tmp_path, jpegs):
    for side in ("train", "test"):
        for label in ("real", "fake"):
            (tmp_path / side / label).mkdir(parents=True)
            (tmp_path / side / label / "IMG_2041.JPG").write_bytes(jpegs[0])
    table = sources.open_source(str(tmp_path)).read("train")
    assert facts(table) == [(FAKE, "unknown", "folder", "unknown"), (REAL, "unknown", "folder", None)]


def test_the_same_images_read_from_s3(s3, tmp_path, monkeypatch, jpegs):
    from cifake_core.storage import Store

    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    write_kaggle_tree(tmp_path / "tree", jpegs)
    location = f"s3://{s3.bucket}/{tmp_path.name}"
    for path in (tmp_path / "tree").rglob("*.jpg"):
        Store(location).write(str(path.relative_to(tmp_path / "tree")), path.read_bytes())
    local, remote = (sources.open_source(place).read("test") for place in (str(tmp_path / "tree"), location))
    assert remote.equals(local)


def test_a_source_of_another_size_than_published_says_so(tmp_path, jpegs):
    write_kaggle_tree(tmp_path, jpegs)
    (note,) = sources.open_source(str(tmp_path)).notes
    assert "8 + 8 images, CIFAKE as published 100,000 + 20,000" in note


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: None, "no such folder; point CIFAKE_DATA at"),
        (lambda p: p.mkdir(), "holds neither train and test Parquet files"),
        (lambda p: (p / "train/REAL").mkdir(parents=True), "holds neither train and test Parquet files"),
        (
            lambda p: [p.mkdir(), (p / "train.parquet").write_bytes(b"x" * 99), (p / "test.parquet").write_bytes(b"")],
            "train.parquet: not a readable Parquet file",
        ),
        (
            lambda p: [p.mkdir(), *(pq.write_table(pa.table({"a": [1]}), p / f"{s}.parquet") for s in sources.SIDES)],
            "expected image .or img. and label",
        ),
    ],
    ids=["missing", "empty", "no test side", "not parquet", "other columns"],
)
def test_data_that_is_not_there_is_never_passed_over(tmp_path, monkeypatch, make, said):
    make(tmp_path / "data")
    use(monkeypatch, tmp_path / "data")
    with pytest.raises(DataNotFoundError, match=said) as caught:
        sources.resolve()
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "data") in str(caught.value)


def test_an_unknown_kind_of_url_is_a_configuration_error(monkeypatch):
    use(monkeypatch, "gopher://images")
    with pytest.raises(ConfigurationError, match="gopher://images"):
        sources.resolve()


@pytest.mark.parametrize("labels", [[-1] * 8, [2] * 8, [None] * 8])
def test_labels_out_of_range_are_refused(tmp_path, jpegs, labels):
    rows = {"image": [{"bytes": data, "path": "1.jpg"} for data in jpegs], "label": pa.array(labels, pa.int64())}
    for side in sources.SIDES:
        pq.write_table(pa.table(rows), tmp_path / f"{side}.parquet")
    with pytest.raises(CifakeError, match="a label is not one of 0 to 1"):
        sources.open_source(str(tmp_path)).read("train")


def test_the_order_is_setting_then_cache_then_sample(tmp_path, monkeypatch, home, jpegs):
    assert sources.resolve().name == "offline-sample"
    write_cifake(home / "cache/sources/cifake/data/train-00000-of-00001.parquet", jpegs)
    write_cifake(home / "cache/sources/cifake/data/test-00000-of-00001.parquet", jpegs)
    assert sources.resolve().location == str(home / "cache/sources/cifake")
    for side in sources.SIDES:
        write_cifake(tmp_path / f"mine/{side}.parquet", jpegs)
    use(monkeypatch, tmp_path / "mine")
    assert sources.resolve().location == str(tmp_path / "mine")


def test_the_offline_sample_is_loud_about_itself(caplog):
    source = sources.resolve()
    assert "OFFLINE SAMPLE" in caplog.text
    assert "compare with nothing published" in source.notes[0]


def test_the_offline_sample_is_balanced_canonical_and_always_the_same():
    few, more = (sample.OfflineSample().read("train", rows=n) for n in (40, 80))
    assert set(Counter((label, name) for label, name, _, _ in facts(more)).values()) == {4}
    assert {(label, generator) for label, _, _, generator in facts(more)} == {(FAKE, "resample"), (REAL, None)}
    assert set(records.row_hashes(few)) < set(records.row_hashes(more))
    assert all(codec.is_canonical(data) for data in records.image_bytes(few))
    assert len(set(records.content_hashes(more))) == 80


def test_no_photograph_of_the_offline_sample_is_on_both_sides():
    train, test = (set(sample.PHOTOGRAPHS[side]) for side in sources.SIDES)
    assert not train & test


RESOLVE = "from cifake_core.images import sources; s = sources.resolve(); print(s.name, s.location)"


def resolve_elsewhere(endpoint: str, home: Path, **environment: str) -> tuple[str, float]:
    """`resolve()` in a process of its own, since the hub's library reads its settings once."""
    variables = {k: v for k, v in os.environ.items() if k not in ("CIFAKE_DATA", "HF_HUB_OFFLINE")}
    variables |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "CIFAKE_HOME": str(home), **environment}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE], env=variables, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip(), time.monotonic() - start


def test_a_hub_that_never_answers_is_given_up_on(home):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        resolved, seconds = resolve_elsewhere(f"http://127.0.0.1:{silent.getsockname()[1]}", home)
    assert resolved.startswith("offline-sample")
    assert seconds < 20


def test_a_hub_that_is_not_there_is_given_up_on(home):
    assert resolve_elsewhere("http://127.0.0.1:9", home)[0].startswith("offline-sample")


@contextmanager
def hub(files: dict[str, bytes], broken: str = ""):
    """The part of the hub's HTTP interface that a download uses, serving one dataset; `broken` is never sent whole."""
    repository = sources.HUB["cifake"]
    commit = "0" * 40

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path.split("?")[0] in (f"/api/datasets/{repository}", f"/api/datasets/{repository}/revision/main"):
                listing = {"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
                self.answer(json.dumps(listing).encode(), "application/json")
            elif self.path.startswith(f"/api/datasets/{repository}/tree/{commit}"):
                entries = [
                    {"type": "file", "path": name, "size": len(data), "oid": str(i)}
                    for i, (name, data) in enumerate(files.items())
                ]
                self.answer(json.dumps(entries).encode(), "application/json")
            elif self.path.startswith(f"/datasets/{repository}/resolve/{commit}/"):
                name = self.path.split(f"{commit}/")[1]
                if name == broken and self.command == "GET":
                    self.send_error(403)
                    return
                self.answer(
                    files[name], "application/octet-stream", {"ETag": f'"{etag(name)}"', "X-Repo-Commit": commit}
                )
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def answer(self, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
            self.send_response(200)
            for name, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    def etag(name: str) -> str:
        return hashlib.sha1(files[name]).hexdigest()

    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_hub_is_asked_once_then_the_cache_serves(home, tmp_path, jpegs):
    for side in sources.SIDES:
        write_cifake(tmp_path / f"data/{side}-00000-of-00001.parquet", jpegs)
    files = {f"data/{path.name}": path.read_bytes() for path in (tmp_path / "data").iterdir()} | {"README.md": b"#"}
    with hub(files) as (endpoint, asked):
        first, _ = resolve_elsewhere(endpoint, home)
        requests = len(asked)
        second, _ = resolve_elsewhere(endpoint, home)
    assert first == second == f"cifake {home / 'cache/sources/cifake'}"
    assert len(asked) == requests > 0
    assert sorted(p.name for p in (home / "cache/sources").rglob("*")) == [
        "cifake",
        "cifake.lock",
        "data",
        *sorted(p.name for p in (tmp_path / "data").iterdir()),
    ]
    assert facts(sources.open_source(str(home / "cache/sources/cifake")).read("train")) == CIFAKE_FACTS


def test_a_download_that_stops_is_an_error_not_the_offline_sample_and_goes_on_next_time(home, tmp_path, jpegs):
    for side in sources.SIDES:
        write_cifake(tmp_path / f"data/{side}-00000-of-00001.parquet", jpegs)
    files = {f"data/{path.name}": path.read_bytes() for path in (tmp_path / "data").iterdir()}
    with hub(files) as (endpoint, _), hub(files, broken="data/test-00000-of-00001.parquet") as (breaking, _):
        with pytest.raises(subprocess.CalledProcessError) as caught:
            resolve_elsewhere(breaking, home)
        assert "the download stopped" in caught.value.stderr
        assert not (home / "cache/sources/cifake").exists()
        assert resolve_elsewhere(endpoint, home)[0].startswith("cifake ")

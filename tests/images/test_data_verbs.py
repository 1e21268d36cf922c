import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cifake_core.cli import main
from cifake_core.images import codec, collection, dataset, records
from cifake_core.settings import CLASSES, settings


@pytest.fixture
def cifake(image_source, monkeypatch):
    """`cifake("data", "build", …)`: run a verb on real images, or the offline sample."""
    monkeypatch.setenv("CIFAKE_DATA", image_source)
    settings.cache_clear()

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments)

    return run


def answer(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


def refusal(result: Result, code: int = 2) -> str:
    """The one line a user reads."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("cifake ")]
    return line


def test_build_gives_a_balanced_version_that_opens_as_hub_parquet(cifake, store):
    built = answer(cifake("data", "build", "--train-rows", "200", "--test-rows", "40", "--json"))
    folder = Path(store.path(f"datasets/{built['dataset_version']}"))
    rows = {split: pq.read_table(next(folder.glob(f"{split}-*.parquet"))) for split in dataset.SPLITS}
    for split, table in rows.items():
        assert Counter(table["label"].to_pylist()) == {
            0: built["counts"][split]["FAKE"],
            1: built["counts"][split]["REAL"],
        }
    everything = records.content_hashes(rows["train"]) + records.content_hashes(rows["validation"])
    assert not set(everything) & set(records.content_hashes(rows["test"]))
    classes = Counter(zip(rows["test"]["label"].to_pylist(), rows["test"]["class"].to_pylist(), strict=True))
    assert classes == {(label, name): 2 for label in (0, 1) for name in CLASSES}
    assert all(encoder == codec.ENCODER for encoder in rows["train"]["encoder"].to_pylist())


def test_building_again_gives_the_same_answer_and_another_seed_another_version(cifake):
    build = ("data", "build", "--train-rows", "60", "--test-rows", "20", "--json")
    first = answer(cifake(*build))
    assert answer(cifake(*build)) == first
    assert answer(cifake(*build, "--seed", "1"))["dataset_version"] != first["dataset_version"]


def test_collections_build_the_same_rows_as_the_source_itself(cifake, store):
    sides = ("--train-rows", "100", "--test-rows", "20", "--json")
    real, fake = (answer(cifake("data", "collect", "--label", label, *sides)) for label in ("REAL", "FAKE"))
    assert real["rows"] == 120
    assert store.list("collections") == sorted(url["rows_url"].rsplit("/", 1)[1] for url in (real, fake))
    urls = ("--real", real["rows_url"], "--fake", fake["rows_url"])
    built = answer(cifake("data", "build", *urls, "--json"))
    direct = answer(cifake("data", "build", "--train-rows", "200", "--test-rows", "40", "--json"))
    assert built["dataset_version"] == direct["dataset_version"]
    assert answer(cifake("data", "build", *urls, "--train-rows", "40", "--test-rows", "20", "--json"))["rows"] == 60


@pytest.mark.parametrize("sizes", [("--train-rows", "40", "--test-rows", "40"), ()])
def test_only_fake_given_takes_as_many_real_from_the_source(cifake, store, make_table, sizes):
    fake = make_table(80).filter([number % 2 == 0 for number in range(80)])
    made = collection.write(store, "noise", {"train": fake.slice(0, 20), "test": fake.slice(20)}, ("made of noise",))
    built = answer(cifake("data", "build", "--fake", made.rows_url, *sizes, "--json"))
    assert built["generators"]["test"] == {"noise": 20}
    assert built["counts"]["test"] == {"FAKE": 20, "REAL": 20}
    assert built["rows"] == 80
    assert "made of noise" in built["notes"]
    assert built["parameters"]["inputs"]["FAKE"] == [made.rows_url.rsplit("/", 1)[1]]


@pytest.mark.parametrize("sizes", [(), ("--test-rows", "20")])
def test_a_side_that_would_hold_one_label_only_is_refused(cifake, store, make_table, sizes):
    fake = make_table(40).filter([number % 2 == 0 for number in range(40)])
    made = collection.write(store, "noise", {"train": fake})
    line = refusal(cifake("data", "build", "--fake", made.rows_url, *sizes))
    assert "for the test side; give some, or build without that side: --test-rows 0" in line
    built = answer(cifake("data", "build", "--fake", made.rows_url, "--test-rows", "0", "--json"))
    assert built["rows"] == 40


def test_photographs_beside_fake_images_are_of_every_class_alike(cifake, store, make_table):
    fake = make_table(80).filter([number % 2 == 0 for number in range(80)])
    made = collection.write(store, "noise", {"train": fake.slice(0, 20), "test": fake.slice(20)})
    built = answer(cifake("data", "build", "--fake", made.rows_url, "--json"))
    table = dataset.read(store, dataset.load(store, built["dataset_version"]), "test")
    classes = Counter(row["class"] for row in table.to_pylist() if row["label"] == 1)
    assert set(classes.values()) == {2}


def test_a_generation_that_is_not_all_drawn_is_no_collection_yet(cifake, store, make_table):
    fake = make_table(40).filter([number % 2 == 0 for number in range(40)])
    made = collection.write(store, "half", {"train": fake, "test": fake})
    folder = "collections/" + made.rows_url.rsplit("/", 1)[1]
    drawn = [name.removesuffix(".parquet") for name in store.list(folder) if name.endswith(".parquet")]
    shards = [{"name": name} for name in [*drawn, "train-99999-of-99999"]]
    store.write(f"{folder}/plan.json", json.dumps({"shards": shards}).encode())
    assert "1 of 3 shards are not drawn yet" in refusal(cifake("data", "build", "--fake", made.rows_url))


def test_an_image_on_both_sides_stays_in_test_and_is_counted(cifake, store, make_table):
    table = make_table(60)
    urls = []
    for label in (0, 1):
        mine = table.filter([value == label for value in table["label"].to_pylist()])
        sides = {"train": mine, "test": mine.slice(0, 5)}
        urls.append(collection.write(store, f"label{label}", sides).rows_url)
    built = answer(cifake("data", "build", "--fake", urls[0], "--real", urls[1], "--json"))
    assert built["parameters"]["left_out"] == {"also in test": 10}
    assert built["counts"]["test"] == {"FAKE": 5, "REAL": 5}
    assert sum(sum(built["counts"][split].values()) for split in ("train", "validation")) == 50


def kaggle_tree(folder: Path, per_side: int = 4) -> Path:
    """PNG files of noise, 40 pixels wide, in Kaggle's folders."""
    rng = np.random.default_rng(0)
    for side in ("train", "test"):
        for label in ("REAL", "FAKE"):
            (folder / side / label).mkdir(parents=True)
            for number in range(per_side):
                pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / side / label / f"{number:04d}.png")
    return folder


def use(monkeypatch, folder: Path) -> None:
    monkeypatch.setenv("CIFAKE_DATA", str(folder))
    settings.cache_clear()


def test_what_is_not_canonical_is_made_so_and_says_how(cifake, monkeypatch, tmp_path, store):
    use(monkeypatch, kaggle_tree(tmp_path / "tree"))
    manifest = dataset.load(store, answer(cifake("data", "build", "--json"))["dataset_version"])
    table = dataset.read(store, manifest, "test")
    assert all(codec.is_canonical(data) for data in records.image_bytes(table))
    assert set(table["resize_filter"].to_pylist()) == {"lanczos"}
    assert all(image["path"].endswith(".jpg") for image in table["image"].to_pylist())


def bad_files() -> dict[str, tuple[bytes, str]]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    jpeg, huge = io.BytesIO(), io.BytesIO()
    noise.save(jpeg, "JPEG")
    Image.new("1", (10_000, 5_000)).save(huge, "PNG")
    return {
        "truncated": (jpeg.getvalue()[:-500], "the JPEG data is damaged or cut short"),
        "50 megapixels": (huge.getvalue(), "10000×5000 pixels; at most 40,000,000 are accepted"),
        "zero bytes": (b"", "the file is empty"),
        "text named .jpg": (b"dear diary", "not a JPEG, PNG or WebP image"),
    }


@pytest.mark.parametrize(("content", "said"), bad_files().values(), ids=bad_files().keys())
def test_a_bad_image_is_named_and_nothing_is_written(cifake, monkeypatch, tmp_path, store, content, said):
    tree = kaggle_tree(tmp_path / "tree")
    (tree / "train/REAL/0099.jpg").write_bytes(content)
    use(monkeypatch, tree)
    line = refusal(cifake("data", "build", "--json"))
    assert line.startswith(f"cifake build: train/REAL/0099.jpg: {said}; ")
    assert "--skip-rejected" in line
    assert store.list() == []
    built = answer(cifake("data", "build", "--skip-rejected", "--json"))
    assert sum(built["parameters"]["left_out"].values()) == 1
    assert built["rows"] == 16


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("build", "--fake", "file:///nowhere/at/all"), "no collection there"),
        (("show", "0123456789abcdef"), "no dataset version '0123456789abcdef'"),
        (("build", "--real", "gopher://x"), "not a store URL"),
    ],
)
def test_a_wrong_request_is_one_line(cifake, store, arguments, said):
    assert said in refusal(cifake("data", *arguments))
    assert store.list() == []


def test_asking_for_more_rows_than_there_are_is_one_line(cifake, monkeypatch, tmp_path, store):
    use(monkeypatch, kaggle_tree(tmp_path / "tree"))
    line = refusal(cifake("data", "build", "--train-rows", "10"))
    assert "train: 10 rows balanced over label and class need 5 FAKE airplane images, there are 4" in line
    assert store.list() == []


def test_a_missing_data_folder_is_one_line(cifake, monkeypatch, tmp_path, store):
    use(monkeypatch, tmp_path / "gone")
    assert f"{tmp_path / 'gone'}: no such folder" in refusal(cifake("data", "build"))
    assert store.list() == []


def test_fake_rows_given_as_real_are_refused(cifake, store, make_table):
    made = collection.write(store, "mixed", {"train": make_table(4), "test": make_table(4)})
    assert "holds other labels than REAL" in refusal(cifake("data", "build", "--real", made.rows_url))


def test_a_disk_that_fills_up_is_one_line(cifake, monkeypatch, small_disk):
    monkeypatch.setenv("CIFAKE_STORE", small_disk.as_uri())
    settings.cache_clear()
    line = refusal(cifake("data", "build", "--train-rows", "2000", "--test-rows", "200"), code=3)
    assert "disk full: free some space and run it again" in line


def test_list_and_show_tell_what_is_there(cifake, tmp_path):
    assert "make one with `cifake data build`" in cifake("data", "list").output
    built = answer(cifake("data", "build", "--train-rows", "100", "--test-rows", "40", "--json"))
    version = built["dataset_version"]
    assert version in cifake("data", "list").output
    (listed,) = answer(cifake("data", "list", "--json"))["versions"]
    assert (listed["version"], listed["rows"]) == (version, 140)
    shown = answer(cifake("data", "show", version, "--grid", str(tmp_path / "grid.png"), "--json"))
    assert shown["classes"]["test"]["REAL"] == dict.fromkeys(CLASSES, 2)
    assert shown["duplicates"]["test"] == 0
    with Image.open(tmp_path / "grid.png") as grid:
        pixels = np.asarray(grid)
    assert pixels.shape == (640, 1288, 3)
    assert pixels[:, :64].std() > 20
    assert pixels[:, 652 : 652 + 64].std() > 20
    assert "REAL 20: airplane 2" in cifake("data", "show", version).output


def test_the_answer_is_also_put_where_asked(cifake, store):
    url = store.url_of("results/build.json")
    built = answer(cifake("data", "build", "--train-rows", "40", "--test-rows", "20", "--json", "--result", url))
    assert json.loads(store.read("results/build.json")) == built


def test_help_teaches_by_example(cifake):
    for verb in ("collect", "build", "show"):
        assert f"cifake data {verb}" in cifake("data", verb, "--help").output
    assert "CIFAKE_DATA" in cifake("data", "--help").output

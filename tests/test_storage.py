import errno
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from cifake_core.errors import ConfigurationError, StoreError
from cifake_core.images import dataset
from cifake_core.storage import Store


@pytest.fixture(params=["file", "s3"])
def any_store(request, tmp_path, monkeypatch) -> Store:
    if request.param == "file":
        return Store((tmp_path / "store").as_uri())
    server = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return Store(f"s3://{server.bucket}/{tmp_path.name}")


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_objects_come_back_as_they_were_put(any_store):
    data = os.urandom(6_000_000)
    any_store.write("a/b/one.bin", data)
    assert any_store.read("a/b/one.bin") == data
    with any_store.open("a/b/one.bin") as file:
        file.seek(-10, os.SEEK_END)
        assert file.read() == data[-10:]
    any_store.write("a/b/one.bin", b"again")
    assert any_store.read("a/b/one.bin") == b"again"


def test_listing_gives_direct_children_in_order(any_store):
    assert any_store.list("x") == []
    for name in ("x/2", "x/10", "x/sub/3", "y"):
        any_store.write(name, b"1")
    assert any_store.list("x") == ["10", "2", "sub"]
    assert any_store.list() == ["x", "y"]


def test_what_another_process_wrote_is_seen_at_once(any_store):
    assert not any_store.exists("late/object")
    assert any_store.list("late") == []
    writer = "import sys; from cifake_core.storage import Store; Store(sys.argv[1]).write('late/object', b'1')"
    subprocess.run([sys.executable, "-c", writer, any_store.url], check=True)
    assert any_store.exists("late/object")
    assert any_store.list("late") == ["object"]


def test_deleting_takes_objects_and_folders_and_may_be_repeated(any_store):
    any_store.write("x/1", b"1")
    any_store.write("x/sub/2", b"2")
    any_store.delete("x/1")
    assert any_store.list("x") == ["sub"]
    any_store.delete("x")
    any_store.delete("x")
    assert any_store.list("x/sub") == []
    assert not any_store.exists("x/sub/2")


def test_an_object_is_created_once(any_store):
    assert any_store.create("lock", b"first")
    assert not any_store.create("lock", b"second")
    assert any_store.read("lock") == b"first"


def test_a_missing_object_is_named(any_store):
    with pytest.raises(StoreError, match=r"/nowhere\.bin: no such object"):
        any_store.read("nowhere.bin")


def test_a_dataset_version_is_the_same_in_either_store(any_store, store, make_dataset):
    manifest = make_dataset(any_store, train_rows=40, test_rows=20)
    assert make_dataset(store, train_rows=40, test_rows=20) == manifest
    for split in dataset.SPLITS:
        assert dataset.read(any_store, manifest, split).equals(dataset.read(store, manifest, split))


def test_an_unknown_kind_of_url_is_refused_with_what_would_do():
    with pytest.raises(ConfigurationError, match=r"gopher://x: not a store URL .* use file://… or s3://…"):
        Store("gopher://x")


def test_a_wrong_secret_is_one_line(s3, monkeypatch):
    import s3fs

    for name, value in (s3.environment | {"AWS_SECRET_ACCESS_KEY": "wrong"}).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # a process reads its credentials once
    with pytest.raises(StoreError, match=r"s3://cifake/x: cannot write: ") as caught:
        Store(f"s3://{s3.bucket}").write("x", b"1")
    s3fs.S3FileSystem.clear_instance_cache()
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot write: Not a directory"):
        Store((tmp_path / "file").as_uri()).write("x/y", b"1")


def test_a_folder_of_any_name_is_written_where_it_is(tmp_path):
    folder = tmp_path / "mein Büro 100%25"
    Store(folder.as_uri()).write("object", b"1")
    assert (folder / "object").read_bytes() == b"1"
    assert files_in(tmp_path) == ["mein Büro 100%25/object"]


def test_a_full_disk_leaves_the_old_object_and_nothing_else(small_disk):
    store = Store(small_disk.as_uri())
    store.write("object", b"old")
    with pytest.raises(StoreError, match=r"object: cannot write: .* \(disk full: free some space and run it again\)"):
        store.write("object", bytes(300_000))
    assert store.read("object") == b"old"
    assert files_in(small_disk) == ["object"]


def test_a_disk_that_fills_in_the_middle_of_a_shard_makes_no_version(small_disk, tmp_path, make_dataset):
    store = Store(small_disk.as_uri())
    with pytest.raises(StoreError, match="disk full"):
        make_dataset(store, train_rows=2000, test_rows=200)
    assert dataset.versions(store) == []
    assert not [name for name in files_in(small_disk) if name.endswith(".partial")]
    elsewhere = Store((tmp_path / "roomy").as_uri())
    for name in files_in(small_disk):  # the user frees space: here, by moving what there is to a larger disk
        elsewhere.write(name, store.read(name))
    manifest = make_dataset(elsewhere, train_rows=2000, test_rows=200)
    assert dataset.read(elsewhere, manifest, "train").num_rows == 1600


def test_a_killed_writers_leftover_is_not_listed_and_is_taken_over(tmp_path):
    store = Store(tmp_path.as_uri())
    (tmp_path / "object.partial").write_bytes(b"half of somethi")
    assert store.list() == []
    store.write("object", b"new")
    assert files_in(tmp_path) == ["object"]
    assert store.read("object") == b"new"


def _write_many(url: str, byte: int) -> None:
    store = Store(url)
    for _ in range(30):
        store.write("object", bytes([byte]) * 200_000)


def test_writers_at_the_same_time_never_mix_their_bytes(tmp_path):
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        writers = [pool.submit(_write_many, tmp_path.as_uri(), byte) for byte in range(3)]
        store = Store(tmp_path.as_uri())
        while not all(writer.done() for writer in writers):
            if store.exists("object"):
                data = store.read("object")
                assert len(data) == 200_000
                assert len(set(data)) == 1
        for writer in writers:
            writer.result()
    assert files_in(tmp_path) == ["object"]


def test_a_quota_is_told_like_a_full_disk(tmp_path, monkeypatch):
    store = Store(tmp_path.as_uri())
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.EDQUOT, "Disk quota exceeded")))
    with pytest.raises(StoreError, match=r"Disk quota exceeded \(disk full"):
        store.write("object", b"1")
    assert files_in(tmp_path) == []

"""A backup of a stack in use; the whole of it, with a restore, is run by tests/containers/test_compose.py."""

from __future__ import annotations

import os
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from deploy import objects
from tests.servers import S3

SCRIPT = Path(__file__).resolve().parents[2] / "deploy/backup.sh"


def test_objects_that_change_while_they_are_saved_are_saved_as_found_or_left_out(
    s3: S3, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    session = botocore.session.get_session()
    reading, writing = session.create_client("s3"), session.create_client("s3")
    bucket = "backup-race"
    writing.create_bucket(Bucket=bucket)
    for key in ("a", "deleted", "rewritten"):
        writing.put_object(Bucket=bucket, Key=key, Body=b"as listed")

    def meanwhile(**_: Any) -> None:
        writing.delete_object(Bucket=bucket, Key="deleted")
        writing.put_object(Bucket=bucket, Key="rewritten", Body=b"longer than listed")

    reading.meta.events.register_first("before-call.s3.GetObject", meanwhile)
    objects.dump(reading, bucket)
    with tarfile.open(fileobj=BytesIO(capsysbinary.readouterr().out)) as tar:
        saved = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    assert saved == {"a": b"as listed", "rewritten": b"longer than listed"}


def backup(folder: str | Path) -> subprocess.CompletedProcess[str]:
    """A backup of a stack whose every command says what it was asked."""
    return subprocess.run(
        [SCRIPT, "backup", folder], env={**os.environ, "COMPOSE": "echo"}, capture_output=True, text=True
    )


def test_a_backup_without_a_folder_is_refused_before_anything_is_dumped() -> None:
    refused = backup("")
    assert refused.returncode == 2
    assert "BACKUP=FOLDER" in refused.stderr
    assert not (SCRIPT.parents[1] / ".partial").exists()


def test_nobody_else_can_read_a_backup(tmp_path: Path) -> None:
    done = backup(tmp_path / "made/today")
    assert done.returncode == 0, done.stderr
    made = [tmp_path / "made/today", *(tmp_path / "made/today").iterdir()]
    assert len(made) == 7
    assert {path.stat().st_mode & 0o077 for path in made} == {0}

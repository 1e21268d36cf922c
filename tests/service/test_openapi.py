"""Whatever the OpenAPI document allows, and much that it does not, is answered as the document says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.service.conftest import CHECKOUT, Process

HERE = Path(__file__).parent


def test_schemathesis_finds_no_answer_that_is_not_documented(service: Process, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(HERE / "schemathesis.toml")]
    command += ["run", f"{service.url}/openapi.json", "--phases", "examples,coverage,fuzzing", "--max-examples", "8"]
    command += ["--generation-deterministic", "--continue-on-failure", "--no-color"]
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    hooks = {"SCHEMATHESIS_HOOKS": "tests.service.pictures", "PYTHONPATH": path}
    done = subprocess.run(command, env={**os.environ, **hooks}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_documented_examples_are_good_ones(service: Process) -> None:
    document = service.get("/openapi.json").json()
    tried = 0
    for path in ("/classify", "/classify_batch", "/explain", "/explain_map"):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for example in content["examples"].values():
            assert service.post(path, json=example["value"]).status_code == 200
            tried += 1
    assert tried >= 4

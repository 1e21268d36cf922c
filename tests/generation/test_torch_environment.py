"""The environment with torch, where Stable Diffusion draws and generators are trained."""

from __future__ import annotations

from pathlib import Path

from tests.test_environments import imports


def test_it_imports_alone(torch_forks, tmp_path: Path) -> None:
    script = tmp_path / "imports.py"
    script.write_text(
        imports("torch diffusers transformers cifake_core.generation.verbs", "tensorflow bentoml airflow")
    )
    done = torch_forks(script)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr

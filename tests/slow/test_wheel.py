"""What is installed from a wheel has everything that it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_an_installed_wheel_has_what_it_needs(tmp_path: Path) -> None:
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on PATH")

    def run(*words: str) -> str:
        env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
        return done.stdout

    run(uv, "build", "--wheel", "--quiet", "--out-dir", str(tmp_path / "dist"), str(ROOT))
    [wheel] = (tmp_path / "dist").glob("*.whl")
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(PYPROJECT["tool"]["uv"]["constraint-dependencies"]), encoding="utf-8")
    run(uv, "venv", "--quiet", str(tmp_path / "venv"))
    python = str(tmp_path / "venv" / "bin" / "python")
    run(uv, "pip", "install", "--quiet", "--python", python, "--constraint", str(constraints), f"{wheel}[onnx]")
    streamproc = str(tmp_path / "venv" / "bin" / "streamproc")
    assert "streamproc demo" in run(streamproc, "--help")
    code = "from streamproc.sample import example, schema; print(example('car_loan')); print(schema('decision'))"
    example, schema = map(Path, run(python, "-c", code).split())
    assert all(path.is_relative_to(tmp_path / "venv") for path in (example, schema))
    code = "from streamproc.cli.demo import pipeline_file; print(pipeline_file())"
    assert tmp_path / run(python, "-c", code).strip() == example / "pipeline.yaml"
    for name in ("car_loan", "card_fraud", "support_triage"):
        run(streamproc, "check", str(example.parent / name / "pipeline.yaml"))
        run(streamproc, "test", str(example.parent / name / "pipeline.yaml"))
    run(streamproc, "init", str(tmp_path / "made"))
    run(streamproc, "check", str(tmp_path / "made" / "pipeline.yaml"))

"""The shell scripts: well formed, executable, and quiet on stdout."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ("scripts/uv", "scripts/demo", "scripts/test", ".ci/run")
TOOLS = ("sh", "env", "dirname", "rm", "cat")


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_well_formed_and_executable(script: str) -> None:
    path = ROOT / script
    shell = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#!").split()[-1].rpartition("/")[2]
    done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert os.access(path, os.X_OK)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the scripts, and a PATH of its own under ``bin`` without uv and python3."""
    shutil.copytree(ROOT / "scripts", tmp_path / "a folder" / "scripts")
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path / "a folder"


def command(checkout: Path, name: str, body: str) -> None:
    path = checkout.parent / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def call(checkout: Path, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(checkout / words[0]), *words[1:]],
        cwd=checkout.parent,
        env={"PATH": str(checkout.parent / "bin"), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("script", "expected"), [("demo", "run streamproc demo --json -k a b"), ("test", "run pytest --json -k a b")]
)
def test_uv_on_the_path_is_used_from_the_top_folder(checkout: Path, script: str, expected: str) -> None:
    command(checkout, "uv", 'echo "$PWD: $*"')
    done = call(checkout, f"scripts/{script}", "--json", "-k", "a b")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{checkout}: {expected}\n", "")


FAKE_PYTHON = """
case "$2" in
venv) echo "made $4"; env mkdir -p "$4/bin"; env cp "$0" "$4/bin/python" ;;
pip) echo chatter; printf '#!/bin/sh\\necho "own uv: $*"\\n' > "${0%/*}/uv"; env chmod +x "${0%/*}/uv" ;;
esac
"""


def test_without_uv_one_is_installed_once_and_says_nothing_on_stdout(checkout: Path) -> None:
    for tool in ("mkdir", "cp", "chmod"):
        (checkout.parent / "bin" / tool).symlink_to(shutil.which(tool) or "")
    command(checkout, "python3", FAKE_PYTHON)
    done = call(checkout, "scripts/demo", "--json")
    assert (done.returncode, done.stdout) == (0, "own uv: run streamproc demo --json\n")
    assert "chatter" in done.stderr
    again = call(checkout, "scripts/demo", "--json")
    assert (again.returncode, again.stdout, again.stderr) == (0, done.stdout, "")


def test_without_a_network_it_says_so_and_leaves_nothing_half_made(checkout: Path) -> None:
    (checkout.parent / "bin" / "mkdir").symlink_to(shutil.which("mkdir") or "")
    command(checkout, "python3", 'if [ "$2" = venv ]; then mkdir -p "$4/bin"; fi; exit 1')
    done = call(checkout, "scripts/test")
    assert done.returncode == 3
    assert done.stdout == ""
    assert "error: could not install uv" in done.stderr
    assert "hint:" in done.stderr
    assert not (checkout / ".venv-uv").exists()


def test_ci_runs_every_part_and_names_those_that_failed(checkout: Path) -> None:
    shutil.copytree(ROOT / ".ci", checkout / ".ci")
    (checkout.parent / "bin" / "bash").symlink_to(shutil.which("bash") or "")
    command(checkout, "uv", 'case "$*" in *mypy*|*pytest*) exit 7;; esac')
    done = call(checkout, ".ci/run", env={"CI": "true"})
    assert done.returncode == 1
    assert "ci: FAILED: types tests" in done.stderr
    assert [line for line in done.stdout.splitlines() if "good" in line] != []
    assert "ci: types: FAILED with code 7" in done.stdout
    command(checkout, "uv", "exit 0")
    assert call(checkout, ".ci/run").returncode == 0

"""Who is compared, in the order of the table."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.contestants.base import ROOT, Contestant, Setup, Unavailable
from benchmarks.contestants.kafka_streams import command as kafka_streams_command
from benchmarks.contestants.streamproc_worker import command as streamproc_command

__all__ = ["CONTESTANTS", "Contestant", "Setup", "Unavailable", "script_python"]

AT_LEAST_ONCE, EXACTLY_ONCE = "at least once", "exactly once"
ENVIRONMENT_SECONDS = 300


def _script(name: str, needs: str) -> list[str]:
    if importlib.util.find_spec(needs) is None:
        raise Unavailable(f"the package {needs} is not installed (uv run --group bench)")
    return [sys.executable, "-m", f"benchmarks.contestants.{name}"]


def script_python(name: str, folder: Path) -> str:
    """The Python of the environment that uv makes from the lines at the top of a script, and keeps."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise Unavailable("uv, which makes its environment, was not found")
    script = str(ROOT / "benchmarks" / "contestants" / f"{name}.py")
    try:
        for words in (["sync", "--quiet", "--script", script], ["python", "find", "--script", script]):
            said = subprocess.run(
                [uv, *words], capture_output=True, text=True, timeout=ENVIRONMENT_SECONDS, check=True, cwd=folder
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"its environment could not be made: {error}") from error
    return said.stdout.strip()


def _quix(setup: Setup) -> list[str]:
    return [script_python("quix", setup.folder), "-m", "benchmarks.contestants.quix", *setup.words]


_ALL = (
    Contestant("copy-aiokafka", AT_LEAST_ONCE, lambda s: _script("copy_aiokafka", "aiokafka") + s.words, copies=True),
    Contestant(
        "copy-confluent", AT_LEAST_ONCE, lambda s: _script("copy_confluent", "confluent_kafka") + s.words, copies=True
    ),
    Contestant("streamproc-1", EXACTLY_ONCE, lambda s: streamproc_command(s, workers=1), makes_topics=True),
    Contestant("streamproc-2", EXACTLY_ONCE, lambda s: streamproc_command(s, workers=2), makes_topics=True),
    Contestant("kafka-streams", EXACTLY_ONCE, kafka_streams_command),
    Contestant("quix", AT_LEAST_ONCE, _quix),
    Contestant("loop", AT_LEAST_ONCE, lambda s: _script("loop", "confluent_kafka") + s.words),
    Contestant("faust", AT_LEAST_ONCE, lambda s: _script("faust_app", "faust") + s.words),
)
CONTESTANTS: dict[str, Contestant] = {one.name: one for one in _ALL}

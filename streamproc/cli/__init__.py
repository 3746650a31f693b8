"""The command ``streamproc``: a command a file, loaded when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from streamproc import __version__
from streamproc.errors import Exit, PipelineError, StreamprocError

COMMANDS = {
    "demo": ("demo:demo", "See it work, on a Kafka of its own."),
    "init": ("init:init", "Begin a pipeline."),
    "check": ("check:check", "Say everything that is wrong with a pipeline file."),
    "test": ("test:test", "Run a pipeline file's tests."),
    "run": ("run:run", "Run a pipeline: the worker."),
    "serve": ("serve:serve", "Serve a pipeline over HTTP: events in, decisions out."),
    "batch": ("batch:batch", "Decide the rows of a file, without Kafka."),
    "features": ("features:features", "The features of a history, to train a model with."),
    "dev": ("dev:dev", "Run a Kafka for development."),
    "produce": ("produce:produce", "Send a file's rows to a topic."),
    "tail": ("tail:tail", "Show a topic's records."),
    "topics": ("topics:topics", "A pipeline's topics and the permissions that it needs."),
    "decision": ("decision:decision", "Find decisions and explain them."),
    "dead-letters": ("dead_letters:dead_letters", "List, show and redrive dead letters."),
    "control": ("control:control", "What automation may do: switch it off and on."),
    "prompt": ("prompt:prompt", "Prompts of language models: list, compare, label and judge their versions."),
    "review": ("review:review", "Cases for people: list, show, claim and decide them."),
    "drift": ("drift:drift", "Baselines, backtests and alarms of drift."),
    "stats": ("stats:stats", "What the decisions came to: rates, errors, money, times."),
    "outcomes": ("outcomes:outcomes", "Send what came true, and join what comes late."),
    "reset": ("reset:reset", "Move a lane deliberately."),
}
"""Where each command is, and its line in the help: the module is imported only when the command is called."""


class Commands(click.Group):
    """Answers ``--help`` without importing any command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of ``COMMANDS``: what one meets first stands first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, from its module; None for a name that there is none of."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"streamproc.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands into the help, from the lines in ``COMMANDS``."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="streamproc")
def cli() -> None:
    """Kafka events to decisions, exactly once: contract, features, model, rules, people.

    Exit codes: 0 good, 1 the input, 2 usage, 3 the environment, 4 a bug.

    \b
    Examples:
      streamproc demo                       see it work, on a Kafka of its own
      streamproc init my-pipeline           begin one
      streamproc check my-pipeline/pipeline.yaml
      streamproc run my-pipeline/pipeline.yaml --kafka localhost:9092
    """


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with its code. Errors that a user can cause are one line and a hint."""
    # One thread for Polars: on batches of some thousand rows handing work to others costs more than it saves, and
    # the way to use more cores is more workers. It has to be said before Polars is imported.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    try:
        code = cli.main(args=args, standalone_mode=False)  # click returns the code of ctx.exit()
        sys.exit(code if isinstance(code, int) else Exit.GOOD)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(Exit.USAGE)
    except StreamprocError as error:
        tell(error)
        sys.exit(error.exit_code)
    except Exception as error:
        _tell_bug(error)
        sys.exit(Exit.BUG)


def tell(error: StreamprocError) -> None:
    """Print an error for a person, on stderr."""
    if isinstance(error, PipelineError):
        click.echo(str(error), err=True)
        click.echo(error.message, err=True)
        return
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


def _tell_bug(error: Exception) -> None:
    import traceback

    click.echo(f"error: a bug in streamproc: {type(error).__name__}: {error}", err=True)
    frames: Any = traceback.format_tb(error.__traceback__)
    click.echo("".join(frames), err=True)
    click.echo("hint: please report it with the lines above", err=True)

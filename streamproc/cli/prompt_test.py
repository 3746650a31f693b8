"""``streamproc prompt test``: two versions of a prompt on labelled events, side by side."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import orjson
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from streamproc.cli.console import console_for
from streamproc.cli.options import pipeline_argument, table_options
from streamproc.core.llm.prompt import Prompt
from streamproc.core.llm.prompts import Prompts
from streamproc.errors import UserError
from streamproc.judging import Expectation, Judge, Row, Told, check, model_of, read_rows
from streamproc.labels import Used, load_prompts, the_prompt
from streamproc.pipeline import open_pipeline
from streamproc.plan.names import near
from streamproc.table_files import with_tables
from streamproc.wording import counted

PLAIN_WIDTH = 120
NONE = "–"


@click.command(short_help="Which of two versions is better?")
@pipeline_argument
@click.argument("name")
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Events: NDJSON, CSV or Parquet.",
)
@click.option(
    "--versions", metavar="A,B", help="Which two.  [default: production, and the canary or else the newest other one]"
)
@click.option("--label", metavar="FIELD", help="The field of the rows that says which decision is right.")
@click.option(
    "--expect",
    metavar="FIELD=ANSWER",
    help="Instead: the field of the rows that says what the answer's field ANSWER should be.",
)
@click.option("--endpoint", metavar="URL", help="Ask this server, without the key of FILE.  [default: those of FILE]")
@click.option("--key", metavar="VARIABLE", help="With --endpoint: the environment variable with its key.")
@click.option("--model", metavar="ID", help="Which model, where several are given the prompt.  [default: the first]")
@click.option(
    "--concurrency", type=click.IntRange(1, 64), default=8, show_default=True, help="At most so many calls at once."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@table_options
def test(
    file: Path,
    name: str,
    data: Path,
    versions: str | None,
    label: str | None,
    expect: str | None,
    endpoint: str | None,
    key: str | None,
    model: str | None,
    concurrency: int,
    as_json: bool,
    tables: Mapping[str, Path],
    table_times: Mapping[str, str],
) -> None:
    """Put the events in DATA to two versions of the prompt NAME: how often each is right, what it takes, how long it
    takes, and how often its answers are none.

    The model is asked, and that costs. All else is as in a worker: contract, features, guards, the check of answers,
    rules. With --label the pipeline's decision is held against the field of the row, with --expect a field of the
    model's answer; where there is no usable answer, that is wrong. docs/llm.md says what each line means.

    \b
    Examples:
      streamproc prompt test pipeline.yaml triage --data labelled.ndjson --label expected
      streamproc prompt test pipeline.yaml triage --data labelled.ndjson --expect kind=category --versions 1,2
      streamproc prompt test pipeline.yaml triage --data labelled.ndjson --endpoint http://127.0.0.1:8000/v1 --json
    """
    if label is not None and expect is not None:
        raise click.UsageError("--label and --expect say different things")
    if key is not None and endpoint is None:
        raise click.UsageError("--key is for --endpoint")
    if expect is not None and not all(expect.partition("=")):
        raise click.UsageError(f"--expect {expect!r} is not FIELD=ANSWER")
    written = label or expect
    expectation = None if written is None else Expectation.of(written)
    used = the_prompt(load_prompts(file)[1], name)
    chosen = _versions(used, versions)
    pipeline = with_tables(open_pipeline(file, masked=False), tables, table_times)
    try:
        name_of_model, llm = model_of(pipeline, name, model)
        if expectation is not None:
            check(expectation, llm)
        rows = asyncio.run(read_rows(data, expectation, pipeline.plan.contract.columns))
        judge = Judge(
            pipeline,
            name_of_model,
            chosen,
            endpoint=endpoint,
            key=key,
            environ=os.environ,
            concurrency=concurrency,
        )
        try:
            with _asking(2 * len(rows)) as told:
                judge.put(rows, expectation, told)
        finally:
            judge.close()
    finally:
        pipeline.answers.close()
    found = judge.as_json(rows)
    if as_json:
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    else:
        show(found, rows)


def _versions(used: Used, written: str | None) -> tuple[Prompt, Prompt]:
    """The two that are meant. Raises UserError where they cannot be used."""
    registry = used.registry
    known, labels = registry.versions(), registry.labels
    if written is not None:
        names = written.split(",")
        if len(names) != 2 or names[0] == names[1]:
            raise click.UsageError(f"--versions {written!r} is not two versions with a comma between them")
    else:
        others = [version for version in known if version != labels.production]
        if labels.canary is None and not others:
            raise UserError(f"the prompt {registry.name} has one version", "write another one beside it")
        names = [labels.production, others[-1] if labels.canary is None else labels.canary.version]
    for version in names:
        if version not in known:
            raise UserError(f"the prompt {registry.name} has no version {version!r}", near(version, known, "versions"))
    one, two = (registry.read(version) for version in names)
    used.fits(Prompts(one, two))
    return one, two


@contextmanager
def _asking(total: int) -> Iterator[Told]:
    """Shows how many answers there are, on stderr, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("asking"), BarColumn(), TextColumn("{task.completed:,.0f} answers"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("asking", total=total)
        yield lambda answers: bar.update(task, completed=answers)


def show(told: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """The table, and the lines about both."""
    console = console_for(PLAIN_WIDTH)
    sides = told["versions"]
    table = Table(box=box.SIMPLE)
    table.add_column("")
    for side in sides:
        table.add_column(f"{escape(told['prompt'])}@{escape(side['version'])}", justify="right")

    def line(what: str, cells: Iterator[str]) -> None:
        table.add_row(what, *cells)

    if told["labelled"]:
        line(f"right, of {told['labelled']:,}", (_between(side["accuracy"]) for side in sides))
    line("asked", (f"{side['asked']:,}" for side in sides))
    line("answers that do not satisfy `output`", (_between(side["bad_answers"]) for side in sides))
    for reason in sorted({reason for side in sides for reason in side["reasons"]}):
        line(f"no score: {escape(reason)}", (f"{side['reasons'].get(reason, 0):,}" for side in sides))
    for name in sorted({name for side in sides for name in side["decisions"]}):
        line(f"decided: {escape(name)}", (f"{side['decisions'].get(name, 0):,}" for side in sides))
    for what, key in (("input tokens", "input_tokens"), ("output tokens", "output_tokens"), ("calls", "calls")):
        line(f"{what}, each", (_each(side[key], side["asked"]) for side in sides))
    for quantile in sides[0]["seconds"]:
        line(f"time, {quantile}", (_time(side["seconds"][quantile]) for side in sides))
    console.print(table)
    click.echo(f"{counted(told['decided_otherwise'], 'event')} of {len(rows):,} decided otherwise")
    if (paired := told["paired"]) is not None:
        difference, (one, two) = paired["difference"], sides
        click.echo(
            f"{two['version']} against {one['version']}: {_points(difference['value'])} points more are right"
            f" ({_points(difference['low'])} to {_points(difference['high'])});"
            f" {one['version']} alone {paired['first']:,} times, {two['version']} alone {paired['second']:,}:"
            f" p = {paired['p_value']:.2g} (McNemar, exact)"
        )


def _between(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return NONE
    return f"{estimate['value']:.1%} ({estimate['low']:.1%} – {estimate['high']:.1%})"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _each(total: int, of: int) -> str:
    return NONE if not of else f"{total / of:,.1f}"


def _time(seconds: float | None) -> str:
    return NONE if seconds is None else f"{seconds * 1000:,.0f} ms"

"""``streamproc stats``: what a pipeline's decisions came to, for who answers for it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import orjson
from rich import box
from rich.markup import escape
from rich.table import Table

from streamproc.cli.console import console_for
from streamproc.cli.options import connection_options, pipeline_argument
from streamproc.errors import UserError
from streamproc.kafka.connection import Connection
from streamproc.measuring import measured, outcomes_plan
from streamproc.operations import moment, open_for_operations
from streamproc.wording import counted

PLAIN_WIDTH = 120
NONE = "–"
MOST_ROWS = 12
MOST_VERSIONS = 50
HASH = re.compile(r"[0-9a-f]{32,64}")
HASH_SHOWN = 8
TIERS = {
    "automatic": "decided by the rules",
    "stand-in": "decided on a stand-in's score",
    "fallback": "decided by the fallback chain",
    "reviewer": "decided by people",
    "expiry": "decided by expiry",
    "explored": "experiments (not among those above)",
}


@click.command(short_help="What the decisions came to: rates, errors, money, times.")
@pipeline_argument
@click.option("--since", metavar="TIME", help="Windows that end later than this: 1d, or 2026-01-31.  [default: all]")
@click.option(
    "--by", type=click.Choice(["prompt", "model"]), help="Only what each version came to, of prompts or models."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object with everything.")
@connection_options
def stats(file: Path, since: str | None, by: str | None, as_json: bool, connection: Connection) -> None:
    """Show how much is decided automatically, how much of it was wrong, what it costs, and how long it takes, against
    the baseline that FILE declares.

    Intervals are of 95 %. Only decisions whose outcome is known count for errors and costs: one without is not called
    good. docs/outcomes.md says what each line means.

    \b
    Examples:
      streamproc stats pipeline.yaml
      streamproc stats pipeline.yaml --since 1d
      streamproc stats pipeline.yaml --since 7d --by prompt
      streamproc stats pipeline.yaml --since 2026-01-01 --json
    """
    loaded, _ = open_for_operations(file)
    plan, now = outcomes_plan(loaded.plan), datetime.now(UTC)
    if by == "prompt" and not plan.prompts:
        raise UserError(f"{loaded.plan.pipeline} has no language model", "--by model is for every kind of model")
    found = asyncio.run(measured(connection, loaded.plan, now))
    told = found.as_json(plan, moment(since, now) if since else None, now)
    if as_json:
        click.echo(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z))
    elif not told["decisions"]:
        click.echo("nothing was decided" + (" since then" if since else ", as far as the measures know"))
    elif by is not None:
        console_for(PLAIN_WIDTH).print(_versions(by, told[f"{by}s"]))
    else:
        show(told)


def show(told: Mapping[str, Any]) -> None:
    """The tables."""
    console = console_for(PLAIN_WIDTH)
    console.print(f"{counted(told['decisions'], 'decision')}, {told['from']} to {told['to']}", highlight=False)
    console.print(_overall(told))
    for title, name in (("rule", "rules"), ("segment", "segments")):
        if len(told[name]) > 1:
            console.print(_split(title, told[name]))
    if told["cohorts"]:
        console.print(cohorts_table(told["cohorts"]))
    if told["incidents"]:
        console.print(_incidents(told["incidents"]))
    for line in _notes(told):
        console.print(line, highlight=False, markup=False)


def _overall(told: Mapping[str, Any]) -> Table:
    baseline = told["baseline"] or {}
    table = Table(box=box.SIMPLE)
    for name in ("", "now", "95 %", "of", baseline.get("name", "")):
        table.add_column(escape(name), justify="left" if not name else "right")

    def rate(name: str, estimate: Mapping[str, Any], before: float | None = None) -> None:
        of = f"{estimate['of']:,.0f}"
        table.add_row(name, _share(estimate["value"]), _between(estimate), of, "" if before is None else _share(before))

    def money(name: str, estimate: Mapping[str, Any], before: float | None = None) -> None:
        between = NONE if estimate["low"] is None else f"{estimate['low']:,.2f} – {estimate['high']:,.2f}"
        row = _number(estimate["value"]), between, f"{estimate['of']:,.0f}"
        table.add_row(name, *row, "" if before is None else _number(before))

    rate("decided automatically", told["automatic"], baseline.get("automation"))
    rate("for people", told["review"], baseline.get("review"))
    rate("by the fallback chain", told["fallback"])
    for reason, estimate in told["fallback_by_reason"].items():
        rate(f"  {escape(reason)}", estimate)
    if told["stand_in"]["value"]:
        rate("by a stand-in", told["stand_in"])
    rate("people decided otherwise", told["overrides"])
    rate("errors, where the outcome is known", told["errors"], baseline.get("errors"))
    for tier, estimate in sorted(told["errors_by_tier"].items(), key=lambda item: [*TIERS, item[0]].index(item[0])):
        rate(f"  {TIERS.get(tier, escape(tier))}", estimate)
    for kind, sample in told["samples"].items():
        if sample["answered"]:
            rate(f"{kind.replace('_', ' ')}: people disagree (weighted)", sample["disagreement"])
            between = sample["kappa"]
            spread = NONE if between["low"] is None else f"{between['low']:.2f} – {between['high']:.2f}"
            table.add_row("  Cohen's kappa", _number(between["value"]), spread, f"{between['of']:,.0f}", "")
    costs = told["costs"]
    decided = costs["baseline"]["value"]
    money("expected cost of a decision", costs["expected"])
    money("realised cost, where known", costs["realised"], baseline.get("cost") if decided is None else decided)
    if costs["saved"]["of"]:
        money("  saved against the baseline", costs["saved"])
    if costs["reviews"]["total"]:
        table.add_row(
            "reviews, a decision", _number(costs["reviews"]["per_decision"]), "", f"{told['decisions']:,}", ""
        )
    for name, times in (("to decision", told["time_to_decision"]), ("to verdict", told["time_to_verdict"])):
        if times["of"]:
            spread = f"p95 {_time(times['p95'])}"
            table.add_row(f"time {name}, half within", _time(times["p50"]), spread, f"{times['of']:,}", "")
    return table


def _split(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE)
    for name in (title, "decisions", "automatic", "overridden", "errors", "95 %", "realised cost"):
        table.add_column(name, justify="left" if name == title else "right", overflow="fold")
    for name, row in list(rows.items())[:MOST_ROWS]:
        errors = row["errors"]
        table.add_row(
            escape(name if title != "segment" else _segment(name)),
            f"{row['decisions']:,}",
            _share(row["automatic"]["value"]),
            _share(row["overrides"]["value"]),
            _share(errors["value"]),
            _between(errors),
            _number(row["costs"]["realised"]["value"]),
        )
    return table


def _versions(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each version came to, those with the most decisions first."""
    table = Table(box=box.SIMPLE)
    for name in (title, "decisions", "automatic", "for people", "overridden", "errors", "cost"):
        table.add_column(name, justify="left" if name == title else "right", overflow="fold")
    for name, row in list(rows.items())[:MOST_VERSIONS]:
        shares = [_share(row[what]["value"]) for what in ("automatic", "review")]
        measured = [f"{_share(rate['value'])} ({_between(rate)})" for rate in (row["overrides"], row["errors"])]
        cost = _number(row["costs"]["realised"]["value"])
        table.add_row(escape(_version(name)), f"{row['decisions']:,}", *shares, *measured, cost)
    return table


def _version(name: str) -> str:
    """A version for people: of a hash its beginning, and what the server says as it is."""
    own, at, server = name.partition("@")
    return f"{own[:HASH_SHOWN]}{at}{server}" if HASH.fullmatch(own) else name


def _between(estimate: Mapping[str, Any]) -> str:
    return NONE if estimate["low"] is None else f"{estimate['low']:.1%} – {estimate['high']:.1%}"


def _segment(text: str) -> str:
    values = orjson.loads(text)
    return ", ".join(f"{name} {NONE if value is None else value}" for name, value in values.items()) or "other"


def cohorts_table(rows: list[dict[str, Any]]) -> Table:
    """Cohorts by day, the newest."""
    table = Table(box=box.SIMPLE)
    for name in ("decided on", "decisions", "outcomes", "unlabelled", "not known", "errors", "realised cost", ""):
        table.add_column(name, justify="left" if name in ("decided on", "") else "right")
    for row in rows[-MOST_ROWS:]:
        table.add_row(
            row["day"],
            f"{row['decisions']:,}",
            f"{row['outcomes']:,}",
            f"{row['unlabelled']:,}",
            f"{row['unknown']:,}",
            _share(row["errors"]["value"]),
            _number(row["costs"]["realised"]["value"]),
            "mature" if row["mature"] else "outcomes may still come",
        )
    return table


def _incidents(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE)
    for name in ("incident", "began", "seen after", "met after", "over after"):
        table.add_column(name, overflow="fold")
    for row in rows[-MOST_ROWS:]:
        later = [_after(row[name], row["onset"]) for name in ("detection", "mitigation", "end")]
        table.add_row(escape(f"{row['kind']}: {row['what']}"), f"{row['onset']:%Y-%m-%d %H:%M:%S}", *later)
    return table


def _after(moment: datetime | None, onset: datetime) -> str:
    return NONE if moment is None else _time(max(0.0, (moment - onset).total_seconds()))


def _notes(told: Mapping[str, Any]) -> list[str]:
    lines = []
    declining = told["declining"]
    for kind, cases in told["reviews"]["by_kind"].items():
        parts = [f"{cases[name]:,} {name}" for name in ("decided", "expired", "shed", "disagreed", "corrected")]
        if cases["open"]:
            parts.insert(0, f"{cases['open']:,} waiting, the oldest for {_time(cases['oldest_open_seconds'])}")
        if cases["opened"] or cases["open"]:
            lines.append(f"{kind.replace('_', ' ')}: {counted(cases['opened'], 'case')}: {', '.join(parts)}")
    if declining["unlabelled"]:
        lines.append(f"{declining['unlabelled']:,} decisions are unlabelled: nobody sees what would have come true")
    if declining["with_outcome"]:
        spread = f"{declining['low']:,.2f} to {declining['high']:,.2f}"
        least = "at least " if declining["costs_more"] > 0 else ""
        lines.append(
            f"declining costs {least}{declining['costs_more']:,.2f} more than what was done instead ({spread}), of"
            f" {declining['with_outcome']:,} of {counted(declining['experiments'], 'experiment')} with a known outcome;"
            " it holds where their budget was not used up"
        )
    if told["undeclared"]:
        lines.append(f"{counted(told['undeclared'], 'outcome')} with a value that the file does not name")
    return lines


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:,.2f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds * 1000:,.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
    return str(timedelta(seconds=round(seconds)))

"""``streamproc decision``: one decision explained, and finding decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
import orjson
from rich import box
from rich.markup import escape
from rich.table import Table

from streamproc.cli.console import console_for
from streamproc.cli.options import connection_options
from streamproc.cli.progress import scanning
from streamproc.core.intake import ActionResult
from streamproc.core.records import Topics
from streamproc.decisions import Event, Found, action_results, archived, event_of, find, prompts_of, search
from streamproc.explain import WHY, ArchivedPlan, RuleTrace, by_drift, explain, read_plan
from streamproc.kafka.connection import Connection
from streamproc.kafka.reader import Start
from streamproc.operations import moment, pipeline_name
from streamproc.plan.columns import feature_text
from streamproc.wording import counted

WHERE = (
    click.option(
        "--pipeline",
        "file",
        type=click.Path(path_type=Path),
        help="The pipeline file: its decisions topic is read.",
    ),
    click.option("--topic", help="The decisions topic, like car-loan.decisions."),
    click.option("--since", metavar="WHEN", help="Only records since then: 90s, 1h, 3d ago, or an ISO time."),
    click.option("--json", "as_json", is_flag=True, help="JSON instead of text."),
)
PLAIN_WIDTH = 120


@click.group()
def decision() -> None:
    """Look at decisions: find them, and explain one.

    \b
    Examples:
      streamproc decision search --topic car-loan.decisions --key 50071
      streamproc decision show 3-23d420e67828f419a4ce11dd --topic car-loan.decisions
    """


def _where(command: Any) -> Any:
    for option in reversed(WHERE):
        command = option(command)
    return connection_options(command)


@decision.command()
@click.argument("decision_id", metavar="ID")
@click.option("--reveal", is_flag=True, help="Show the event's sensitive fields too.")
@click.option("--artefacts", type=click.Path(file_okay=False, path_type=Path), help="As given to `streamproc run`.")
@_where
def show(
    *,
    decision_id: str,
    reveal: bool,
    artefacts: Path | None,
    file: Path | None,
    topic: str | None,
    since: str | None,
    as_json: bool,
    connection: Connection,
) -> None:
    """Explain the decision ID: the event, the features, the score, every rule with its outcome, the versions; and what
    people or time decided afterwards, and what became of its actions.

    The decisions topic has no index: the partition that the id begins with is scanned, and --since narrows that.

    \b
    Examples:
      streamproc decision show 3-23d420e67828f419a4ce11dd --pipeline pipeline.yaml
      streamproc decision show 3-23d420e67828f419a4ce11dd --topic car-loan.decisions --since 2h --json
    """
    name = _topic(file, topic)
    after = moment(since, datetime.now(UTC)) if since else None

    async def gather() -> tuple[list[Found], Event, ArchivedPlan | None, list[ActionResult], dict[str, str | None]]:
        with scanning(name) as progress:
            found = await find(connection, name, decision_id, since=after, progress=progress)
        first = found[0].decision
        body = await archived(connection, first["pipeline"], first["plan"], artefacts)
        results = await action_results(connection, first["pipeline"], decision_id)
        prompts = await prompts_of(connection, first["pipeline"], first, artefacts)
        plan = None if body is None else read_plan(body)
        return found, await event_of(connection, first), plan, results, prompts

    (found, *later), event, plan, results, prompts = asyncio.run(gather())
    shown = _event(event, plan, reveal)
    traces = explain(found.decision, plan)
    if as_json:
        click.echo(
            orjson.dumps(
                {
                    "decision": found.decision,
                    "record": {"topic": found.topic, "partition": found.partition, "offset": found.offset},
                    "event": shown,
                    "archived": plan is not None,
                    "rules": [asdict(trace) for trace in traces],
                    "later": [one.decision for one in later],
                    "action_results": list(map(msgspec.to_builtins, results)),
                    "prompts": prompts,
                },
                option=orjson.OPT_INDENT_2,
            )
        )
    else:
        _print(found, shown, plan, traces)
        _print_prompts(prompts)
        _print_later(later, results)


@decision.command("search")
@click.option("--key", help="The event's key.")
@click.option("--decision", "wanted", help="approve, review, …")
@click.option("--rule", help="Decisions that this rule matched, was observed in or undecided in.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The youngest so many.")
@_where
def search_command(
    *,
    key: str | None,
    wanted: str | None,
    rule: str | None,
    limit: int,
    file: Path | None,
    topic: str | None,
    since: str | None,
    as_json: bool,
    connection: Connection,
) -> None:
    """List decisions, oldest first: the youngest ones that match everything asked for.

    With --json a line is the decision as it stands in the topic.

    \b
    Examples:
      streamproc decision search --topic car-loan.decisions --key 50071
      streamproc decision search --pipeline pipeline.yaml --rule unsure --since 1h --limit 5
    """
    name = _topic(file, topic)

    def matches(found: Mapping[str, Any]) -> bool:
        if wanted is not None and found["decision"] != wanted:
            return False
        named = (*found["rules"], *found["observed"], *found["undecided"], found["rule"])
        return rule is None or rule in named

    async def gather() -> list[Found]:
        start: Start = moment(since, datetime.now(UTC)) if since else "beginning"
        with scanning(name) as progress:
            return await search(connection, name, matches, start, limit=limit, key=key, progress=progress)

    rows = asyncio.run(gather())
    if as_json:
        for row in rows:
            click.echo(orjson.dumps(row.decision))
        return
    table = Table(box=box.SIMPLE)
    for column in ("id", "decided at", "key", "decision", "by", "score", "reasons"):
        table.add_column(column, overflow="fold", no_wrap=column == "id")
    for row in rows:
        one = row.decision
        score = "" if one["score"] is None else f"{one['score']:.3f}"
        reasons = ", ".join(one["reasons"])
        by = f"{one['tier']}: {one['rule']}" if one["tier"] == "automatic" else one["tier"]
        cells = (one["id"], _time(row.timestamp), one["key"] or "", one["decision"], by, score, reasons)
        table.add_row(*map(escape, cells))
    console_for(PLAIN_WIDTH).print(table)
    click.echo(counted(len(rows), "decision") + (" (--limit shows more)" if len(rows) == limit else ""), err=True)


def _topic(file: Path | None, topic: str | None) -> str:
    if topic is not None:
        return topic
    if file is None:
        raise click.UsageError("say where: --topic NAME or --pipeline FILE")
    return Topics.of(pipeline_name(file)).decisions


def _event(event: Event, plan: ArchivedPlan | None, reveal: bool) -> Any:
    """The event as it may be shown, or a text that says why it is not."""
    if event.missing is not None:
        return f"({event.missing})"
    if plan is None and not reveal:
        return "(its plan is not archived, so nobody knows which fields are sensitive: --reveal shows it)"
    value = orjson.loads(event.value or b"null")
    if plan is not None and not reveal:
        for name in plan.sensitive:
            _hide(value, name.split("."))
    return value


def _hide(value: Any, path: list[str]) -> None:
    if isinstance(value, dict) and path[0] in value:
        if len(path) == 1:
            value[path[0]] = "(sensitive)"
        else:
            _hide(value[path[0]], path[1:])


# for people


def _print(found: Found, event: Any, plan: ArchivedPlan | None, traces: list[RuleTrace]) -> None:
    console, one = console_for(PLAIN_WIDTH), found.decision
    console.print(f"[bold]{escape(one['decision'])}[/bold]  {escape(one['id'])}", highlight=False)
    source = one["source"]
    head = Table(box=None, show_header=False, pad_edge=False)
    head.add_column(style="dim")
    head.add_column(overflow="fold")
    score = "none" if one["score"] is None else f"{one['score']:.6g}"
    if one["score_reason"]:
        score += f" ({one['score_reason']})"
    drift = by_drift(one)
    rows = {
        "why": f"{WHY.get(one['why'], one['why'])}" + (f": {one['rule']}" if one["rule"] else ""),
        "tier": one["tier"] + (f" ({reason})" if (reason := one.get("fallback_reason")) else ""),
        "automation alone": one["would_be"] or "no decision",
        **({} if drift is None else {"drift": drift}),
        "reasons": ", ".join(one["reasons"]) or "none",
        "score": score + (f", of {by}" if (by := one.get("scored_by")) else ""),
        **{f"shadow {name}": _shadow(said) for name, said in one.get("shadows", {}).items()},
        "confidence": "none" if one["confidence"] is None else f"{one['confidence']:.6g}",
        "key": one["key"] or "none",
        "event time": one["time"],
        "event": f"{source['topic']}-{source['partition']}@{source['offset']}, sent {_time(source['timestamp'])}",
        "decision": f"{found.topic}-{found.partition}@{found.offset}, written {_time(found.timestamp)}",
        "plan": one["plan"] + ("" if plan else " (not archived: expressions are not known)"),
        "model": one["model"] or "none",
        "seen": ", ".join(f"{name}@{offset}" for name, offset in one["seen"].items()) or "nothing",
    }
    for name, text in rows.items():
        head.add_row(name, escape(text))
    console.print(head)
    rules = Table(box=box.SIMPLE, title="Rules, in order", title_justify="left")
    for column in ("", "rule", "outcome", "decides", "when", "with"):
        rules.add_column(column, overflow="fold")
    for trace in traces:
        values = "\n".join(f"{name} = {_value(value)}" for name, value in trace.values.items())
        when = trace.when or ("always" if plan else "")
        kind = f"fallback {trace.id}" if trace.fallback else trace.id
        cells = ("▶" if trace.decided else "", kind, trace.outcome, trace.decide or "", when, values)
        rules.add_row(*map(escape, cells), style="bold" if trace.decided else None)
    console.print(rules)
    features = Table(box=box.SIMPLE, title="Features and fields that were read", title_justify="left")
    for column in ("name", "value", "expression"):
        features.add_column(column, overflow="fold")
    texts = {name: feature_text(part) for name, part in plan.file.features.items()} if plan else {}
    for name, value in one["features"].items():
        features.add_row(*map(escape, (name, _value(value), texts.get(name, ""))))
    console.print(features)
    console.print("Event", style="italic")
    text = event if isinstance(event, str) else orjson.dumps(event, option=orjson.OPT_INDENT_2).decode()
    click.echo(text)


def _print_prompts(prompts: Mapping[str, str | None]) -> None:
    for own, text in prompts.items():
        click.secho(f"Prompt {own}", italic=True)
        click.echo("(it is not kept)" if text is None else text.rstrip())


def _print_later(later: Sequence[Found], results: Sequence[ActionResult]) -> None:
    for one in later:
        told, review = one.decision, one.decision["review"]
        by = f" by {review['by']}" if review["by"] else ""
        note = f" ({review['note']})" if review["note"] else ""
        why = WHY.get(told["why"], told["why"])
        click.echo(f"then {told['decision']}, {told['tier']}: {why}{by}{note}, {review['decided']}")
    for result in results:
        click.echo(f"action of revision {result.revision}: {result.status} {result.detail or ''}")


def _shadow(said: Any) -> str:
    return f"none ({said['reason']})" if said["score"] is None else f"{said['score']:.6g}"


def _value(value: Any) -> str:
    return "null" if value is None else str(orjson.dumps(value).decode())


def _time(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"

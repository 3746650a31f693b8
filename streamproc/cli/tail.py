"""``streamproc tail``: what is in a topic, and what comes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from datetime import UTC, datetime
from typing import Any, cast

import click
import orjson

from streamproc.cli.options import connection_options
from streamproc.kafka.connection import Connection
from streamproc.kafka.reader import Start, reading


class _Start(click.ParamType):
    name = "beginning|end|OFFSET"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        if value in ("beginning", "end"):
            return str(value)
        if str(value).isdecimal():
            return int(value)
        self.fail(f"{value!r} is neither beginning, end nor an offset", param, ctx)


@click.command(short_help="Show a topic's records.")
@click.argument("topic")
@click.option("--from", "start", type=_Start(), default="end", show_default=True, help="Where to start.")
@click.option("--until-end", is_flag=True, help="Stop at what is the end of the topic now.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after this many records.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@connection_options
def tail(
    *, topic: str, start: str | int, until_end: bool, limit: int | None, as_json: bool, connection: Connection
) -> None:
    """Show the records of TOPIC as they come, until Ctrl-C. Only committed ones (read_committed).

    \b
    Examples:
      streamproc tail loan.decisions
      streamproc tail loan.dead-letter --from beginning --until-end --json
      streamproc tail loan.review --from 1200 --limit 10
    """
    with contextlib.suppress(KeyboardInterrupt):  # the usual way to end it
        asyncio.run(
            _tail(
                topic=topic,
                start=start,
                until_end=until_end,
                limit=limit,
                as_json=as_json,
                connection=connection,
            )
        )


async def _tail(
    *, topic: str, start: str | int, until_end: bool, limit: int | None, as_json: bool, connection: Connection
) -> None:
    shown = 0
    async with reading(connection, topic) as reader:
        begin = cast(Start, start)
        async for records in reader.scan(begin) if until_end else reader.follow(begin):
            for record in records:
                click.echo(line(record) if as_json else text(record))
                shown += 1
                if shown == limit:
                    return


def line(record: Any) -> bytes:
    """A record as one line of JSON. A value that is no JSON is a text, one that is no text is base64."""
    shown: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": _time(record).isoformat(timespec="milliseconds"),
        "key": _readable(record.key),
        "headers": [[name, _readable(value)] for name, value in record.headers],
    }
    try:
        value = None if record.value is None else orjson.loads(record.value)
        return orjson.dumps(shown | {"value": value})
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # the latter where it is nested too deeply
        pass
    try:
        return orjson.dumps(shown | {"value": record.value.decode()})
    except UnicodeDecodeError:
        return orjson.dumps(shown | {"value_base64": base64.b64encode(record.value).decode()})


def text(record: Any) -> str:
    """A record for a person: where and when it is, its key and headers, then its value, indented."""
    key = "" if record.key is None else f"  key={_readable(record.key)}"
    head = click.style(
        f"{_time(record):%Y-%m-%d %H:%M:%S.%f}"[:23] + f"  {record.partition}@{record.offset}{key}", fg="cyan"
    )
    headers = "".join(f"\n  {name}: {_readable(value)}" for name, value in record.headers)
    return f"{head}{headers}\n{_pretty(record.value)}"


def _pretty(value: bytes | None) -> str:
    if value is None:
        return "  (no value)"
    try:
        shown = orjson.dumps(orjson.loads(value), option=orjson.OPT_INDENT_2).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        shown = str(_readable(value))
    return "\n".join("  " + one for one in shown.splitlines())


def _readable(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")


def _time(record: Any) -> datetime:
    return datetime.fromtimestamp(record.timestamp / 1000, UTC)

"""Dead letters as they stand in their topic: finding them, choosing some, and opening their bodies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl

from streamproc.core.expressions import Expression, compile_expression
from streamproc.core.records import BODY, PASSED_THROUGH, REDRIVEN_FROM, Source, text_headers
from streamproc.errors import UserError
from streamproc.kafka.connection import Connection
from streamproc.kafka.reader import Progress, Start, reading
from streamproc.wording import counted

COLUMNS: Mapping[str, pl.DataType] = {
    "stage": pl.String(),
    "reason": pl.String(),
    "path": pl.String(),
    "detail": pl.String(),
    "key": pl.String(),
    "topic": pl.String(),
    "partition": pl.Int64(),
    "offset": pl.Int64(),
    "timestamp": pl.Datetime("us", "UTC"),
}
"""What ``--where`` can read. Topic, partition, offset and timestamp are those of the event."""

Opener = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. ``source`` is ``None`` for an outgoing record that was too large for its topic."""

    topic: str
    partition: int
    offset: int
    written: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    text: Mapping[str, str]
    source: Source | None

    @property
    def id(self) -> str:
        """``PARTITION-OFFSET`` in the dead-letter topic."""
        return f"{self.partition}-{self.offset}"

    @property
    def reason(self) -> str:
        """The stable code of why it is one; empty in a record that is no dead letter of ours."""
        return self.text.get("sp-reason", "")

    @property
    def form(self) -> str:
        """What the value is: ``plain``, ``masked``, ``encrypted`` or ``truncated``."""
        return self.text.get(BODY, "truncated" if self.source is None else "plain")

    @property
    def passed(self) -> list[tuple[str, bytes]]:
        """The event's own headers, as far as dead letters keep them."""
        return [(name, value) for name, value in self.headers if name in PASSED_THROUGH and name != REDRIVEN_FROM]

    @classmethod
    def of(cls, record: Any) -> Letter:
        """The dead letter in a Kafka record."""
        headers = tuple((name, value or b"") for name, value in record.headers)
        text = text_headers(headers)
        source = None
        try:
            numbers = (int(text[f"sp-{name}"]) for name in ("partition", "offset", "timestamp"))
            source = Source(text["sp-topic"], *numbers)
        except (KeyError, ValueError):
            pass
        place = (record.topic, record.partition, record.offset, record.timestamp)
        return cls(*place, record.key, record.value, headers, text, source)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters are meant: all conditions hold. ``ids`` are ``PARTITION-OFFSET``."""

    reason: str | None = None
    since: datetime | None = None
    ids: frozenset[str] = frozenset()
    where: Expression | None = None

    @property
    def start(self) -> Start:
        """Where reading begins: nothing before it is meant."""
        return self.since or "beginning"

    def among(self, letters: list[Letter]) -> list[Letter]:
        """Those of a list that are meant."""
        if self.ids:
            letters = [letter for letter in letters if letter.id in self.ids]
        if self.reason is not None:
            letters = [letter for letter in letters if letter.reason == self.reason]
        if self.where is None or not letters:
            return letters
        rows = pl.DataFrame([_row(letter) for letter in letters], schema=dict(COLUMNS), orient="row")
        matched = rows.select(self.where.expr.fill_null(value=False).alias("matched"))["matched"]
        return [letter for letter, yes in zip(letters, matched, strict=True) if yes]


def where(text: str) -> Expression:
    """A condition over ``COLUMNS``, in the pipeline file's own grammar. Raises ExpressionError."""
    return compile_expression(text, COLUMNS, want="boolean")


def _row(letter: Letter) -> tuple[Any, ...]:
    text, source = letter.text, letter.source
    said = [text.get(f"sp-{name}") for name in ("stage", "reason", "path", "detail")]
    key = None if letter.key is None else letter.key.decode(errors="replace")
    if source is None:
        return (*said, key, None, None, None, None)
    return (*said, key, source.topic, source.partition, source.offset, moment_of(source.timestamp))


def moment_of(milliseconds: int) -> datetime:
    """Milliseconds since the epoch as a time."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


async def chosen(
    connection: Connection, topic: str, choice: Choice, progress: Progress | None
) -> AsyncIterator[list[Letter]]:
    """The dead letters that are meant, in lists as they are read."""
    only = {int(name.partition("-")[0]) for name in choice.ids} or None
    async with reading(connection, topic) as reader:
        if only and max(only) >= reader.partitions:
            has = counted(reader.partitions, "partition")
            raise UserError(f"{topic} has {has}, and no partition {max(only)}", "ids are PARTITION-OFFSET")
        async for records in reader.scan(choice.start, only=only, progress=progress):
            yield choice.among([Letter.of(record) for record in records])


async def one(connection: Connection, topic: str, partition: int, offset: int) -> Letter:
    """One dead letter. Raises UserError where there is none."""
    async with reading(connection, topic) as reader:
        record = None
        if partition < reader.partitions:
            record = await reader.one(partition, offset)
    if record is None:
        raise UserError(
            f"no dead letter {partition}-{offset} in {topic}",
            "`streamproc dead-letters FILE list` shows their ids; retention drops old ones",
        )
    return Letter.of(record)


@dataclass(frozen=True, slots=True)
class Body:
    """What a dead letter's event was: its raw bytes, or why they cannot be had."""

    raw: bytes | None = None
    missing: str | None = field(default=None)


def open_body(letter: Letter, opener: Opener | None) -> Body:
    """The event's raw bytes. ``opener`` decrypts, where the pipeline's dead letters are encrypted."""
    if letter.form == "truncated":
        return Body(missing="truncated: not an event but an outgoing record that was too large")
    if letter.value is None:
        return Body()
    if letter.form == "masked":
        return Body(missing="masked: only a hash of the event was kept")
    if letter.form == "plain":
        return Body(letter.value)
    if opener is None:
        return Body(missing="encrypted: the pipeline file does not ask for that any more")
    try:
        return Body(opener(letter.value))
    except Exception as error:
        if type(error).__name__ == "InvalidTag":
            return Body(missing="encrypted with another key")
        raise

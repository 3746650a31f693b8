"""The demonstration of card payments: a worker is killed half-way, and the frauds are counted that were stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from streamproc.core.plan import REVIEW, Plan
from streamproc.demo.decided import coordinates
from streamproc.demo.events import Events
from streamproc.demo.payments import real_payments
from streamproc.demo.show import Due, Say, Told
from streamproc.demo.surroundings import Worker
from streamproc.kafka.connection import Connection
from streamproc.payments import FRAUD

KILLED = 0.5
"""The share of the events after which a worker is killed."""
LEARNED_UNTIL = "2019-06-01"
"""The model has learned from payments before this: only later ones say what it is worth."""
CENTS = 100


@dataclass(slots=True)
class PaymentStory:
    """What was decided of each event, and for how long nothing was."""

    truth: pl.DataFrame
    decided: dict[int, str] = field(default_factory=dict)
    """By the event's number."""
    due: Due = field(default_factory=lambda: Due(KILLED))
    killed: bool = False
    _last: dict[int, int] = field(default_factory=dict)
    _longest: int = 0

    def see(self, number: int, value: bytes, key: bytes, timestamp: int) -> None:
        """Take the decision on an event into account."""
        partition, _, _, decision = coordinates(value)
        self.decided.setdefault(number, decision)
        self._longest = max(self._longest, timestamp - self._last.get(partition, timestamp))
        self._last[partition] = timestamp

    def revise(self, value: bytes, key: bytes) -> None:
        """What people say later is not what is shown."""

    def as_json(self) -> dict[str, Any]:
        """The figures, as ``streamproc demo --json`` prints them. Money is in whole units and not in cents."""
        schema: dict[str, Any] = {"number": self.truth.schema["number"], "decision": pl.String}
        decided = self.truth.join(pl.DataFrame(list(self.decided.items()), schema, orient="row"), on="number")
        later = decided.filter(pl.col("kind") == "payment", pl.col("time") >= LEARNED_UNTIL)
        return {
            "killed": self.killed,
            "longest_pause_seconds": round(self._longest / 1000, 2),
            "since": LEARNED_UNTIL,
            "frauds": _by_decision(later.filter(FRAUD)),
            "genuine": _by_decision(later.filter(~pl.col(FRAUD))),
        }


class PaymentShow:
    """Half-way a worker is killed. At the end it is counted which frauds were stopped."""

    example: ClassVar = "card_fraud"
    workers: ClassVar = 2
    seconds: ClassVar = 30.0
    paced: ClassVar = False

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self.story: PaymentStory | None = None

    def sample(self, count: int | None, bad_share: float) -> Events:
        """Payments and reports of fraud, in the order in which they came."""
        found = real_payments(count, bad_share)
        self.story = None if self._alone else PaymentStory(found.truth)
        return found.events

    def change(self, file: Path, stack: ExitStack) -> None:
        """Months pass in seconds: what people can do in an hour is not what is shown."""
        old, text = "  capacity: 60 per hour\n", file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, "  capacity: 4000000 per hour\n"), encoding="utf-8")

    @asynccontextmanager
    async def happening(self, connection: Connection, plan: Plan, worker: Worker, say: Say) -> AsyncIterator[None]:
        """A worker is killed; another takes over what it had."""
        if self.story is None:
            yield
            return
        async with asyncio.TaskGroup() as group:
            killing = group.create_task(self._kill(self.story, worker))
            yield
            killing.cancel()

    async def _kill(self, story: PaymentStory, worker: Worker) -> None:
        await story.due.wait(KILLED)
        worker.kill_one()
        story.killed = True

    async def came_to(self, connection: Connection, plan: Plan) -> dict[str, Any] | None:
        """Nothing that the story does not tell."""
        return None

    def told(self, figures: dict[str, Any]) -> Told:
        """What became of frauds, and of other payments, from when on the model knew none of them."""
        rows = []
        if figures["killed"]:
            rows.append(
                ("a worker was killed", f"the longest pause of a lane was {figures['longest_pause_seconds']} s")
            )
        for name in ("frauds", "genuine"):
            found = figures[name]
            count, amount = (sum(one[what] for one in found.values()) for what in ("count", "amount"))
            rows.append((name, f"{count:,} payments of {amount:,} in all"))
            for decision, one in found.items():
                shares = f"{one['count'] / count:.1%} of them, {one['amount'] / amount:.1%} of the money"
                rows.append((f"  {'to people' if decision == REVIEW else decision}", f"{one['count']:,} ({shares})"))
        return Told(f"What it came to, of payments since {figures['since']}", rows)


def _by_decision(payments: pl.DataFrame) -> dict[str, dict[str, int]]:
    """How many, and how much money, by what was decided of them."""
    found = payments.group_by("decision").agg(pl.len(), pl.col("amount").sum()).sort("decision")
    return {decision: {"count": count, "amount": cents // CENTS} for decision, count, cents in found.iter_rows()}

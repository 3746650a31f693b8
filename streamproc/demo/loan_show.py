"""The demonstration of car loans: a model that goes away, people who answer, and what came true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from streamproc.core.plan import Plan
from streamproc.demo.decided import REVISION
from streamproc.demo.events import Events, produce
from streamproc.demo.loan_story import LoanStory, came_true, interrupt, settled, told, without_people
from streamproc.demo.loans import SEED, real_events, repaid
from streamproc.demo.people import ModelServer, Reviewing, review, tell_outcomes, until_over
from streamproc.demo.profiles import profiles
from streamproc.demo.show import Say, Told
from streamproc.demo.surroundings import POLL_MS, Worker, free_ports
from streamproc.demo.tally import MOST_RECORDS, QUIET_SECONDS, reader
from streamproc.kafka.connection import Connection
from streamproc.kafka.fetching import take
from streamproc.operations import pipeline_file
from streamproc.plan.scoring import placed

MISSING_SHARE = 0.1
"""Of the events that could have a value missing."""
EVENTS = 50_000


class LoanShow:
    """Half-way the model server is killed and comes back. A reviewer answers part of the items. At the end it is told
    which loans were repaid."""

    example: ClassVar = "car_loan"
    workers: ClassVar = 1
    seconds: ClassVar = 20.0
    paced: ClassVar = False

    def __init__(self, *, alone: bool) -> None:
        self.story = None if alone else LoanStory()
        self._server: ModelServer | None = None
        self._reviewing = Reviewing()

    def sample(self, count: int | None, bad_share: float) -> Events:
        """Loan applications, with a value missing in some."""
        return real_events(count or EVENTS, bad_share, 0.0 if self.story is None else MISSING_SHARE)

    def change(self, file: Path, stack: ExitStack) -> None:
        """Put the model into a server of its own; or take out what people do."""
        if self.story is None:
            without_people(file)
            return
        [(_, _, part)], _ = placed(pipeline_file(file))
        assert part.onnx is not None
        self._server = ModelServer(file.parent / part.onnx, part.inputs, free_ports(1))
        stack.callback(self._server.kill)
        self._server.start()
        told(file, self._server.url)

    @asynccontextmanager
    async def happening(self, connection: Connection, plan: Plan, worker: Worker, say: Say) -> AsyncIterator[None]:
        """The bank says what it knows of its customers. The model goes and comes; people answer, until each case has
        ended."""
        await produce(connection, f"{plan.pipeline}.profiles", profiles(SEED), None)
        if self.story is None or self._server is None:
            yield
            return
        async with asyncio.TaskGroup() as group:
            interrupting = group.create_task(interrupt(self._server, self.story))
            answering = group.create_task(review(connection, plan, repaid(), self._reviewing, SEED))
            yield
            interrupting.cancel()  # it has come to its end, unless the events did not
            say("waiting for people, and for what they do not answer to be escalated")
            await until_over(self._reviewing)
            answering.cancel()

    async def came_to(self, connection: Connection, plan: Plan) -> dict[str, Any] | None:
        """The measures, once all outcomes are told."""
        if self.story is None:
            return None
        await read_later(connection, plan, self.story, self._reviewing.revisions)
        outcomes = came_true(self.story.approved, repaid())
        return await settled(connection, plan, await tell_outcomes(connection, plan, outcomes))

    def told(self, figures: dict[str, Any]) -> Told:
        """What was decided without the model, and by whom."""
        gap = figures["gap"]
        unscored = ", ".join(f"{name} {count:,}" for name, count in figures["without_score"].items())
        back = f"{gap['seconds']} s; {gap['recovered_after_seconds']} s after it was back it was used again"
        rows = [("without a score", unscored), ("for", back)]
        rows += [("  decided", f"{name}: {count:,}") for name, count in gap["decided"].items()]
        for what, name in (("by whom, all in all", "tiers"), ("then", "decided_later")):
            rows.append((what, ", ".join(f"{one} {count:,}" for one, count in figures[name].items())))
        return Told("While the model was gone", rows)


async def read_later(connection: Connection, plan: Plan, story: LoanStory, revisions: int) -> None:
    """Bring a story up to what people and time have decided since, which are so many decisions."""
    whole, last = LoanStory(), time.monotonic()
    async with reader(connection, [plan.topics.decisions]) as consumer:
        while whole.later.total() < revisions and time.monotonic() - last < QUIET_SECONDS:
            batches = await take(consumer, consumer.assignment(), seconds=POLL_MS / 1000, most=MOST_RECORDS)
            for records in batches.values():
                for key, value, at in zip(records.keys, records.values, records.timestamps.tolist(), strict=True):
                    if REVISION in (value or b""):
                        whole.revise(value or b"", key or b"")
                    else:
                        whole.see(0, value or b"", key or b"", at)  # which one it is says nothing here
                last = time.monotonic()
    story.later, story.approved = whole.later, whole.approved

"""Who else takes part in the demonstration: a model server that goes away, a reviewer, and what came true."""

from __future__ import annotations

import asyncio
import random
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from streamproc.core.outcomes import outcome as outcomes
from streamproc.core.plan import Plan
from streamproc.core.review.event import CLOSING
from streamproc.core.review.said import Said, decision_of, encode
from streamproc.errors import EnvironmentFault
from streamproc.kafka.connection import Connection

READY_SECONDS = 30.0
ANSWERED = 0.6
"""The share of items that the reviewer answers; the others expire."""
RIGHT = 0.9
"""The share of answers that turn out to be right."""
SHOULD = {True: "approve", False: "decline"}
QUIET_SECONDS = 60.0


class ModelServer:
    """The model as a process of its own behind HTTP, to be killed and started again."""

    def __init__(self, model: Path, inputs: list[str], port: int) -> None:
        self._command = [sys.executable, "-m", "streamproc.model_server", str(model)]
        self._command += ["--inputs", ",".join(inputs), "--port", str(port)]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{port}/v2/models/loans/infer"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self._process.stdout is not None
        told, _, _ = select.select([self._process.stdout], [], [], READY_SECONDS)
        if not told or self._process.stdout.readline() != b"ready\n":
            raise EnvironmentFault("the model server did not start", "see what it wrote above")

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


@dataclass(slots=True)
class Reviewing:
    """What the scripted reviewer has seen and done. Times are monotonic seconds."""

    answered: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    revisions: int = 0
    """How many decisions people and time have made."""
    heard: float = 0.0

    def saw(self, event: dict[str, Any]) -> None:
        """Take a step of a case into account."""
        step, kind = event["step"], event["kind"]
        self.steps[step] += 1
        self.revisions += step == "corrected" or (kind == "review" and step in ("decided", "expired", "shed"))

    @property
    def over(self) -> bool:
        """Whether every case that was opened has ended."""
        return self.steps["opened"] == sum(self.steps[step] for step in CLOSING)


async def review(connection: Connection, plan: Plan, repaid: dict[str, bool], reviewing: Reviewing, seed: int) -> None:
    """Answer part of the items, most of them as it will turn out to have been right, until cancelled."""
    chance, topics = random.Random(seed), plan.topics  # noqa: S311 - not for secrets
    consumer = AIOKafkaConsumer(
        topics.review,
        topics.review_events,
        **connection.client_kwargs(),
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(**connection.client_kwargs())
    await producer.start()
    await consumer.start()
    try:
        while True:
            for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                reviewing.heard = time.monotonic()
                for record in records:
                    if tp.topic == topics.review_events:
                        reviewing.saw(orjson.loads(record.value))
                    elif chance.random() < ANSWERED:
                        said = _answer(orjson.loads(record.value), record.key.decode(), repaid, chance)
                        await producer.send(topics.verdicts, encode(said))
                        reviewing.answered += 1
    finally:
        await consumer.stop()
        await producer.stop()


def _answer(item: dict[str, Any], key: str, repaid: dict[str, bool], chance: random.Random) -> Said:
    right = repaid.get(key, False) if chance.random() < RIGHT else not repaid.get(key, False)
    by = "bob" if item["id"] != decision_of(item["id"]) else "ada"  # a second opinion is somebody else's
    return Said(id=item["id"], by=by, decision=SHOULD[right])


async def until_over(reviewing: Reviewing) -> None:
    """Wait until every case has ended, and nothing more was told for a moment; gives up after a long silence."""
    while not (reviewing.over and time.monotonic() - reviewing.heard > 1.0):
        if time.monotonic() - reviewing.heard > QUIET_SECONDS:
            return
        await asyncio.sleep(0.2)


async def tell_outcomes(connection: Connection, plan: Plan, came_true: Mapping[str, str]) -> int:
    """Say what came true, by the decisions' ids; of how many that is."""
    producer = AIOKafkaProducer(**connection.client_kwargs(), linger_ms=20)
    await producer.start()
    now = datetime.now(UTC)
    try:
        for decision, value in came_true.items():
            outcome = outcomes.Outcome(id=decision, value=value, time=now)
            await producer.send(plan.topics.outcomes, outcomes.encode(outcome))
        await producer.flush()
    finally:
        await producer.stop()
    return len(came_true)

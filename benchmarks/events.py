"""The input: the same bytes for every contestant, made from a fixed seed.

Event number i is ``{"id":i,`` and one of 16,384 bodies, in turn; so millions are made quickly, and what must come out
is known for each without keeping it. Its key is its number as text, its partition its number modulo the partitions.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import orjson

from benchmarks.jobs.job import Decision, Event, Features, Job

SEED = 7
BODIES = 16_384


@dataclass(frozen=True, slots=True)
class Expected:
    """What must come out for one body; the score and features are those of the full job."""

    decision: Decision
    score: float | None
    features: Features | None


@dataclass(frozen=True)
class Pool:
    """The bodies, and what must become of each: None for a dead letter."""

    job: Job
    bodies: list[bytes]
    expected: list[Expected | None]

    def value(self, number: int) -> bytes:
        """The bytes of event ``number``."""
        return b'{"id":%d,%b' % (number, self.bodies[number % BODIES])

    @property
    def mean_size(self) -> float:
        """Bytes of a body, on average."""
        return sum(map(len, self.bodies)) / len(self.bodies)


def make_pool(job: Job) -> Pool:
    """Draw the bodies of a job and work out, with plain Python, what must come out."""
    chance = random.Random(SEED)
    events = [job.draw(chance) for _ in range(BODIES)]
    damaged = set(chance.sample(range(BODIES), round(BODIES * job.damaged_share)))
    bodies = [orjson.dumps(event)[1:] for event in events]
    for number in damaged:
        bodies[number] = _damage(events[number], chance)
    return Pool(job, bodies, _expected(job, events, damaged))


def _damage(event: Event, chance: random.Random) -> bytes:
    """A body that breaks the contract in one of three ways; its id can still be read."""
    way = chance.randrange(3)
    if way == 0:
        return orjson.dumps(event | {"amount": "a lot"})[1:]
    if way == 1:
        return orjson.dumps({name: value for name, value in event.items() if name != "limit"})[1:]
    body = orjson.dumps(event)[1:]
    return body[: len(body) // 2]


def _expected(job: Job, events: list[Event], damaged: set[int]) -> list[Expected | None]:
    if job.features is None:
        return [Expected(job.decide(event, {}, 0.0), None, None) for event in events]
    rows = [job.features(event) for event in events]
    scores = reference_scores(job, rows)
    return [
        None if number in damaged else Expected(job.decide(event, row, score), score, row)
        for number, (event, row, score) in enumerate(zip(events, rows, scores, strict=True))
    ]


def reference_scores(job: Job, rows: list[Features]) -> list[float]:
    """The model's scores of all rows in one call."""
    from onnxruntime import InferenceSession

    matrix = np.array([list(row.values()) for row in rows], dtype=np.float32)
    (scores,) = InferenceSession(str(job.model)).run(["score"], {"features": matrix})
    return [float(score) for score in scores[:, 0]]

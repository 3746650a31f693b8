"""What a job is made of."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Event = dict[str, Any]
Features = dict[str, float]
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Decision:
    """What is decided about one event: the first rule that matched, and all that did with their reasons, in order."""

    decision: str
    rule: str
    rules: list[str]
    reasons: list[str]


@dataclass(frozen=True)
class Topics:
    """Where a run's outputs go. They are named as streamproc names a pipeline's, for all contestants."""

    prefix: str

    @property
    def decisions(self) -> str:
        return f"{self.prefix}.decisions"

    @property
    def dead_letters(self) -> str:
        return f"{self.prefix}.dead-letter"

    @property
    def summaries(self) -> str:
        return f"{self.prefix}.summaries"

    @property
    def actions(self) -> dict[str, str]:
        """The topic of each decision that is carried out or asked about."""
        names = {"approve": "approvals", "decline": "declines", "review": "review"}
        return {decision: f"{self.prefix}.{name}" for decision, name in names.items()}

    @property
    def all(self) -> list[str]:
        return [self.decisions, self.dead_letters, self.summaries, *self.actions.values()]


@dataclass(frozen=True)
class Job:
    """One job. ``draw`` makes an event without its id.

    Without ``features`` it has no model and no contract to check. With them ``acts`` is true: decisions go to action
    topics too, and the ``damaged_share`` of events that break the contract to the dead letters.
    """

    name: str
    draw: Callable[[random.Random], Event]
    decide: Callable[[Event, Features, float], Decision]
    features: Callable[[Event], Features] | None = None
    damaged_share: float = 0.0

    @property
    def acts(self) -> bool:
        return self.features is not None

    @property
    def folder(self) -> Path:
        return HERE / self.name

    @property
    def schema(self) -> str:
        return (self.folder / "event.schema.json").read_text(encoding="utf-8")

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"


Rule = tuple[str, str, str, Callable[[Event, Features, float], bool]]
"""Id, decision, reason, condition on event, features and score."""


def first_of(rules: Sequence[Rule]) -> Callable[[Event, Features, float], Decision]:
    """A function that asks every rule; the last of them must always match."""

    def decide(event: Event, features: Features, score: float) -> Decision:
        matched = [rule for rule in rules if rule[3](event, features, score)]
        first = matched[0]
        return Decision(first[1], first[0], [rule[0] for rule in matched], [rule[2] for rule in matched if rule[2]])

    return decide

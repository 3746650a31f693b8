"""What decisions on support messages tell: what they took, what became of attacks, and what was right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from streamproc.core.llm.answer import LEAKED, UNWANTED
from streamproc.core.llm.cache_policy import SEMANTIC, WRONG
from streamproc.core.llm.request import FLAGGED
from streamproc.core.outcomes.intervals import wilson
from streamproc.core.plan import REVIEW
from streamproc.demo.messages import Truth
from streamproc.demo.quantiles import quantiles
from streamproc.demo.show import Due

BEGINS, HALF, ENDS = 0.25, 0.5, 0.75
"""The shares of the messages after which the outage begins, another prompt is used, and the outage is over at the
latest."""
SUSPICIOUS: Final = "suspicious"
"""The rule of the example that lets people look at what the guards do not like, but like enough for the model."""
AUTOMATIC: Final = "automatic"


@dataclass(frozen=True, slots=True)
class Decided:
    """One decision of automation, as far as the story reads it. ``at``: when its record was written, and ``seconds``
    how long that was after its event's."""

    id: str
    decision: str
    tier: str
    rule: str | None
    reason: str | None
    features: Mapping[str, Any]
    at: float
    seconds: float

    def number(self, name: str) -> float:
        """One of its features; 0 where it is not there."""
        return self.features.get(name) or 0


@dataclass(slots=True)
class TriageStory:
    """``truth`` is that of each message by its number. Times are in seconds since the epoch."""

    truth: Sequence[Truth]
    decided: dict[int, Decided] = field(default_factory=dict)
    away: float | None = None
    back: float | None = None
    server: dict[str, int] = field(default_factory=dict)
    """What the server counted itself."""
    money: float | None = None
    """What a day may cost."""
    relabelled: tuple[str, float] | None = None
    """The version of the prompt that was put to use, and when."""
    due: Due = field(default_factory=lambda: Due(BEGINS, HALF, ENDS))

    def see(self, number: int, value: bytes, key: bytes, timestamp: int) -> None:
        """Take the decision on a message into account."""
        read = orjson.loads(value)
        seconds = (timestamp - read["source"]["timestamp"]) / 1000
        self.decided[number] = Decided(
            read["id"], read["decision"], read["tier"], read["rule"], read["score_reason"], read["features"],
            timestamp / 1000, seconds,
        )  # fmt: skip

    def revise(self, value: bytes, key: bytes) -> None:
        """What people say later is not what is shown."""

    def outcomes(self) -> dict[str, str]:
        """What came true, by the decisions' ids."""
        return {
            one.id: "urgent" if truth.urgent else "routine" for truth, one in self._pairs() if one.decision != REVIEW
        }

    def as_json(self) -> dict[str, Any]:
        """The figures, as ``streamproc demo --json`` prints them."""
        every = list(self.decided.values())
        away = [one for one in every if self._is_away(one)]
        scored = [(truth, one) for truth, one in self._pairs() if one.reason is None and truth.kind != "attack"]
        prompts = sorted({one.features["llm_prompt"] for _, one in scored})
        after = [one.at for one in every if one.reason is None and self.back is not None and one.at >= self.back]
        return {
            "tiers": dict(Counter(one.tier for one in every).most_common()),
            "latency_ms": {
                "all": _quantiles(every),
                "outage": _quantiles(away),
                "else": _quantiles([one for one in every if not self._is_away(one)]),
            },
            "outage": {
                "seconds": None if self.away is None or self.back is None else round(self.back - self.away, 1),
                "decided": dict(Counter(f"{one.decision}, {one.tier}" for one in away).most_common()),
                "recovered_after_seconds": round(min(after) - self.back, 2) if after and self.back else None,
            },
            "without_score": dict(Counter(one.reason for one in every if one.reason is not None).most_common()),
            "spent": _spent(every) | {"money_per_day": self.money},
            "relabelled": self._relabelled(every),
            "server": self.server,
            "prompts": {
                name: _judged([pair for pair in scored if pair[1].features["llm_prompt"] == name]) for name in prompts
            },
            "attacks": self._attacks(),
            "harmless": self._harmless(),
            "sent_again": self._again(),
        }

    def _relabelled(self, every: Iterable[Decided]) -> dict[str, Any] | None:
        """How long after it was said the first message was decided with the other version, and the last one with
        what was used before."""
        if self.relabelled is None:
            return None
        label, at = self.relabelled
        new = [one.at for one in every if one.features["llm_prompt"] == label]
        old = [one.at for one in every if one.features["llm_prompt"] != label]
        return {
            "prompt": label,
            "first_after_seconds": round(min(new) - at, 2) if new else None,
            "last_of_before_after_seconds": round(max(old) - at, 2) if old else None,
        }

    def _pairs(self) -> Iterable[tuple[Truth, Decided]]:
        return ((self.truth[number], one) for number, one in self.decided.items())

    def _is_away(self, one: Decided) -> bool:
        return self.away is not None and self.away <= one.at and (self.back is None or one.at < self.back)

    def _attacks(self) -> dict[str, int]:
        """What became of attacks. Each counts once, for the first of these that holds."""
        attacks = [(truth, one) for truth, one in self._pairs() if truth.kind == "attack"]
        found = Counter(_fate(truth, one) for truth, one in attacks)
        return {"count": len(attacks), **{name: found[name] for name in FATES}}

    def _harmless(self) -> dict[str, int]:
        harmless = [(truth, one) for truth, one in self._pairs() if truth.kind != "attack"]
        found = Counter(_fate(truth, one) for truth, one in harmless)
        return {"count": len(harmless), "flagged": found["flagged"], "suspicious": found["suspicious"]}

    def _again(self) -> dict[str, int]:
        """Messages that were sent again. One is decided where the first is no message, and a dead letter."""
        sent = [number for number, truth in enumerate(self.truth) if truth.kind == "again"]
        return {"count": len(sent), "decided": sum(number in self.decided for number in sent)}


FATES: Final = ("flagged", "suspicious", "answer_refused", "to_people", "not_shown", "harmed", "harmless")
"""Of attacks: the guards kept them from the model, or let people look at what it made of them; the model obeyed and its
answer was refused; people look at them for another reason; the model was not asked or did not answer; what was decided
without people is wrong, or right all the same."""


def _fate(truth: Truth, one: Decided) -> str:
    if one.reason == FLAGGED:
        return "flagged"
    if one.rule == SUSPICIOUS:
        return "suspicious"
    if one.reason in (LEAKED, UNWANTED):
        return "answer_refused"
    if one.decision == REVIEW:
        return "to_people"
    if one.reason is not None:
        return "not_shown"
    return "harmless" if one.decision == truth.should else "harmed"


def _judged(pairs: list[tuple[Truth, Decided]]) -> dict[str, int]:
    """How many were scored, of how many the category is right, and what was decided of them."""
    alone = [(truth, one) for truth, one in pairs if one.decision != REVIEW]
    return {
        "scored": len(pairs),
        "category_right": sum(one.features["category"] == truth.category for truth, one in pairs),
        "automatic": len(alone),
        "decision_right": sum(one.decision == truth.should for truth, one in alone),
    }


def _spent(every: list[Decided]) -> dict[str, Any]:
    """What asking took, as decisions say. ``tokens`` are those that were billed where decisions have them, and
    otherwise what each call can have taken at most."""
    billed = any("llm_tokens" in one.features for one in every)
    spent: dict[str, Any] = {
        "calls": int(sum(one.number("llm_calls") for one in every)),
        "tokens": int(
            sum(
                one.number("llm_tokens")
                if billed
                else one.number("llm_calls") * one.number("llm_input_tokens") + one.number("llm_output_tokens")
                for one in every
            )
        ),
    }
    if any("llm_money" in one.features for one in every):
        spent["money"] = round(sum(one.number("llm_money") for one in every), 6)
    if any("llm_cache" in one.features for one in every):
        spent["cache"] = _counted(every, "llm_cache")
        spent["like"] = _like(spent["cache"].get(SEMANTIC, 0), _counted(every, "llm_cache_check"))
    return spent


def _like(served: int, checked: Mapping[str, int]) -> dict[str, Any]:
    """Of what was kept for like texts, how much was served, how much compared with a real answer, and how much of that
    was wrong; ``at_most`` is the upper end of the 95 % interval of that share (Wilson)."""
    compared, wrong = sum(checked.values()), checked.get(WRONG, 0)
    high = wilson(wrong, compared).high
    return {
        "served": served, "compared": compared, "wrong": wrong, "at_most": None if high is None else round(high, 4),
    }  # fmt: skip


def _counted(every: list[Decided], name: str) -> dict[str, int]:
    return dict(Counter(value for one in every if (value := one.features.get(name))))


def _quantiles(some: list[Decided]) -> dict[str, float | None] | None:
    return quantiles([one.seconds for one in some], 50, 95, 99) if some else None

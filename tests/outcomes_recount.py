"""Measures counted again the slow way: from whole topics, with dicts and loops. Tests hold the agent to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import ceil
from typing import Any

import orjson

from streamproc.core.outcomes.measures import Group, Window

MILLION = 1_000_000
BOUNDS = sorted({ceil(2 ** (quarter / 4)) for quarter in range(1, 160)})
"""Each at most a fifth above the one before, in milliseconds."""
Costs = Callable[[str, str, Mapping[str, Any], float | None], float | None]
"""Decision, value, features and amount to a cost."""
Row = tuple[bytes, int]
"""A record's value and its timestamp."""


def bucket(milliseconds: float) -> int:
    return sum(bound <= max(0, milliseconds) for bound in BOUNDS)


def said_value(value: Any, values: Sequence[str]) -> str:
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return text if text in values else "?"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def is_outcome(said: Mapping[str, Any]) -> bool:
    """Whether it can be kept: its time is one of UTC too, and its value one of JSON's."""
    try:
        moment(said["time"]).astimezone(UTC)
    except OverflowError:
        return False
    return not isinstance(said["value"], int) or abs(said["value"]) <= 2**53


class Recount:
    """``windows`` by their start, after everything was taken. What is from after ``until``, in milliseconds, counts as
    of then."""

    def __init__(
        self,
        values: Sequence[str],
        *,
        seconds: int,
        segments: Sequence[str] = (),
        costs: Costs | None = None,
        score: str | None = None,
        baseline: str | None = None,
        until: int | None = None,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        self.values, self.seconds, self.segments = values, seconds, segments
        self.costs, self.score, self.baseline = costs, score, baseline
        self.until, self.prompts = until, prompts or {}
        self.windows: dict[int, Window] = {}
        self.decisions: dict[str, tuple[dict[str, Any], int]] = {}
        self.revisions: dict[str, dict[str, Any]] = {}
        self.outcomes: dict[str, dict[str, Any]] = {}

    def take(self, decisions: Iterable[Row], reviews: Iterable[Row], outcomes: Iterable[Row]) -> dict[int, Window]:
        keys: dict[str, str] = {}
        for raw, at in decisions:
            one, stamp = orjson.loads(raw), self._clamped(at)
            if not one.get("revision"):
                self.decisions.setdefault(one["id"], (one, stamp))
                if one["key"] is not None:
                    keys[one["key"]] = one["id"]
            elif one["revision"] > self.revisions.get(one["id"], {"revision": 0})["revision"]:
                self.revisions[one["id"]] = one
                if one["why"] == "verdict":
                    spent = (moment(one["review"]["decided"]) - moment(one["review"]["opened"])).total_seconds() * 1000
                    self._own(self.decisions[one["id"]][1], f"verdict/{bucket(spent)}")
        for raw, _ in outcomes:
            said = orjson.loads(raw)
            if not is_outcome(said):
                continue
            own = said["id"] if said.get("id") else keys.get(said["key"])
            if own in self.decisions:
                self.outcomes[own] = said
        for one, stamp in self.decisions.values():
            self._decision(one, stamp)
        for raw, _ in reviews:
            self._review(orjson.loads(raw))
        for window in self.windows.values():
            window.own = {name: count for name, count in window.own.items() if count}
        return self.windows

    def _clamped(self, stamp: int) -> int:
        return stamp if self.until is None else min(stamp, self.until)

    def _window(self, stamp: int) -> Window:
        start = self._clamped(stamp) // 1000 // self.seconds * self.seconds
        return self.windows.setdefault(start, Window(start, self.seconds))

    def _own(self, stamp: int, name: str, count: int = 1) -> None:
        own = self._window(stamp).own
        own[name] = own.get(name, 0) + count

    def _prompt(self, one: dict[str, Any]) -> str | None:
        by = one.get("scored_by") or next(iter(self.prompts), None)
        prompt = one["features"].get(self.prompts[by]) if by in self.prompts else None
        return prompt if isinstance(prompt, str) else None

    def _decision(self, one: dict[str, Any], stamp: int) -> None:
        window = self._window(stamp)
        reason = one["score_reason"] or one["why"] if one["why"] == "no_score" else one["why"]
        reason = one.get("fallback_reason") or reason
        features = one["features"]
        segment = orjson.dumps({name: features.get(name) for name in sorted(self.segments)}).decode()
        told = (one["rule"], one["plan"], one["model"], one["tier"], one["decision"], one["would_be"], reason)
        counts = window.groups.setdefault(Group(segment, *told, self._prompt(one)), {})

        def count(name: str, more: int = 1) -> None:
            counts[name] = counts.get(name, 0) + more
            if not counts[name]:
                del counts[name]

        def money(name: str, cost: int) -> None:
            count(f"{name}/sum", cost)
            count(f"{name}/squares", cost**2)
            count(f"{name}/n")

        def cost(decision: str | None, value: str, amount: float | None) -> int | None:
            found = None if self.costs is None or decision is None else self.costs(decision, value, features, amount)
            return None if found is None else round(found * MILLION)

        count("decisions")
        self._own(stamp, f"decide/{bucket(stamp - one['source']['timestamp'])}")
        if reason not in ("rule", "explored"):
            first, last = window.marks.get(reason, (stamp, stamp))
            window.marks[reason] = min(first, stamp), max(last, stamp)
        if one.get("explored"):
            count("explored")
        if self.score is not None and one["score"] is not None:
            [other] = [value for value in self.values if value != self.score]
            yes, no = (cost(one["decision"], value, None) for value in (self.score, other))
            if yes is not None and no is not None:
                money("expected", round((one["score"] * yes + (1 - one["score"]) * no) / MILLION * MILLION))
        decision, by = one["decision"], "explored" if one.get("explored") else "own"
        if (last := self.revisions.get(one["id"])) is not None:
            decision, by = last["decision"], last["tier"]
            count(f"revised/{last['why']}")
            count(f"became/{by}/{decision}")
            if by == "reviewer" and one["would_be"] is not None:
                count("compared")
                count("overrides", int(decision != one["would_be"]))
        if (said := self.outcomes.get(one["id"])) is None:
            return
        value, amount = said_value(said["value"], self.values), said.get("amount")
        count(f"came/{by}/{decision}/{value}")
        realised = cost(decision, value, amount)
        if realised is None:
            return
        money("realised", realised)
        instead = one["would_be"] if self.baseline == "would_be" else self.baseline
        if (before := cost(instead, value, amount)) is not None:
            money("baseline", before)
            money("saved", before - realised)
        if by == "explored" and (declined := cost(one["explored"]["instead_of"], value, amount)) is not None:
            money("regret", round((declined - realised) * (1 / one["explored"]["share"])))

    def _review(self, one: dict[str, Any]) -> None:
        opened, kind, step = moment(one["opened"]), one["kind"], one["step"]
        stamp = int(opened.timestamp() * 1000)
        self._own(stamp, f"review/{kind}/{step}")
        sign = {"opened": 1, "decided": -1, "expired": -1, "shed": -1, "cancelled": -1}.get(step)
        if sign is not None:
            self._own(stamp, f"open/{kind}/{stamp // 60_000}", sign)
        if step == "decided":
            spent = (moment(one["time"]) - opened).total_seconds() * 1000
            self._own(stamp, f"answer/{kind}/{bucket(spent)}")
            if kind != "review":
                weight = round(MILLION / one["share"]) if one["share"] else MILLION
                self._own(stamp, f"agree/{kind}/{one['was']}/{one['decision']}")
                self._own(stamp, f"weighted/{kind}/{one['was']}/{one['decision']}", weight)
                self._own(stamp, f"squares/{kind}", weight**2)

"""What must hold of the cases of review after everything."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from tests.torture.telling import some

if TYPE_CHECKING:
    from tests.torture.checks import Found

ENDS = {"decided": "reviewer", "expired": "expiry", "shed": "expiry", "cancelled": None}
HEARD = frozenset({"decided", "confirmed", "disagreed", "corrected"})


def reviewed(found: Found) -> Iterator[str]:
    """Every case is opened once and ends exactly once, and what comes of it is carried out once."""
    plan = found.pipeline.plan
    if plan.review is None:
        return
    topics = plan.topics
    events = _values(found, topics.review_events)
    decisions = [orjson.loads(record.value) for record in found.outputs[topics.decisions]]
    asked = {one["id"] for one in decisions if "revision" not in one and one["decision"] == "review"}
    opened = Counter(event["item"] for event in events if event["step"] == "opened")
    ended = Counter(event["item"] for event in events if event["step"] in ENDS)
    yield from some("cases opened more than once", [item for item, times in opened.items() if times > 1])
    yield from some("events for review without a case", asked - opened.keys())
    yield from some("cases that did not end", opened.keys() - ended.keys())
    yield from some("cases that ended more than once", [item for item, times in ended.items() if times > 1])
    shed = {event["item"] for event in events if event["step"] == "shed"}
    shown = Counter(item["id"] for item in _values(found, topics.review))
    yield from some("items shown more than once", [item for item, times in shown.items() if times > 1])
    yield from some("cases that were not shown", opened.keys() - shown.keys() - shed - _over_at_once(found))
    yield from _revisions(decisions, events)
    yield from _actions(found, decisions)
    yield from _answers(found, events, opened)


def _revisions(decisions: Sequence[Any], events: Sequence[Any]) -> Iterator[str]:
    """The decisions after the first are those that the events tell of, numbered without a gap."""
    told = Counter(
        (event["id"], event["decision"])
        for event in events
        if event["step"] == "corrected" or (event["kind"] == "review" and ENDS.get(event["step"]))
    )
    made = Counter((one["id"], one["decision"]) for one in decisions if "revision" in one)
    yield from some("decisions that no event tells of", (made - told).keys())
    yield from some("events without their decision", (told - made).keys())
    by_id: dict[str, list[Any]] = defaultdict(list)
    for one in decisions:
        by_id[one["id"]].append(one)
    wrong = []
    for name, own in by_id.items():
        own.sort(key=lambda one: one.get("revision", 0))
        numbers = [one.get("revision", 0) for one in own]
        before = [(one["decision"], one["tier"], one.get("revision", 0)) for one in own[:-1]]
        named = [tuple(one.get("supersedes", {}).values()) for one in own[1:]]
        if numbers != list(range(len(own))) or before != named:
            wrong.append(name)
    yield from some("decisions whose revisions do not follow one another", wrong)


def _actions(found: Found, decisions: Sequence[Any]) -> Iterator[str]:
    """Every decision that is carried out stands once on its action topic."""
    actions = found.pipeline.plan.actions
    for decision, topic in actions.items():
        if topic is not None:
            made = Counter((one["id"], one.get("revision", 0)) for one in decisions if one["decision"] == decision)
            sent = Counter((one["id"], one.get("revision", 0)) for one in _values(found, topic))
            yield from some(f"actions missing for {decision}", (made - sent).keys())
            yield from some(f"actions too many for {decision}", (sent - made).keys())


def _over_at_once(found: Found) -> set[str]:
    """Cases that ran out in the batch that opened them: one that spans the time of a broker that was away. Records of
    one batch have one timestamp, and nobody could have answered in between."""
    opened: dict[str, int] = {}
    over = set()
    for record in found.outputs.get(found.pipeline.plan.topics.review_events, ()):
        event = orjson.loads(record.value)
        if event["step"] == "opened":
            opened[event["item"]] = record.timestamp
        elif event["step"] == "expired" and opened.get(event["item"]) == record.timestamp:
            over.add(event["item"])
    return over


def _answers(found: Found, events: Sequence[Any], opened: Counter[str]) -> Iterator[str]:
    """Every answer to a case was heard; what was said twice counted once."""
    verdicts = _values(found, found.pipeline.plan.topics.verdicts)
    said = {one["verdict"] for one in verdicts if one["id"] in opened and "verdict" in one}
    heard = [event for event in events if event["step"] in HEARD and event["verdict"]]
    decided = {event["verdict"] for event in heard if event["step"] == "decided"}
    # An audit that differs is decided and corrected by one verdict.
    once = Counter(one["verdict"] for one in heard if one["step"] != "corrected" or one["verdict"] not in decided)
    refused = {event["verdict"] for event in events if event["step"] == "refused"}
    yield from some("answers that were not heard", said - once.keys() - refused)
    yield from some("answers that counted more than once", [name for name, times in once.items() if times > 1])


def _values(found: Found, topic: str) -> list[Any]:
    return [orjson.loads(record.value) for record in found.outputs.get(topic, ())]

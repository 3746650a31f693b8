"""Decisions that people or time make, as records: the decision that is superseded, with what is new in it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias

import orjson

from streamproc.core.review.case import Case

Tier: TypeAlias = Literal["reviewer", "expiry"]
Cause: TypeAlias = Literal["verdict", "correction", "expired", "shed"]


def revised(
    case: Case,
    decision: str,
    tier: Tier,
    why: Cause,
    now: datetime,
    *,
    by: str | None = None,
    verdict: str | None = None,
    signed: bool | None = None,
    note: str | None = None,
) -> bytes:
    """The case's next decision as JSON, as schemas/decision.schema.json has it. The case itself is not changed."""
    whole: dict[str, Any] = orjson.loads(case.decision)
    whole |= {
        "decision": decision,
        "tier": tier,
        "why": why,
        "rule": None,
        "revision": case.revision + 1,
        "supersedes": {"decision": case.answer or case.was, "tier": case.tier, "revision": case.revision},
        "review": {
            "item": case.item,
            "by": by,
            "verdict": verdict,
            "signed": signed,
            "opened": case.opened,
            "decided": now,
            "note": note,
        },
    }
    return orjson.dumps(whole, option=orjson.OPT_UTC_Z)


def item_value(case: Case, hidden: frozenset[str]) -> bytes:
    """The review item as people are shown it: schemas/review-item.schema.json.

    A blind one has neither ``hidden`` features nor a priority, which may follow from the score.
    """
    blind = case.kind != "review"
    features = orjson.loads(case.decision)["features"] if blind else {}
    whole = {
        "id": case.item,
        "blind": blind,
        "decision": None if blind else orjson.Fragment(case.decision),
        "event": orjson.Fragment(case.event or b"null"),
        **({"features": {name: one for name, one in features.items() if name not in hidden}} if blind else {}),
        "priority": None if blind else case.priority,
        "opened": case.opened,
        "deadline": case.deadline,
    }
    return orjson.dumps(whole, option=orjson.OPT_UTC_Z)

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


def item_value(case: Case, features: bytes | memoryview) -> bytes:
    """The review item as people are shown it: schemas/review-item.schema.json."""
    blind = case.kind != "review"
    whole = {
        "id": case.item,
        "blind": blind,
        "decision": None if blind else orjson.Fragment(case.decision),
        "event": orjson.Fragment(case.event or b"null"),
        **({"features": orjson.Fragment(bytes(features))} if blind else {}),
        "priority": case.priority,
        "opened": case.opened,
        "deadline": case.deadline,
    }
    return orjson.dumps(whole, option=orjson.OPT_UTC_Z)

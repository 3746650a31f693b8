"""Which answers are kept, and which question each of them answers.

A key is a digest of everything that an answer follows from. It is nobody's text, so it may stand in names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson

from streamproc.core.llm.answer import read
from streamproc.core.llm.cache_policy import CachePolicy
from streamproc.core.llm.policy import LlmPlan
from streamproc.core.llm.prompt import ADDED
from streamproc.core.llm.request import CANARY, SYSTEM
from streamproc.core.names import MODEL_CONFIDENCE
from streamproc.core.processor import Answer

FORMAT: Final = 1
"""Of keys: another one when what goes into them changes."""
KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer comes to. ``bounded`` are its fields that have one of a few values, ``confidence`` is ``None``
    where it says none."""

    score: float
    confidence: float | None
    bounded: Mapping[str, Any] = field(default_factory=dict)

    def may_be_kept(self, policy: CachePolicy) -> bool:
        """Whether it is sure enough to be given again."""
        return self.confidence is None or self.confidence >= policy.least_confidence


def scope_of(plan: LlmPlan, model: str, parameters: Mapping[str, Any]) -> bytes:
    """A digest of what is the same for all rows of a model."""
    return _digest([FORMAT, plan.pipeline, model, dict(parameters), plan.output.schema, ADDED])


def partition_of(scope: bytes, tenant: str | None, prompt_hash: str) -> bytes:
    """A digest of what two rows must have in common for one to be answered with the other's answer."""
    return _digest([scope.hex(), tenant, prompt_hash])


def key_of(partition: bytes, text: str) -> bytes:
    """A digest of what a row asks. ``text`` is its ``input`` column."""
    return hashlib.blake2b(text.encode(), key=partition, digest_size=KEY_BYTES).digest()


def said(plan: LlmPlan, text: str, canary: str, system: str) -> Said | None:
    """What an answer comes to by the check that every answer passes; ``None`` where it cannot be used.

    ``canary`` and ``system`` are the row's columns of that name.
    """
    asked = {CANARY: np.array([canary], object), SYSTEM: np.array([system], object)}
    answer = read(plan, Answer([text], [None]), asked)
    score = float(answer.values[0])
    if answer.reasons[0] is not None or not np.isfinite(score):
        return None
    sure = answer.columns.get(MODEL_CONFIDENCE)
    stated = None if sure is None or not np.isfinite(sure[0]) else float(sure[0])
    # A confidence that the schema lets be left out and that is left out is none to rely on.
    confidence = stated if stated is not None or sure is None else 0.0
    return Said(score, confidence, {name: answer.columns[name][0] for name in plan.bounded if name in answer.columns})


def _digest(parts: list[Any]) -> bytes:
    raw = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(raw, digest_size=KEY_BYTES).digest()

"""Which answers are kept, and which question each of them answers.

A key is a digest of everything that an answer follows from. It is nobody's text, so it may stand in names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
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
class Question:
    """What a row asks. Rows with the same ``key`` ask the same."""

    key: bytes
    partition: bytes
    prompt: str
    text: str
    canary: str
    system: str
    id: str


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


def said(
    plan: LlmPlan,
    texts: Sequence[str],
    canaries: Sequence[str],
    systems: Sequence[str],
    measured: Sequence[float | None],
) -> list[Said | None]:
    """What answers come to by the check that every answer passes; ``None`` for one that cannot be used.

    ``canaries`` and ``systems`` are the rows' columns of these names. ``measured`` is how sure the answers are, where
    the plan has that measured.
    """
    asked = {CANARY: np.array(canaries, object), SYSTEM: np.array(systems, object)}
    answer = read(plan, Answer(texts, [None] * len(texts)), asked)
    sure = np.array(measured, np.float64) if plan.sureness else answer.columns.get(MODEL_CONFIDENCE)
    bounded = [name for name in plan.bounded if name in answer.columns]
    found = list[Said | None]()
    for row, (score, reason) in enumerate(zip(answer.values, answer.reasons, strict=True)):
        if reason is not None or not np.isfinite(score):
            found.append(None)
            continue
        # A confidence that the schema lets be left out and that is left out is none to rely on.
        confidence = None if sure is None else float(np.nan_to_num(sure[row], nan=0.0))
        found.append(Said(float(score), confidence, {name: _value(answer.columns[name][row]) for name in bounded}))
    return found


def _value(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value


def _digest(parts: list[Any]) -> bytes:
    raw = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(raw, digest_size=KEY_BYTES).digest()

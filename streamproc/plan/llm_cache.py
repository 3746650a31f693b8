"""The part of a file about answers that are kept, as the core needs it."""

from __future__ import annotations

from streamproc.core.llm.cache_policy import CachePolicy, SemanticPolicy
from streamproc.plan.llm_parts import AnswersPart

MILLION = 1_000_000


def cache_policy(part: AnswersPart) -> CachePolicy:
    """What the file says of it, in the units of the core."""
    like = part.semantic
    semantic = None if like is None else SemanticPolicy(
        like.threshold, like.verify / MILLION, like.limit / MILLION, like.fewest, like.tolerance, like.most
    )  # fmt: skip
    seconds = part.exact.total_seconds()
    return CachePolicy(seconds, part.by, part.most, part.megabytes << 20, part.least_confidence, semantic)

"""The part of a file about answers that are kept, as the core needs it."""

from __future__ import annotations

from streamproc.core.llm.cache_policy import VERIFIED_LAST, CachePolicy, SemanticPolicy
from streamproc.core.outcomes.intervals import wilson
from streamproc.plan.document import Document, Path_
from streamproc.plan.llm_parts import AnswersPart

MILLION = 1_000_000


def cache_policy(part: AnswersPart) -> CachePolicy:
    """What the file says of it, in the units of the core."""
    like = part.semantic
    semantic = None if like is None else SemanticPolicy(
        like.threshold, like.verify / MILLION, like.limit / MILLION, like.fewest, like.tolerance, like.most,
        like.wait.total_seconds(),
    )  # fmt: skip
    seconds = part.exact.total_seconds()
    return CachePolicy(seconds, part.by, part.most, part.megabytes << 20, part.least_confidence, semantic)


def check_limit(document: Document, at: Path_, part: AnswersPart) -> None:
    """Can it ever be shown that so few are wrong?"""
    least = wilson(0, VERIFIED_LAST).high or 0.0
    if part.semantic is not None and part.semantic.limit / MILLION < least:
        message = f"the last {VERIFIED_LAST:,} answers that are compared cannot show that so few are wrong"
        document.problem((*at, "semantic", "limit"), message, "let `limit` be 0.4% at least")

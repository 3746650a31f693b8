"""What of a model's answer can be used: per row a score, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streamproc.core.processor import Answer

CAUSES: Final = ("", "timeout", "breaker_open", "error", "no_score")
"""Why there is no usable score, in the few words that decisions give as the reason of their fallback."""
_CAUSE_OF: Final[Mapping[str | None, int]] = {
    None: 0,
    "timeout": 1,
    "breaker_open": 2,
    "model_error": 3,
    "model_unavailable": 3,
    "wrong_length": 3,
}


@dataclass(slots=True)
class Usable:
    """``scores`` is float64 of shape (n,), NaN where ``missing``; ``reasons`` say why it is.

    ``columns`` is what else the model said, NaN or None for nothing; ``version`` what answered, ``versions`` per
    row where that differs.
    """

    scores: NDArray[np.float64]
    missing: NDArray[np.bool_]
    reasons: list[str | None]
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    version: str = ""
    versions: Sequence[str] | None = None

    @classmethod
    def of(cls, answer: Answer, count: int) -> Usable:
        """Of an answer to an ask for ``count`` rows. One of another length has no scores."""
        if len(answer.values) != count or len(answer.reasons) != count:
            answer = Answer.nothing(count, "wrong_length", answer.version)
        given = answer.values
        if not isinstance(given, np.ndarray):
            given = [np.nan if value is None else value for value in given]
        scores = np.array(given, np.float64)
        reasons, missing = list(answer.reasons), ~np.isfinite(scores)
        for row in np.flatnonzero(missing).tolist():
            reasons[row] = reasons[row] or "not_finite"
        if reasons.count(None) < count:
            missing = np.fromiter((reason is not None for reason in reasons), np.bool_, count)
        scores[missing] = np.nan
        return cls(scores, missing, reasons, answer.columns, answer.version, answer.versions)


def nothing_like(column: NDArray[Any], count: int) -> NDArray[Any]:
    """A column of the same kind that says nothing."""
    return np.full(count, None if column.dtype == object else np.nan, column.dtype)


def causes_of(reasons: Sequence[str | None]) -> NDArray[np.uint8]:
    """The number in ``CAUSES`` of each reason; 0 where there is none."""
    other = CAUSES.index("no_score")
    return np.fromiter((_CAUSE_OF.get(reason, other) for reason in reasons), np.uint8, len(reasons))

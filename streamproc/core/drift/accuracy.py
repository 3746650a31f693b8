"""Expected accuracy without outcomes: how often predictions come true, by the bin of the score (confidence-based
performance estimation, the idea of NannyML's CBPE).

Scores that say how likely the outcome is say how likely a prediction is to come true: where the reference has outcomes,
each bin of the score has a share of predictions that did. The accuracy that is expected of any events is the mean of
these shares over their scores. It sees scores that become less sure, and is blind to a change of what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamproc.core.drift.bins import Bins, Codes, Floats, NumericBins
from streamproc.core.drift.panes import Counts

EXPECTED_ACCURACY = "expected_accuracy"
"""The name of the test."""
CUTOFF = 0.5
"""From this score on the outcome is predicted."""
FEWEST_OUTCOMES = 200
PRIOR = 20.0
"""A bin's share is drawn to that of it and its neighbours as if so many outcomes more had been like theirs."""
ASSUMES = (
    "the scores are as calibrated as in the reference",
    "what the features mean for the outcome has not changed",
)


def fit_accuracies(column: Bins, codes: Codes, scores: Floats, outcomes: Floats) -> Floats:
    """The share of predictions that came true by bin of the score, shape (bins - 1,).

    ``codes``, ``scores`` and ``outcomes`` (1, 0, or NaN where it is not known) are by event of the reference. A share
    is that of a beta distribution's mean whose prior is what the bin and its two neighbours show. Raises ValueError
    where there are too few outcomes, or the score is not watched as a number.
    """
    if not isinstance(column, NumericBins):
        values = len(column.categories)
        raise ValueError(f"expected accuracy needs a score that is a number, and it has only {values} different values")
    known = np.isfinite(scores) & ~np.isnan(outcomes)
    n = int(known.sum())
    if n < FEWEST_OUTCOMES:
        raise ValueError(f"it has {n} outcomes of events with a score, and {FEWEST_OUTCOMES} are needed")
    right = ((scores >= CUTOFF) == (outcomes == 1))[known]
    size = column.size - 1
    events = np.bincount(codes[known], minlength=size).astype(np.float64)
    hits = np.bincount(codes[known], weights=right, minlength=size)
    around, hits_around = (np.convolve(values, np.ones(3), mode="same") for values in (events, hits))
    whole = right.mean()
    prior = (hits_around + PRIOR * whole) / (around + PRIOR)
    found: Floats = (hits + PRIOR * prior) / (events + PRIOR)
    return found


def expected_accuracy(accuracies: Sequence[float], counts: Sequence[int] | Counts) -> float | None:
    """The accuracy expected of events with these scores, by bin; ``None`` where none has one."""
    valid = np.array(counts[: len(accuracies)])
    return float(valid @ np.array(accuracies) / valid.sum()) if valid.sum() else None

"""Stage 3, model: one ask a batch; per event a score or a reason why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator

import numpy as np
import polars as pl

from streamproc.core.decide.frame import MODE, Context, Frame, Stage
from streamproc.core.plan import SCORE, ModelPlan, Plan
from streamproc.core.processor import Answer, Ask, Score

NO_MODEL = "no_model"
NOT_ASKED = "mode_fallback"
"""Why there is no score while people let the fallback chain alone decide: the model may be what is wrong."""


def model_stage(plan: Plan) -> Stage:
    """Adds ``score``: float64, null where there is no usable one."""
    model = plan.model

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        off = context.seen.views.get(MODE) == "fallback"
        if model is None or off or not len(frame):
            reason = NO_MODEL if model is None else NOT_ASKED
            frame.unscored, frame.is_unscored = [reason] * len(frame), np.ones(len(frame), np.bool_)
            if model is not None and len(frame):
                frame.count("unscored", reason, len(frame))
            frame.add(pl.Series(SCORE, [None] * len(frame), dtype=pl.Float64))
            return
        [answer] = yield [_ask(model, frame)]
        _take(frame, answer)

    return Stage("model", frozenset(model.inputs if model else ()), (SCORE,), run)


def _ask(model: ModelPlan, frame: Frame) -> Score:
    columns = {name: frame.columns[name].to_numpy() for name in model.inputs}
    return Score(model.name, columns, frame.ids)


def _take(frame: Frame, answer: Answer) -> None:
    count = len(frame)
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
        for reason, rows in Counter(reasons).items():
            if reason is not None:
                frame.count("unscored", reason, rows)
    scores[missing] = np.nan
    frame.unscored, frame.is_unscored = reasons, missing
    frame.model_version = answer.version
    frame.add(pl.Series(SCORE, scores, nan_to_null=True))

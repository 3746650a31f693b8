"""Stage 3, model: per event a score or a reason why not.

The first model is asked for all events, and the shadows beside it; then each stand-in for the events that have no
usable score yet. How long that takes at most is the sum of their times: the shell holds each to its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.decide.asking import Asking, AskingInWords, Preparing, asking_of, shown
from streamproc.core.decide.frame import MODE, Context, Frame, Stage
from streamproc.core.decide.spending import Spending
from streamproc.core.decide.usable import Usable, causes_of, nothing_like
from streamproc.core.llm.answer import LEAKED, UNWANTED
from streamproc.core.llm.cache_policy import CACHE, CHECK
from streamproc.core.llm.policy import TOOK
from streamproc.core.llm.request import FLAGGED
from streamproc.core.names import MODEL_OK, MODEL_STATUS, SCORED_BY
from streamproc.core.plan import SCORE, ModelPlan, Plan
from streamproc.core.processor import Answer, Ask
from streamproc.core.sensitive import Masker

MODEL: Final = "model"
"""The name of the stage."""
NO_MODEL = "no_model"
BARRED: Final = frozenset({FLAGGED, LEAKED, UNWANTED})
"""Why an event is shown to no language model after the one that found that out."""
NOT_ASKED = "mode_fallback"
"""Why there is no score while people let the fallback chain alone decide: the model may be what is wrong."""


def model_stage(plan: Plan, masker: Masker | None = None, lanes: int = 1) -> Stage:
    """Adds ``score``: float64, null where there is no usable one; and what else of the models is read or recorded.

    What may be spent is shared by ``lanes``.
    """
    models = (*plan.models, *plan.shadows)
    reads = frozenset(name for model in models for name in (*model.inputs, *(model.llm.reads if model.llm else ())))

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        count, ahead = len(frame), [model for model in plan.models if model.name in plan.ahead]
        preparing = Preparing.of(plan, frame, context.seen, masker)
        if plan.model is None or not count or context.seen.views.get(MODE) == "fallback":
            made = yield from preparing.prepared(ahead, guards=False)
            frame.add(*shown(ahead, made), *_not_shown(plan, frame, {*made}))
            _not_asked(plan, frame)
            return
        made = yield from preparing.prepared([*ahead, *plan.shadows])
        frame.add(*shown(ahead, made))
        spending = Spending(frame, context, lanes)
        barred = np.zeros(count, np.bool_)
        if plan.model.llm is not None:
            barred |= _barred(made[plan.model.name].reasons)
        asking = [asking_of(model, frame, made) for model in (plan.model, *plan.shadows)]
        together = [spending.reserved(_without(one, barred)) for one in asking]
        answers = yield [one.ask() for one in together]
        for one, answer in zip(together, answers, strict=True):
            spending.settle(one, answer)
        taken, *beside = (one.usable(answer) for one, answer in zip(together, answers, strict=True))
        frame.shadows = list(map(_shadow, plan.shadows, beside))
        if plan.model.llm is not None:
            barred |= _barred(taken.reasons)
        status, scorers = taken.reasons, (~taken.missing).astype(np.uint8)
        seen = {*made}
        if plan.stand_ins and taken.missing.any():
            status = list(taken.reasons)
            for number, model in enumerate(plan.stand_ins, 2):
                rows = np.flatnonzero(taken.missing & ~barred if model.llm is not None else taken.missing)
                if not len(rows):
                    continue
                if model.llm is not None and model.name not in seen:
                    own = yield from preparing.prepared([model], rows)
                    frame.add(*(_among(column, rows, count) for column in own[model.name].shown))
                    seen.add(model.name)
                else:
                    own = {model.name: made[model.name].some(rows)} if model.name in made else {}
                one = spending.reserved(asking_of(model, frame, own, rows))
                [answer] = yield [one.ask()]
                spending.settle(one, answer)
                got = one.usable(answer)
                if model.llm is not None:
                    barred[rows] |= _barred(got.reasons)
                _stand_in(taken, got, rows, scorers, number, plan.spent)
        spending.keep()
        frame.add(*_not_shown(plan, frame, seen))
        _take(plan, frame, taken, status, scorers)

    return Stage(MODEL, reads, (SCORE, *plan.model_columns), run)


def _barred(reasons: Sequence[str | None]) -> NDArray[np.bool_]:
    """Events that no further language model is shown, by the reasons of one: shape (events,)."""
    return np.fromiter((reason in BARRED for reason in reasons), np.bool_, len(reasons))


def _without(asking: Asking, barred: NDArray[np.bool_]) -> Asking:
    return asking.barred(barred) if isinstance(asking, AskingInWords) else asking


def _not_shown(plan: Plan, frame: Frame, seen: Collection[str]) -> list[pl.Series]:
    """Columns of what language models would be shown, where nobody has worked that out for any event."""
    given = (model.llm.given for model in plan.models if model.llm is not None and model.name not in seen)
    return [_nothing(len(frame), kind).alias(name) for own in given for name, kind in own.items()]


def _among(column: pl.Series, rows: NDArray[np.int64], count: int) -> pl.Series:
    """A column of some rows among all of them."""
    places = np.full(count, -1)
    places[rows] = np.arange(len(rows))
    found = pl.Series(places)
    return column.gather(found.set(found < 0, None))


def _not_asked(plan: Plan, frame: Frame) -> None:
    count, reason = len(frame), NO_MODEL if plan.model is None else NOT_ASKED
    if plan.model is not None:
        frame.count("unscored", reason, count)
    frame.unscored, frame.is_unscored = [reason] * count, np.ones(count, np.bool_)
    frame.scorers, frame.causes = np.zeros(count, np.uint8), causes_of(frame.unscored)
    nothing = Usable.of(Answer.nothing(count, reason), count)
    frame.shadows = [_shadow(model, nothing) for model in plan.shadows]
    frame.add(pl.Series(SCORE, [None] * count, dtype=pl.Float64))
    _show(plan, frame, {}, frame.unscored)


def _stand_in(
    taken: Usable,
    got: Usable,
    rows: NDArray[np.int64],
    scorers: NDArray[np.uint8],
    number: int,
    spent: frozenset[str],
) -> None:
    """Let what a stand-in said of some rows count for them. What was ``spent`` counts in any case."""
    usable = ~got.missing
    chosen = rows[usable]
    taken.scores[chosen], taken.missing[chosen], scorers[chosen] = got.scores[usable], False, number
    columns = {name: column.copy() for name, column in taken.columns.items()}
    for name, column in columns.items():
        if name not in spent:
            column[chosen] = nothing_like(column, len(chosen))
    for name, said in got.columns.items():
        places, values = (rows, said) if name in spent else (chosen, said[usable])
        columns.setdefault(name, nothing_like(said, len(scorers)))[places] = values
    taken.columns = columns
    versions = list(taken.versions or [taken.version] * len(scorers))
    own = got.versions or [got.version] * len(rows)
    for row, place in zip(chosen.tolist(), np.flatnonzero(usable).tolist(), strict=True):
        taken.reasons[row], versions[row] = None, own[place]
    taken.versions = versions


def _take(plan: Plan, frame: Frame, taken: Usable, status: Sequence[str | None], scorers: NDArray[np.uint8]) -> None:
    if taken.missing.any():
        for reason, rows in Counter(taken.reasons).items():
            if reason is not None:
                frame.count("unscored", reason, rows)
    frame.unscored, frame.is_unscored, frame.scorers = taken.reasons, taken.missing, scorers
    failed = (scorers != 1).any()
    frame.causes = causes_of(status) if failed else np.zeros(len(frame), np.uint8)
    frame.model_version, frame.model_versions = taken.version, taken.versions
    frame.add(pl.Series(SCORE, taken.scores, nan_to_null=True))
    _count_kept(plan, frame, taken.columns)
    _show(plan, frame, taken.columns, status)


def _count_kept(plan: Plan, frame: Frame, said: Mapping[str, NDArray[Any]]) -> None:
    """Count rows that were answered from a cache, and those that were asked about to know whether it is right."""
    for model in plan.models:
        if model.llm is None or model.llm.cache is None:
            continue
        for column in (CACHE, CHECK):
            for found, rows in Counter(said.get(model.llm.name(column), np.empty(0, object)).tolist()).items():
                if found is not None:
                    frame.count("llm_cache", found, rows)


def _show(plan: Plan, frame: Frame, said: Mapping[str, NDArray[Any]], status: Sequence[str | None]) -> None:
    """Add the columns about the models that anything reads, or that are recorded."""
    for name in plan.model_columns:
        if name in plan.given:  # it is there since before the model was asked
            continue
        if name == MODEL_STATUS:
            column = pl.Series([MODEL_OK if reason is None else reason for reason in status], dtype=pl.String)
        elif name == SCORED_BY:
            ids = pl.Series([None, *(model.name for model in plan.models)], dtype=pl.String)
            column = ids.gather(frame.scorers)
        elif name in said:
            column = _said(said[name], None if name in plan.spent else frame.is_unscored, plan.model_types[name])
        else:
            column = _nothing(len(frame), plan.model_types[name])
        frame.add(column.alias(name))


def _said(own: NDArray[Any], unscored: NDArray[np.bool_] | None, kind: pl.DataType) -> pl.Series:
    """A column of what was said; of rows without a usable score nothing was, but what it took."""
    if own.dtype == object:
        column = pl.Series(own.tolist(), dtype=kind)
    else:
        column = pl.Series(np.where(np.isfinite(own), own, np.nan), nan_to_null=True).cast(kind)
    return column if unscored is None else column.zip_with(pl.Series(~unscored), _nothing(len(column), kind))


def _nothing(count: int, kind: pl.DataType) -> pl.Series:
    return pl.Series([None] * count, dtype=kind)


def _shadow(model: ModelPlan, taken: Usable) -> pl.Series:
    """What a shadow said, as it stands in decisions; of a language model also what that took."""
    versions: Sequence[str | None] = taken.versions or [taken.version or None] * len(taken.scores)
    parts = {
        "score": pl.Series(taken.scores, nan_to_null=True),
        "reason": pl.Series(taken.reasons, dtype=pl.String),
        "model": pl.Series(versions, dtype=pl.String),
    }
    if model.llm is not None:
        nothing = np.full(len(taken.scores), np.nan)
        columns = {name: taken.columns.get(model.llm.name(name), nothing) for name in TOOK}
        spent = pl.DataFrame({name: pl.Series(column, nan_to_null=True) for name, column in columns.items()})
        parts["spent"] = spent.to_struct()
    return pl.DataFrame(parts).to_struct()

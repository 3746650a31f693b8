"""What language models answered about events of the past, as the decisions of these events tell of it.

A baseline and a backtest decide events again. They ask no language model: that would cost, and the answer would be
another one. What a decision tells is given back for the same id.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.decide.model import NO_MODEL, NOT_ASKED
from streamproc.core.llm.policy import CLASSIFIER
from streamproc.core.names import MODEL_CONFIDENCE, MODEL_OK, MODEL_STATUS
from streamproc.core.plan import Plan
from streamproc.core.processor import Answer, Score

NOT_RECORDED: Final = "not_recorded"
"""Why there is no score of an event of which nothing is recorded."""
SAID: Final = ("score", "score_reason", "scored_by")
"""What of a decision is read beside its features."""


def is_of(plan: Plan, decision: Mapping[str, Any]) -> bool:
    """Whether models as they are in the plan made a decision, with the versions of prompts that the file has in use:
    another prompt is another model."""
    made = decision.get("model")
    return isinstance(made, str) and made.partition("@")[0] in plan.model_versions


def tells(decision: object) -> bool:
    """Whether a decision tells of a model that was asked. Anything may stand there."""
    if not isinstance(decision, dict):
        return False
    return _score(decision) is not None or _reason(decision) not in (None, NO_MODEL, NOT_ASKED)


def kept(plan: Plan, decision: Mapping[str, Any]) -> Mapping[str, Any]:
    """What of a decision is worth keeping: what models said, and not what was hashed because it is sensitive."""
    features = _features(decision)
    of_models = {name: features[name] for name in plan.model_columns if name in features and name not in plan.sensitive}
    return {**{name: decision.get(name) for name in SAID}, "features": of_models}


def recorded(plan: Plan, said: Mapping[str, Mapping[str, Any]], ask: Score) -> Answer:
    """What decisions, by their ids, tell of what a language model of the plan answered, or the classifier before it.

    Where they tell nothing, the reason says so.

    A score is that of the model that ``scored_by`` names, the first one where it is not there.
    """
    model = next((model for model in plan.models if ask.model in (model.name, model.guard)), None)
    if model is None or model.llm is None:  # of shadows nothing but the score is recorded, and nothing is watched
        return Answer.nothing(len(ask.ids), NOT_RECORDED)
    if ask.model == model.guard:
        own_name = model.llm.name(CLASSIFIER)
        column = _column([_features(said.get(id, {})).get(own_name) for id in ask.ids], pl.Float64())
        return Answer(column, [None if np.isfinite(one) else NOT_RECORDED for one in column.tolist()])  # type: ignore[arg-type]
    scores, reasons = list[float | None](), list[str | None]()
    features = list[Mapping[str, Any]]()
    nobody, first = dict[str, Any](), plan.models[0].name
    for decision in (said.get(id, nobody) for id in ask.ids):
        score, of_it = _score(decision), _features(decision)
        own = score is not None and (decision.get("scored_by") or first) == model.name
        scores.append(score if own else None)
        reasons.append(None if own else _reason(decision) or NOT_RECORDED)
        features.append(of_it if own else {name: of_it.get(name) for name in model.llm.spent})
    types = {name: kind for name, kind in model.llm.said.items() if name not in plan.sensitive}
    columns = {name: _column([one.get(name) for one in features], kind) for name, kind in types.items()}
    columns[MODEL_CONFIDENCE] = _column([one.get(MODEL_CONFIDENCE) for one in features], pl.Float64())
    return Answer(scores, reasons, model.version, columns=columns)


def _score(decision: Mapping[str, Any]) -> float | None:
    score = decision.get("score")
    known = isinstance(score, int | float) and not isinstance(score, bool) and isfinite(score)
    return float(score) if known else None  # type: ignore[arg-type]


def _features(decision: Mapping[str, Any]) -> Mapping[str, Any]:
    features = decision.get("features")
    return features if isinstance(features, dict) else {}


def _reason(decision: Mapping[str, Any]) -> str | None:
    """Why the first model gave no score: a stand-in may have given the one that there is."""
    status = _features(decision).get(MODEL_STATUS)
    reason = decision.get("score_reason") if status in (None, MODEL_OK) else status
    return reason if isinstance(reason, str) and reason else None


def _column(values: list[Any], kind: pl.DataType) -> NDArray[Any]:
    """As answers have columns: floats, NaN for nothing, or objects. What is of another type is nothing."""
    column = pl.Series(values, dtype=kind, strict=False)
    if kind == pl.Float64:
        return column.fill_null(np.nan).to_numpy()
    made = np.full(len(column), None, object)
    made[:] = column.to_list()
    return made

"""What came true, and what it costs: the part ``outcomes`` of a file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import polars as pl

from streamproc.core.expressions import Expression
from streamproc.core.llm.policy import PROMPT
from streamproc.core.outcomes.policy import AMOUNT, WOULD_BE, BaselinePlan, OutcomesPlan
from streamproc.core.plan import CONFIDENCE, DRIFT, EVENT_TIME, REVIEW, SCORE
from streamproc.plan.document import Document, Path_
from streamproc.plan.models import BaselinePart, OutcomesPart, PipelineFile
from streamproc.plan.names import near
from streamproc.plan.scope import Scope, without_score
from streamproc.plan.scoring import Models

AT: Path_ = ("outcomes",)


def make_outcomes(
    document: Document, file: PipelineFile, scope: Scope, sensitive: Collection[str], models: Models
) -> OutcomesPlan | None:
    """What is counted of outcomes. Called once everything that an expression may read is known."""
    part = file.outcomes
    if part is None:
        return None
    scope = _scope(scope, sensitive)
    _check_names(document, file, part)
    costs = _costs(document, part, scope)
    _check_score(document, part)
    segments = _segments(document, file, part, scope)
    read = {name for row in costs.values() for cost in row.values() for name in cost.columns}
    return OutcomesPlan(
        values=tuple(dict.fromkeys(part.values)),
        errors={decision: frozenset(values) for decision, values in part.errors.items()},
        costs=costs,
        review_cost=part.review_cost,
        score=part.score,
        unlabelled=frozenset(part.unlabelled),
        segments=segments,
        columns={name: scope.known[name] for name in (*segments, *sorted(read)) if name in scope.known},
        matures_after=part.matures_after,
        retain=part.retain,
        most=part.most,
        window=part.window,
        baseline=_baseline(document, part.baseline, costs),
        prompts={model.name: model.llm.name(PROMPT) for model in models.chain if model.llm is not None},
    )


def _scope(scope: Scope, sensitive: Collection[str]) -> Scope:
    """What decisions show, and what comes with an outcome."""
    scope = replace(scope, known=dict(scope.known), absent=dict(scope.absent), uncertain=set(scope.uncertain))
    message = "costs cannot read `{name}`: they are what is true, whatever the model says"
    without_score(scope, message, "use fields, features and `outcome_amount`")
    for name, kind in list(scope.known.items()):
        if name in sensitive:
            told = f"`{name}` is sensitive, and decisions show only a hash of it", "use something else"
        elif name == EVENT_TIME or kind.is_temporal():
            told = f"`{name}` is a time, which costs cannot read", "make a number of it in a feature"
        elif name.startswith(DRIFT) and kind in (pl.String, pl.Float64) and name not in scope.params:
            told = f"`{name}` is no field and no feature", "use fields, features and `outcome_amount`"
        else:
            continue
        del scope.known[name]
        scope.absent[name] = told
    scope.known[AMOUNT] = pl.Float64()
    return scope


def _check_names(document: Document, file: PipelineFile, part: OutcomesPart) -> None:
    """Every decision and every value that is named exists."""
    decisions = {REVIEW, file.undecided, *file.actions}
    decisions |= {rule.decide for rule in file.rules if rule.decide is not None}
    decisions |= {rule.decide for rule in file.fallback}
    sure = not any(document.is_broken((name,)) for name in ("rules", "fallback", "actions"))
    sure &= not document.is_broken_within(("rules",), ("fallback",), ("actions",))
    for at, name, at_key in _decisions(part):
        if name not in decisions and sure and not document.is_broken(at):
            hint = near(name, decisions, "decisions")
            document.problem(at, f"`{name}` is no decision of this pipeline", hint, at_key=at_key)
    for at, value, at_key in _values(part):
        if value not in part.values and not _uncertain(document, at):
            document.problem(
                at, f"`{value}` is not among `values`", near(value, set(part.values), "values"), at_key=at_key
            )


def _uncertain(document: Document, at: Path_) -> bool:
    return document.is_broken(at) or document.is_broken_within((*AT, "values"))


def _decisions(part: OutcomesPart) -> Iterator[tuple[Path_, str, bool]]:
    for key in ("errors", "costs"):
        for name in getattr(part, key):
            yield (*AT, key, name), name, True
    for index, name in enumerate(part.unlabelled):
        yield (*AT, "unlabelled", index), name, False
    if part.baseline is not None and part.baseline.decision not in (None, WOULD_BE):
        yield (*AT, "baseline", "decision"), str(part.baseline.decision), False


def _values(part: OutcomesPart) -> Iterator[tuple[Path_, str, bool]]:
    for decision, values in part.errors.items():
        for index, value in enumerate(values):
            yield (*AT, "errors", decision, index), value, False
    for decision, row in part.costs.items():
        for value in row:
            yield (*AT, "costs", decision, value), value, True
    if part.score is not None:
        yield (*AT, "score"), part.score, False


def _costs(document: Document, part: OutcomesPart, scope: Scope) -> dict[str, dict[str, Expression]]:
    made: dict[str, dict[str, Expression]] = {}
    for decision, row in part.costs.items():
        for value, text in row.items():
            at: Path_ = (*AT, "costs", decision, value)
            cost = None if document.is_broken(at) else scope.compile(at, text, want="number")
            if cost is not None:
                made.setdefault(decision, {})[value] = cost
    return made


def _check_score(document: Document, part: OutcomesPart) -> None:
    at: Path_ = (*AT, "score")
    if part.score is None or _uncertain(document, at):
        return
    if not document.has(("model",)):
        document.problem(at, "`score` needs a model, whose score is the chance of it", "add `model: …`, or take it out")
    elif len(set(part.values)) != 2:
        message = "`score` is the chance of one of two values, and there are not two"
        document.problem(at, message, "name two under `values`, or take it out")


def _segments(document: Document, file: PipelineFile, part: OutcomesPart, scope: Scope) -> tuple[str, ...]:
    if part.segments is None:
        drift = () if file.drift is None else file.drift.segments
        return tuple(name for name in dict.fromkeys(drift) if name in scope.known)
    found = []
    for index, name in enumerate(part.segments):
        at: Path_ = (*AT, "segments", index)
        kind = scope.known.get(name)
        if document.is_broken(at):
            continue
        if name in (AMOUNT, SCORE, CONFIDENCE) or kind is None:
            if not (scope.open or name in scope.uncertain):
                message, hint = scope.absent.get(name, (f"`{name}` is no field and no feature", ""))
                hint = hint or near(name, set(scope.known) - {AMOUNT}, "columns")
                document.problem(at, message, hint)
        elif kind.is_float() or kind.is_nested():
            hint = "make a feature with few values of it: CASE … WHEN … END"
            document.problem(at, f"`{name}` has too many values to be segments", hint)
        else:
            found.append(name)
    return tuple(dict.fromkeys(found))


def _baseline(
    document: Document, part: BaselinePart | None, costs: dict[str, dict[str, Expression]]
) -> BaselinePlan | None:
    if part is None:
        return None
    at: Path_ = (*AT, "baseline", "decision")
    sound = not any(path[:2] in (AT, (*AT, "costs")) for path in document.broken)
    if part.decision is not None and not costs and sound and not document.is_broken(at):
        message = "a baseline that decides needs `costs`, by which it is compared"
        document.problem(at, message, "add `costs: …`, or state rates of the process before")
    return BaselinePlan(part.name, part.decision, part.automation, part.review, part.errors, part.cost)

"""What is watched for drift, and the columns that show it."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from streamproc.core.drift.volume import Limits, VolumePlan
from streamproc.core.expressions import Expression
from streamproc.core.plan import (
    CONFIDENCE,
    DEAD_LETTERS,
    DECISION,
    DRIFT,
    DRIFT_ANY,
    DRIFT_SEVERITY,
    EVENT_TIME,
    SCORE,
    WOULD_BE,
    DriftPlan,
)
from streamproc.plan.document import Document, Path_
from streamproc.plan.models import DriftPart, LimitsPart, PipelineFile, VolumePart
from streamproc.plan.names import near
from streamproc.plan.scope import Scope
from streamproc.plan.scoring import placed

JUDGED = (DECISION, WOULD_BE, DEAD_LETTERS)
"""What is known of an event only when it is judged."""


def add_drift_columns(document: Document, file: PipelineFile, scope: Scope, sensitive: frozenset[str]) -> None:
    """Let confidence, rules and the fallback chain read how what is watched stands.

    Called once the features are known.
    """
    part = file.drift
    if part is None:
        if not document.has(("drift",)):
            absent = "`{}` needs drift to be watched, and this file does not say so", "add `drift: …`, or take it out"
            for name in (DRIFT_ANY, DRIFT_SEVERITY, DRIFT + SCORE):
                scope.absent[name] = absent[0].format(name), absent[1]
        else:
            scope.uncertain |= {DRIFT_ANY, DRIFT_SEVERITY, DRIFT + SCORE}
        return
    if document.is_broken_within(("drift",)):
        scope.uncertain |= {DRIFT + name for name in _watchable(document, scope)}
    for name in _watched(document, file, part, scope, sensitive):
        scope.known.setdefault(DRIFT + name, pl.String())
    scope.known[DRIFT_ANY], scope.known[DRIFT_SEVERITY] = pl.String(), pl.Float64()


def make_drift(
    document: Document,
    file: PipelineFile,
    scope: Scope,
    read: list[Expression],
    confidence: Expression | None,
    sensitive: frozenset[str],
) -> DriftPlan | None:
    """What to watch. ``read`` are the expressions that may read its columns, ``sensitive`` what must not leave."""
    part = file.drift
    if part is None:
        return None
    for key in ("watch", "exclude", "segments"):
        named = getattr(part, key)
        for index, name in enumerate(named if isinstance(named, list) else ()):
            _check(document, file, scope, ("drift", key, index), name, sensitive, segments=key == "segments")
    reads = {name for expression in read for name in expression.columns if name.startswith(DRIFT)}
    watch = tuple(_watched(document, file, part, scope, sensitive))
    own = {DRIFT_ANY, DRIFT_SEVERITY, *(DRIFT + name for name in watch)}
    moved = confidence is not None and any(name.startswith(DRIFT) for name in confidence.columns)
    if not watch:
        document.problem(("drift",), "nothing is watched", "name columns in `watch`, or take some out of `exclude`")
    if part.max_extra_review is not None and not reads & own and _all_read(document, file, read):
        at: Path_ = ("drift", "max_extra_review")
        message = "`max_extra_review` limits what drift changes, and no rule, confidence or fallback reads drift"
        hint = "let one read a column such as `drift_any`, or take `max_extra_review` out"
        document.problem(at, message, hint, at_key=True)
    _check_times(document, file, part)
    _check_outcome(document, part, watch)
    _check_answers(document, file, part, scope, watch)
    return DriftPlan(
        watch=watch,
        budget=part.false_alarms,
        segments=tuple(part.segments),
        reads=tuple(sorted(reads & own)),
        aside=frozenset({DECISION, WOULD_BE, *([CONFIDENCE] if moved else [])}),
        recover=part.recover,
        volume=_volume(part.volume),
        max_extra_review=part.max_extra_review,
        season=part.season,
        max_age=part.max_age,
        outcome=part.outcome,
        answers=part.answers,
    )


def _check_times(document: Document, file: PipelineFile, part: DriftPart) -> None:
    for name in ("season", "max_age"):
        at: Path_ = ("drift", name)
        if getattr(part, name) is not None and file.events.time is None and not document.has(("events", "time")):
            message = f"`{name}` needs to know when an event was"
            document.problem(at, message, "add `time: FIELD` under `events`, or take it out")


def _check_outcome(document: Document, part: DriftPart, watch: Collection[str]) -> None:
    at: Path_ = ("drift", "outcome")
    if part.outcome is None or document.is_broken(at):
        return
    if not isinstance(part.reference, str):
        message = "`outcome` needs a file as the reference: a topic has no outcomes"
        document.problem(at, message, "let `reference` name a file, or take `outcome` out")
    elif not document.has(("model",)):
        message = "`outcome` needs a model, whose score is the chance of it"
        document.problem(at, message, "add `model: …`, or take it out")
    elif SCORE not in watch and not any(document.is_broken(("drift", key)) for key in ("watch", "exclude")):
        remedy = "name it in `watch`" if part.watch is not None else "take it out of `exclude`"
        document.problem(at, f"`outcome` needs `{SCORE}` to be watched", remedy)


def _check_answers(
    document: Document, file: PipelineFile, part: DriftPart, scope: Scope, watch: Collection[str]
) -> None:
    """A baseline asks no language model. What was answered stands in the rows of a reference, or it is not known."""
    at: Path_ = ("drift", "answers")
    if document.is_broken(at) or document.is_broken_within(("model",)):
        return
    in_words = any(model.llm is not None for _, _, model in placed(file)[0])
    if part.answers is not None:
        if not in_words:
            message = "`answers` is what a language model answered, and this file has none that decides"
            document.problem(at, message, "take it out", at_key=True)
        elif not isinstance(part.reference, str):
            message = "`answers` needs a file as the reference: of a topic the answers stand in the decisions"
            document.problem(at, message, "take it out, or let `reference` name a file", at_key=True)
        elif part.answers == part.outcome:
            document.problem(at, "`answers` and `outcome` are one field", "name another one")
        return
    needs = [name for name in watch if name in (SCORE, CONFIDENCE, DECISION, WOULD_BE, *scope.answered)]
    if not in_words or not needs or not isinstance(part.reference, str):
        return
    hint = "add `answers: FIELD`, the field of the reference's rows that says it, or name other columns in `watch`"
    if part.outcome is not None:
        message = "`outcome` needs scores, and those of a language model are not asked for again"
        document.problem(("drift", "outcome"), message, hint, at_key=True)
    else:
        named = ", ".join(f"`{name}`" for name in needs)
        document.warn(("drift",), f"what a language model answers is not watched: {named}", hint)


def _all_read(document: Document, file: PipelineFile, read: list[Expression]) -> bool:
    """Whether every expression that may read drift is sound: one that is wrong may be the one that reads it."""
    if document.is_broken_within(("confidence",), ("rules",), ("fallback",)):
        return False
    priority = None if file.review is None else file.review.priority
    texts = [file.confidence, priority, *(rule.when for rule in file.rules), *(rule.when for rule in file.fallback)]
    return len([text for text in texts if text is not None]) == len(read)


def _volume(part: VolumePart | None) -> VolumePlan | None:
    if part is None:
        return None
    return VolumePlan(_limits(part), _limits(part.partitions or LimitsPart()))  # type: ignore[call-arg]


def _limits(part: LimitsPart) -> Limits:
    silence, age = (None if one is None else one.total_seconds() for one in (part.silence, part.age))
    return Limits(silence, part.least, part.most, age)


def _watched(
    document: Document, file: PipelineFile, part: DriftPart, scope: Scope, sensitive: frozenset[str]
) -> list[str]:
    """The names of what is watched: as listed, or all that there is to watch."""
    if part.watch is not None:
        return list(dict.fromkeys(part.watch))
    events = file.events
    aside = {EVENT_TIME, events.key, events.time, *sensitive, *part.exclude}
    return [name for name in _watchable(document, scope) if name not in aside]


def _watchable(document: Document, scope: Scope) -> list[str]:
    """Columns, what the model says where there is one, and what is known of an event only when it is judged."""
    made = [name for name, key in ((SCORE, "model"), (CONFIDENCE, "confidence")) if document.has((key,))]
    columns = [name for name, kind in scope.known.items() if not kind.is_nested() and not name.startswith(DRIFT)]
    aside = {SCORE, CONFIDENCE, *scope.of_models}
    return [*(name for name in columns if name not in aside), *scope.watched, *made, *JUDGED]


def _check(
    document: Document,
    file: PipelineFile,
    scope: Scope,
    at: Path_,
    name: str,
    sensitive: frozenset[str],
    *,
    segments: bool,
) -> None:
    kind, unknown = scope.known.get(name), (*JUDGED, SCORE, CONFIDENCE, *scope.answered)
    if document.is_broken(at):
        return
    if name in sensitive:
        document.problem(at, f"`{name}` is sensitive, and counts of its values would leave", "watch something else")
    elif name not in _watchable(document, scope) or (segments and name in unknown):
        if not (scope.open or name in scope.uncertain):
            hint = near(name, _watchable(document, scope), "columns")
            document.problem(at, f"`{name}` is no field and no feature", hint)
    elif segments and kind is not None and (kind.is_float() or kind.is_temporal()):
        hint = "make a feature with few values of it: CASE … WHEN … END"
        document.problem(at, f"`{name}` has too many values to be segments", hint)

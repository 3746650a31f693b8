"""The second half of checking: does the file make sense? And the plan, where it does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import polars as pl

from streamproc.core.contract import Contract
from streamproc.core.expressions import Expression
from streamproc.core.plan import EVENT_TIME, MISSING, AnyFeature, DriftPlan, Events, LookupFeature, Plan, Rule
from streamproc.core.records import Topics
from streamproc.core.review.policy import ReviewPlan
from streamproc.core.windows.policy import WindowFeature
from streamproc.plan.cases import check_tests
from streamproc.plan.columns import check_params, make_confidence, make_features
from streamproc.plan.content import hashed
from streamproc.plan.contract import check_fields, open_contract
from streamproc.plan.document import Document
from streamproc.plan.drift import add_drift_columns, make_drift
from streamproc.plan.inspect import Inspect, ModelFacts
from streamproc.plan.models import PipelineFile
from streamproc.plan.outcomes import make_outcomes
from streamproc.plan.review import make_review
from streamproc.plan.rules import check_decisions, make_fallback, make_rules
from streamproc.plan.scope import Scope
from streamproc.plan.scoring import Models, check_kept, make_models, shown, texts_of_sensitive
from streamproc.plan.serve import check_serve
from streamproc.plan.sources import declared, sources_of
from streamproc.plan.windows import max_ahead, windows_policy

__all__ = ["Inspect", "ModelFacts", "build"]


def build(document: Document, file: PipelineFile, inspect: Inspect) -> Plan | None:
    """The plan, or ``None``: then the document has problems, or something is missing to check it."""
    contract = open_contract(document, file)
    scope = _scope(document, file, contract)
    check_fields(document, file, contract)
    check_params(document, file, scope)
    sources = declared(document, file)
    features = make_features(document, file, scope, sources)
    windows = windows_policy(document, file)
    models = make_models(document, file, scope, inspect)
    sensitive = _tainted(file.events.sensitive, features)
    check_kept(document, file, sensitive)
    sensitive |= texts_of_sensitive(models, sensitive)
    add_drift_columns(document, file, scope, sensitive)
    confidence = make_confidence(document, file, scope)
    rules = make_rules(document, file, scope)
    review = make_review(document, file, scope)
    fallback = make_fallback(document, file, scope)
    check_decisions(document, file)
    check_serve(document, file)
    priority = None if review is None else review.priority
    conditions = _expressions(confidence, rules, fallback, priority)
    read = [expression for expression in conditions if expression is not None]
    drift = make_drift(document, file, scope, read, confidence, sensitive)
    outcomes = make_outcomes(document, file, scope, sensitive, models)
    fields = {} if contract is None else contract.columns
    of_models = shown(models, scope, read)
    recorded = _recorded([*fields, *of_models, *(drift.reads if drift else ())], features, read, models, of_models)
    recorded = tuple(dict.fromkeys([*recorded, *(outcomes.reads if outcomes else ())]))
    uncertain = {*fields, *_named(document)} if document.problems else set[str]()
    check_tests(document, file, contract, {*recorded, *uncertain}, drift, sources)
    if document.problems or document.fault is not None or contract is None:
        return None
    events = file.events
    plan = Plan(
        pipeline=file.pipeline,
        hash="",
        events=Events(
            topic=events.topic if events.repartition_by is None else Topics.of(file.pipeline).repartitioned,
            key=events.key,
            time=events.time,
            max_age=events.max_age,
            sensitive=frozenset(events.sensitive),
            start=events.start,
            max_ahead=max_ahead(file),
            repartition_by=events.repartition_by,
            source=None if events.repartition_by is None else events.topic,
            id=events.id,
            dedupe=events.dedupe,
            max_ids=events.max_ids,
        ),
        contract=contract,
        rules=tuple(rules),
        actions=dict(file.actions),
        features=tuple(features),
        sources=sources_of(document, sources, features),
        windows=windows,
        model=models.chain[0] if models.chain else None,
        confidence=confidence,
        undecided=file.undecided,
        fallback=tuple(fallback),
        dead_letter_mode=file.dead_letters.sensitive if events.sensitive else "plain",
        recorded=recorded,
        drift=drift,
        review=_blinded(review, of_models, drift),
        sensitive=sensitive,
        stand_ins=models.chain[1:],
        shadows=models.shadows,
        model_columns=of_models,
        outcomes=outcomes,
    )
    return hashed(plan, file)


def _scope(document: Document, file: PipelineFile, contract: Contract | None) -> Scope:
    """The event's columns, the params, and the names that the file tries to give to something."""
    columns = {} if contract is None else contract.columns
    known: dict[str, pl.DataType] = {**columns, EVENT_TIME: pl.Datetime("us", "UTC")}
    broken = [
        str(path[1])
        for path in document.places
        if len(path) == 2 and path[0] in ("features", "params") and document.is_broken(path)
    ]
    uncertain = {name + end for name in broken for end in ("", MISSING)}  # a look-up that is broken adds both
    whole = any(document.is_broken((part,)) for part in ("features", "params"))
    return Scope(document, known, file.params, uncertain, open=contract is None or whole)


def _named(document: Document) -> Iterable[str]:
    """Every column that the features of the file may add, also those that could not be read."""
    for path in document.places:
        if len(path) == 2 and path[0] == "features":
            yield from (str(path[1]), f"{path[1]}{MISSING}")


def _expressions(
    confidence: Expression | None, rules: Iterable[Rule], fallback: Iterable[Rule], priority: Expression | None
) -> Iterable[Expression | None]:
    yield confidence
    yield priority
    yield from (rule.when for rule in rules)
    yield from (rule.when for rule in fallback)


def _blinded(review: ReviewPlan | None, of_models: Iterable[str], drift: DriftPlan | None) -> ReviewPlan | None:
    """With the columns that show what automation thinks: whoever is to judge without it must not see them."""
    if review is None:
        return None
    return replace(review, hidden=frozenset([*of_models, *(drift.reads if drift else ())]))


def _recorded(
    fields: Iterable[str], features: list[AnyFeature], read: list[Expression], models: Models, of_models: Iterable[str]
) -> tuple[str, ...]:
    """The columns that decisions show: features, the fields that models and conditions read directly, and what models
    say beside the score."""
    columns = [name for feature in features for name in _shown(feature)]
    directly = [name for model in (*models.chain, *models.shadows) for name in model.inputs]
    directly += of_models
    for expression in read:
        directly += sorted(expression.columns)
    known = set(fields)
    return tuple(dict.fromkeys([*columns, *(name for name in directly if name in known)]))


def _shown(feature: AnyFeature) -> list[str]:
    """What of a feature decisions show: with what was looked up, whether it was there."""
    return list(feature.columns) if isinstance(feature, LookupFeature) else [feature.name]


def _tainted(sensitive: Iterable[str], features: list[AnyFeature]) -> frozenset[str]:
    """The sensitive fields, and the features that derive from them. A window does not tell by which key it is."""
    tainted = set(sensitive)
    for feature in features:
        read = feature.values if isinstance(feature, WindowFeature) else feature.reads
        if read & tainted:
            tainted.update(feature.columns)
    return frozenset(tainted)

"""The hash of a plan: of everything that decides what is decided, and of nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import orjson

from streamproc.core.plan import AnyFeature, DriftPlan, Feature, LookupFeature, ModelPlan, Plan, Rule
from streamproc.core.review.policy import Allowance, ReviewPlan
from streamproc.core.windows.policy import WindowFeature
from streamproc.plan.models import PipelineFile
from streamproc.plan.scoring import Placed, placed
from streamproc.plan.sources import content_of

HASH_BYTES = 16


def hashed(plan: Plan, file: PipelineFile) -> Plan:
    """The plan with its hashes. Comments, layout, tests and the spelling of expressions do not count."""
    trust = plan.confidence
    own = None if trust is None else _hash([trust.sql, {name: file.params[name] for name in sorted(trust.params)}])
    return replace(plan, hash=_hash(_content(plan, file)), confidence_hash=own)


def _hash(content: Any) -> str:
    raw = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(raw, digest_size=HASH_BYTES).hexdigest()


def _content(plan: Plan, file: PipelineFile) -> dict[str, Any]:
    events = plan.events
    chain, shadows = placed(file)
    models = _models(plan.models, chain)
    return {
        "pipeline": plan.pipeline,
        "events": [events.input, events.key, events.time, str(events.max_age), sorted(events.sensitive)],
        **({} if events.dedupe is None else {"dedupe": [events.id, str(events.dedupe), events.max_ids]}),
        **({} if events.repartition_by is None else {"repartition_by": events.repartition_by}),
        "contract": plan.contract.schema,
        "params": file.params,
        "features": list(map(_feature, plan.features)),
        **({"windows": _windows(plan)} if plan.remembers else {}),
        **({"sources": [content_of(source, file) for source in plan.sources]} if plan.sources else {}),
        "model": models[0] if models else None,
        **({"stand_ins": models[1:]} if models[1:] else {}),
        **({"shadows": _models(plan.shadows, shadows)} if shadows else {}),
        "confidence": None if plan.confidence is None else plan.confidence.sql,
        "rules": [_rule(rule) for rule in plan.rules],
        "undecided": plan.undecided,
        "fallback": [_rule(rule) for rule in plan.fallback],
        "actions": plan.actions,
        "dead_letters": plan.dead_letter_mode,
        **({} if plan.drift is None else {"drift": _drift(plan.drift)}),
        # Outcomes change nothing but what decisions show.
        **({} if plan.outcomes is None or not plan.outcomes.reads else {"outcomes": plan.outcomes.reads}),
        **({} if plan.review is None else {"review": _review(plan.review)}),
    }


def _feature(feature: AnyFeature) -> list[Any]:
    match feature:
        case Feature():
            return [feature.name, feature.expression.sql]
        case WindowFeature():
            of, where = (None if part is None else part.sql for part in (feature.of, feature.where))
            bucket = [feature.window, feature.unit, feature.include_self]
            more = [feature.most] if feature.aggregate == "distinct" else []
            return [feature.name, feature.aggregate, feature.by, of, where, *bucket, *more]
        case LookupFeature():
            return [feature.name, feature.source, feature.key, feature.field, str(feature.dtype), feature.default]


def _windows(plan: Plan) -> list[Any]:
    policy, ahead = plan.windows, plan.events.max_ahead
    kept = [policy.lateness.total_seconds(), policy.ttl.total_seconds(), policy.max_keys]
    return [*kept, None if ahead is None else ahead.total_seconds()]


def _models(plans: Sequence[ModelPlan], models: Placed) -> list[list[Any]]:
    """What decides what each model says, and by which name it is known."""
    content = []
    for plan, (_, _, part) in zip(plans, models, strict=True):
        own: list[Any] = [plan.version, plan.inputs, part.output]
        if more := {key: getattr(part, key) for key in ("id", "classes", "score", "confidence") if getattr(part, key)}:
            own.append(more)
        if plan.llm is not None:
            own.append([plan.llm.output.schema, plan.llm.flag_above, plan.llm.cut])
            if (cache := plan.llm.cache) is not None:  # what is kept, and for how long, is no other answer
                like = {} if cache.semantic is None else asdict(cache.semantic)
                like.pop("wait", None)  # as little as another deadline
                own.append({"cache": [cache.by, cache.least_confidence, like or None]})
        content.append(own)
    return content


def _drift(drift: DriftPlan) -> list[Any]:
    budget = drift.budget
    allowed = [budget.alarms, budget.events, None if budget.period is None else budget.period.total_seconds()]
    content = [drift.watch, drift.segments, allowed, drift.recover]
    if drift.season is not None:
        content.append({"season": drift.season.total_seconds()})
    if drift.max_age is not None:
        content.append({"max_age": drift.max_age.total_seconds()})
    if drift.outcome is not None:
        content.append({"outcome": drift.outcome})
    if drift.answers is not None:
        content.append({"answers": drift.answers})
    if drift.max_extra_review is not None:
        content.append(drift.max_extra_review)
    return content


def _review(review: ReviewPlan) -> dict[str, Any]:
    explore, capacity = review.explore, review.capacity
    return {
        "ttl": review.ttl.total_seconds(),
        "on_expiry": review.on_expiry,
        "priority": None if review.priority is None else review.priority.sql,
        "samples": [review.audit, review.second_opinion],
        "explore": None
        if explore is None
        else [explore.instead_of, explore.decide, explore.share, *_each(explore.budget)],
        "capacity": None if capacity is None else _each(capacity),
        "corrections": review.corrections,
        "lease": review.lease.total_seconds(),
    }


def _each(allowance: Allowance) -> list[float]:
    return [allowance.count, allowance.period.total_seconds()]


def _rule(rule: Rule) -> list[Any]:
    when = None if rule.when is None else rule.when.sql
    return [rule.id, when, rule.decide, rule.reason, rule.observe]

"""The hash of a plan: of everything that decides what is decided, and of nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import orjson

from streamproc.core.plan import DriftPlan, Plan, Rule
from streamproc.core.review.policy import Allowance, ReviewPlan
from streamproc.plan.models import PipelineFile

HASH_BYTES = 16


def hashed(plan: Plan, file: PipelineFile) -> Plan:
    """The plan with its hash. Comments, layout, tests and the spelling of expressions do not count."""
    raw = orjson.dumps(_content(plan, file), option=orjson.OPT_SORT_KEYS)
    return replace(plan, hash=hashlib.blake2b(raw, digest_size=HASH_BYTES).hexdigest())


def _content(plan: Plan, file: PipelineFile) -> dict[str, Any]:
    events, model = plan.events, plan.model
    return {
        "pipeline": plan.pipeline,
        "events": [events.topic, events.key, events.time, str(events.max_age), sorted(events.sensitive)],
        "contract": plan.contract.schema,
        "params": file.params,
        "features": [[feature.name, feature.expression.sql] for feature in plan.features],
        "model": None if model is None else [model.version, model.inputs, file.model and file.model.output],
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

"""One decision explained: every rule with its outcome and what it read, from the decision and the archived
plan.

Nothing is evaluated again: outcomes stand in the decision, expressions in the plan of its hash, values in
both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
import polars as pl

from streamproc.core.contract import Contract
from streamproc.core.contract.fields import DTYPES
from streamproc.core.expressions import compile_expression
from streamproc.core.names import SCORE_OF, SCORED_BY
from streamproc.core.plan import (
    CONFIDENCE,
    DEAD_LETTERS,
    DECISION,
    DRIFT,
    DRIFT_ANY,
    DRIFT_SEVERITY,
    EVENT_TIME,
    MISSING,
    OF_MODELS,
    SCORE,
    WOULD_BE,
)
from streamproc.core.windows.policy import window_columns
from streamproc.errors import ExpressionError, UserError
from streamproc.plan.feature_parts import LookupPart, WindowPart
from streamproc.plan.lookups import type_of
from streamproc.plan.models import FallbackPart, PipelineFile, RulePart
from streamproc.plan.reader import parse
from streamproc.plan.scoring import placed
from streamproc.plan.structure import shape

KINDS: Mapping[str, pl.DataType] = {str(kind): kind for kind in DTYPES.values()}
"""The types of columns by their names."""
Outcome = Literal["matched", "not matched", "could not be evaluated", "observed", "not known"]

WHY: Mapping[str, str] = {
    "rule": "the first rule that matched",
    "undecided": "a rule before any that matched could not be evaluated, because a value is missing",
    "low_confidence": "a rule that reads confidence left it to the fallback chain",
    "no_score": "the model gave no usable score",
    "no_rule": "no rule matched",
    "stale": "the event was older than max_age when it was decided",
    "mode_fallback": "people let the fallback chain alone decide",
    "mode_review_all": "people let nothing be decided without them",
    "explored": "chance, instead of the rules, to see what comes of it",
    "verdict": "a person",
    "correction": "a person, otherwise than before",
    "expired": "nobody answered in time",
    "shed": "more was waiting than people can answer",
}
KNOWN_BEFORE: Mapping[str, pl.DataType] = {EVENT_TIME: pl.Datetime("us", "UTC")}
KNOWN_AFTER: Mapping[str, pl.DataType] = {SCORE: pl.Float64(), CONFIDENCE: pl.Float64()}


@dataclass(frozen=True, slots=True)
class RuleTrace:
    """One rule, what came of it, and the columns and params that it reads, with their values.

    ``when`` is ``None`` for a rule that always matches, and for one of a plan that is not archived.
    """

    id: str
    outcome: Outcome
    decided: bool
    when: str | None = None
    decide: str | None = None
    reason: str | None = None
    fallback: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ArchivedPlan:
    """A pipeline file as it was archived. ``reads`` has the columns and params of each expression's text."""

    file: PipelineFile
    reads: Mapping[str, frozenset[str]]

    @property
    def sensitive(self) -> frozenset[str]:
        """The fields of the event that only keyed hashes of may be shown."""
        return frozenset(self.file.events.sensitive)


def read_plan(body: bytes) -> ArchivedPlan | None:
    """The archived plan, or ``None`` where this version of streamproc cannot read it any more."""
    try:
        archived = orjson.loads(body)
        document = parse(Path(f"plan {archived['hash']}"), archived["file"])
        file = shape(document)
    except (orjson.JSONDecodeError, KeyError, UserError):
        return None
    if file is None or document.problems:
        return None
    return ArchivedPlan(file, _reads(file, archived))


def by_drift(decision: Mapping[str, Any]) -> str | None:
    """What drift did to a decision; ``None`` where the pipeline does not limit that, so that nobody asked."""
    if "without_drift" not in decision:
        return None
    if decision["without_drift"] is not None:
        return f"changed the decision: without it {decision['without_drift']}"
    if decision["drift_capped"] is not None:
        return f"left out, because max_extra_review was used up: with it {decision['drift_capped']}"
    return "did not change the decision"


def explain(decision: Mapping[str, Any], plan: ArchivedPlan | None) -> list[RuleTrace]:
    """Every rule in order, then the fallback chain where it decided; without a plan what is named."""
    if plan is None:
        return _named_only(decision)
    values = {
        **plan.file.params,
        **decision["features"],
        SCORE: decision["score"],
        CONFIDENCE: decision["confidence"],
        SCORED_BY: decision.get("scored_by"),
        EVENT_TIME: decision["time"],
    }

    def trace(part: RulePart | FallbackPart, outcome: Outcome, fallback: bool) -> RuleTrace:
        names = sorted(plan.reads.get(part.when or "", frozenset()))
        return RuleTrace(
            id=part.id,
            outcome=outcome,
            decided=decision["rule"] == part.id,
            when=part.when,
            decide=part.decide,
            reason=getattr(part, "reason", None),
            fallback=fallback,
            values={name: values[name] for name in names if name in values},
        )

    traces = [trace(rule, _outcome(decision, rule.id), False) for rule in plan.file.rules]
    chain = decision["why"] in ("low_confidence", "no_score", "no_rule", "stale", "mode_fallback")
    if chain or (decision["why"] == "rule" and not _by_rules(decision["tier"])):
        outcomes = _fallback_outcomes(decision, [part.id for part in plan.file.fallback])
        traces += [trace(part, outcome, True) for part, outcome in zip(plan.file.fallback, outcomes, strict=True)]
    return traces


def _by_rules(tier: str) -> bool:
    return tier == "automatic" or tier.startswith("stand-in:")


def _outcome(decision: Mapping[str, Any], rule: str) -> Outcome:
    if rule in decision["undecided"]:
        return "could not be evaluated"
    if rule in decision["observed"]:
        return "observed"
    return "matched" if rule in decision["rules"] else "not matched"


def _fallback_outcomes(decision: Mapping[str, Any], ids: Sequence[str]) -> list[Outcome]:
    """The decision names the one that decided: those before did not match, later ones were not reached."""
    chosen = decision["rule"]
    if chosen not in ids:
        return ["not known"] * len(ids)
    at = ids.index(chosen)
    return ["matched" if n == at else "not matched" if n < at else "not known" for n in range(len(ids))]


def _named_only(decision: Mapping[str, Any]) -> list[RuleTrace]:
    named: dict[str, Outcome] = dict.fromkeys(decision["rules"], "matched")
    named |= dict.fromkeys(decision["observed"], "observed")
    named |= dict.fromkeys(decision["undecided"], "could not be evaluated")
    if decision["rule"] is not None:
        named.setdefault(decision["rule"], "matched")
    return [RuleTrace(rule, outcome, decision["rule"] == rule) for rule, outcome in named.items()]


def _of_models(file: PipelineFile, kinds: Mapping[str, str]) -> dict[str, pl.DataType]:
    """The columns that models give beside the score. Plans of earlier versions were kept without their types."""
    chain, _ = placed(file)
    if not chain:
        return {}
    classes = dict.fromkeys((SCORE_OF + name for _, _, part in chain for name in part.classes), pl.Float64())
    return {**OF_MODELS, **classes} | {name: KINDS[kind] for name, kind in kinds.items() if kind in KINDS}


def _reads(file: PipelineFile, archived: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The columns and params that each expression reads, by its text. What does not compile reads nothing."""
    try:
        known: dict[str, pl.DataType] = {**Contract(archived["contract"]).columns, **KNOWN_BEFORE}
        of_tables = {name: Contract(schema).columns for name, schema in archived.get("tables", {}).items()}
    except UserError:
        return {}
    reads: dict[str, frozenset[str]] = {}
    for name, text in file.features.items():
        if isinstance(text, WindowPart):
            known |= window_columns(name, text.agg)
            continue
        if isinstance(text, LookupPart):
            dtype = type_of(text, file.stores.get(text.lookup), of_tables.get(text.lookup, {}))
            known |= {} if dtype is None else {name: dtype, name + MISSING: pl.Boolean()}
            continue
        try:
            expression = compile_expression(text, known, file.params)
        except ExpressionError:
            continue
        known[name] = expression.dtype
        reads[text] = expression.columns | expression.params
    known |= {**KNOWN_AFTER, **_of_models(file, archived.get("of_models", {}))}
    if file.drift is not None:
        watched = [DRIFT + name for name in (*known, DECISION, WOULD_BE, DEAD_LETTERS)]
        known |= {**dict.fromkeys(watched, pl.String()), DRIFT_ANY: pl.String(), DRIFT_SEVERITY: pl.Float64(), **known}
    conditions = [part.when for part in file.rules] + [part.when for part in file.fallback]
    for when in conditions:
        if when is not None:
            try:
                expression = compile_expression(when, known, file.params)
            except ExpressionError:
                continue
            reads[when] = expression.columns | expression.params
    return reads

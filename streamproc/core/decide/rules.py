"""Stage 5, rules: which of them matched, which could not be evaluated, and what follows.

Conditions are evaluated as columns. What follows from a combination of outcomes is worked out once per combination, by
plain code that reads like the rule book, and not once per event: a batch has few combinations.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.decide.frame import MODE, Context, Frame, Stage
from streamproc.core.decide.usable import CAUSES
from streamproc.core.decide.verdict import MOST_KNOWN, Drifted, Verdict, Verdicts, Why
from streamproc.core.plan import ABSTAIN, CONFIDENCE, FALLBACK, REVIEW, UNDECIDING, Mode, Plan, Rule
from streamproc.core.processor import Answer, Ask

FALSE, TRUE, NULL = 0, 1, 2
MODES: Sequence[Mode] = get_args(Mode)


def rules_stage(plan: Plan) -> Stage:
    """Gives every row its verdict."""
    conditions = [rule.when for rule in (*plan.rules, *plan.fallback)]
    reads = frozenset().union(*(condition.columns for condition in conditions if condition is not None))
    known: dict[bytes, Verdict] = {}

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        frame.verdicts = judge(plan, frame, known, context.seen.views.get(MODE, "automatic"))
        return
        yield []

    return Stage("rules", reads, (), run)


def judge(plan: Plan, frame: Frame, known: dict[bytes, Verdict], mode: Mode = "automatic") -> Verdicts:
    """The verdict of every row. ``known`` remembers what combinations of outcomes mean."""
    outcomes = np.full((len(frame), len(plan.rules) + len(plan.fallback) + 4), TRUE, np.uint8)
    _evaluate(plan, frame.columns, outcomes)
    outcomes[:, -4] = frame.scorers
    outcomes[:, -3] = frame.causes
    outcomes[:, -2] = frame.stale
    outcomes[:, -1] = MODES.index(mode)
    everything, width = outcomes.tobytes(), outcomes.shape[1]
    combinations = [everything[place : place + width] for place in range(0, len(everything), width)]
    numbers = {combination: number for number, combination in enumerate(dict.fromkeys(combinations))}
    of_row = np.fromiter(map(numbers.__getitem__, combinations), np.int64, len(combinations))
    if len(known) > MOST_KNOWN:
        known.clear()
    for combination in numbers.keys() - known.keys():
        known[combination] = _meaning(plan, combination)
    return Verdicts([known[combination] for combination in numbers], of_row)


def _meaning(plan: Plan, combination: bytes) -> Verdict:
    cut = len(plan.rules)
    *outcomes, scorer, cause, stale, mode = combination
    verdict = decide(plan, outcomes[:cut], outcomes[cut:], Scored(scorer, CAUSES[cause]), stale=bool(stale))
    return _by_people(plan, verdict, outcomes[cut:], MODES[mode])


def _by_people(plan: Plan, verdict: Verdict, fallback: Sequence[int], mode: Mode) -> Verdict:
    """What becomes of a verdict where people do not let automation decide. What it would have been stays in it."""
    match mode:
        case "automatic":
            return verdict
        case "fallback":
            decision, tier, rule = _fall_back(plan, fallback)
            changed = replace(verdict, decision=decision, tier=tier, rule=rule, why="mode_fallback")
        case "review-all":
            changed = replace(verdict, decision=REVIEW, tier="abstain", rule=None, why="mode_review_all")
    return replace(changed, fallback_reason=changed.why)


def _evaluate(plan: Plan, columns: pl.DataFrame, outcomes: NDArray[np.uint8]) -> None:
    """Fill in the outcome of every rule that has a condition, one column a rule."""
    rules = enumerate((*plan.rules, *plan.fallback))
    conditions = [(place, rule.when.expr) for place, rule in rules if rule.when is not None]
    if not conditions:
        return
    # What is left to expressions costs a small batch as much as the conditions do.
    values = columns.select_seq([expr.alias(str(place)) for place, expr in conditions])
    for (place, _), found in zip(conditions, values.get_columns(), strict=True):
        numbers = found.cast(pl.UInt8).to_numpy()
        outcomes[:, place] = np.nan_to_num(numbers, nan=NULL) if found.null_count() else numbers


@dataclass(frozen=True, slots=True)
class Scored:
    """Whose score an event has: 0 nobody's, 1 the first model's, 2 and more those of stand-ins; and why not the
    first model's."""

    by: int = 1
    cause: str = ""


def decide(
    plan: Plan, outcomes: Sequence[int], fallback: Sequence[int], score: Scored = Scored(), *, stale: bool = False
) -> Verdict:
    """What one combination of outcomes means. In order: the first rule that is not false decides.

    A rule that is null could not be evaluated, and a missing value never passes as "no risk": where such a rule comes
    first, ``undecided`` decides. Without a usable score, too late, where no rule matched, or where the first that did
    says so, the fallback chain does.
    """
    pairs = list(zip(plan.rules, outcomes, strict=True))
    scored = plan.model is None or score.by > 0
    matched = [rule for rule, outcome in pairs if outcome == TRUE and not rule.observe]
    first = next(((rule, o) for rule, o in pairs if o != FALSE and not rule.observe), None)
    decision, tier, rule_id = plan.undecided, "abstain", None
    why: Why = "undecided"
    if stale or not scored or first is None:
        why = "stale" if stale else "no_score" if not scored else "no_rule"
        decision, tier, rule_id = _fall_back(plan, fallback)
    elif first[1] == TRUE and first[0].decide == FALLBACK:
        why = "low_confidence" if _reads_confidence(first[0]) else "rule"
        decision, tier, rule_id = _fall_back(plan, fallback)
    elif first[1] == TRUE:
        decision, tier, rule_id, why = first[0].decide, _tier(plan, score), first[0].id, "rule"
    automatic = matched if scored and not stale else []
    return Verdict(
        decision=decision,
        tier=tier,
        why=why,
        rule=rule_id,
        would_be=next((rule.decide for rule in automatic if rule.decide not in UNDECIDING), None),
        rules=tuple(rule.id for rule in matched),
        reasons=tuple(rule.reason for rule in matched if rule.reason is not None),
        observed=tuple(rule.id for rule, outcome in pairs if outcome == TRUE and rule.observe),
        undecided=tuple(rule.id for rule, outcome in pairs if outcome == NULL),
        drifted=Drifted() if plan.capped else None,
        fallback_reason=_reason(tier, why, score),
        scored_by=plan.models[score.by - 1].name if plan.model is not None and score.by else None,
    )


def _tier(plan: Plan, score: Scored) -> str:
    return "automatic" if plan.model is None or score.by < 2 else f"stand-in:{plan.models[score.by - 1].name}"


def _reason(tier: str, why: Why, score: Scored) -> str | None:
    """Why the first model and the rules did not decide; ``None`` where they did."""
    if tier == "automatic":
        return None
    return score.cause if why == "no_score" or tier.startswith("stand-in:") else why


def _reads_confidence(rule: Rule) -> bool:
    return rule.when is not None and CONFIDENCE in rule.when.columns


def _fall_back(plan: Plan, outcomes: Sequence[int]) -> tuple[str, str, str | None]:
    """Decision, tier and step. Where no chain is stated its one step is people; a chain that is stated and comes to
    its end abstains, which `check` lets none do."""
    for rule, outcome in zip(plan.fallback, outcomes, strict=True):
        if outcome == TRUE:
            return rule.decide, "abstain" if rule.decide == ABSTAIN else f"fallback:{rule.id}", rule.id
        if outcome == NULL:
            return plan.undecided, "abstain", None
    return ABSTAIN if plan.fallback else REVIEW, "abstain", None

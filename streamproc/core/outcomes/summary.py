"""From counts to what a manager reads: rates, errors, costs and times, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from streamproc.core.llm.prompts import without_prompt
from streamproc.core.outcomes.intervals import Estimate, kappa, mean, weighted, wilson
from streamproc.core.outcomes.joining import UNDECLARED
from streamproc.core.outcomes.measures import MILLION, Counts, Group, Window, add, merged, part, quantile
from streamproc.core.outcomes.policy import OutcomesPlan
from streamproc.core.plan import REVIEW

KINDS: Final = ("review", "audit", "second_opinion")
STEPS: Final = ("opened", "decided", "expired", "shed", "confirmed", "disagreed", "corrected")
MONEY: Final = ("expected", "realised", "baseline", "saved")


def summary(plan: OutcomesPlan, windows: Sequence[Window], ever: Sequence[Window], now: datetime) -> dict[str, Any]:
    """The measures of some windows; what is open now is told from all that there ``ever`` were. JSON-ready."""
    total = merged(windows) or Window(0, 0)
    groups = [(group, counts) for group, counts in total.groups.items()]
    counts = _sum(counts for _, counts in groups)
    decisions = counts.get("decisions", 0)
    return {
        "from": _iso(total.start) if windows else None,
        "to": _iso(total.start + total.seconds) if windows else None,
        **_rates(groups),
        "overrides": _estimate(wilson(counts.get("overrides", 0), counts.get("compared", 0))),
        **_errors(plan, counts),
        "errors_by_tier": _errors_by_tier(plan, groups),
        "samples": {kind: _samples(kind, total.own) for kind in ("audit", "second_opinion")},
        "costs": _costs(plan, counts, total.own, decisions),
        "time_to_decision": _times(total.own, "decide/"),
        "time_to_verdict": _times(total.own, "verdict/"),
        "reviews": _reviews(total.own, ever, now),
        "declining": _declining(plan, groups, counts),
        "rules": _table(plan, groups, lambda group: group.rule or group.reason),
        "segments": _table(plan, groups, lambda group: group.segment),
        "versions": _table(plan, groups, lambda group: f"{group.plan[:8]} {(group.model or '')[:8]}".strip()),
        "prompts": _table(plan, [one for one in groups if one[0].prompt is not None], lambda group: group.prompt or ""),
        "models": _table(
            plan, [one for one in groups if one[0].model], lambda group: without_prompt(group.model or "")
        ),
        "cohorts": cohorts(plan, windows, now),
    }


def cohorts(plan: OutcomesPlan, windows: Sequence[Window], now: datetime) -> list[dict[str, Any]]:
    """By the day of the decisions (UTC). One is mature when all of it is older than ``matures_after``; only then is it
    as complete as it will be. What has no outcome is not called good."""
    days: dict[int, list[Window]] = {}
    for window in windows:
        days.setdefault(window.start // 86_400 * 86_400, []).append(window)
    found = []
    for day, its in sorted(days.items()):
        total = merged(its)
        assert total is not None
        counts = _sum(total.groups.values())
        age = now.timestamp() - (total.start + total.seconds)
        hidden = _unlabelled(plan, total.groups.items())
        told = _errors(plan, counts)
        found.append(
            {
                "day": _iso(day)[:10],
                "mature": age >= plan.matures_after.total_seconds(),
                "decisions": counts.get("decisions", 0),
                "unlabelled": hidden,
                "outcomes": told["outcomes"],
                "unknown": counts.get("decisions", 0) - hidden - told["outcomes"] - told["undeclared"],
                "errors": told["errors"],
                "costs": {name: _money(counts, name) for name in MONEY},
            }
        )
    return found


def _rates(groups: Sequence[tuple[Group, Counts]]) -> dict[str, Any]:
    by_reason: Counts = {}
    many = dict.fromkeys(("decisions", "automatic", "review", "fallback", "stand_in", "abstain", "explored"), 0)
    for group, counts in groups:
        count, kind = counts.get("decisions", 0), group.tier.partition(":")[0]
        many["decisions"] += count
        many["explored"] += counts.get("explored", 0)
        many["review"] += count * (group.decision == REVIEW)
        many["abstain"] += count * (kind == "abstain")
        many["automatic"] += count * (group.decision != REVIEW and kind != "abstain")
        many["stand_in"] += count * (kind == "stand-in")
        many["fallback"] += count * (kind == "fallback")
        if kind in ("fallback", "abstain"):
            add(by_reason, {group.reason: count})
    decisions = many.pop("decisions")
    shares = {name: _estimate(wilson(count, decisions)) for name, count in many.items()}
    return {
        "decisions": decisions,
        **shares,
        "fallback_by_reason": {name: _estimate(wilson(n, decisions)) for name, n in sorted(by_reason.items())},
    }


def _errors(plan: OutcomesPlan, counts: Counts) -> dict[str, Any]:
    """Errors among the decisions whose outcome is known, of those for which the pipeline says what an error is."""
    wrong, judged = Counts(), Counts()
    known = undeclared = 0
    for (by, decision, value), count in _came(counts).items():
        if value == UNDECLARED:
            undeclared += count
            continue
        known += count
        if decision in plan.errors and by != "explored":
            for whose in ("all", by):
                add(judged, {whose: count})
                add(wrong, {whose: count * (value in plan.errors[decision])})
    return {
        "outcomes": known,
        "undeclared": undeclared,
        "errors": _estimate(wilson(wrong.get("all", 0), judged.get("all", 0))),
        "errors_by": {
            by: _estimate(wilson(wrong.get(by, 0), judged[by])) for by in ("own", "reviewer", "expiry") if by in judged
        },
    }


def _errors_by_tier(plan: OutcomesPlan, groups: Sequence[tuple[Group, Counts]]) -> dict[str, Any]:
    """By what made the decision that holds: the kind of its tier where that is the pipeline's own, and else people,
    time or chance."""
    wrong, judged = Counts(), Counts()
    for group, counts in groups:
        for (by, decision, value), count in _came(counts).items():
            if value != UNDECLARED and decision in plan.errors:
                tier = group.tier.partition(":")[0] if by == "own" else by
                add(judged, {tier: count})
                add(wrong, {tier: count * (value in plan.errors[decision])})
    return {tier: _estimate(wilson(wrong.get(tier, 0), of)) for tier, of in sorted(judged.items())}


def _came(counts: Mapping[str, int]) -> dict[tuple[str, str, str], int]:
    """What came true, by who decided, decision and value. A decision's name may have a ``/`` in it."""
    found: dict[tuple[str, str, str], int] = {}
    for name, count in part(counts, "came/").items():
        by, _, rest = name.partition("/")
        decision, _, value = rest.rpartition("/")
        found[by, decision, value] = count
    return found


def _samples(kind: str, own: Mapping[str, int]) -> dict[str, Any]:
    """What people say of decisions that they were shown blind, against what had been decided."""
    pairs, weights = _pairs(own, f"agree/{kind}/"), _pairs(own, f"weighted/{kind}/")
    differ = sum(weight for (was, now), weight in weights.items() if was != now)
    total, squares = sum(weights.values()), own.get(f"squares/{kind}", 0)
    return {
        "opened": own.get(f"review/{kind}/opened", 0),
        "answered": sum(pairs.values()),
        "kappa": _estimate(kappa(pairs)),
        "disagreement": _estimate(weighted(differ, total, squares)),
    }


def _pairs(own: Mapping[str, int], prefix: str) -> dict[tuple[str, str], int]:
    """Samples by what had been decided and what a person says."""
    pairs = ((name.rpartition("/"), count) for name, count in part(own, prefix).items())
    return {(was, now): count for (was, _, now), count in pairs}


def _answers(own: Mapping[str, int]) -> int:
    """How many verdicts people gave, first and further ones. One that corrects what an audit looked at is two steps:
    decided, and corrected; where corrections are not allowed there are none of these."""
    total = sum(own.get(f"review/{kind}/{step}", 0) for kind in KINDS for step in ("decided", "confirmed", "disagreed"))
    total += sum(own.get(f"review/{kind}/corrected", 0) for kind in KINDS if kind != "audit")
    differ = sum(count for (was, now), count in _pairs(own, "agree/audit/").items() if was != now)
    return total + max(0, own.get("review/audit/corrected", 0) - differ)


def _costs(plan: OutcomesPlan, counts: Counts, own: Mapping[str, int], decisions: int) -> dict[str, Any]:
    answered = _answers(own)
    told: dict[str, Any] = {name: _money(counts, name) for name in MONEY}
    told["reviews"] = {"answered": answered, "total": answered * plan.review_cost}
    told["reviews"]["per_decision"] = answered * plan.review_cost / decisions if decisions else None
    return told


def _declining(plan: OutcomesPlan, groups: Sequence[tuple[Group, Counts]], counts: Counts) -> dict[str, Any]:
    """What the experiments say about what was declined: each stands for 1 / share of them."""
    n, total = counts.get("regret/n", 0), counts.get("regret/sum", 0)
    spread = 1.959964 * counts.get("regret/squares", 0) ** 0.5 / MILLION
    return {
        "unlabelled": _unlabelled(plan, groups),
        "experiments": counts.get("explored", 0),
        "with_outcome": n,
        "costs_more": None if not n else total / MILLION,
        "low": None if not n else total / MILLION - spread,
        "high": None if not n else total / MILLION + spread,
    }


def _unlabelled(plan: OutcomesPlan, groups: Iterable[tuple[Group, Counts]]) -> int:
    """Decisions that hold and after which nothing can be seen, less those of which something came to be known."""
    many = 0
    for group, counts in groups:
        became = part(counts, "became/")
        if group.decision in plan.unlabelled:
            many += counts.get("decisions", 0) - sum(became.values())
        many += sum(count for name, count in became.items() if name.partition("/")[2] in plan.unlabelled)
        many -= sum(count for (_, decision, _), count in _came(counts).items() if decision in plan.unlabelled)
    return many


def _reviews(own: Mapping[str, int], ever: Sequence[Window], now: datetime) -> dict[str, Any]:
    waiting: dict[str, Counts] = {kind: {} for kind in KINDS}
    for window in ever:
        for kind, minutes in waiting.items():
            add(minutes, part(window.own, f"open/{kind}/"))
    by_kind = {kind: _cases(part(own, f"review/{kind}/"), its, now) for kind, its in waiting.items()}
    told: dict[str, Any] = {name: sum(its[name] for its in by_kind.values()) for name in (*STEPS, "open")}
    oldest = [its["oldest_open_seconds"] for its in by_kind.values() if its["open"]]
    return told | {"oldest_open_seconds": max(oldest, default=None), "by_kind": by_kind}


def _cases(steps: Mapping[str, int], waiting: Mapping[str, int], now: datetime) -> dict[str, Any]:
    still = {int(minute): count for minute, count in waiting.items() if count > 0}
    return {step: steps.get(step, 0) for step in STEPS} | {
        "open": sum(still.values()),
        "oldest_open_seconds": max(0.0, round(now.timestamp() - min(still) * 60, 3)) if still else None,
    }


def _table(plan: OutcomesPlan, groups: Sequence[tuple[Group, Counts]], of: Callable[[Group], str]) -> dict[str, Any]:
    whole: dict[str, list[tuple[Group, Counts]]] = {}
    for group, counts in groups:
        whole.setdefault(of(group), []).append((group, counts))
    table = {}
    for name, its in sorted(whole.items(), key=lambda item: -sum(counts.get("decisions", 0) for _, counts in item[1])):
        counts, rates = _sum(counts for _, counts in its), _rates(its)
        table[name] = {
            "decisions": rates["decisions"],
            "automatic": rates["automatic"],
            "review": rates["review"],
            "overrides": _estimate(wilson(counts.get("overrides", 0), counts.get("compared", 0))),
            "errors": _errors(plan, counts)["errors"],
            "costs": {name: _money(counts, name) for name in MONEY},
        }
    return table


def _money(counts: Mapping[str, int], name: str) -> dict[str, Any]:
    total, squares, of = (counts.get(f"{name}/{what}", 0) for what in ("sum", "squares", "n"))
    return _estimate(mean(total, squares, of, MILLION)) | {"total": total / MILLION}


def _times(own: Mapping[str, int], prefix: str) -> dict[str, Any]:
    """In seconds; quantiles are at most a fifth too large."""
    histogram = {int(bucket): count for bucket, count in part(own, prefix).items()}
    found = {f"p{share}": quantile(histogram, share / 100) for share in (50, 95)}
    return {"of": sum(histogram.values())} | {
        name: None if value is None else value / 1000 for name, value in found.items()
    }


def _sum(counts: Iterable[Mapping[str, int]]) -> Counts:
    total = Counts()
    for one in counts:
        add(total, one)
    return total


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return estimate._asdict()


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

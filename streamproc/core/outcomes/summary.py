"""From counts to what a manager reads: rates, errors, costs and times, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from streamproc.core.outcomes.intervals import Estimate, kappa, mean, weighted, wilson
from streamproc.core.outcomes.joining import UNDECLARED
from streamproc.core.outcomes.measures import MILLION, Counts, Group, Window, add, merged, part, quantile
from streamproc.core.outcomes.policy import OutcomesPlan
from streamproc.core.plan import REVIEW

NEVER_DECIDED: Final = (REVIEW,)
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
        "errors_by_tier": _by(groups, lambda group: group.tier, lambda its: _errors(plan, its)["errors"]),
        "samples": {kind: _samples(kind, total.own) for kind in ("audit", "second_opinion")},
        "costs": _costs(plan, counts, total.own, decisions),
        "time_to_decision": _times(total.own, "decide/"),
        "time_to_verdict": _times(total.own, "verdict/"),
        "reviews": _reviews(total.own, ever, now),
        "declining": _declining(plan, groups, counts),
        "rules": _table(plan, groups, lambda group: group.rule or group.reason),
        "segments": _table(plan, groups, lambda group: group.segment),
        "versions": _table(plan, groups, lambda group: f"{group.plan[:8]} {(group.model or '')[:8]}".strip()),
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
    for name, count in part(counts, "came/").items():
        by, decision, value = name.split("/")
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


def _samples(kind: str, own: Mapping[str, int]) -> dict[str, Any]:
    """What people say of decisions that they were shown blind, against what had been decided."""
    pairs = {tuple(name.split("/")): count for name, count in part(own, f"agree/{kind}/").items()}
    weights = {tuple(name.split("/")): count for name, count in part(own, f"weighted/{kind}/").items()}
    differ = sum(weight for (was, now), weight in weights.items() if was != now)
    total, squares = sum(weights.values()), own.get(f"squares/{kind}", 0)
    return {
        "opened": own.get(f"review/{kind}/opened", 0),
        "answered": sum(pairs.values()),
        "kappa": _estimate(kappa({(was, now): count for (was, now), count in pairs.items()})),
        "disagreement": _estimate(weighted(differ, total, squares)),
    }


def _costs(plan: OutcomesPlan, counts: Counts, own: Mapping[str, int], decisions: int) -> dict[str, Any]:
    answered = sum(count for name, count in own.items() if name.startswith("review/") and name.endswith("/decided"))
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
        many -= sum(count for name, count in part(counts, "came/").items() if name.split("/")[1] in plan.unlabelled)
    return many


def _reviews(own: Mapping[str, int], ever: Sequence[Window], now: datetime) -> dict[str, Any]:
    steps = part(own, "review/review/")
    waiting = Counts()
    for window in ever:
        add(waiting, part(window.own, "open/"))
    since = min((int(minute) for minute, count in waiting.items() if count > 0), default=None)
    return {
        "opened": steps.get("opened", 0),
        "decided": steps.get("decided", 0),
        "expired": steps.get("expired", 0),
        "shed": steps.get("shed", 0),
        "disagreed": sum(own.get(f"review/{kind}/disagreed", 0) for kind in ("review", "audit", "second_opinion")),
        "corrected": sum(own.get(f"review/{kind}/corrected", 0) for kind in ("review", "audit", "second_opinion")),
        "open": sum(count for count in waiting.values() if count > 0),
        "oldest_open_seconds": None if since is None else max(0.0, round(now.timestamp() - since * 60, 3)),
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


def _by(
    groups: Sequence[tuple[Group, Counts]], of: Callable[[Group], str], told: Callable[[Counts], Any]
) -> dict[str, Any]:
    whole: dict[str, Counts] = {}
    for group, counts in groups:
        add(whole.setdefault(of(group), {}), counts)
    return {name: told(counts) for name, counts in sorted(whole.items())}


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

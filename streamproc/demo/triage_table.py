"""The closing table of the demonstration of support messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from streamproc.demo.show import Told
from streamproc.demo.triage_story import FATES


def told(figures: dict[str, Any]) -> Told:
    """The story's figures for people."""
    rows = [("decided by", _list(figures["tiers"]))]
    for name, what in (("all", "latency"), ("else", "  with the model"), ("outage", "  while it was away")):
        if times := figures["latency_ms"][name]:
            rows.append((what, ", ".join(f"{one} {ms:,.0f} ms" for one, ms in times.items())))
    gap = figures["outage"]
    if gap["seconds"] is not None:
        back = f"{gap['seconds']} s; {gap['recovered_after_seconds']} s after it was back it was used again"
        rows.append(("the model was away for", back))
        rows.append(("  decided meanwhile", "; ".join(f"{name} {count:,}" for name, count in gap["decided"].items())))
    rows.append(("without a score", _list(figures["without_score"])))
    rows += _costs(figures)
    for name, one in figures["prompts"].items():
        right = f"category right {_share(one['category_right'], one['scored'])} of {one['scored']:,}"
        alone = f"{one['automatic']:,} decided without people, right {_share(one['decision_right'], one['automatic'])}"
        rows.append((f"prompt {name}", f"{right}; {alone}"))
    if changed := figures["relabelled"]:
        last = f"what was used before for the last time after {changed['last_of_before_after_seconds']} s"
        rows.append((f"{changed['prompt']} used", f"{changed['first_after_seconds']} s after it was said; {last}"))
    attacks = figures["attacks"]
    rows.append(("attacks", f"{attacks['count']:,}"))
    for name, what in zip(FATES, _FATES_IN_WORDS, strict=True):
        rows.append((f"  {what}", f"{attacks[name]:,} ({_share(attacks[name], attacks['count'])})"))
    harmless, again = figures["harmless"], figures["sent_again"]
    alike = ", ".join(f"{name} {harmless[name]:,} ({_share(harmless[name], harmless['count'])})" for name in FATES[:2])
    rows.append(("harmless ones", f"{harmless['count']:,}, {alike}"))
    rows.append(("sent twice", f"{again['count']:,}, of which {again['decided']:,} had no first one to be decided"))
    return Told("What came of the messages", rows)


_FATES_IN_WORDS: Final = (
    "flagged, and not shown to the model", "suspicious, and for people", "obeyed, and the answer refused",
    "for people anyway", "decided without the model", "decided wrongly", "without effect",
)  # fmt: skip


_SERVED: Final = {
    "calls": "calls", "answered": "answered", "slow": "slow", "left": "given up", "away": "while it was away",
    "limited": "too many", "prompt_tokens": "tokens read", "completion_tokens": "tokens written",
}  # fmt: skip
"""The server's counts for people."""


def _costs(figures: dict[str, Any]) -> list[tuple[str, str]]:
    spent, count = figures["spent"], max(sum(figures["tiers"].values()), 1)
    rows = [("calls", f"{spent['calls']:,}, {spent['calls'] / count:.2f} a decision")]
    rows.append(("tokens", f"{spent['tokens']:,}, {spent['tokens'] / count:,.0f} a decision"))
    if "money" in spent:
        most = "" if spent["money_per_day"] is None else f" of {spent['money_per_day']:,.2f} for a day"
        rows.append(("money", f"{spent['money']:,.4f} USD{most}"))
    if "cache" in spent:
        rows.append(("from the cache", _list(spent["cache"]) or "nothing"))
        rows += _like(spent["like"])
    if server := figures["server"]:
        rows.append(("the server counted", _list({_SERVED[name]: server[name] for name in _SERVED if server[name]})))
    return rows


def _like(like: Mapping[str, Any]) -> list[tuple[str, str]]:
    found, compared = like["served"] + like["compared"], like["compared"]
    if not found:
        return [("  for like texts", "nothing")]
    rows = [("  for like texts", f"{found:,}: {like['served']:,} served, {compared:,} compared with a real answer")]
    if compared:
        most = f"at 95 % confidence at most {like['at_most']:.1%}"
        rows.append(("  of those compared, wrong", f"{like['wrong']:,} ({_share(like['wrong'], compared)}; {most})"))
    return rows


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"

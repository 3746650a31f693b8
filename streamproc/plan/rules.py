"""Rules, the fallback chain, and where their decisions go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import polars as pl

from streamproc.core.plan import ABSTAIN, FALLBACK, REVIEW, UNDECIDING, Rule
from streamproc.core.records import Topics
from streamproc.plan.document import Document, Path_
from streamproc.plan.models import FallbackPart, PipelineFile, RulePart
from streamproc.plan.names import closest, near
from streamproc.plan.scope import Scope, without_score
from streamproc.plan.scoring import of_score

IDS_DIFFER = "decisions name rules by their ids: make them differ"


def make_rules(document: Document, file: PipelineFile, scope: Scope) -> list[Rule]:
    """The rules. Each must decide or observe, and be reached."""
    rules = _chain(document, scope, "rules", file.rules)
    parts = [part for _, part in _sound(document, "rules", file.rules)]
    if parts and len(parts) == len(file.rules) and all(part.observe for part in parts):
        document.problem(
            ("rules",),
            "no rule decides anything: all of them observe",
            "add one without `observe`",
            at_key=True,
        )
    for index, part in _sound(document, "rules", file.rules):
        at: Path_ = ("rules", index, "decide")
        if part.decide == FALLBACK and not document.has(("fallback",)):
            message = f"rule `{part.id}` leaves events to the fallback chain, and there is none"
            document.problem(at, message, "add `fallback: …`, or write `decide: review`")
        if part.decide == ABSTAIN and not document.is_broken(at):
            message = "`abstain` is a step of the fallback chain, and no rule's decision"
            document.problem(at, message, "write `decide: fallback`, and let a step of the chain abstain")
    return rules


def make_fallback(document: Document, file: PipelineFile, scope: Scope) -> list[Rule]:
    """The fallback chain, which sees no score. It must not come to an end without a decision."""
    message = "the fallback chain cannot read `{name}`: it decides where there is no usable score"
    without_score(scope, message, "use features and fields of the event", of_score(scope))
    own = {part.id: index for index, part in _sound(document, "rules", file.rules)}
    for index, part in _sound(document, "fallback", file.fallback):
        at: Path_ = ("fallback", index, "id")
        if part.id in own and not document.is_broken(at):
            line, _ = document.spot(("rules", own[part.id], "id"))
            document.problem(at, f"a rule in line {line} has the id `{part.id}` too", IDS_DIFFER)
        if part.decide == FALLBACK and not document.is_broken(("fallback", index, "decide")):
            message = f"step `{part.id}` leads to the chain that it is a step of"
            document.problem(("fallback", index, "decide"), message, "write `review`, `abstain`, or a decision")
    chain = _chain(document, scope, "fallback", file.fallback)
    whole = chain and len(chain) == len(file.fallback) and not document.is_broken(("fallback",))
    last = len(file.fallback) - 1
    if whole and not any(map(_always, chain)) and not document.is_broken(("fallback", last, "when")):
        message = f"the fallback chain may decide nothing: `{chain[-1].id}`, its last step, has a `when`"
        hint = "add a last step without one: `{id: otherwise, decide: review}`, or `decide: abstain`"
        document.problem(("fallback", last, "when"), message, hint, at_key=True)
    return chain


def check_decisions(document: Document, file: PipelineFile) -> None:
    """Every decision has a topic, every topic a decision, and nothing goes in circles."""
    if file.undecided == FALLBACK and not document.is_broken(("undecided",)):
        message = "`fallback` is no decision: a rule that cannot be evaluated may be one of the chain"
        document.problem(("undecided",), message, "write `review`, `abstain`, or a decision")
    made = made_by(document, file)
    actions_known = not document.is_broken(("actions",))
    for decision, at in made.items():
        if decision not in {*UNDECIDING, *file.actions} and actions_known:
            if document.is_broken(("actions", decision)):
                continue
            close = closest(decision, {*file.actions, REVIEW})
            remedy = f"add `{decision}: TOPIC` under `actions`, or `{decision}: null` to only record it"
            hint = f"did you mean `{close[0]}`? Or " + remedy if close else remedy
            document.problem(at, f"decision `{decision}` has no action topic", hint)
    own = _own_topics(file)
    if file.events.topic in own and not document.is_broken(("events", "topic")):
        message = f"topic `{file.events.topic}` is one that the pipeline writes to itself: a loop"
        document.problem(("events", "topic"), message, "name the topic that events come from")
    complete = not document.is_broken(("undecided",)) and not any(_undecided(document, file))
    for decision, topic in file.actions.items():
        at = ("actions", decision)
        if decision == REVIEW:
            document.problem(at, "`review` goes to the review topic by itself", "take it out of `actions`", at_key=True)
        elif decision == ABSTAIN:
            document.problem(
                at, "`abstain` goes to a topic of its own by itself", "take it out of `actions`", at_key=True
            )
        elif decision == FALLBACK:
            message = "`fallback` is no decision, but leaves one to the fallback chain"
            document.problem(at, message, "give the action another name", at_key=True)
        elif decision not in made and complete and not document.has(("review",)):  # people may choose any
            hint = near(decision, set(made) - UNDECIDING, "decisions")
            document.problem(at, f"no rule decides `{decision}`", hint, at_key=True)
        if topic is not None and topic == file.events.topic:
            document.problem(at, f"topic `{topic}` is the one that events come from: a loop", "send actions elsewhere")
        elif topic in own and not document.is_broken(("pipeline",)):
            document.problem(at, f"topic `{topic}` is one of the pipeline's own", "send actions elsewhere")


def made_by(document: Document, file: PipelineFile) -> dict[str, Path_]:
    """Every decision that is made somewhere, and where first."""
    made: dict[str, Path_] = {}
    for name in ("rules", "fallback"):
        for index, part in _sound(document, name, getattr(file, name)):
            at: Path_ = (name, index, "decide")
            if part.decide is not None and not document.is_broken(at):
                made.setdefault(part.decide, at)
    if not document.is_broken(("undecided",)):
        made.setdefault(file.undecided, ("undecided",))
    return made


def _undecided(document: Document, file: PipelineFile) -> Iterator[bool]:
    """Is there a rule whose decision cannot be read? Per rule."""
    for name in ("rules", "fallback"):
        yield document.is_broken((name,))
        for index in range(len(getattr(file, name))):
            yield document.is_broken((name, index, "decide"))


def _own_topics(file: PipelineFile) -> tuple[str, ...]:
    topics = Topics.of(file.pipeline)
    return astuple(topics)


def _sound(document: Document, name: str, parts: Any) -> Iterator[tuple[int, Any]]:
    """The items of a list that are not broken as a whole, with their numbers."""
    for index, part in enumerate(parts):
        if not document.is_broken((name, index)):
            yield index, part


def _chain(document: Document, scope: Scope, name: str, parts: list[RulePart] | list[FallbackPart]) -> list[Rule]:
    rules: list[Rule] = []
    first: dict[str, int] = {}
    closed: str | None = None
    for index, part in _sound(document, name, parts):
        at: Path_ = (name, index)
        if not document.is_broken((*at, "id")):
            if part.id in first:
                line, _ = document.spot((name, first[part.id], "id"))
                document.problem(
                    (*at, "id"), f"two rules have the id `{part.id}`, the first in line {line}", IDS_DIFFER
                )
            first.setdefault(part.id, index)
        rule = _rule(document, scope, at, part)
        if closed is not None and not rule.observe:
            message = f"rule `{part.id}` is never reached: `{closed}` always matches"
            document.problem(at, message, f"move it above `{closed}`, or give `{closed}` a `when`", at_key=True)
        if closed is None and not rule.observe and _always(rule) and not document.is_broken((*at, "when")):
            closed = part.id if not document.has((*at, "when")) or rule.when is not None else None
        rules.append(rule)
    return rules


def _rule(document: Document, scope: Scope, at: Path_, part: RulePart | FallbackPart) -> Rule:
    observe = isinstance(part, RulePart) and part.observe
    if part.decide is None and not observe and not any(document.is_broken((*at, key)) for key in ("decide", "observe")):
        document.problem(at, f"rule `{part.id}` decides nothing", "add `decide: …`, or `observe: true`", at_key=True)
    when = None if part.when is None else scope.compile((*at, "when"), part.when, want="boolean")
    if when is not None and not (when.columns or when.params) and not _value(when.expr):
        message = f"rule `{part.id}` never matches: the condition reads nothing of the event"
        document.problem((*at, "when"), message, "take the rule out, or write a condition", offset=0)
    reason = part.reason if isinstance(part, RulePart) else None
    return Rule(id=part.id, decide=part.decide or "", when=when, reason=reason, observe=observe)


def _always(rule: Rule) -> bool:
    """Without a condition, or with one that is true whatever the event."""
    when = rule.when
    return when is None or (not when.columns and not when.params and _value(when.expr) is True)


def _value(expr: pl.Expr) -> object:
    return pl.DataFrame({"row": [0]}).select(expr.alias("value"))["value"][0]

"""The second half of checking: does the file make sense? And the plan, where it does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from streamproc.core.contract import Contract
from streamproc.core.expressions import Expression, compile_expression
from streamproc.core.plan import CONFIDENCE, EVENT_TIME, RESERVED, REVIEW, SCORE, Events, Feature, ModelPlan, Plan, Rule
from streamproc.core.records import Topics
from streamproc.errors import ExpressionError, UserError
from streamproc.plan.document import Document, Path_
from streamproc.plan.models import FallbackPart, PipelineFile, RulePart
from streamproc.plan.structure import near

HASH_BYTES = 16
DEFAULT_MODEL = "default"
TIME_TYPE = pl.Datetime("us", "UTC")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model file says of itself. ``inputs`` is its number of input columns, where it says so."""

    version: str
    inputs: int | None = None


Inspect = Callable[[PipelineFile, Path], ModelFacts]
"""Looks at a file's model; raises UserError where it cannot be used."""


@dataclass(slots=True)
class Builder:
    """Checks one document and collects what the plan is made of."""

    document: Document
    file: PipelineFile
    dropped: set[str]
    inspect: Inspect
    contract: Contract | None = None
    known: dict[str, pl.DataType] = field(default_factory=dict)
    read_directly: dict[str, None] = field(default_factory=dict)
    tainted: set[str] = field(default_factory=set)

    def build(self) -> Plan | None:
        """The plan, or ``None`` with at least one problem noted."""
        self.contract = self._contract()
        if self.contract is None:
            return None
        self.known = {**self.contract.columns, EVENT_TIME: TIME_TYPE}
        self._events()
        self._params()
        features = self._features()
        model = self._model()
        confidence = self._confidence(model is not None)
        rules = self._rules()
        fallback = self._fallback()
        self._decisions()
        self._tests()
        if self.document.problems:
            return None
        assert all(rule is not None for rule in rules)
        events = self.file.events
        recorded = [*(feature.name for feature in features)]
        recorded += [name for name in self.read_directly if name in self.contract.columns]
        plan = Plan(
            pipeline=self.file.pipeline,
            hash="",
            events=Events(
                topic=events.topic,
                key=events.key,
                time=events.time,
                max_age=events.max_age,
                sensitive=frozenset(events.sensitive),
                start=events.start,
            ),
            contract=self.contract,
            rules=tuple(rules),
            actions=dict(self.file.actions),
            features=tuple(features),
            model=model,
            confidence=confidence,
            undecided=self.file.undecided,
            fallback=tuple(fallback),
            dead_letter_mode=self.file.dead_letters.sensitive if events.sensitive else "plain",
            recorded=tuple(dict.fromkeys(recorded)),
            sensitive=frozenset(self.tainted),
        )
        return _hashed(plan, self.file)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _contract(self) -> Contract | None:
        at: Path_ = ("events", "schema")
        path = self.document.file.parent / self.file.events.schema_
        try:
            schema = orjson.loads(path.read_bytes())
            return Contract(schema)
        except OSError as error:
            self._problem(at, f"cannot read the contract {path.name}: {error.strerror}", "the path counts from this file")
        except orjson.JSONDecodeError as error:
            self._problem(at, f"the contract {path.name} is not JSON: {error.msg}, line {error.lineno}", "mend it there")
        except UserError as error:
            self._problem(at, f"the contract {path.name}: {error.message}", error.hint)
        except (TypeError, AttributeError):
            self._problem(at, f"the contract {path.name} is no JSON Schema object", "begin with {\"type\": \"object\", …}")
        return None

    def _events(self) -> None:
        events = self.file.events
        assert self.contract is not None
        for key in ("key", "time"):
            name = getattr(events, key)
            if name is not None and name not in self.contract.columns:
                self._unknown(("events", key), name, self.contract.columns, "fields of the contract")
        if events.time in self.contract.columns and self.contract.columns[str(events.time)] == pl.Boolean:
            self._problem(("events", "time"), f"`{events.time}` is true or false, not a time", "name a text or a number")
        for index, name in enumerate(events.sensitive):
            if name not in self.contract.columns:
                self._unknown(("events", "sensitive", index), name, self.contract.columns, "fields of the contract")
            self.tainted.add(name)
        if events.max_age is not None and events.time is None:
            self._problem(("events", "max_age"), "`max_age` needs to know how old an event is", "add `time: FIELD`")

    def _params(self) -> None:
        for name in self.file.params:
            if name in self.known or name in RESERVED:
                self._problem(("params", name), f"`{name}` is a field of the event too", "give it another name", key=True)

    def _features(self) -> list[Feature]:
        features = []
        for name, text in self.file.features.items():
            at: Path_ = ("features", name)
            if name in RESERVED:
                self._problem(at, f"`{name}` is a name of streamproc's own", "give it another name", key=True)
                continue
            if name in self.known or name in self.file.params:
                what = "param" if name in self.file.params else "field of the event"
                self._problem(at, f"`{name}` is a {what} too", "give it another name", key=True)
                continue
            expression = self._compile(at, text)
            if expression is None:
                self.dropped.add(name)
                continue
            self.known[name] = expression.dtype
            if expression.columns & self.tainted:
                self.tainted.add(name)
            features.append(Feature(name, expression))
        return features

    def _model(self) -> ModelPlan | None:
        part = self.file.model
        if part is None:
            return None
        self.known[SCORE] = pl.Float64()
        for index, name in enumerate(part.inputs):
            at: Path_ = ("model", "inputs", index)
            if name in self.dropped:
                continue
            if name not in self.known or name in (SCORE, CONFIDENCE):
                self._unknown(at, name, set(self.known) - {SCORE}, "columns", "the model's input")
            elif part.onnx and not (self.known[name].is_numeric() or self.known[name] == pl.Boolean):
                kind = _kind(self.known[name])
                self._problem(at, f"`{name}` is {kind}, and the model wants numbers", "make a feature of it: CASE WHEN … END")
            self.read_directly[name] = None
        if (part.onnx is None) == (part.python is None):
            self._problem(("model",), "a model is either `onnx` or `python`", "state exactly one of them", key=True)
            return None
        try:
            facts = self.inspect(self.file, self.document.file.parent)
        except UserError as error:
            self._problem(("model", "onnx" if part.onnx else "python"), error.message, error.hint)
            return None
        if facts.inputs is not None and facts.inputs != len(part.inputs):
            self._problem(
                ("model", "inputs"), f"the model takes {facts.inputs} columns, and {len(part.inputs)} are listed",
                "list exactly what it was trained on, in that order", key=True,
            )  # fmt: skip
        return ModelPlan(DEFAULT_MODEL, tuple(part.inputs), facts.version)

    def _confidence(self, model: bool) -> Expression | None:
        if self.file.confidence is None:
            return None
        expression = self._compile(("confidence",), self.file.confidence, want="number")
        self.known[CONFIDENCE] = pl.Float64()
        if expression is None:
            self.dropped.add(CONFIDENCE)
        return expression

    def _rules(self) -> list[Rule]:
        rules, ids, closed = [], dict[str, int](), None
        for index, part in enumerate(self.file.rules):
            at: Path_ = ("rules", index)
            self._unique(at, part.id, ids, index)
            if closed is not None and not part.observe:
                self._problem(at, f"rule `{part.id}` is never reached: `{closed}` always matches", "move it up, or give that one a `when`", key=True)
            if part.decide is None and not part.observe:
                self._problem(at, f"rule `{part.id}` decides nothing", "add `decide: …`, or `observe: true`", key=True)
            rules.append(self._rule(at, part))
            if part.when is None and not part.observe and closed is None:
                closed = part.id
        if all(part.observe for part in self.file.rules):
            self._problem(("rules",), "no rule decides anything", "add one without `observe`", key=True)
        return rules

    def _fallback(self) -> list[Rule]:
        for name in (SCORE, CONFIDENCE):
            self.known.pop(name, None)
        rules, ids, closed = [], {part.id: -1 for part in self.file.rules}, None
        for index, part in enumerate(self.file.fallback):
            at: Path_ = ("fallback", index)
            self._unique(at, part.id, ids, index)
            if closed is not None:
                self._problem(at, f"`{part.id}` is never reached: `{closed}` always matches", "move it up", key=True)
            rules.append(self._rule(at, part))
            closed = closed or (part.id if part.when is None else None)
        return rules

    def _rule(self, at: Path_, part: RulePart | FallbackPart) -> Rule:
        when = None if part.when is None else self._compile((*at, "when"), part.when, want="boolean")
        return Rule(
            id=part.id,
            decide=part.decide or "",
            when=when,
            reason=getattr(part, "reason", None),
            observe=getattr(part, "observe", False),
        )

    def _unique(self, at: Path_, name: str, ids: dict[str, int], index: int) -> None:
        if name in ids:
            first = self.document.place((at[0], ids[name])).line if ids[name] >= 0 else None
            where = f"line {first}" if first else "`rules`"
            self._problem((*at, "id"), f"two rules have the id `{name}`, the first in {where}", "ids are how decisions name rules: make them differ")
        ids.setdefault(name, index)

    def _decisions(self) -> None:
        made: dict[str, Path_] = {}
        for name in ("rules", "fallback"):
            for index, part in enumerate(getattr(self.file, name)):
                if part.decide is not None:
                    made.setdefault(part.decide, (name, index, "decide"))
        made.setdefault(self.file.undecided, ("undecided",))
        for decision, at in made.items():
            if decision != REVIEW and decision not in self.file.actions:
                self._problem(at, f"decision `{decision}` has no action topic", f"add `{decision}: TOPIC` under `actions` (or `{decision}: null` to only record it)")
        own = set(vars_of(Topics.of(self.file.pipeline)))
        for decision, topic in self.file.actions.items():
            at = ("actions", decision)
            if decision == REVIEW:
                self._problem(at, "`review` goes to the review topic by itself", "take it out of `actions`", key=True)
            elif decision not in made:
                self._unknown(at, decision, set(made) - {REVIEW}, "decisions of the rules", "an action", key=True)
            if topic == self.file.events.topic:
                self._problem(at, f"topic `{topic}` is the one that events come from: a loop", "send actions elsewhere")
            if topic in own:
                self._problem(at, f"topic `{topic}` is one of the pipeline's own", "send actions elsewhere")

    def _tests(self) -> None:
        names: dict[str, int] = {}
        ids = [part.id for part in (*self.file.rules, *self.file.fallback)]
        decisions = {REVIEW, self.file.undecided, *self.file.actions}
        for index, test in enumerate(self.file.tests):
            at: Path_ = ("tests", index)
            if test.name in names:
                self._problem((*at, "name"), f"two tests are called `{test.name}`", "make their names differ")
            names.setdefault(test.name, index)
            expect = test.expect
            if expect.decision is not None and expect.decision not in decisions:
                self._unknown((*at, "expect", "decision"), expect.decision, decisions, "decisions")
            for key in ("rules", "observed", "undecided"):
                for number, rule in enumerate(getattr(expect, key) or []):
                    if rule not in ids:
                        self._unknown((*at, "expect", key, number), rule, ids, "rules")
            if (test.score is not None or test.no_score is not None) and self.file.model is None:
                self._problem(at, f"test `{test.name}` gives a score, and there is no model", "take it out, or add a model", key=True)
            if test.score is not None and test.no_score is not None:
                self._problem(at, f"test `{test.name}` gives a score and says there is none", "keep one of them", key=True)

    # -- helpers --------------------------------------------------------------------------------------------------

    def _compile(self, at: Path_, text: str, want: str = "any") -> Expression | None:
        if any(re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", text) for name in self.dropped):
            return None  # it reads something that is wrong itself, and was told of
        try:
            expression = compile_expression(text, self.known, self.file.params, want=want)  # type: ignore[arg-type]
        except ExpressionError as error:
            hint = error.hint
            if error.message in ("unknown column 'score'", "unknown column 'confidence'"):
                hint = self._why_no_score(error.message)
            self.document.problem(at, error.message, hint, offset=error.offset)
            return None
        if at[0] != "features":
            self.read_directly.update(dict.fromkeys(sorted(expression.columns)))
        return expression

    def _why_no_score(self, message: str) -> str:
        if "confidence" in message:
            return "add `confidence: …`; the fallback chain cannot see it"
        return "add a `model`; the fallback chain and features cannot see its score"

    def _unknown(
        self, at: Path_, name: str, known: Any, what: str, role: str = "", *, key: bool = False
    ) -> None:
        prefix = f"{role}: " if role else ""
        self._problem(at, f"{prefix}unknown `{name}`", near(name, map(str, known), what), key=key)

    def _problem(self, at: Path_, message: str, remedy: str = "", *, key: bool = False) -> None:
        self.document.problem(at, message, remedy, at_key=key)


def vars_of(topics: Topics) -> list[str]:
    """The pipeline's own topics."""
    return [topics.decisions, topics.review, topics.dead_letters, topics.artefacts]


def _kind(dtype: pl.DataType) -> str:
    if dtype == pl.String:
        return "text"
    return "a time" if dtype.is_temporal() else str(dtype)


def _hashed(plan: Plan, file: PipelineFile) -> Plan:
    from dataclasses import replace

    content = {
        "pipeline": plan.pipeline,
        "events": [plan.events.topic, plan.events.key, plan.events.time, str(plan.events.max_age), sorted(plan.events.sensitive)],
        "contract": plan.contract.schema,
        "params": file.params,
        "features": [[feature.name, feature.expression.sql] for feature in plan.features],
        "model": None if plan.model is None else [plan.model.version, plan.model.inputs],
        "confidence": None if plan.confidence is None else plan.confidence.sql,
        "rules": [_rule_content(rule) for rule in plan.rules],
        "undecided": plan.undecided,
        "fallback": [_rule_content(rule) for rule in plan.fallback],
        "actions": plan.actions,
        "dead_letters": plan.dead_letter_mode,
    }
    raw = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return replace(plan, hash=hashlib.blake2b(raw, digest_size=HASH_BYTES).hexdigest())


def _rule_content(rule: Rule) -> list[Any]:
    when = None if rule.when is None else rule.when.sql
    return [rule.id, when, rule.decide, rule.reason, rule.observe]



"""The plan: what a pipeline file means, checked, frozen and compiled. The core sees only this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from typing import Final, Literal, TypeAlias

import polars as pl

from streamproc.core.contract import Contract
from streamproc.core.drift.budget import Budget
from streamproc.core.drift.volume import VolumePlan
from streamproc.core.expressions import Expression
from streamproc.core.llm.policy import LlmPlan
from streamproc.core.llm.prompts import with_prompt
from streamproc.core.names import MODEL_CONFIDENCE, MODEL_STATUS, SCORED_BY
from streamproc.core.outcomes.policy import OutcomesPlan
from streamproc.core.records import BodyForm, Topics
from streamproc.core.review.policy import ExplorePlan, ReviewPlan
from streamproc.core.windows.policy import WindowFeature, WindowsPolicy

REVIEW: Final = "review"
FALLBACK: Final = "fallback"
"""What a rule decides that leaves the event to the fallback chain."""
ABSTAIN: Final = "abstain"
"""The decision that is none: the record says that nothing was decided, and why."""
UNDECIDING: Final = frozenset({REVIEW, FALLBACK, ABSTAIN})
"""What rules may decide that is no decision of automation's own."""
Mode: TypeAlias = Literal["automatic", "fallback", "review-all"]
"""What people let automation do: decide, decide by the fallback chain alone, or nothing at all."""
SCORE: Final = "score"
CONFIDENCE: Final = "confidence"
EVENT_TIME: Final = "event_time"
RESERVED: Final = (SCORE, CONFIDENCE, EVENT_TIME)
DRIFT: Final = "drift_"
"""Begins the names of columns that show how a watched column stands: 'stable', 'warning' or 'drifting'."""
DRIFT_ANY: Final = "drift_any"
DRIFT_SEVERITY: Final = "drift_severity"
DECISION: Final = "decision"
WOULD_BE: Final = "would_be"
DEAD_LETTERS: Final = "dead_letters"
MOST_IDS: Final = 100_000_000
"""So many ids a lane remembers at most, where a plan says nothing: 24 hours of 1,150 events/s, in 4 GB."""
OF_MODELS: Final[Mapping[str, pl.DataType]] = {
    MODEL_STATUS: pl.String(),
    SCORED_BY: pl.String(),
    MODEL_CONFIDENCE: pl.Float64(),
}
"""The columns that there are with every model, beside the score."""
MISSING: Final = "_missing"
"""Ends the name of the column that says where a look-up gave nothing."""


@dataclass(frozen=True, slots=True)
class Events:
    """The input. ``key``, ``time``, ``id`` and ``sensitive`` name columns of the contract.

    ``topic`` is what the decide agent reads. Where events are first ``repartition_by`` a field, that is a topic of the
    pipeline's own, and ``source`` is the one that they come from.

    An event whose ``id`` was seen within ``dedupe`` before is a duplicate; both are there or neither. A lane remembers
    ``max_ids`` at most.
    """

    topic: str
    key: str | None = None
    time: str | None = None
    max_age: timedelta | None = None
    sensitive: frozenset[str] = frozenset()
    start: Literal["earliest", "latest"] = "earliest"
    max_ahead: timedelta | None = None
    """Events whose time is further in the future than this are refused."""
    id: str | None = None
    dedupe: timedelta | None = None
    max_ids: int = MOST_IDS
    repartition_by: str | None = None
    source: str | None = None

    @property
    def input(self) -> str:
        """The topic that producers write to."""
        return self.source or self.topic


@dataclass(frozen=True, slots=True)
class Feature:
    """A named column that is computed from the event; it may read the features before it."""

    name: str
    expression: Expression

    @property
    def reads(self) -> frozenset[str]:
        """The columns that it is computed from."""
        return self.expression.columns

    @property
    def columns(self) -> Mapping[str, pl.DataType]:
        """The columns that it adds, with their types."""
        return {self.name: self.expression.dtype}


@dataclass(frozen=True, slots=True)
class LookupFeature:
    """A column that is looked up, and one more that says where there was nothing.

    ``source`` is the ask's address, ``key`` the column whose value is looked up, ``field`` what of the row is wanted;
    ``None`` for all that was found. ``default`` stands where there was nothing.
    """

    name: str
    source: str
    key: str
    field: str | None
    dtype: pl.DataType
    default: bool | int | float | str | None = None

    @property
    def reads(self) -> frozenset[str]:
        """The columns that it is computed from."""
        return frozenset([self.key])

    @property
    def missing(self) -> str:
        """The name of the column that says where there was nothing."""
        return f"{self.name}{MISSING}"

    @property
    def columns(self) -> Mapping[str, pl.DataType]:
        """The columns that it adds, with their types."""
        return {self.name: self.dtype, self.missing: pl.Boolean()}


@dataclass(frozen=True, slots=True)
class LookupSource:
    """A table or a store that features are looked up in.

    ``key`` is the column whose values are looked up, ``fields`` what is read of a row, with their types: the empty name
    is all of it. ``by_lane``: rows are held where the events of their keys are. ``history``: it knows what was when.
    """

    name: str
    key: str
    fields: Mapping[str, pl.DataType]
    by_lane: bool = False
    history: bool = False
    contract: Contract | None = None
    """Of the rows of a table."""


AnyFeature: TypeAlias = Feature | LookupFeature | WindowFeature


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What the model stage asks for. ``name`` is the ask's address, ``version`` the hash of the model's bytes.

    ``classes`` are the names of the classes whose probabilities it gives, where they have names. ``llm`` is there for a
    language model: then ``inputs`` are the texts that it is shown.
    """

    name: str
    inputs: tuple[str, ...]
    version: str
    classes: tuple[str, ...] = ()
    llm: LlmPlan | None = None

    @property
    def unlimited(self) -> ModelPlan:
        """The same without budgets, limits and a cache."""
        return self if self.llm is None else replace(self, llm=self.llm.unlimited)

    @property
    def guard(self) -> str | None:
        """The address of the classifier that is asked before it; ``None`` where there is none."""
        return f"guard:{self.name}" if self.llm is not None and self.llm.classifier else None


@dataclass(frozen=True, slots=True)
class Rule:
    """``when`` is ``None`` for a rule that always matches. ``observe`` rules are listed and never decide."""

    id: str
    decide: str
    when: Expression | None = None
    reason: str | None = None
    observe: bool = False


@dataclass(frozen=True, slots=True)
class DriftPlan:
    """What is watched, within which segments, and how many false alarms there may be.

    ``watch`` are columns; ``reads`` those columns ``drift_…`` that confidence or rules read. ``aside`` are columns that
    drift itself may move, which do not count as drift of anything. ``recover`` is in windows, ``max_extra_review``, the
    share of a lane's events whose decision drift may change, in millionths. ``season`` is the period of a rhythm that
    is normal, ``max_age`` the age at which a window is judged that is not full. ``outcome`` is the field of the
    reference's rows that says what came true of what the score gives the chance of, ``answers`` that which says what
    language models answered.
    """

    watch: tuple[str, ...]
    budget: Budget
    segments: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    aside: frozenset[str] = frozenset()
    recover: int = 20
    volume: VolumePlan | None = None
    max_extra_review: int | None = None
    season: timedelta | None = None
    max_age: timedelta | None = None
    outcome: str | None = None
    answers: str | None = None


@dataclass(frozen=True)
class Plan:
    """One version of one pipeline. ``hash`` is of its content: equal plans decide equally."""

    pipeline: str
    hash: str
    events: Events
    contract: Contract
    rules: tuple[Rule, ...]
    actions: Mapping[str, str | None]
    features: tuple[AnyFeature, ...] = ()
    sources: tuple[LookupSource, ...] = ()
    """Where features are looked up."""
    windows: WindowsPolicy = field(default_factory=WindowsPolicy)
    """How long what windows need is remembered, and of how many keys."""
    model: ModelPlan | None = None
    confidence: Expression | None = None
    undecided: str = REVIEW
    fallback: tuple[Rule, ...] = ()
    dead_letter_mode: BodyForm = "plain"
    recorded: tuple[str, ...] = ()
    """Columns whose values stand in the decision: the features, and the fields that anything reads directly."""
    drift: DriftPlan | None = None
    review: ReviewPlan | None = None
    sensitive: frozenset[str] = field(default_factory=frozenset)
    """Recorded columns that derive from a sensitive field."""
    stand_ins: tuple[ModelPlan, ...] = ()
    """Models that are asked, in order, for what those before them gave no usable score for."""
    shadows: tuple[ModelPlan, ...] = ()
    """Models that are asked of the same events, recorded, and never decide."""
    model_columns: tuple[str, ...] = ()
    """What the model stage shows beside the score: its status, who scored, its confidence, its classes."""
    confidence_hash: str | None = None
    """Of the confidence expression, with the params that it reads."""
    outcomes: OutcomesPlan | None = None

    @property
    def topics(self) -> Topics:
        """The pipeline's own topics; the events topic and the action topics are not among them."""
        return Topics.of(self.pipeline)

    @property
    def remembers(self) -> bool:
        """Whether anything is computed from earlier events."""
        return any(isinstance(feature, WindowFeature) for feature in self.features)

    @property
    def models(self) -> tuple[ModelPlan, ...]:
        """The model and its stand-ins, in the order in which they are asked."""
        return () if self.model is None else (self.model, *self.stand_ins)

    @cached_property
    def model_versions(self) -> frozenset[str]:
        """The versions of what scores, by what the file says: of a language model with each prompt in use."""
        numbers = (model.version for model in self.models if model.llm is None)
        words = ((model.version, model.llm) for model in self.models if model.llm is not None)
        return frozenset(
            [*numbers, *(with_prompt(one, own.hash) for one, llm in words for own in llm.prompts.versions)]
        )

    @property
    def language_models(self) -> Mapping[str, LlmPlan]:
        """All of them by their names, shadows too."""
        return {model.name: model.llm for model in (*self.models, *self.shadows) if model.llm is not None}

    @property
    def _llms(self) -> tuple[LlmPlan, ...]:
        return tuple(model.llm for model in self.models if model.llm is not None)

    @cached_property
    def given(self) -> frozenset[str]:
        """The columns of the model stage that say what language models are shown: they are there in any case."""
        return frozenset().union(*(llm.given for llm in self._llms))

    @cached_property
    def spent(self) -> frozenset[str]:
        """The columns that say what asking took, also where no usable score came of it."""
        return frozenset().union(*(llm.spent for llm in self._llms))

    @property
    def in_words(self) -> frozenset[str]:
        """The language models, shadows too, and the classifiers before them, by the addresses of asks."""
        guards = (model.guard for model in (*self.models, *self.shadows) if model.guard is not None)
        return frozenset([*self.language_models, *guards])

    @cached_property
    def follows_from_hashes(self) -> frozenset[str]:
        """What follows from texts of answers that stand in decisions as hashes: it cannot be worked out again."""
        hashed = self.sensitive & {name for llm in self._llms for name in llm.said}
        unsure = self.confidence is not None and bool(hashed & self.confidence.columns)
        read = {name for rule in (*self.rules, *self.fallback) if rule.when is not None for name in rule.when.columns}
        decided = unsure or bool(hashed & read)
        return frozenset([*([CONFIDENCE] if unsure else []), *([DECISION, WOULD_BE] if decided else [])])

    @cached_property
    def ahead(self) -> frozenset[str]:
        """The language models whose requests are made for all events before any model is asked: the first one, and
        stand-ins of which something reads what they would be shown. Those of others wait until they are asked."""
        priority = None if self.review is None else self.review.priority
        conditions = (self.confidence, priority, *(rule.when for rule in (*self.rules, *self.fallback)))
        read = {name for one in conditions if one is not None for name in one.columns}
        if self.drift is not None:
            read |= {*self.drift.watch, *self.drift.segments}
        if self.outcomes is not None:
            read |= {*self.outcomes.reads}
        words = [(model, model.llm) for model in self.models if model.llm is not None]
        return frozenset(one.name for one, llm in words if one is self.model or not read.isdisjoint(llm.given))

    @cached_property
    def of_answers(self) -> frozenset[str]:
        """What is known of an event only with the answers of language models, and of no event without one."""
        if not self._llms:
            return frozenset()
        known = self.given - frozenset().union(*(llm.judged for llm in self._llms))
        return frozenset([SCORE, CONFIDENCE, DECISION, WOULD_BE, *self.model_columns]) - known

    @cached_property
    def model_types(self) -> Mapping[str, pl.DataType]:
        """The types of the columns that models say beside the score."""
        said = dict(OF_MODELS)
        for llm in self._llms:
            said |= {**llm.given, **llm.said}
        return {name: said.get(name, pl.Float64()) for name in self.model_columns}

    @property
    def unlimited(self) -> Plan:
        """The same for events of the past, whose budgets are not those of today."""
        return replace(
            self,
            model=None if self.model is None else self.model.unlimited,
            stand_ins=tuple(model.unlimited for model in self.stand_ins),
            shadows=tuple(model.unlimited for model in self.shadows),
        )

    @property
    def model_version(self) -> str | None:
        """The hash of the model's bytes; ``None`` without a model."""
        return None if self.model is None else self.model.version

    @property
    def explore(self) -> ExplorePlan | None:
        """What is decided otherwise by chance, where anything is."""
        return None if self.review is None else self.review.explore

    @property
    def capped(self) -> bool:
        """Whether drift may change decisions, and only so many."""
        return self.drift is not None and bool(self.drift.reads) and self.drift.max_extra_review is not None

    @property
    def decisions(self) -> frozenset[str]:
        """Every decision that the plan can make."""
        made = frozenset(rule.decide for rule in (*self.rules, *self.fallback)) - {FALLBACK}
        explored = () if self.explore is None else (self.explore.decide,)
        return made | {self.undecided, REVIEW, *explored}

    @property
    def written(self) -> tuple[str, ...]:
        """Every topic on which the decide agent says what becomes of single events."""
        topics = self.topics
        actions = {topic for topic in self.actions.values() if topic is not None}
        asked = topics.review if self.review is None else topics.cases
        abstained = (topics.abstained,) if ABSTAIN in self.decisions else ()
        return (topics.decisions, asked, *abstained, topics.dead_letters, *sorted(actions))

"""What may stand in a pipeline file, and the JSON Schema of it for editors."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias, get_args

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, StringConstraints, Tag

from streamproc.core.names import VARIABLE
from streamproc.core.plan import MOST_IDS, Mode
from streamproc.plan.budgets import Allowed, FalseAlarms, Portion, Rate, Share, Windows
from streamproc.plan.durations import Age, Duration
from streamproc.plan.feature_parts import FeaturePart, WindowsPart
from streamproc.plan.llm_parts import LlmPart
from streamproc.plan.parts import BreakerPart, Constant, Name, Part, Slug, Sql, Text, Topic
from streamproc.plan.serve_parts import ServePart
from streamproc.plan.source_parts import StorePart, TablePart

Kind: TypeAlias = Literal["onnx", "python", "http", "llm"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


class EventsPart(Part):
    """The input."""

    topic: Topic = Field(description="The Kafka topic of events")
    schema_: Text = Field(alias="schema", description="The contract: a JSON Schema file, relative to this one")
    key: str | None = Field(None, description="The field whose value keys every record that comes out")
    time: str | None = Field(None, description="The field with the event time: ISO 8601, or milliseconds")
    max_age: Duration | None = Field(None, description="Older events take the fallback path")
    id: str | None = Field(None, description="The field that is the same in an event that is sent twice")
    dedupe: Duration | None = Field(
        None, description="So long an id is remembered; an event that repeats it is refused"
    )
    max_ids: int = Field(
        MOST_IDS, ge=1_000, le=10**12, description="A lane remembers so many ids at most, and then the newest ones"
    )
    sensitive: list[str] = Field([], description="Fields that leave only as keyed hashes")
    start: Literal["earliest", "latest"] = Field("earliest", description="Where a new pipeline begins to read")
    repartition_by: str | None = Field(
        None,
        description="Events first go through a topic of the pipeline's own, keyed by it, for windows by this field",
    )
    max_ahead: Duration | None = Field(
        None, description="Events from further in the future are refused; `1h` where there are windows"
    )


class RecyclePart(Part):
    """When another process takes over from that of a Python model."""

    calls: int | None = Field(None, ge=1, description="After so many calls")
    megabytes: int | None = Field(None, ge=1, description="When it has so much in memory")


class ModelPart(Part):
    """A model: exactly one of ``onnx``, ``python``, ``http`` and ``llm``."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        json_schema_extra={
            "oneOf": [
                {"required": ["onnx", "inputs"]},
                {"required": ["python", "inputs"]},
                {"required": ["http", "inputs"]},
                {"required": ["llm"]},
            ]
        },
    )

    id: Slug | None = Field(None, description="Its name in decisions and metrics; its kind by default")
    onnx: Text | None = Field(None, description="An ONNX file, relative to this one")
    python: Text | None = Field(None, description="`module:function`, called in a process of its own")
    http: Text | None = Field(
        None, description="The address of a model that speaks the Open Inference Protocol v2, up to `…/infer`"
    )
    llm: LlmPart | None = Field(None, description="A language model behind an OpenAI-compatible API")
    headers: dict[str, str] = Field({}, description="Of requests to `http`; `${NAME}` is taken from the environment")
    tensor: Text | None = Field(
        None, description="The one tensor of shape (rows, inputs) that `http` takes; without it each input is one"
    )
    inputs: list[Text] = Field([], description="Columns, in the model's order")
    output: str | None = Field(None, description="The output that holds the score; the last one by default")
    classes: list[Name] = Field([], description="Names of its classes, in order, where it gives their probabilities")
    score: str | None = Field(None, description="The class whose probability is the score; the last one by default")
    confidence: str | None = Field(None, description="The output that holds the model's own confidence")
    timeout: Duration = Field(timedelta(seconds=1), description="For one batch")
    in_flight: int = Field(8, ge=1, le=256, description="So many calls at once; more have no score")
    recycle: RecyclePart | None = Field(None, description="When a Python model gets a new process")
    breaker: BreakerPart = Field(BreakerPart(), description="When it is not asked for a while")  # type: ignore[call-arg]

    @property
    def variables(self) -> frozenset[str]:
        """The environment variables that it names: they hold secrets."""
        own = frozenset(name for text in self.headers.values() for name in VARIABLE.findall(text))
        return own if self.llm is None else own | self.llm.variables

    @property
    def kind(self) -> Kind:
        """Which of the four it is; where several are stated, the first."""
        return next((kind for kind in KINDS if getattr(self, kind) is not None), "http")

    @property
    def columns(self) -> list[str]:
        """The columns that it is shown."""
        return self.inputs if self.llm is None else self.llm.input

    @property
    def time(self) -> timedelta:
        """How long a batch may take."""
        return self.timeout if self.llm is None else self.llm.deadline


class RulePart(Part):
    """One rule. Without ``when`` it always matches."""

    id: Slug = Field(description="Its name in decisions; no other rule has it")
    when: Sql | None = Field(None, description="A condition; without one the rule always matches")
    decide: Slug | None = Field(None, description="The decision; may be left out of a rule that only observes")
    reason: str | None = Field(None, description="A code that goes into the decision")
    observe: bool = Field(False, description="List it when it matches, but never let it decide")


Models = Annotated[
    Annotated[ModelPart, Tag("one")] | Annotated[list[ModelPart], Field(min_length=1), Tag("many")],
    Discriminator(lambda value: "many" if isinstance(value, list) else "one"),
]


class FallbackPart(Part):
    """One step of the fallback chain: it sees features, but no score."""

    id: Slug = Field(description="Its name in decisions; no other rule has it")
    when: Sql | None = Field(None, description="A condition; without one the rule always matches")
    decide: Slug = Field(description="The decision, `review`, or `abstain`")


class DeadLettersPart(Part):
    """How dead letters carry events of a pipeline with sensitive fields."""

    sensitive: Literal["masked", "encrypted"] = Field(
        default="masked", description="Only a keyed hash, or encrypted whole"
    )


def _all_or_named(value: object) -> object:
    return None if value == "*" else value


Watch = Annotated[list[Text] | None, BeforeValidator(_all_or_named, json_schema_input_type=Literal["*"] | list[Text])]
"""Names, or ``None`` for all that there is."""


class StreamReference(Part):
    """The newest events of a topic as the reference: what the stream itself is like."""

    topic: Text = Field(description="A topic with events of the contract; mostly the events topic itself")
    events: int = Field(50_000, ge=1_000, le=1_000_000, description="So many of them")


Reference = Annotated[
    Annotated[Text, Tag("file")] | Annotated[StreamReference, Tag("stream")],
    Discriminator(lambda value: "stream" if isinstance(value, dict | StreamReference) else "file"),
]


class LimitsPart(Part):
    """What is too little, too much or too late, of some partitions."""

    silence: Duration | None = Field(None, description="No event for so long is an alarm")
    least: Rate | None = Field(None, description="Fewer events are an alarm: `100 per 1m`")
    most: Rate | None = Field(None, description="More events are an alarm: `50000 per 1m`")
    age: Duration | None = Field(
        None, description="Events that are later than this when they come, on average of a minute, are one"
    )


class VolumePart(LimitsPart):
    """Whether events come at all, how many, and how late: limits of all partitions together."""

    partitions: LimitsPart | None = Field(None, description="The same limits, of each partition")


class DriftPart(Part):
    """What is watched for drift, and how many false alarms there may be."""

    reference: Reference = Field(
        description="A sample of events in time order: NDJSON, CSV or Parquet, relative to this file;"
        " or `{topic: …, events: 50000}`, the newest events of a topic"
    )
    false_alarms: FalseAlarms = Field(description="Over all monitors together: `1 per 30d`, or `1 per 1000000 events`")
    watch: Watch = Field(None, description="Columns; `*` for all fields, features and decisions")
    exclude: list[Text] = Field([], description="Columns that are not watched")
    segments: list[Text] = Field([], description="Columns within whose values all is watched too")
    volume: VolumePart | None = Field(None, description="Whether events come at all, how many, and how late")
    season: Duration | None = Field(None, description="The period of a rhythm that is normal: `1d`, `7d`")
    max_age: Duration | None = Field(
        None, description="A window that is not full after so long is judged by what it has"
    )
    outcome: Text | None = Field(
        None, description="The reference's field of what came true, of which `score` is the chance"
    )
    answers: Text | None = Field(
        None, description="The reference's field of what language models answered: nothing asks them about it"
    )
    recover: Windows = Field(20, description="How many windows in a row must be normal to end an alarm")
    max_extra_review: Share | None = Field(
        None, description="The share of events whose decision drift may change: `10%`, or `0.1`"
    )


def _as_value(value: object) -> object:
    """YAML reads ``1`` and ``true`` as values; as names of what came true they are texts."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value


Value = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100),
    BeforeValidator(_as_value, json_schema_input_type=str | int | bool),
]


class BaselinePart(Part):
    """What the pipeline is compared with."""

    name: Text = Field(description="What it is called in `streamproc stats`")
    decision: Slug | None = Field(
        None, description="Everything decided so, at the same outcomes; `would_be`: what automation alone would decide"
    )
    automation: Portion | None = Field(None, description="The share that was decided without a person")
    review: Portion | None = Field(None, description="The share that a person looked at")
    errors: Portion | None = Field(None, description="The share of errors among decisions whose outcome was known")
    cost: float | None = Field(None, description="The cost of an event, on average")


class OutcomesPart(Part):
    """What can come true, when a decision was wrong, and what that costs."""

    values: list[Value] = Field(min_length=1, description="What can come true")
    errors: dict[Slug, list[Value]] = Field({}, description="By decision: the values that say that it was wrong")
    costs: dict[Slug, dict[Value, Sql]] = Field({}, description="By decision and value: a number or an expression")
    review_cost: float = Field(0.0, ge=0, description="What it costs that a person looks at an event")
    score: Value | None = Field(None, description="The value that the score is the chance of, for expected costs")
    unlabelled: list[Slug] = Field([], description="Decisions after which nobody sees what would have come true")
    segments: list[Text] | None = Field(
        None, description="Columns by which all is counted; those of `drift` by default"
    )
    matures_after: Duration = Field(
        timedelta(days=60), description="The age at which a decision's outcome is known, if it ever will be"
    )
    retain: Duration = Field(timedelta(days=30), description="How long decisions are kept for their outcomes")
    most: int = Field(1_000_000, ge=1_000, le=100_000_000, description="So many are kept in a lane at most")
    window: Duration = Field(timedelta(hours=1), description="Measures are kept for each so long, by time of decision")
    baseline: BaselinePart | None = Field(None, description="What the pipeline is compared with")


class ExplorePart(Part):
    """Deciding otherwise by chance, to see what would have come of it."""

    instead_of: Slug = Field(description="What the rules decided, such as `decline`")
    decide: Slug = Field(description="What is decided instead, such as `approve`")
    share: Share = Field(description="Of so many of those: `0.5%`")
    budget: Allowed = Field(description="Never more than this: `20 per day`")


class ReviewPart(Part):
    """How people review, and what becomes of what nobody answers."""

    ttl: Duration = Field(description="How long a case waits for an answer: `4h`")
    on_expiry: Slug = Field(description="What is decided when nobody answered in time, such as `escalate`")
    priority: Sql | None = Field(None, description="A number for each event: more is more urgent")
    capacity: Allowed | None = Field(None, description="How many cases people can answer: `200 per hour`")
    lease: Duration = Field(timedelta(minutes=15), description="How long a claim on a case holds")
    audit: Share | None = Field(None, description="A share of the automatic decisions, also shown to people: `1%`")
    second_opinion: Share | None = Field(None, description="A share of what people decide, shown to another one: `5%`")
    explore: ExplorePart | None = Field(None, description="Deciding otherwise by chance")
    corrections: bool = Field(False, description="Whether a later, different verdict becomes an action")
    keep: Duration = Field(timedelta(days=30), description="How long a closed case is remembered")
    keys: dict[Text, str] = Field({}, description="Public keys (ed25519, base64) of people, by their names")
    require_signature: bool = Field(False, description="Whether only what is signed counts")


class TopicsPart(Part):
    """How streamproc makes the topics that it writes to."""

    partitions: int | None = Field(default=None, ge=1, le=10_000, description="As many as the events topic by default")
    replication: int = Field(default=1, ge=1, le=10, description="Copies of each partition; 3 in production")
    retention: Duration = Field(default=timedelta(days=30), description="How long records are kept")


class ExpectPart(Part):
    """What a test expects; only what is stated is compared."""

    decision: str | None = Field(None, description="What is decided")
    tier: str | None = Field(None, description="Who decided: `automatic`, `stand-in:ID`, `fallback:ID`, or `abstain`")
    rule: str | None = Field(None, description="The rule that decided; null where none did")
    rules: list[str] | None = Field(None, description="All rules that matched, in order, without observing ones")
    reasons: list[str] | None = Field(None, description="The reason codes of those")
    observed: list[str] | None = Field(None, description="The observing rules that matched")
    undecided: list[str] | None = Field(None, description="The rules that could not be evaluated")
    fallback_reason: str | None = Field(None, description="Why the first model and the rules did not decide")
    scored_by: str | None = Field(None, description="The model whose score it is; null where there is none")
    would_be: str | None = Field(None, description="What automation alone would decide; null for nothing")
    score: float | None = Field(None, description="The score; null for none")
    confidence: float | None = Field(None, description="The confidence; null for none")
    dead_letter: Text | None = Field(None, description="The event is refused, for this reason")
    features: dict[str, Any] | None = Field(None, description="Values of features, and of fields that rules read")


DriftLevel = Literal["stable", "warning", "drifting"]


class TestPart(Part):
    """One event, and what must become of it."""

    __test__: ClassVar[bool] = False  # pytest takes classes of this name for tests

    name: Text = Field(description="What is shown when it fails")
    event: dict[str, Any] = Field(description="The event, as its JSON is")
    history: list[dict[str, Any]] = Field(
        [], max_length=1_000, description="Events that came before, in their order: what windows remember"
    )
    score: float | None = Field(None, description="Stands in for the model's answer")
    no_score: Text | None = Field(
        None, description="The model gives no score, for this reason; with `score`, its first stand-in gives that"
    )
    model_confidence: float | None = Field(None, description="The model's own confidence, with `score`")
    answer: dict[str, Any] | None = Field(None, description="Stands in for the answer of a language model")
    age: Age | None = Field(None, description="How old the event is when it is decided; 0s by default")
    drift: dict[str, DriftLevel] = Field(
        {}, description="How columns stand: `warning` or `drifting`; others are stable"
    )
    mode: Mode = Field("automatic", description="What people let automation do")
    tables: dict[Slug, dict[str, Any]] = Field(
        {}, description="By table, the row of the event; none where it is not here"
    )
    stores: dict[Slug, Any] = Field({}, description="By store, what it has of the event; others have nothing")
    expect: ExpectPart = Field(description="What must become of it; what is not stated is not compared")


class PipelineFile(Part):
    """A pipeline: events in, decisions out."""

    pipeline: Slug = Field(description="The name: topics and the consumer group begin with it")
    events: EventsPart = Field(description="The input: topic, contract, and which fields mean what")
    params: dict[Name, Constant] = Field({}, description="Named constants for expressions")
    tables: dict[Slug, TablePart] = Field({}, description="Compacted topics that features are looked up in")
    stores: dict[Slug, StorePart] = Field({}, description="Online stores that features are looked up in")
    features: dict[Name, FeaturePart] = Field(
        {}, description="Columns in order: by expression, from earlier events, or looked up"
    )
    windows: WindowsPart = Field(WindowsPart(), description="For features from earlier events")  # type: ignore[call-arg]
    model: Models | None = Field(None, description="Gives each event a score; a list: the first, and its stand-ins")
    shadow: list[ModelPart] = Field([], description="Models that are asked and recorded, and never decide")
    confidence: Sql | None = Field(None, description="How far the business trusts the score")
    drift: DriftPart | None = Field(None, description="What is watched for drift")
    outcomes: OutcomesPart | None = Field(None, description="What came true, and what it costs")
    rules: list[RulePart] = Field(min_length=1, description="In order; the first that matches decides")
    undecided: Slug = Field("review", description="Decides where a rule could not be evaluated")
    fallback: list[FallbackPart] = Field([], description="Decides without a usable score, or where no rule matched")
    review: ReviewPart | None = Field(None, description="How people review")
    actions: dict[Slug, Topic | None] = Field({}, description="The topic of each decision that is carried out")
    dead_letters: DeadLettersPart = Field(DeadLettersPart(), description="For sensitive events")
    topics: TopicsPart = Field(TopicsPart(), description="How streamproc makes its topics")
    serve: ServePart = Field(ServePart(), description="What callers by HTTP are answered")  # type: ignore[call-arg]
    tests: list[TestPart] = Field([], description="Run by `streamproc test`")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a pipeline file, for editors."""
    schema = PipelineFile.model_json_schema(by_alias=True)
    for part in schema["properties"].values():
        if "patternProperties" in part:  # names that do not fit are errors
            part["additionalProperties"] = False
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "streamproc pipeline",
    }

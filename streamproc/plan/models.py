"""What may stand in a pipeline file, and the JSON Schema of it for editors."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = r"^\d+(\.\d+)?(ms|s|m|h|d)$"


def to_duration(value: object) -> object:
    """``90s``, ``1.5h``, ``30d`` as a timedelta.

    >>> to_duration("1.5h")
    datetime.timedelta(seconds=5400)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration is a number with ms, s, m, h or d behind it, like 90s or 1h")
    return timedelta(seconds=float(match[1]) * UNITS[match[2]])


Duration = Annotated[
    timedelta,
    BeforeValidator(to_duration, json_schema_input_type=Annotated[str, StringConstraints(pattern=DURATION)]),
    PlainSerializer(lambda value: value.total_seconds()),
]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)]
Slug = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Topic = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$", max_length=249)]
Text = Annotated[str, StringConstraints(min_length=1)]
# YAML has no way to tell 1 from "1" in an expression's place: a bare number or boolean is an expression too.
Sql = Annotated[
    str,
    BeforeValidator(
        lambda value: str(value).upper() if isinstance(value, bool) else str(value)
        if isinstance(value, int | float) else value,
        json_schema_input_type=str | int | float | bool,
    ),
]  # fmt: skip
Constant = bool | int | float | str | None


class Part(BaseModel):
    """A part of the file: unknown keys are errors, strings are not guessed into numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class EventsPart(Part):
    """The input."""

    topic: Topic = Field(description="The Kafka topic of events")
    schema_: Text = Field(alias="schema", description="The contract: a JSON Schema file, relative to this one")
    key: str | None = Field(None, description="The field whose value keys every record that comes out")
    time: str | None = Field(None, description="The field with the event time: ISO 8601, or milliseconds")
    max_age: Duration | None = Field(None, description="Older events take the fallback path")
    sensitive: list[str] = Field([], description="Fields that leave only as keyed hashes")
    start: Literal["earliest", "latest"] = Field("earliest", description="Where a new pipeline begins to read")


class ModelPart(Part):
    """The model: exactly one of ``onnx`` and ``python``."""

    onnx: Text | None = Field(None, description="An ONNX file, relative to this one")
    python: str | None = Field(None, description="`module:function`, called with the batch's columns")
    inputs: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1, description="Columns, in the model's order")
    output: str | None = Field(None, description="The ONNX output that holds the score; the last one by default")
    timeout: Duration = Field(timedelta(seconds=1), description="For one batch")


class RulePart(Part):
    """One rule. Without ``when`` it always matches."""

    id: Slug
    when: Sql | None = None
    decide: Slug | None = Field(None, description="The decision; may be left out of a rule that only observes")
    reason: str | None = Field(None, description="A code that goes into the decision")
    observe: bool = Field(False, description="List it when it matches, but never let it decide")


class FallbackPart(Part):
    """One rule of the fallback chain: it sees features, but no score."""

    id: Slug
    when: Sql | None = None
    decide: Slug


class DeadLettersPart(Part):
    """How dead letters carry events of a pipeline with sensitive fields."""

    sensitive: Literal["masked", "encrypted"] = "masked"


class TopicsPart(Part):
    """How streamproc makes the topics that it writes to."""

    partitions: int | None = Field(None, ge=1, le=10_000, description="As many as the events topic by default")
    replication: int = Field(1, ge=1, le=10)
    retention: Duration = timedelta(days=30)


class ExpectPart(Part):
    """What a test expects; only what is stated is compared."""

    decision: str | None = None
    tier: str | None = None
    rule: str | None = None
    rules: list[str] | None = None
    reasons: list[str] | None = None
    observed: list[str] | None = None
    undecided: list[str] | None = None
    would_be: str | None = None
    score: float | None = None
    dead_letter: str | None = Field(None, description="The reason of a dead letter")
    features: dict[str, Any] | None = None


class TestPart(Part):
    """One event, and what must become of it."""

    name: str
    event: dict[str, Any]
    score: float | None = Field(None, description="Stands in for the model's answer")
    no_score: str | None = Field(None, description="The model gives no score, for this reason")
    age: Duration | None = Field(None, description="How old the event is when it is decided")
    expect: ExpectPart


class PipelineFile(Part):
    """A pipeline: events in, decisions out."""

    pipeline: Slug = Field(description="The name: topics and the consumer group begin with it")
    events: EventsPart
    params: dict[Name, Constant] = Field({}, description="Named constants for expressions")
    features: dict[Name, Sql] = Field({}, description="Columns by expression, in order")
    model: ModelPart | None = None
    confidence: Sql | None = Field(None, description="How far the business trusts the score")
    rules: list[RulePart] = Field(min_length=1, description="In order; the first that matches decides")
    undecided: Slug = Field("review", description="Decides where a rule could not be evaluated")
    fallback: list[FallbackPart] = Field([], description="Decides without a usable score, or where no rule matched")
    actions: dict[Slug, Topic | None] = Field({}, description="The topic of each decision that is carried out")
    dead_letters: DeadLettersPart = Field(default_factory=DeadLettersPart)
    topics: TopicsPart = Field(default_factory=TopicsPart)
    tests: list[TestPart] = []


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a pipeline file, for editors."""
    schema = PipelineFile.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "streamproc pipeline", **schema}

"""What a pipeline file says of tables and stores."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import ConfigDict, Field

from streamproc.core.names import VARIABLE
from streamproc.plan.durations import Duration
from streamproc.plan.parts import BreakerPart, Part, Text, Topic

FieldType = Literal["number", "text", "boolean", "integer"]


class TablePart(Part):
    """A compacted Kafka topic as a table: the newest row of each key."""

    topic: Topic = Field(description="The compacted topic; its records' keys are those that are looked up")
    schema_: Text = Field(alias="schema", description="The contract of its rows: a JSON Schema file")
    key: Text = Field(description="The field or feature of the event whose value is looked up")
    hold: Literal["all", "lanes"] = Field(
        "all", description="`all`: every worker holds all rows; `lanes`: those of the partitions that it decides"
    )
    fresh: bool = Field(False, description="Wait until all that is committed was read")
    staleness: Duration = Field(timedelta(seconds=10), description="How old the table may be")
    timeout: Duration = Field(timedelta(seconds=1), description="How long a batch waits for it to be new enough")


class CachePart(Part):
    """What of a store is kept for a while."""

    rows: int = Field(100_000, ge=1, le=100_000_000, description="So many entries at most, the oldest go first")
    ttl: Duration = Field(description="For so long each: `10s`")


class StorePart(Part):
    """An online store: exactly one of ``redis`` and ``python``."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        json_schema_extra={"oneOf": [{"required": [kind]} for kind in ("redis", "python")]},
    )

    redis: Text | None = Field(
        None, description="`redis://HOST:PORT/DB`, or `rediss://` for TLS; `${NAME}` is taken from the environment"
    )
    python: Text | None = Field(
        None, description="`module:function`, from an array of keys to a dict of columns, in a process of its own"
    )
    key: Text = Field(description="The field or feature of the event whose value is looked up")
    as_: Text = Field("{}", alias="as", description="How `redis` names a key: `{}` is the event's, as in `risk:{}`")
    hash: bool = Field(False, description="Whether a row in `redis` is a hash; else it is JSON, or one plain value")
    types: dict[Text, FieldType] = Field({}, description="What the fields are, where features do not say it")
    timeout: Duration = Field(timedelta(milliseconds=100), description="For one batch")
    in_flight: int = Field(8, ge=1, le=256, description="So many calls at once; more have no value")
    cache: CachePart | None = Field(None, description="What of it is kept for a while; nothing by default")
    breaker: BreakerPart = Field(BreakerPart(), description="When it is not asked for a while")  # type: ignore[call-arg]

    @property
    def variables(self) -> frozenset[str]:
        """The environment variables that its address names: they hold secrets."""
        return frozenset(VARIABLE.findall(self.redis or ""))

    @property
    def kind(self) -> Literal["redis", "python"]:
        """Which of the two it is."""
        return "python" if self.python is not None else "redis"

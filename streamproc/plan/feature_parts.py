"""What a feature of the pipeline file may be: an expression, an aggregate of earlier events, or a look-up."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Discriminator, Field, Tag

from streamproc.core.windows.policy import MOST_DISTINCT, Aggregate
from streamproc.plan.durations import Duration
from streamproc.plan.parts import Constant, Part, Slug, Sql, Text
from streamproc.plan.source_parts import FieldType


class WindowPart(Part):
    """A feature with memory: an aggregate of earlier events with the same key."""

    window: Duration | None = Field(None, description="How far it reaches back: `24h`; without it, over all there was")
    by: Text = Field(description="The field or feature whose value is the key, such as a card's number")
    agg: Aggregate = Field(description="What is computed")
    of: Sql | None = Field(None, description="Of what: an expression over fields and features")
    where: Sql | None = Field(None, description="Only events for which this is true count")
    include_self: bool = Field(False, description="Whether the event itself counts")
    exact: bool = Field(False, description="Keep every event, where otherwise the window moves in 60 steps")
    most: int = Field(
        MOST_DISTINCT, ge=1, le=10_000, description="For `distinct`: so many values are told apart, per key"
    )


class LookupPart(Part):
    """A feature that is looked up in a table or a store."""

    lookup: Slug = Field(description="One of `tables` or `stores`")
    field: Text | None = Field(None, description="Of what is found there; all of it by default")
    type: FieldType | None = Field(None, description="What it is, where the table's schema does not say it")
    default: Constant = Field(None, description="Stands where nothing is found; null by default")


def _kind_of_feature(value: object) -> str:
    if isinstance(value, dict):
        return "a look-up" if "lookup" in value else "a window"
    return "a look-up" if isinstance(value, LookupPart) else "a window" if isinstance(value, WindowPart) else "SQL"


FeaturePart = Annotated[
    Annotated[Sql, Tag("SQL")] | Annotated[WindowPart, Tag("a window")] | Annotated[LookupPart, Tag("a look-up")],
    Discriminator(_kind_of_feature),
]


class WindowsPart(Part):
    """What holds for all features with memory."""

    lateness: Duration = Field(
        timedelta(hours=1), description="How far an event's time may be before the newest one of its key"
    )
    ttl: Duration = Field(timedelta(days=90), description="A key that was not seen for so long is forgotten")
    max_keys: int = Field(
        1_000_000, ge=1_000, le=100_000_000, description="So many keys are remembered in a lane at most"
    )

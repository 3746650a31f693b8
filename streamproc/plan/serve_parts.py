"""The part of the pipeline file about its door for HTTP: what callers are answered, and what is too much."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from streamproc.plan.budgets import Allowed
from streamproc.plan.durations import Duration
from streamproc.plan.parts import Part, Slug, Text


class SafePart(Part):
    """What callers are told where the decision is not there in time."""

    decide: Slug = Field(description="The decision that callers are told at the deadline; the pipeline makes its own")


OnDeadline = Annotated[
    Annotated[Literal["pending"], Tag("pending")] | Annotated[SafePart, Tag("safe")],
    Discriminator(lambda value: "safe" if isinstance(value, dict | SafePart) else "pending"),
]


class ServePart(Part):
    """What callers are answered, and what is too much. It changes nothing that is decided."""

    answer: list[Text] = Field([], description="Fields of the decision that callers are given; all by default")
    deadline: Duration = Field(timedelta(milliseconds=300), description="How long a caller waits for a decision")
    longest: Duration = Field(timedelta(seconds=30), description="The longest deadline that a caller may ask for")
    on_deadline: OnDeadline = Field("pending", description="`pending`, or `{decide: …}`: what is answered then")
    max_lag: Duration | None = Field(None, description="Events are refused (503) where the oldest waits for so long")
    rate: Allowed | None = Field(None, description="Events of one caller: `1000 per 1s`; more are refused (429)")
    requests: int = Field(1_000, ge=1, le=100_000, description="So many requests at once; more are refused (429)")
    event: int = Field(1_000_000, ge=1, le=256 << 20, description="Bytes of an event, which is a line of NDJSON")
    bytes: int = Field(
        64 << 20, ge=1, le=16 << 30, description="Bytes of bodies and events in memory; more are refused"
    )
    timeout: Duration = Field(timedelta(seconds=10), description="A caller who is silent or deaf for so long is left")
    look_back: Duration = Field(
        timedelta(minutes=10), description="So far back a door knows decisions, also those of before its start"
    )
    recent: int = Field(64 << 20, ge=1 << 20, le=16 << 30, description="Bytes of decisions that it knows at most")

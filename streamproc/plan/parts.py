"""What the parts of a pipeline file are made of."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from streamproc.plan.budgets import Share
from streamproc.plan.durations import Duration

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)]
Slug = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Topic = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$", max_length=249)]
Text = Annotated[str, StringConstraints(min_length=1)]


def _as_sql(value: object) -> object:
    """YAML reads ``1`` and ``true`` as values; where an expression stands, they are expressions too."""
    if isinstance(value, bool):
        return str(value).upper()
    return str(value) if isinstance(value, int | float) else value


Sql = Annotated[str, BeforeValidator(_as_sql, json_schema_input_type=str | int | float | bool)]


def _as_version(value: object) -> object:
    """YAML reads ``1`` as a number; as a version it is a name."""
    return str(value) if type(value) is int else value


Version = Annotated[Slug, BeforeValidator(_as_version)]
Constant = bool | int | float | str | None


class Part(BaseModel):
    """A part of the file: unknown keys are errors, strings are not guessed into numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BreakerPart(Part):
    """When a model that keeps failing is not asked for a while."""

    failures: Share = Field(500_000, description="It opens when such a share of the last calls failed: `50%`")
    calls: int = Field(10, ge=1, le=1_000, description="So many last calls")
    wait: Duration = Field(timedelta(seconds=5), description="Until one call tries again")

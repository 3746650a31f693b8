"""How checking looks at a model without knowing what models are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from streamproc.plan.models import PipelineFile

DEFAULT_MODEL = "default"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model file says of itself. ``inputs`` is its number of input columns, where it says so."""

    version: str
    inputs: int | None = None


Inspect: TypeAlias = Callable[[PipelineFile, Path], ModelFacts]
"""Looks at a file's model; raises UserError where it cannot be used."""

"""How checking looks at a model without knowing what models are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from streamproc.core.llm.policy import LlmPlan
from streamproc.plan.models import ModelPart


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model file says of itself. ``inputs`` is its number of input columns, where it says so."""

    version: str
    inputs: int | None = None


Inspect: TypeAlias = Callable[[str, ModelPart, LlmPlan | None, Path, frozenset[str]], ModelFacts]
"""Looks at a model, given its id, what the file says of it, what that means where it is a language model, the file's
folder, and the variables that hold secrets of the file's models; raises UserError where it cannot be used."""

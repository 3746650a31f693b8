"""A pipeline file to a plan, or to everything that is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from streamproc.core.plan import Plan
from streamproc.errors import PipelineError
from streamproc.plan.build import build
from streamproc.plan.document import Document
from streamproc.plan.inspect import Inspect
from streamproc.plan.models import PipelineFile
from streamproc.plan.reader import read
from streamproc.plan.structure import shape


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pipeline file that holds together: its parts as written, their places, and the plan made of them."""

    path: Path
    text: str
    file: PipelineFile
    plan: Plan
    document: Document = field(repr=False, compare=False)


def load_plan(path: Path, inspect: Inspect, *, prompts: bool = True) -> Loaded:
    """Read and check a pipeline file.

    ``inspect`` looks at the model that the file names. Without ``prompts`` those of language models are not read: a
    plan that asks nobody needs none. Raises PipelineError with every problem in the file, UserError where it cannot be
    read, EnvironmentFault where something is missing to check it.
    """
    document = read(path)
    document.prompts = prompts
    file = shape(document)
    plan = build(document, file, inspect) if file is not None else None
    if document.problems:
        raise PipelineError(document.problems)
    if document.fault is not None:
        raise document.fault
    assert file is not None and plan is not None
    return Loaded(path, document.text, file, plan, document)

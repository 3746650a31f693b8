"""A pipeline file to a plan, or to everything that is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamproc.core.plan import Plan
from streamproc.errors import PipelineError
from streamproc.plan.build import Builder, Inspect
from streamproc.plan.document import read
from streamproc.plan.models import PipelineFile
from streamproc.plan.structure import shape


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pipeline file that holds together: its parts as written, and the plan made of them."""

    path: Path
    text: str
    file: PipelineFile
    plan: Plan


def load_plan(path: Path, inspect: Inspect) -> Loaded:
    """Read and check a pipeline file. Raises PipelineError with every problem in it.

    ``inspect`` looks at the model that the file names.
    """
    document = read(path)
    file, dropped = shape(document)
    plan = Builder(document, file, dropped, inspect).build() if file is not None else None
    if document.problems or plan is None or file is None:
        raise PipelineError(document.problems)
    return Loaded(path, path.read_text(encoding="utf-8"), file, plan)

"""Features that are looked up: in which table or store, by what."""

from __future__ import annotations

from streamproc.core.plan import LookupFeature
from streamproc.plan.document import Document
from streamproc.plan.models import LookupPart, PipelineFile
from streamproc.plan.scope import Scope


def make_lookup(document: Document, file: PipelineFile, scope: Scope, name: str) -> LookupFeature | None:
    """The feature of this name; ``None`` where it is wrong, which was told."""
    part = file.features[name]
    assert isinstance(part, LookupPart)
    document.problem(("features", name, "lookup"), f"there is no table and no store `{part.lookup}`", "declare it")
    return None

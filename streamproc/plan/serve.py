"""The part of the file about the door for HTTP: does it name what there is?"""

from __future__ import annotations

import orjson

from streamproc.core.plan import ABSTAIN, UNDECIDING
from streamproc.plan.document import Document
from streamproc.plan.models import PipelineFile
from streamproc.plan.names import near
from streamproc.plan.rules import made_by
from streamproc.plan.serve_parts import SafePart
from streamproc.sample import schema


def fields() -> frozenset[str]:
    """What a decision record has."""
    return frozenset(orjson.loads(schema("decision").read_bytes())["properties"])


def check_serve(document: Document, file: PipelineFile) -> None:
    """Every field that callers are given is one of a decision, and so is what they are told at the deadline."""
    part = file.serve
    known = fields() if part.answer else frozenset()
    for number, name in enumerate(part.answer):
        if name not in known:
            message = f"a decision has no field `{name}`"
            document.problem(("serve", "answer", number), message, near(name, known, "a decision's fields"))
    if part.deadline > part.longest and not document.is_broken(("serve",)):
        document.problem(("serve", "deadline"), "it is more than `longest`", "raise `longest`, or lower it")
    said = part.on_deadline
    at = ("serve", "on_deadline", "decide")
    if isinstance(said, SafePart) and not document.is_broken(at):
        made = (set(made_by(document, file)) | set(file.actions)) - UNDECIDING | {ABSTAIN}
        if said.decide not in made:
            document.problem(at, f"nothing decides `{said.decide}`", near(said.decide, made, "decisions"))

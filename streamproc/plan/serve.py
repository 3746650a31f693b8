"""The part of the file about the door for HTTP: does it name what there is?"""

from __future__ import annotations

from typing import Final

from streamproc.core.plan import ABSTAIN, UNDECIDING
from streamproc.plan.document import Document
from streamproc.plan.models import PipelineFile
from streamproc.plan.names import near
from streamproc.plan.rules import made_by
from streamproc.plan.serve_parts import SafePart

FIELDS: Final = frozenset(
    [
        "id",
        "source",
        "key",
        "time",
        "decision",
        "tier",
        "why",
        "fallback_reason",
        "rule",
        "scored_by",
        "would_be",
        "without_drift",
        "drift_capped",
        "late",
        "rules",
        "reasons",
        "observed",
        "undecided",
        "score",
        "scored",
        "score_reason",
        "confidence",
        "features",
        "pipeline",
        "plan",
        "shadows",
        "model",
        "confidence_hash",
        "revision",
        "supersedes",
        "review",
        "explored",
        "seen",
        "lookups",
    ]
)
"""What a decision record has; schemas/decision.schema.json says what each is."""


def check_serve(document: Document, file: PipelineFile) -> None:
    """Every field that callers are given is one of a decision, and so is what they are told at the deadline."""
    part = file.serve
    for number, name in enumerate(part.answer):
        if name not in FIELDS:
            message = f"a decision has no field `{name}`"
            document.problem(("serve", "answer", number), message, near(name, FIELDS, "a decision's fields"))
    if part.deadline > part.longest and not document.is_broken(("serve",)):
        document.problem(("serve", "deadline"), "it is more than `longest`", "raise `longest`, or lower it")
    said = part.on_deadline
    at = ("serve", "on_deadline", "decide")
    if isinstance(said, SafePart) and not document.is_broken(at):
        known = (set(made_by(document, file)) | set(file.actions)) - UNDECIDING | {ABSTAIN}
        if said.decide not in known:
            document.problem(at, f"nothing decides `{said.decide}`", near(said.decide, known, "decisions"))

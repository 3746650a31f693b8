"""How people review: the part of the file, checked."""

from __future__ import annotations

import base64
import binascii

from streamproc.core.plan import REVIEW, UNDECIDING
from streamproc.core.review.policy import ExplorePlan, ReviewPlan
from streamproc.plan.document import Document, Path_
from streamproc.plan.models import ExplorePart, PipelineFile, ReviewPart
from streamproc.plan.names import near
from streamproc.plan.rules import made_by
from streamproc.plan.scope import Scope

KEY_BYTES = 32
REFUSING = ("decline", "reject", "deny", "refuse", "block")
"""Decisions of such names are against the person whom they are about."""


def make_review(document: Document, file: PipelineFile, scope: Scope) -> ReviewPlan | None:
    """The plan of review. ``scope`` is that of the rules: the priority may read whatever they may."""
    part = file.review
    if part is None:
        return None
    made = set(made_by(document, file))
    choices = (made | set(file.actions)) - UNDECIDING
    at: Path_ = ("review", "on_expiry")
    if not document.is_broken(at):
        if part.on_expiry == REVIEW:
            document.problem(at, "a case that nobody answered cannot go to review again", "write another decision")
        elif part.on_expiry not in file.actions and not document.is_broken(("actions", part.on_expiry)):
            hint = near(part.on_expiry, set(file.actions), "actions")
            remedy = f"{hint}; or add `{part.on_expiry}: TOPIC` under `actions`"
            document.problem(at, f"decision `{part.on_expiry}` has no action topic", remedy)
        elif part.on_expiry.lower().startswith(REFUSING):
            document.warn(
                at,
                f"where nobody answers in time, `{part.on_expiry}` is decided",
                "send it somewhere instead: `on_expiry: escalate`, with a topic under `actions`",
            )
    priority = None
    if part.priority is not None:
        priority = scope.compile(("review", "priority"), part.priority, want="number")
    keys = _keys(document, part)
    if part.require_signature and not part.keys and not document.is_broken(("review", "keys")):
        message = "`require_signature` lets nobody answer: there are no `keys`"
        document.problem(("review", "require_signature"), message, "add the public keys of reviewers under `keys`")
    if part.capacity is not None and part.capacity.count * (part.ttl / part.capacity.period) < 1:
        message = "people answer less than one case within `ttl`"
        document.problem(("review", "capacity"), message, "raise `capacity`, or give them more time with `ttl`")
    return ReviewPlan(
        ttl=part.ttl,
        on_expiry=part.on_expiry,
        choices=frozenset(choices),
        priority=priority,
        audit=part.audit,
        second_opinion=part.second_opinion,
        explore=_explore(document, part.explore, made, file),
        capacity=part.capacity,
        corrections=part.corrections,
        lease=part.lease,
        keep=part.keep,
        keys=keys,
        require_signature=part.require_signature,
    )


def _keys(document: Document, part: ReviewPart) -> dict[str, bytes]:
    keys = dict[str, bytes]()
    for name, text in part.keys.items():
        try:
            keys[name] = public_key(text)
        except ValueError as error:
            document.problem(("review", "keys", name), f"`{name}` is no public key", str(error))
    return keys


def public_key(text: str) -> bytes:
    """An ed25519 key as a file states it: 32 bytes in base64. Raises ValueError for anything else."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(
            "write 32 bytes in base64: `openssl pkey -in KEY.pem -pubout -outform DER | tail -c 32 | base64`"
        )
    return key


def _explore(document: Document, part: ExplorePart | None, made: set[str], file: PipelineFile) -> ExplorePlan | None:
    if part is None:
        return None
    at: Path_ = ("review", "explore")
    if UNDECIDING & {part.instead_of, part.decide}:
        message = "exploring takes the place of a decision that automation makes"
        document.problem(at, message, "name two actions")
    elif part.instead_of not in made:
        hint = near(part.instead_of, made - UNDECIDING, "decisions")
        document.problem((*at, "instead_of"), f"no rule decides `{part.instead_of}`", hint)
    elif part.decide not in file.actions and not document.is_broken(("actions", part.decide)):
        hint = near(part.decide, set(file.actions), "actions")
        document.problem((*at, "decide"), f"decision `{part.decide}` has no action topic", hint)
    elif part.decide == part.instead_of:
        document.problem((*at, "decide"), "that is what was decided anyway", "name another decision")
    return ExplorePlan(part.decide, part.instead_of, part.share, part.budget)

"""What may become of a case: plain transitions, one for each thing that a person says and for time.

open → (claimed) → decided | expired | shed | cancelled, once. What is said of a closed case is told, and changes what
was decided only where corrections are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from streamproc.core.review.case import Case, Claim, Decided, decided, later
from streamproc.core.review.event import ReviewEvent, Step
from streamproc.core.review.policy import ReviewPlan
from streamproc.core.review.revise import Cause, Tier, revised
from streamproc.core.review.said import Said
from streamproc.core.review.sample import verdict_id

Refusal: TypeAlias = Literal["claimed", "lease_lost", "closed", "not_claimed", "no_such_decision", "same_person"]


@dataclass(frozen=True, slots=True)
class Moved:
    """What one step comes to: what is told of it, and the decision that follows, as JSON, with its name."""

    events: tuple[ReviewEvent, ...] = ()
    decision: str | None = None
    record: bytes | None = None


NOTHING = Moved()


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The rules of one pipeline's cases. Every method changes the case that it is given; times are in UTC."""

    pipeline: str
    plan: ReviewPlan

    def opened(self, case: Case, now: datetime) -> Moved:
        """A case is there."""
        return Moved((self._event(case, "opened", now),))

    def ended(self, case: Case, status: Literal["expired", "shed"], now: datetime) -> Moved:
        """Nobody answers an open case: time is up, or too much is waiting. A sample that nobody looked at is over."""
        case.status = status
        if case.kind != "review":
            case.event = None
            return Moved((self._event(case, status, now),))
        decision = self.plan.on_expiry
        moved = self._decide(case, decision, "expiry", status, now)
        return Moved((self._event(case, status, now, decision=decision),), decision, moved)

    def said(self, case: Case, said: Said, signed: bool | None, now: datetime) -> Moved:
        """What a person said about a case."""
        match said.kind:
            case "claim":
                return self._claim(case, said, signed, now)
            case "release":
                return self._release(case, said, signed, now)
            case "cancel":
                return self._cancel(case, said, signed, now)
            case "verdict":
                return self._verdict(case, said, signed, now)

    def _claim(self, case: Case, said: Said, signed: bool | None, now: datetime) -> Moved:
        if not case.is_open:
            return self._refuse(case, said, signed, "closed", now)
        if case.claim is not None and case.claimed(now) and case.claim.by != said.by:
            return self._refuse(case, said, signed, "claimed", now)
        lease = self.plan.lease.total_seconds()
        wanted = min(lease, said.lease or lease)
        until = min(later(now, self.plan.lease * (wanted / lease)), case.deadline)
        if case.claim is None or not case.claimed(now):  # or else the owner goes on under the same number
            case.fences += 1
        case.claim = Claim(said.by, case.fences, until)
        return Moved((self._event(case, "claimed", now, said=said, signed=signed, fence=case.fences, until=until),))

    def _release(self, case: Case, said: Said, signed: bool | None, now: datetime) -> Moved:
        if not case.is_open:
            return self._refuse(case, said, signed, "closed", now)
        if case.claim is None or not case.claimed(now):
            return self._refuse(case, said, signed, "not_claimed", now)
        if case.claim.by != said.by:
            return self._refuse(case, said, signed, "claimed", now)
        case.claim = None
        return Moved((self._event(case, "released", now, said=said, signed=signed),))

    def _cancel(self, case: Case, said: Said, signed: bool | None, now: datetime) -> Moved:
        if not case.is_open:
            return self._refuse(case, said, signed, "closed", now)
        case.status, case.claim, case.event = "cancelled", None, None
        return Moved((self._event(case, "cancelled", now, said=said, signed=signed),))

    def _verdict(self, case: Case, said: Said, signed: bool | None, now: datetime) -> Moved:
        assert said.decision is not None
        verdict = said.verdict or verdict_id(said.id, said.by, said.decision)
        known = verdict_id(said.id, said.by, verdict)
        if known in case.verdicts:
            return NOTHING
        if said.decision not in self.plan.choices:
            return self._refuse(case, said, signed, "no_such_decision", now)
        if case.kind == "second_opinion" and said.by == case.by:
            return self._refuse(case, said, signed, "same_person", now)
        if not case.is_open:
            if case.status != "cancelled":
                case.heard(known)
            return self._again(case, said, signed, verdict, now)
        if (refusal := self._under_claim(case, said, now)) is not None:
            return self._refuse(case, said, signed, refusal, now)
        case.status, case.claim = "decided", None
        case.heard(known)
        event = self._event(case, "decided", now, said=said, signed=signed, verdict=verdict)
        if case.kind == "review":
            record = self._decide(case, said.decision, "reviewer", "verdict", now, said, signed, verdict)
            case.by = said.by
            return Moved((event,), said.decision, record)
        case.event = None
        if case.kind == "audit" and said.decision != case.was and self.plan.corrections:
            record = self._decide(case, said.decision, "reviewer", "correction", now, said, signed, verdict)
            corrected = self._event(case, "corrected", now, said=said, signed=signed, verdict=verdict)
            return Moved((event, corrected), said.decision, record)
        return Moved((event,))

    def _again(self, case: Case, said: Said, signed: bool | None, verdict: str, now: datetime) -> Moved:
        """A verdict on a case that is closed."""
        assert said.decision is not None
        if case.status == "cancelled":
            return self._refuse(case, said, signed, "closed", now)
        if said.decision == (case.answer or case.was):
            return Moved((self._event(case, "confirmed", now, said=said, signed=signed, verdict=verdict),))
        if not self.plan.corrections or case.kind == "second_opinion":
            return Moved((self._event(case, "disagreed", now, said=said, signed=signed, verdict=verdict),))
        event = self._event(case, "corrected", now, said=said, signed=signed, verdict=verdict)
        record = self._decide(case, said.decision, "reviewer", "correction", now, said, signed, verdict)
        return Moved((event,), said.decision, record)

    def _under_claim(self, case: Case, said: Said, now: datetime) -> Refusal | None:
        """Why an answer does not count: it was given under a claim that does not hold, or somebody else's does."""
        claim = case.claim
        if said.fence is not None:
            mine = claim is not None and claim.fence == said.fence and claim.by == said.by
            return None if mine and case.claimed(now) else "lease_lost"
        return "claimed" if claim is not None and case.claimed(now) and claim.by != said.by else None

    def _decide(
        self,
        case: Case,
        decision: str,
        tier: Tier,
        why: Cause,
        now: datetime,
        said: Said | None = None,
        signed: bool | None = None,
        verdict: str | None = None,
    ) -> bytes:
        """Make the case's next decision, and remember it."""
        by, note = (None, None) if said is None else (said.by, said.note)
        record = revised(case, decision, tier, why, now, by=by, verdict=verdict, signed=signed, note=note)
        case.answer, case.tier, case.revision = decision, tier, case.revision + 1
        return record

    def _refuse(self, case: Case, said: Said, signed: bool | None, reason: Refusal, now: datetime) -> Moved:
        verdict = said.verdict if said.kind == "verdict" else None
        return Moved((self._event(case, "refused", now, said=said, signed=signed, verdict=verdict, reason=reason),))

    def _event(
        self,
        case: Case,
        step: Step,
        now: datetime,
        *,
        said: Said | None = None,
        signed: bool | None = None,
        verdict: str | None = None,
        decision: str | None = None,
        fence: int | None = None,
        until: datetime | None = None,
        reason: str | None = None,
    ) -> ReviewEvent:
        about: Decided = decided(case.decision)
        return ReviewEvent(
            item=case.item,
            id=case.id,
            pipeline=self.pipeline,
            plan=about.plan,
            step=step,
            kind=case.kind,
            time=now,
            event_time=about.time,
            opened=case.opened,
            deadline=case.deadline,
            was=case.was,
            would_be=about.would_be,
            tier=about.tier,
            rule=about.rule,
            priority=case.priority,
            share=case.share,
            decision=decision if said is None else said.decision,
            by=None if said is None else said.by,
            signed=signed,
            verdict=verdict,
            fence=fence if said is None or fence is not None else said.fence,
            until=until,
            reason=reason,
            note=None if said is None else said.note,
        )

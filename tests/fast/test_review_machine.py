"""The life of cases under random handling, held against a plain book of what should happen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streamproc.core.review.processor import MARGIN
from tests.fast.review_lane import HOUR, PLAN, Lane, case, decision_id, said

PEOPLE = ("ada", "bob")
CHOICES = ("approve", "decline")
CASES = range(1, 4)
MINUTE = timedelta(minutes=1)
ENDS = ("decided", "expired", "cancelled")


@dataclass
class Entry:
    """One case as the book has it."""

    deadline: datetime
    answer: str | None = None
    over: str | None = None
    owner: str | None = None
    claimant: str | None = None
    """Who claimed it last, whether that holds or not."""
    until: datetime | None = None
    fence: int = 0
    revision: int = 0
    closed: datetime | None = None


class Reviewing(RuleBasedStateMachine):
    """Every word that people may say, in any order, with time passing between."""

    @initialize(corrections=st.booleans())
    def begin(self, corrections: bool) -> None:
        self.lane = Lane(replace(PLAN, ttl=HOUR, lease=10 * MINUTE, corrections=corrections, keep=100 * HOUR))
        self.book: dict[int, Entry] = {}
        self.expected: list[tuple[str, str, str | None]] = []
        """Item, step and reason."""
        self.made: list[tuple[str, str, str, int]] = []
        """Item, decision, tier and revision."""

    @rule(number=st.sampled_from(CASES))
    def opens(self, number: int) -> None:
        self._pass_time(timedelta(0))
        if number not in self.book:
            self.book[number] = Entry(self.lane.now + HOUR)
            self._tell(number, "opened")
        self.lane.give(case(number))

    @rule(minutes=st.sampled_from((1, 9, 11, 30)))
    def time_passes(self, minutes: int) -> None:
        self._pass_time(minutes * MINUTE)

    @rule(
        number=st.sampled_from(CASES),
        by=st.sampled_from(PEOPLE),
        choice=st.sampled_from(CHOICES),
        fence=st.none() | st.integers(1, 3),
    )
    def answers(self, number: int, by: str, choice: str, fence: int | None) -> None:
        self._answer(number, by, choice, fence)

    @rule(number=st.sampled_from(CASES), choice=st.sampled_from(CHOICES))
    def whoever_claimed_last_answers(self, number: int, choice: str) -> None:
        entry = self.book.get(number)
        if entry is not None and entry.claimant is not None:
            self._answer(number, entry.claimant, choice, entry.fence)

    def _answer(self, number: int, by: str, choice: str, fence: int | None) -> None:
        self._pass_time(timedelta(0))
        entry = self.book.get(number)
        verdict = f"{number}-{by}-{choice}-{len(self.expected)}"
        self.lane.give(said(number, by=by, decision=choice, fence=fence, verdict=verdict))
        if entry is None:
            return
        if entry.over == "cancelled":
            self._tell(number, "refused", "closed")
        elif entry.over is not None:
            if choice == entry.answer:
                self._tell(number, "confirmed")
            elif self.lane.plan.corrections:
                self._tell(number, "corrected")
                self._make(number, choice, "reviewer")
            else:
                self._tell(number, "disagreed")
        elif fence is not None and not (self._claimed(entry) and (entry.owner, entry.fence) == (by, fence)):
            self._tell(number, "refused", "lease_lost")
        elif fence is None and self._claimed(entry) and entry.owner != by:
            self._tell(number, "refused", "claimed")
        else:
            entry.over = "decided"
            self._tell(number, "decided")
            self._make(number, choice, "reviewer")
        before = len(self.lane.sent["t.review-events"])
        self.lane.give(said(number, by=by, decision=choice, fence=fence, verdict=verdict))
        repeated = self.lane.sent["t.review-events"][before:]
        if repeated:  # what was refused may be said again, and is refused again
            assert [one["step"] for one in repeated] == ["refused"] == [self.expected[-1][1]]
            self.expected.append(self.expected[-1])

    @rule(number=st.sampled_from(CASES), by=st.sampled_from(PEOPLE))
    def claims(self, number: int, by: str) -> None:
        self._pass_time(timedelta(0))
        self.lane.give(said(number, by=by, kind="claim"))
        entry = self.book.get(number)
        if entry is None:
            return
        if entry.over is not None:
            self._tell(number, "refused", "closed")
        elif self._claimed(entry) and entry.owner != by:
            self._tell(number, "refused", "claimed")
        else:
            entry.fence += not self._claimed(entry)
            entry.claimant = entry.owner = by
            entry.until = min(self.lane.now + 10 * MINUTE, entry.deadline)
            self._tell(number, "claimed")

    @rule(number=st.sampled_from(CASES), by=st.sampled_from(PEOPLE))
    def gives_back(self, number: int, by: str) -> None:
        self._pass_time(timedelta(0))
        self.lane.give(said(number, by=by, kind="release"))
        entry = self.book.get(number)
        if entry is None:
            return
        if entry.over is not None:
            self._tell(number, "refused", "closed")
        elif not self._claimed(entry):
            self._tell(number, "refused", "not_claimed")
        elif entry.owner != by:
            self._tell(number, "refused", "claimed")
        else:
            entry.owner = entry.until = None
            self._tell(number, "released")

    @rule(number=st.sampled_from(CASES))
    def is_cancelled(self, number: int) -> None:
        self._pass_time(timedelta(0))
        self.lane.give(said(number, kind="cancel"))
        entry = self.book.get(number)
        if entry is None:
            return
        if entry.over is not None:
            self._tell(number, "refused", "closed")
        else:
            entry.over = "cancelled"
            self._tell(number, "cancelled")

    @invariant()
    def what_was_told_is_what_the_book_says(self) -> None:
        if not hasattr(self, "lane"):
            return
        events = self.lane.sent["t.review-events"]
        assert [(one["item"], one["step"], one["reason"]) for one in events] == self.expected
        decisions = self.lane.sent["t.decisions"]
        assert [(one["id"], one["decision"], one["tier"], one["revision"]) for one in decisions] == self.made
        acted = sum(len(values) for topic, values in self.lane.sent.items() if topic.endswith(("als", "nes", "ions")))
        assert acted - len(decisions) == len(decisions)  # each decision is one action

    def teardown(self) -> None:
        if not hasattr(self, "lane"):
            return
        self._pass_time(2 * HOUR)
        self.what_was_told_is_what_the_book_says()
        for number in self.book:
            item = decision_id(number)
            steps = [one["step"] for one in self.lane.sent["t.review-events"] if one["item"] == item]
            assert sum(step in ENDS for step in steps) == 1
        self.lane.wait(200 * HOUR)
        assert not len(self.lane.tables) or set(dict(self.lane.tables.items("agenda"))) == {b"load"}

    def _pass_time(self, span: timedelta) -> None:
        """What is due by now is ended by whatever comes next; by time alone it is a little later."""
        until = self.lane.now + span - (MARGIN if span else timedelta(0))
        due = [(entry.deadline, number) for number, entry in self.book.items() if entry.over is None]
        for deadline, number in sorted(due, key=lambda one: one[0]):
            if deadline <= until:
                self.book[number].over = "expired"
                self._tell(number, "expired")
                self._make(number, "escalate", "expiry")
        self.lane.wait(span)
        if not span:
            self.lane.give(b"{")  # a record without a meaning, at this time

    def _claimed(self, entry: Entry) -> bool:
        return entry.until is not None and self.lane.now < entry.until

    def _tell(self, number: int, step: str, reason: str | None = None) -> None:
        self.expected.append((decision_id(number), step, reason))

    def _make(self, number: int, choice: str, tier: str) -> None:
        entry = self.book[number]
        entry.answer, entry.revision = choice, entry.revision + 1
        self.made.append((decision_id(number), choice, tier, entry.revision))


Reviewing.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestReviewing = Reviewing.TestCase

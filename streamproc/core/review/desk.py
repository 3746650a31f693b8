"""One lane's cases while a batch is worked on: what is read, what changes, and what goes out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from streamproc.core.outbox import Outbox
from streamproc.core.processor import Effects, Headers, Records, State
from streamproc.core.records import CAME_FROM, SIGNED, TYPE, TYPED, DeadLetter, Source, Topics, headers_for, lane_of
from streamproc.core.review import event, load
from streamproc.core.review.case import Case, Opening, decided, encode, later, read, read_opening
from streamproc.core.review.lifecycle import Lifecycle, Moved
from streamproc.core.review.load import Load
from streamproc.core.review.policy import MILLION, ReviewPlan
from streamproc.core.review.revise import item_value
from streamproc.core.review.said import SECOND, Said, loads
from streamproc.core.review.sample import chosen
from streamproc.core.review.waiting import EPOCH, Queues

CASES: Final = "cases"
AGENDA: Final = "agenda"
TABLES: Final = (CASES, AGENDA)
LOAD: Final = b"load"
LATEST: Final = 253_370_764_800_000
"""The year 9999, in milliseconds since the epoch."""
AT_ONCE: Final = 1_000
"""So many cases end in one batch at most: each sends several records, and a transaction has to end."""
STAGE: Final = "review"


class Desk:
    """Times are in UTC. ``effects`` is asked for once, at the end."""

    def __init__(self, pipeline: str, plan: ReviewPlan, actions: Mapping[str, str | None], state: State) -> None:
        self._pipeline, self._plan, self._actions = pipeline, plan, actions
        self._state, self._now, self._topics = state, EPOCH, Topics.of(pipeline)
        self._lifecycle = Lifecycle(pipeline, plan)
        self._cases: dict[str, Case | None] = {}
        self._before: dict[str, bytes | None] = {}
        self._new: list[Case] = []
        self._due, self._kept = Queues(state, AGENDA, "due"), Queues(state, AGENDA, "kept")
        [self._load_before] = state.get_many(AGENDA, [LOAD])
        self._load = Load.read(self._load_before)
        self._out, self._left = Outbox(), AT_ONCE
        self._counts: dict[tuple[str, str], int] = {}

    def expire(self, now: datetime) -> None:
        """It is ``now``: end what is due, and forget what was closed long enough ago; part of it, where it is much."""
        self._now = now
        for item in self._due.due(self._now, self._left):
            self._left -= 1
            if (case := self._case(item)) is not None:
                self._end_if_late(case)
        for item in self._kept.due(self._now, self._left):
            self._left -= 1
            self._case(item)
            self._cases[item] = None

    def _end_if_late(self, case: Case) -> None:
        if case.is_open and case.deadline <= self._now:
            self._move(case, self._lifecycle.ended(case, "expired", self._now))

    def take(self, records: Records) -> None:
        """Work through records of the topic of cases, in their order, each at the time at which the broker took it.

        So an answer is in time if it was, however late we are.
        """
        offsets, stamps = records.offsets.tolist(), records.timestamps.tolist()
        columns = zip(records.keys, records.values, records.headers, offsets, stamps, strict=True)
        for key, value, headers, offset, timestamp in columns:
            named = dict(headers)
            self.expire(EPOCH + timedelta(milliseconds=min(max(timestamp, 0), LATEST)))
            source = Source(records.topic, records.partition, offset, timestamp)
            try:
                if (came_from := named.get(CAME_FROM)) is not None:
                    source = Source.of(came_from.decode())
                read = read_opening(value or b"") if named.get(TYPE) == b"case" else loads(value or b"")
            except ValueError as error:
                letter = DeadLetter(STAGE, "malformed", detail=str(error))
            else:
                if isinstance(read, Opening):
                    self._open(key, read, headers)
                    continue
                if (case := self._case(read.id)) is not None:
                    self._hear(case, read, signed=named.get(SIGNED) == b"1")
                    continue
                detail = f"no case {read.id} is open, or was closed so recently that it is remembered"
                letter = DeadLetter(STAGE, "no_such_item", "$.id", detail)
            told = letter.headers(self._pipeline, source, headers)
            self._out.to_lane(self._topics.dead_letters, records.partition, key, value, told)
            self._count("dead_letters", letter.reason)

    def shed(self, most: int | None) -> None:
        """Let go of what is least urgent, where more than ``most`` cases wait; then show the new ones to people."""
        for _, item in list(self._load.ranked) if most is not None else ():
            if most is None or not self._load.too_many(most):
                break
            case = self._case(item)
            if case is not None and case.is_open and not case.claimed(self._now):
                self._move(case, self._lifecycle.ended(case, "shed", self._now))
        for case in self._new:
            if case.is_open:
                self._show(case)

    def effects(self, margin: timedelta) -> Effects:
        """All that follows; what falls due wakes the lane ``margin`` later."""
        cases: dict[bytes, bytes | None] = {}
        for item, case in self._cases.items():
            value = None if case is None else encode(case)
            if value != self._before[item]:
                cases[item.encode()] = value
        agenda = self._due.kept() | self._kept.kept()
        if (loaded := load.encode(self._load)) != self._load_before and (self._load_before or self._load.waiting):
            agenda[LOAD] = loaded
        times = [time for time in (self._due.next(), self._kept.next()) if time is not None]
        return Effects(
            records=self._out.outputs(),
            state={name: changes for name, changes in ((CASES, cases), (AGENDA, agenda)) if changes},
            wake_at=min(times) + margin if times else None,
            counts=self._counts,
        )

    def _open(self, key: bytes | None, opening: Opening, headers: Headers) -> None:
        if self._case(opening.id) is not None:
            self._count("review_refused", "opened_again")  # its event was decided again, after a reset
            return
        about = decided(opening.decision)
        passed = headers_for("case", headers)[len(TYPED["case"]) :]
        self._begin(
            Case(
                item=opening.id,
                id=opening.id,
                kind=opening.kind,
                status="open",
                opened=self._now,
                deadline=later(self._now, self._plan.ttl),
                priority=opening.priority,
                share=opening.share,
                was=about.decision,
                tier=about.tier,
                key=key,
                passed=passed,
                decision=bytes(opening.decision),
                event=bytes(opening.event),
            )
        )

    def _begin(self, case: Case) -> None:
        self._cases[case.item] = case
        self._before.setdefault(case.item, None)
        self._new.append(case)
        self._due.push(self._now, self._plan.ttl, case.item)
        self._load.opened(case)
        self._tell(case, self._lifecycle.opened(case, self._now))

    def _hear(self, case: Case, said: Said, *, signed: bool) -> None:
        self._end_if_late(case)
        moved = self._lifecycle.said(case, said, signed, self._now)
        self._move(case, moved)
        if case.kind == "review" and any(told.step == "decided" for told in moved.events):
            self._second_opinion(case)

    def _second_opinion(self, case: Case) -> None:
        """Ask somebody else the same, of a sample of what people decide; the case lets go of its event either way."""
        share, event = self._plan.second_opinion, case.event
        case.event = None
        if share is None or event is None or not chosen([case.id], share, "second_opinion")[0]:
            return
        assert case.answer is not None
        self._begin(
            Case(
                item=case.id + SECOND,
                id=case.id,
                kind="second_opinion",
                status="open",
                opened=self._now,
                deadline=later(self._now, self._plan.ttl),
                priority=case.priority,
                share=share / MILLION,
                was=case.answer,
                tier=case.tier,
                by=case.by,
                key=case.key,
                passed=case.passed,
                decision=case.decision,
                event=event,
            )
        )

    def _move(self, case: Case, moved: Moved) -> None:
        """A step of an open or closed case is done: tell it, and act on it."""
        self._tell(case, moved)
        for told in moved.events:
            if told.step in event.CLOSING:
                self._load.closed(case)
                self._kept.push(self._now, self._plan.keep, case.item)
                if told.step != "decided":
                    case.event = None

    def _tell(self, case: Case, moved: Moved) -> None:
        lane = lane_of(case.id)
        assert lane is not None
        for told in moved.events:
            headers = TYPED["review-event"] + case.passed
            self._out.to_lane(self._topics.review_events, lane, case.key, event.encode(told), headers)
            self._count("review_steps", told.step)
            if told.reason is not None:
                self._count("review_refused", told.reason)
        if moved.decision is not None:
            headers = TYPED["decision"] + case.passed
            self._out.to_lane(self._topics.decisions, lane, case.key, moved.record, headers)
            self._count("decisions", moved.decision)
            self._count("tiers", case.tier)
            if (topic := self._actions.get(moved.decision)) is not None:
                self._out.by_key(topic, case.key, moved.record, headers)

    def _show(self, case: Case) -> None:
        lane = lane_of(case.id)
        assert lane is not None
        value = item_value(case, self._plan.hidden)
        self._out.to_lane(self._topics.review, lane, case.key, value, TYPED["review-item"] + case.passed)

    def _case(self, item: str) -> Case | None:
        if item not in self._cases:
            [raw] = self._state.get_many(CASES, [item.encode()])
            self._before[item] = raw
            self._cases[item] = None if raw is None else read(raw)
        return self._cases[item]

    def _count(self, name: str, label: str) -> None:
        self._counts[name, label] = self._counts.get((name, label), 0) + 1

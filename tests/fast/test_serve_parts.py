"""The parts of the door for HTTP that need neither a socket nor a broker."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc.core.contract import Contract
from streamproc.core.contract.contract import SEVERAL
from streamproc.core.partitioner import partitions
from streamproc.core.records import DeadLetter
from streamproc.core.repartition import key_text
from streamproc.core.review.policy import Allowance
from streamproc.core.sensitive import Masker
from streamproc.errors import PipelineError, UserError
from streamproc.kafka.admin import TopicInfo
from streamproc.pipeline import open_pipeline
from streamproc.plan.serve_parts import ServePart
from streamproc.serve.answers import ENTRY_BYTES, Answers, Decided, digest_of, id_of
from streamproc.serve.bodies import lines
from streamproc.serve.callers import ANYBODY, MOST_CALLERS, SCOPES, VARIABLE, Caller, Keys, Rates, read_keys
from streamproc.serve.events import Checker, Incoming, partitions_of, trace_headers
from streamproc.serve.problems import Problem
from streamproc.serve.settings import ServeSettings
from streamproc.serve.taking import checked
from streamproc.serve.unchanged import compare
from tests.fast.plans import SCHEMA, make_plan

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
)
EVENTS = st.dictionaries(
    st.sampled_from([*SCHEMA["properties"], "other"]), st.one_of(SCALARS, st.dictionaries(st.text(max_size=4), SCALARS))
)
LOOSE = {"type": "object", "properties": {"id": {"type": "integer"}, "name": {"enum": ["a", "b"]}, "ok": {"const": 1}}}


@given(event=st.one_of(EVENTS, SCALARS), schema=st.sampled_from([SCHEMA, LOOSE]))
def test_one_event_is_checked_as_a_batch_is(event: Any, schema: Any) -> None:
    try:
        raw = orjson.dumps(event)
    except TypeError:  # an integer of more than 64 bits
        raw = str(event).replace("'", '"').encode()
    contract = Contract(schema)
    refused = contract.read([raw]).refused.get(0)
    checked = contract.check(raw)
    assert (checked if isinstance(checked, DeadLetter) else None) == refused


NUMBERS = st.one_of(st.integers(2**53 - 2, 2**53 + 2), st.floats(allow_nan=False, allow_infinity=False), SCALARS)


@given(
    events=st.lists(st.one_of(EVENTS, SCALARS, st.builds(lambda n: {"id": n, "amount": n}, NUMBERS)), max_size=6),
    schema=st.sampled_from([SCHEMA, LOOSE]),
)
def test_many_events_are_picked_from_as_one_by_one(events: list[Any], schema: Any) -> None:
    contract = Contract(schema)
    values = []
    for event in events:
        with suppress(TypeError):  # an integer of more than 64 bits
            values.append(orjson.dumps(event))
    wanted = [("id",), ("name",)] if schema is LOOSE else [("id",), ("amount",)]
    numbers, picked, refused = contract.pick([*values, *[b"{}"] * SEVERAL], wanted)
    few = [contract.pick([value], wanted) for value in values]
    assert [number for number in numbers if number < len(values)] == [n for n, (one, _, _) in enumerate(few) if one]
    assert {number: one for number, one in refused.items() if number < len(values)} == {
        number: one[0] for number, (_, _, one) in enumerate(few) if one
    }
    for path, several in enumerate(picked):
        texts = [key_text(value) for number, value in zip(numbers, several, strict=True) if number < len(values)]
        assert texts == [key_text(found[path][0]) for one, found, _ in few if one]


def incoming(checker: Checker, event: Any, caller: str = "ada", key: str | None = None) -> Incoming:
    [found] = checker.check([orjson.dumps(event)], caller, [key])
    assert isinstance(found, Incoming)
    return found


def test_an_events_own_id_is_everybodys_and_a_callers_key_is_the_callers() -> None:
    checker = Checker(make_plan(id="id", dedupe=timedelta(hours=1)), None)
    own = incoming(checker, {"id": 7}, "ada", "x")
    assert own.id == "7" and own.repeatable
    assert own.digest == incoming(checker, {"id": 7, "name": "other"}, "bob").digest
    without = Checker(make_plan(), None)
    mine, theirs = (incoming(without, {"id": 7}, caller, "x") for caller in ("ada", "bob"))
    assert mine.id == theirs.id == "x" and mine.digest != theirs.digest
    assert mine.digest == incoming(without, {"id": 8}, "ada", "x").digest
    made = incoming(without, {"id": 7})
    assert not made.repeatable and made.digest != incoming(without, {"id": 7}).digest


def test_a_sensitive_id_is_not_guessed_from_its_digest() -> None:
    plan = make_plan(id="id", dedupe=timedelta(hours=1), sensitive=frozenset({"id"}))
    digests = [incoming(Checker(plan, Masker(key)), {"id": 7}).digest for key in (b"a" * 32, b"b" * 32)]
    assert len(set(digests)) == 2


def test_events_go_where_their_key_says_or_else_where_their_id_says() -> None:
    keyed = Checker(make_plan(key="name"), None)
    named = [incoming(keyed, {"id": 1, "name": name}) for name in ("foobar", "a", "bc")]
    assert partitions_of(named, 7) == partitions([b"foobar", b"a", b"bc"], 7, 0).tolist()
    keyless = Checker(make_plan(id="id", dedupe=timedelta(hours=1)), None)
    same = [incoming(keyless, {"id": 1, "amount": number}) for number in range(20)]
    assert len(set(partitions_of(same, 50))) == 1
    anywhere = Checker(make_plan(), None)
    assert len(set(partitions_of([incoming(anywhere, {"id": 1})] * 200, 50))) > 1


def test_an_event_is_no_larger_with_its_key_than_its_topic_takes() -> None:
    door: Any = SimpleNamespace(checker=Checker(make_plan(key="name"), None), part=ServePart(), largest=1_000)
    fits, large = (orjson.dumps({"id": 1, "name": "n" * size}) for size in (450, 550))
    taken, refused, none = checked(door, ANYBODY, [fits, large, None], [None] * 3)
    assert isinstance(taken, Incoming)
    assert isinstance(refused, DeadLetter) and refused.reason == "too_large" and len(large) < 1_000
    assert isinstance(none, DeadLetter) and none.reason == "too_large"


def test_malformed_trace_context_is_left_out() -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    assert trace_headers({"traceparent": parent, "tracestate": "x=1"}) == (
        ("traceparent", parent.encode()),
        ("tracestate", b"x=1"),
    )
    assert trace_headers({"traceparent": parent, "tracestate": "\x01"}) == (("traceparent", parent.encode()),)
    assert trace_headers({"traceparent": "00-xyz", "tracestate": "x=1"}) == ()


def record(number: int, size: int = 100, **more: Any) -> bytes:
    return orjson.dumps({"id": f"0-{number:024x}", "pad": "x" * size, **more})


def one_id(number: int) -> str:
    found = id_of(record(number))
    assert found is not None
    return found


def test_decisions_of_late_are_bounded_and_the_newest_stay() -> None:
    answers = Answers(10 * (ENTRY_BYTES + 200))
    for number in range(100):
        answers.decided(record(number), number, f"event-{number}", None)
        answers.decided(record(number, revision=1), number, None, None)
        assert answers.size <= 10 * (ENTRY_BYTES + 200)
    assert answers.by_event("event-99") and not answers.by_event("event-3")
    assert answers.newest(one_id(3)) is None
    kept = [number for number in range(100) if answers.by_id(one_id(number))]
    assert kept == list(range(kept[0], 100)) and len(kept) > 3
    answers.decided(record(200, size=10**6), 0, "large", None)
    assert answers.size == 0 and answers.by_event("large") is None


def test_a_repeat_is_answered_by_the_first_decision_and_a_question_by_the_newest() -> None:
    answers = Answers(1 << 20)
    answers.decided(record(1), 1, "event", None)
    answers.decided(record(1, revision=1), 2, "event", None)
    assert answers.by_event("event") == Decided(one_id(1), record(1), 1)
    assert answers.by_event("event", oldest=2) is None
    assert answers.newest(one_id(1)) == Decided(one_id(1), record(1, revision=1), 2)


def test_a_revision_answers_no_event() -> None:
    """After a start it may be the first record of its decision that a door reads."""
    answers = Answers(1 << 20)
    answers.decided(record(1, revision=2), 2, "event", None)
    assert answers.by_event("event") is None
    assert answers.newest(one_id(1)) is not None


@pytest.mark.parametrize("value", [b"", b'{"id":"', b'{"id":"0-1', b'{"id":"\xff"}', b'{"id":""}', b"[]"])
def test_what_is_no_decision_is_passed_over(value: bytes) -> None:
    answers = Answers(1 << 20)
    answers.decided(value, 1, "event", None)
    assert answers.size == 0 and answers.by_event("event") is None


def test_headers_are_digests_or_nothing() -> None:
    assert digest_of(b"0a" * 16) == "0a" * 16
    assert [digest_of(one) for one in (None, b"", b"\xff", b"0a" * 17, b"0A" * 16, b"x" * 10**6)] == [None] * 6


def test_all_who_wait_for_an_event_are_told_and_forgotten() -> None:
    async def run() -> None:
        answers = Answers(1 << 20)
        with (
            answers.wait_for("event") as first,
            answers.wait_for("event") as second,
            answers.wait_for("other") as other,
        ):
            assert answers.waiting == 3
            answers.decided(record(1), 1, "event", None)
            answers.refused(DeadLetter("contract", "no"), "event")  # the first answer holds
            assert first.result() == second.result() == Decided(one_id(1), record(1), 1)
            answers.refused(DeadLetter("contract", "no"), "other")
            assert other.result() == DeadLetter("contract", "no")
        assert answers.waiting == 0

    asyncio.run(run())


class Content:
    """The body of a request, in parts."""

    def __init__(self, parts: list[bytes]) -> None:
        self.content, self._parts = self, deque(part for part in parts if part)

    async def readany(self) -> bytes:
        return self._parts.popleft() if self._parts else b""


async def read_lines(parts: list[bytes], most: int) -> tuple[list[tuple[int, bytes | None]], list[int]]:
    """The lines of a body that comes in parts, and how many bytes were held after each change."""
    held, after = 0, list[int]()

    def hold(_: Any, size: int) -> None:
        nonlocal held
        held += size
        after.append(held)

    content: Any = Content(parts)
    return [found async for found in lines(content, most, 1.0, hold)], after


@given(st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=12), st.data())
def test_lines_are_the_same_however_they_come(given_lines: list[bytes], data: Any) -> None:
    body, most = b"\n".join(given_lines), 8
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    parts = [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    expected = [
        (number, None if len(line) > most else line.strip())
        for number, line in enumerate(given_lines, 1)
        if len(line) > most or line.strip()
    ]

    found, held = asyncio.run(read_lines(parts, most))
    assert found == expected
    kept, unfinished = sum(len(line or b"") for _, line in found), len(given_lines[-1]) if given_lines else 0
    assert not held or (kept <= held[-1] + unfinished and held[-1] <= kept + min(most, unfinished))


def test_lines_that_are_empty_or_too_long_hold_nothing() -> None:
    found, held = asyncio.run(read_lines([b" \n" * 100, b"x" * 300, b"x" * 300, b"\n\n"] * 50, 8))
    assert [line for _, line in found] == [None] * 50
    assert held[-1] == 0 and max(held) <= 300


def test_a_long_line_in_many_parts_takes_time_by_its_length() -> None:
    """Of eight times the length, not 64 times the time."""

    def seconds(parts: int) -> float:
        given_parts, began = [b"x" * 256] * parts, time.process_time()
        found, _ = asyncio.run(read_lines(given_parts, 1 << 30))
        assert len(found) == 1 and len(found[0][1] or b"") == parts * 256
        return time.process_time() - began

    assert min(seconds(16_384) for _ in range(2)) < 30 * min(seconds(2_048) for _ in range(3))


def test_a_body_that_comes_too_slowly_is_left_however_steadily_it_comes() -> None:
    class Dripping:
        content: Any

        async def readany(self) -> bytes:
            await asyncio.sleep(0.01)
            return b"x"

    dripping = Dripping()
    dripping.content = dripping

    async def read() -> None:
        async with asyncio.timeout(60):
            async for _ in lines(dripping, 1 << 20, 0.1, lambda *_: None):  # type: ignore[arg-type]
                pass

    with pytest.raises(Problem, match="more slowly than 500 bytes"):
        asyncio.run(read())


def test_a_caller_who_stops_in_the_middle_of_a_body_is_left() -> None:
    class Silent:
        content: Any

        async def readany(self) -> bytes:
            await asyncio.Event().wait()
            return b""

    silent = Silent()
    silent.content = silent

    async def read() -> None:
        async for _ in lines(silent, 8, 0.01, lambda *_: None):  # type: ignore[arg-type]
            pass

    with pytest.raises(Problem, match="nothing came"):
        asyncio.run(read())


def test_keys_are_known_by_their_hashes(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"s3cret").hexdigest()
    file = tmp_path / "keys"
    file.write_text(f"# who\nada {digest} events,decisions\n\nbob {'0' * 64}\n")
    keys = read_keys(file, {})
    caller = keys.caller("s3cret")
    assert caller is not None and caller.name == "ada" and caller.scopes == {"events", "decisions"}
    assert keys.caller("other") is None and keys.caller(None) is None and keys.caller("\udcff") is None
    assert Keys().caller(None) is ANYBODY and ANYBODY.scopes == set(SCOPES)
    of_environment = read_keys(None, {VARIABLE: f"ada {digest};bob {'0' * 64}"})
    assert [caller.name for _, caller in of_environment.known] == ["ada", "bob"]


@pytest.mark.parametrize("line", ["ada s3cret", "ada " + "0" * 64 + " everything", "0" * 64, ""])
def test_a_file_of_keys_that_is_none_is_refused_without_showing_it(line: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(line)
    with pytest.raises(UserError) as refused:
        read_keys(file, {})
    assert "s3cret" not in str(refused.value) + refused.value.hint


def test_a_caller_sends_what_it_may_and_is_told_when_more() -> None:
    rates, second, ada = Rates(Allowance(10, timedelta(seconds=1))), 1_000_000, Caller("ada")
    assert rates.take(ada, 10, 0) == 0
    assert rates.take(ada, 5, 0) == second // 2
    assert rates.take(ANYBODY, 5, 0) == 0  # another caller's allowance is another
    assert rates.take(ada, 5, second // 2) == 0
    assert rates.take(ada, 100, second) == second // 2  # more than it may at once: when nothing is gone
    assert rates.take(ada, 100, second * 3 // 2) == 0
    assert rates.take(ada, 1, second * 2) == second * 86 // 10  # 100 are gone, and 10 come back in a second
    assert Rates(None).take(ada, 10**9, 0) == 0


def test_callers_who_are_known_are_bounded() -> None:
    rates = Rates(Allowance(1, timedelta(hours=1)))
    waits = [rates.take(Caller(str(number % (MOST_CALLERS + 1))), 1, 0) for number in range(MOST_CALLERS + 2)]
    assert waits == [0] * len(waits), "the first was forgotten"


def test_nobody_serves_a_network_without_keys_by_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no API keys"):
        ServeSettings(host="0.0.0.0").check(Keys())
    ServeSettings(host="0.0.0.0", keyless=True).check(Keys())
    ServeSettings(host="127.0.0.1").check(Keys())
    with pytest.raises(UserError, match="TLS needs a certificate"):
        ServeSettings(client_ca=tmp_path / "ca.pem").tls()


@pytest.mark.parametrize(
    ("serve", "problem"),
    [
        ("{answer: [id, decison]}", "no field `decison`"),
        ("{on_deadline: {decide: aprove}}", "nothing decides `aprove`"),
        ("{deadline: 2m}", "more than `longest`"),
        ("{on_deadline: never}", "`on_deadline` cannot be `never`"),
        ("{max_lag: 5}", "needs a unit"),
    ],
)
def test_what_is_wrong_with_the_part_is_told_at_load(serve: str, problem: str, tmp_path: Path) -> None:
    folder = Path(__file__).parent / "broken"
    (tmp_path / "event.schema.json").write_bytes((folder / "event.schema.json").read_bytes())
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        "pipeline: payments\n"
        "events: {topic: payments.events, schema: event.schema.json, key: id}\n"
        "rules:\n  - {id: rest, decide: approve}\n"
        "actions: {approve: payments.approved}\n"
        f"serve: {serve}\n"
    )
    with pytest.raises(PipelineError) as refused:
        open_pipeline(file, masked=False)
    assert problem in str(refused.value)


@pytest.mark.parametrize(("before", "now", "fits"), [("a", "a", 1), ("a", "b", 0), ("a", "", 1), ("", "b", 1)])
def test_a_topic_without_an_id_may_be_the_same(before: str, now: str, fits: bool) -> None:
    infos = [
        TopicInfo(name="t", partitions=2, topic_id=one, replication=1, configs={}, has_leaders=True)
        for one in (before, now)
    ]
    with nullcontext() if fits else pytest.raises(UserError, match="made anew"):
        compare(*infos, of_lanes=True)

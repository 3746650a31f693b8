"""Two versions of a prompt on labelled events: what is counted of them, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from streamproc.cli import cli
from streamproc.core.outcomes.paired import Paired
from streamproc.errors import UserError
from tests.fast.llm_texts import ATTACKS
from tests.fast.test_llm_pipeline import folder
from tests.fast.test_llm_prompts import labelled
from tests.llm_server import Server, said, serving

__all__ = ["folder"]

COUNTS = st.integers(0, 60)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_the_paired_test_is_the_exact_binomial_one(both: int, first: int, second: int, neither: int) -> None:
    paired = Paired(both, first, second, neither)
    apart = first + second
    expected = 1.0 if not apart else binomtest(first, apart).pvalue
    assert paired.p_value == pytest.approx(expected, rel=1e-9)
    turned = Paired(both, second, first, neither)
    assert turned.p_value == paired.p_value
    value, low, high, of = paired.difference
    assert of == paired.of
    if of:
        assert value is not None and low is not None and high is not None
        assert -1 <= low <= value <= high <= 1
        assert turned.difference[:3] == pytest.approx((-value, -high, -low))


def test_the_paired_test_of_many_events_overflows_nowhere() -> None:
    assert Paired(0, 5_000, 5_000, 0).p_value == pytest.approx(1.0)
    assert Paired(0, 2_000, 3_000, 0).p_value < 1e-40


def test_the_interval_of_a_difference_covers_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    for chances in ([0.6, 0.1, 0.2, 0.1], [0.9, 0.02, 0.05, 0.03], [0.3, 0.25, 0.25, 0.2]):
        true, covered = chances[2] - chances[1], 0
        for counts in random.multinomial(80, chances, size=2_000).tolist():
            difference = Paired(*counts).difference
            assert difference.low is not None and difference.high is not None
            covered += difference.low <= true <= difference.high
        assert 0.93 <= covered / 2_000 <= 0.98


class Messages:
    """A server that says what kind a message is by its first word, and is worse where the prompt is the first."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.keys = set[str | None]()

    async def __call__(self, server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        self.now += 1
        self.most = max(self.most, self.now)
        self.keys.add(request.headers.get("Authorization"))
        try:
            await asyncio.sleep(0.02)
            system, user = (one["content"] for one in body["messages"])
            second = system.startswith("Say how urgent it is")
            kind = "fraud" if "stolen" in user or (second and "misused" in user) else "other"
            text = orjson.dumps({"score": 0.1, "confidence": 0.9, "category": kind}).decode()
            behaviour = said("no JSON" if "odd" in user and not second else text)
            response: web.StreamResponse = await behaviour(server, request, body)
            return response
        finally:
            self.now -= 1


ROWS = [
    *[("My card was stolen", "escalate", "fraud")] * 20,
    *[("My card was misused", "escalate", "fraud")] * 8,
    *[("An odd thing", "answer", "other")] * 4,
    *[("Where is my parcel?", "answer", "other")] * 10,
    (ATTACKS[0], "review", "other"),
    ("Nobody knows", None, None),
]


@pytest.fixture
def data(folder: Path) -> Path:
    labelled(folder, 'production: "1"\n')
    file = folder / "pipeline.yaml"  # calls are counted, so none is made beside a slow one
    file.write_text(
        file.read_text().replace("    deadline: 2s\n", "    deadline: 2s\n    latency: {hedges: 0.0001%}\n", 1)
    )
    rows = [
        {"id": str(n), "subject": "Hello", "body": body, "expected": decision, "kind": kind}
        for n, (body, decision, kind) in enumerate(ROWS)
    ]
    path = folder / "labelled.ndjson"
    path.write_bytes(b"\n".join(map(orjson.dumps, [*rows, {"subject": "no id", "expected": "answer"}])))
    return path


def run(data: Path, *words: str) -> Result:
    file = str(data.parent / "pipeline.yaml")
    result = CliRunner().invoke(cli, ["prompt", "test", file, "triage", "--data", str(data), *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@contextmanager
def asked(data: Path, *words: str) -> Iterator[tuple[Any, Messages, Server]]:
    behaviour = Messages()
    with serving(behaviour) as server:
        result = run(data, "--endpoint", server.url, "--json", *words)
        yield orjson.loads(result.output), behaviour, server


def test_decisions_are_held_against_labels_side_by_side(data: Path) -> None:
    with asked(data, "--label", "expected", "--concurrency", "4") as (told, behaviour, server):
        one, two = told["versions"]
    assert (told["events"], told["labelled"]) == (45, 44)
    assert (one["version"], two["version"]) == ("1", "2")
    right = 20 + 4 + 10 + 1, 20 + 8 + 4 + 10 + 1  # what has no answer is answered by the fallback chain here
    assert tuple(side["accuracy"]["value"] for side in (one, two)) == pytest.approx([count / 44 for count in right])
    assert one["reasons"] == {"bad_answer": 4, "dead_letter": 1, "flagged": 1}
    assert two["reasons"] == {"dead_letter": 1, "flagged": 1}
    assert (one["bad_answers"]["value"], two["bad_answers"]["value"]) == (pytest.approx(4 / 43), 0)
    assert one["asked"] == two["asked"] == one["calls"] == two["calls"] == 43
    assert len(server.asked) == 86
    assert one["output_tokens"] == 7 * 43
    assert two["input_tokens"] > one["input_tokens"] > 43 * 200
    assert 0.02 <= one["seconds"]["p50"] <= one["seconds"]["p95"] <= one["seconds"]["p99"]
    paired = told["paired"]
    assert [paired[name] for name in ("both", "first", "second", "neither")] == [35, 0, 8, 1]
    assert paired["p_value"] == pytest.approx(2 / 2**8)
    assert paired["difference"]["value"] == pytest.approx(8 / 44)
    assert told["decided_otherwise"] == 8
    assert 2 <= behaviour.most <= 4
    assert behaviour.keys == {None}, "the key of the file is for its own endpoints"


def test_fields_of_answers_are_held_against_labels_and_no_answer_is_wrong(data: Path) -> None:
    with asked(data, "--expect", "kind=category", "--versions", "2,1") as (told, _, _):
        two, one = told["versions"]
    assert (two["version"], one["version"]) == ("2", "1")
    assert one["accuracy"]["value"] == pytest.approx((20 + 10) / 43)
    assert two["accuracy"]["value"] == pytest.approx((20 + 8 + 4 + 10) / 43)


def test_without_labels_costs_and_times_are_told(data: Path) -> None:
    with asked(data) as (told, _, _):
        assert told["paired"] is None
        assert told["labelled"] == 0
        assert [side["accuracy"]["value"] for side in told["versions"]] == [None, None]


def test_a_key_of_its_own_and_the_canary(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = labelled(data.parent, 'production: "2"\ncanary: {version: "1", share: 10%}\n')
    (prompt / "3.md").write_text("Another.")
    monkeypatch.setenv("TEST_KEY", "t0psecret")
    with asked(data, "--key", "TEST_KEY") as (told, behaviour, _):
        assert [side["version"] for side in told["versions"]] == ["2", "1"]
        assert behaviour.keys == {"Bearer t0psecret"}


def test_the_table_says_the_same(data: Path) -> None:
    with serving(Messages()) as server:
        shown = run(data, "--endpoint", server.url, "--label", "expected").output
    assert "79.5% (65.5% – 88.8%)" in shown
    assert "no score: bad_answer" in shown
    assert "8 events of 45 decided otherwise" in shown
    assert "2 against 1: +18.2 points more are right (+" in shown
    assert "p = 0.0078 (McNemar, exact)" in shown


def test_what_cannot_be_judged_is_told_before_anything_is_asked(data: Path) -> None:
    with serving(Messages()) as server:
        for words, message in (
            (("--versions", "1,9"), "no version '9'"),
            (("--expect", "kind=categry"), "no field 'categry'"),
            (("--label", "nothing"), "no row of .* has a field 'nothing'"),
            (("--model", "other"), "is not given the prompt"),
        ):
            with pytest.raises(UserError, match=message):
                run(data, "--endpoint", server.url, *words)
        assert run(data, "--label", "a", "--expect", "a=b").exit_code == 2
        assert run(data, "--versions", "1").exit_code == 2
        assert server.asked == []

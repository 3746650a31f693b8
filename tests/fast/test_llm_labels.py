"""Labels of prompts: changed by a command, said on the control topic, and heard by workers."""

from __future__ import annotations

import base64
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import yaml
from click.testing import CliRunner, Result

from streamproc.cli import cli
from streamproc.cli.control import signed
from streamproc.control import control_of
from streamproc.core.control import NewLabels, dumps, loads
from streamproc.core.decide import TABLES
from streamproc.core.llm.prompt import Prompt
from streamproc.core.llm.prompts import PROMPTS, Prompts
from streamproc.core.processor import Answer, Seen, run
from streamproc.core.state import Tables
from streamproc.errors import UserError
from streamproc.labels import agree, load_prompts, prompts_of, record_of
from streamproc.offline import batch_of
from streamproc.pipeline import Pipeline, open_pipeline
from streamproc.plan.prompts import parse
from streamproc.sample import example
from streamproc.seeing import Seeing
from tests.fast.test_llm_pipeline import GOOD, PROMPT, folder
from tests.fast.test_llm_prompts import FRONTS, SECOND, labelled, sha
from tests.fast.test_signed_control import key
from tests.record_schemas import problems

__all__ = ["folder", "key"]

ENVIRON = {"LLM_URL": "http://127.0.0.1:1/v1", "LLM_KEY": "k"}
ONE = parse("triage", "1", PROMPT.encode())
TWO = parse("triage", "2", SECOND.encode())


def said(prompts: Prompts, day: int = 1, **more: Any) -> NewLabels:
    time = datetime(2026, 1, day, tzinfo=UTC)
    return msgspec.structs.replace(record_of("support", prompts, time, "ada", "a test"), **more)


def used(sight: Seeing, *records: NewLabels | None) -> str:
    """The versions that workers use after each of the records was the newest, those of the last one."""
    views: Any = {}
    for record in records:
        values = {} if record is None else {record.key: dumps(record)}
        views = sight.views({"support.control": values})
    prompts = views[PROMPTS].get("triage")
    return "file" if prompts is None else ",".join(one.version for one in prompts.versions)


def opened(folder: Path) -> Pipeline:
    labelled(folder, 'production: "1"\n')
    return open_pipeline(folder / "pipeline.yaml", ENVIRON)


def test_a_record_says_all_that_there_is_to_say_and_satisfies_its_schema() -> None:
    for prompts in (Prompts(ONE), Prompts(ONE, TWO, 123_400)):
        record = said(prompts)
        assert problems("control", orjson.loads(dumps(record))) == []
        assert loads(dumps(record)) == record
        assert prompts_of(record) == prompts
        assert control_of({record.key: dumps(record)}, "support").labels == {"triage": record}


def test_the_largest_prompts_fit_a_control_record() -> None:
    """A control byte is six characters of JSON: that is as large as it gets."""
    large = [parse("triage", version, b"x" + b"\x01" * ((256 << 10) - 1)) for version in "12"]
    assert len(dumps(said(Prompts(large[0], large[1], 1)))) < (8 << 20) - 1024


def test_decisions_are_made_with_the_prompts_that_are_seen(folder: Path) -> None:
    pipeline = opened(folder)

    def version(seen: Seen) -> str:
        values = [orjson.dumps({"id": "a", "body": "Where is my parcel?"})]
        steps = pipeline.processor.process(
            batch_of(pipeline.plan.events.topic, values), Tables(TABLES), seen, datetime(2024, 1, 1, tzinfo=UTC)
        )
        effects = run(steps, lambda ask: Answer([GOOD], [None], "m"))
        [decision] = [one.values[0] for one in effects.records if one.topic == pipeline.plan.topics.decisions]
        told = orjson.loads(decision or b"")
        return f"{told['features']['llm_prompt']} {told['model']}"

    assert version(Seen()) == f"triage@1 m+{ONE.hash[:16]}"
    assert version(Seen({PROMPTS: {"triage": Prompts(TWO)}})) == f"triage@2 m+{TWO.hash[:16]}"
    assert version(Seen({PROMPTS: {"other": Prompts(TWO)}})) == f"triage@1 m+{ONE.hash[:16]}"
    pipeline.answers.close()


def test_what_was_said_holds_over_the_file_until_it_is_deleted(folder: Path) -> None:
    sight = Seeing(opened(folder))
    assert used(sight, None) == "file"
    assert used(sight, said(Prompts(ONE, TWO, 1)), said(Prompts(TWO), day=2)) == "2"
    assert used(sight, None) == "file"


def refused(record: NewLabels, folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Why a record does not count where another one did."""
    sight = Seeing(opened(folder))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert used(sight, said(Prompts(TWO)), record) == "2"
    return caplog.text


def test_what_cannot_be_used_is_refused_and_the_old_versions_hold(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = parse("triage", "3", b"word " * 300)
    assert "version 3 of the prompt takes" in refused(said(Prompts(ONE, long, 5), day=2), folder, caplog)
    changed = parse("triage", "2", b"Another text.")
    assert "a version never changes" in refused(said(Prompts(changed), day=2), folder, caplog)
    wrong = said(Prompts(ONE), day=2)
    wrong = msgspec.structs.replace(wrong, production=msgspec.structs.replace(wrong.production, text="Be kind."))
    assert "not that of its SHA-256" in refused(wrong, folder, caplog)
    empty = said(Prompts(Prompt("triage", "4", " ", sha(" "))), day=2)
    assert "is empty" in refused(empty, folder, caplog)
    strange = said(Prompts(Prompt("triage", "a\nb", "Be kind.", sha("Be kind."))), day=2)
    assert "is no name of a version" in refused(strange, folder, caplog)


@pytest.mark.parametrize("front", FRONTS)
def test_no_text_that_is_said_ends_a_worker(folder: Path, front: str) -> None:
    text = f"---\n{front}\n---\nBe kind.\n"
    record = said(Prompts(Prompt("triage", "3", text, sha(text))), day=2)
    try:
        read = parse("triage", "3", text.encode(errors="replace")).version
    except UserError:
        read = "2"
    assert used(Seeing(opened(folder)), said(Prompts(TWO)), record) == read


def test_a_version_is_one_text_in_use_registered_or_both_at_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labelled(folder, f'production: "1"\nversions: {{"2": {TWO.hash}, "3": {sha("Gone.")}}}\n')
    pipeline = open_pipeline(folder / "pipeline.yaml", ENVIRON)
    for version in ("1", "2", "3"):
        changed = parse("triage", version, b"Another text.")
        assert used(Seeing(pipeline), said(Prompts(changed))) == "file", "the files' hash holds"
    assert used(Seeing(pipeline), said(Prompts(parse("triage", "3", b"Gone.")))) == "3"
    both = Prompts(parse("triage", "7", b"One."), parse("triage", "7", b"Two."), 5)
    assert used(Seeing(pipeline), said(both)) == "file"
    assert "version 7 is two texts" in caplog.text


def test_what_a_worker_uses_that_starts_later_is_what_one_uses_that_heard_all(folder: Path) -> None:
    pipeline = opened(folder)
    long = said(Prompts(parse("triage", "3", b"word " * 300)), day=3)
    everything = [said(Prompts(ONE, TWO, 5)), said(Prompts(TWO), day=2), long]
    early, late = Seeing(pipeline), Seeing(pipeline)
    assert used(early, *everything) == "2"
    assert used(late, long) == "file", "compaction leaves the newest one alone"
    assert late.labels.lost == {"triage"}
    late.labels.recall(everything)
    assert late.labels.prompts == early.labels.prompts
    assert "version 3 of the prompt takes" in late.labels.wrong["triage"]
    assert used(late, said(Prompts(ONE), day=4)) == "1"
    assert late.labels.wrong == {}
    late.views({"support.control": {long.key: b"nonsense"}})
    assert [one.production for one in late.labels.prompts.values()] == [ONE], "what cannot be read deletes nothing"


def signing(folder: Path, key: Path) -> Seeing:
    """What a worker sees where what people say must be signed."""
    labelled(folder, 'production: "1"\n')
    text = base64.b64encode(key.with_suffix(".pub").read_bytes()).decode()
    file = folder / "pipeline.yaml"
    part = f"\nreview: {{ttl: 1h, on_expiry: answer, keys: {{ada: {text}}}, require_signature: true}}\nactions:"
    file.write_text(file.read_text().replace("\nactions:", part))
    return Seeing(open_pipeline(file, ENVIRON))


def test_only_what_is_signed_counts_where_that_is_wanted(folder: Path, key: Path) -> None:
    sight = signing(folder, key)
    assert used(sight, said(Prompts(TWO))) == "file"
    assert used(sight, signed(said(Prompts(TWO), day=2), key)) == "2"
    assert used(sight, said(Prompts(ONE), day=3)) == "2"
    assert used(sight, signed(said(Prompts(ONE), day=1), key)) == "2", "an old record, sent again"
    assert used(sight, None) == "2", "a tombstone"
    forged = msgspec.structs.replace(signed(said(Prompts(ONE, TWO, 5), day=4), key), share=1.0)
    assert used(sight, forged) == "2"
    assert used(sight, signed(said(Prompts(ONE), day=5), key)) == "1"


def test_labels_that_workers_would_not_heed_are_not_said(folder: Path, key: Path) -> None:
    signing(folder, key)
    before = (folder / "prompts/triage/labels.yaml").read_bytes()
    words = ("label", "triage", "production", "2", "--why", "x", "--kafka", "127.0.0.1:1")
    for more, message in (((), "unsigned"), (("--sign", str(key), "--by", "bob"), "unknown key")):
        with pytest.raises(UserError, match=f"workers would not heed that: {message}"):
            command(folder, *words, *more)
    assert (folder / "prompts/triage/labels.yaml").read_bytes() == before
    assert label(folder, "production", "2")["production"] == "2"


def command(folder: Path, *words: str) -> Result:
    result = CliRunner().invoke(cli, ["prompt", words[0], str(folder / "pipeline.yaml"), *words[1:]])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def label(folder: Path, *words: str) -> dict[str, Any]:
    """The labels after a command, which tells nobody."""
    command(folder, "label", "triage", *words, "--why", "a test", "--file-only")
    found: dict[str, Any] = yaml.safe_load((folder / "prompts/triage/labels.yaml").read_text())
    open_pipeline(folder / "pipeline.yaml", masked=False)
    return found


def test_labels_are_written_with_the_hashes_of_what_they_name(folder: Path) -> None:
    labelled(folder, "production: 1\n")
    hashes = {"1": ONE.hash, "2": TWO.hash}
    found = label(folder, "canary", "2", "--share", "12.5%")
    assert found == {"production": "1", "canary": {"version": "2", "share": "12.5%"}, "versions": hashes}
    assert label(folder, "production", "2") == {"production": "2", "versions": hashes}, "it is no canary any more"
    assert label(folder, "canary", "1")["canary"] == {"version": "1", "share": "10%"}
    assert label(folder, "canary", "--off") == {"production": "2", "versions": hashes}


def test_labels_that_cannot_be_are_refused_and_nothing_is_written(folder: Path) -> None:
    prompt = labelled(folder, f'production: "1"\nversions: {{"2": {TWO.hash}}}\n')
    (prompt / "3.md").write_text("word " * 300)
    (prompt / "4.md").write_text(" ")
    before = (prompt / "labels.yaml").read_bytes()
    for words, message in (
        (("production", "3"), "version 3 of the prompt takes"),
        (("production", "4"), "is empty"),
        (("production", "7"), "no version '7'"),
        (("canary", "1"), "that of production"),
    ):
        with pytest.raises(UserError, match=message):
            label(folder, *words)
    with pytest.raises(UserError, match="uses no prompt 'triag'"):
        command(folder, "label", "triag", "production", "2", "--why", "x", "--file-only")
    (prompt / "2.md").write_text("Something else.")
    with pytest.raises(UserError, match="version 2 of the prompt triage has changed"):
        label(folder, "production", "1")
    assert (prompt / "labels.yaml").read_bytes() == before


def test_a_label_undoes_nothing_that_was_said_elsewhere() -> None:
    three = parse("triage", "3", b"Three.")
    running = Prompts(TWO)
    agree(running, Prompts(TWO, three, 5), "canary")
    agree(running, Prompts(three), "production")
    agree(Prompts(ONE, TWO, 5), Prompts(TWO), "production")
    for was, now, which in (
        (Prompts(TWO), Prompts(ONE, three, 5), "canary"),
        (Prompts(ONE, TWO, 5), Prompts(three), "production"),
        (Prompts(ONE, TWO, 5), Prompts(three, TWO, 6), "production"),
        (Prompts(ONE, TWO, 5), Prompts(TWO, three, 5), "production"),
    ):
        with pytest.raises(UserError, match="workers use production"):
            agree(was, now, which)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="workers use another text as version 2"):
        agree(running, Prompts(parse("triage", "2", b"Another.")), "production")


def test_versions_are_listed_with_what_they_say_of_themselves(folder: Path) -> None:
    labelled(folder, f'production: "1"\ncanary: {{version: "2", share: 10%}}\nversions: {{"1": {ONE.hash}}}\n')
    shown = command(folder, "list").output
    assert "production" in shown
    assert "kinder" in shown
    one, two = map(orjson.loads, command(folder, "list", "--json").output.splitlines())
    assert (one["label"], one["registered"], one["author"], one["sha256"]) == ("production", True, None, ONE.hash)
    assert (two["label"], two["registered"], two["author"], two["created"]) == (
        "canary 10%",
        False,
        "ada",
        "2026-01-31",
    )
    assert two["tokens"] - one["tokens"] == len(TWO.text) - len(PROMPT)


def test_a_diff_is_unified_and_of_whole_files(folder: Path) -> None:
    labelled(folder, "production: 1\n")
    lines = command(folder, "diff", "triage", "1", "2").output.splitlines()
    assert lines[:2] == ["--- triage@1", "+++ triage@2"]
    assert "-Say how urgent the message is." in lines
    assert "+author: ada" in lines
    assert command(folder, "diff", "triage", "1", "1").output == ""
    with pytest.raises(UserError, match="no version '9'"):
        command(folder, "diff", "triage", "1", "9")


def test_a_pipeline_without_a_language_model_has_no_prompts() -> None:
    assert load_prompts(example("car_loan") / "pipeline.yaml")[1] == {}

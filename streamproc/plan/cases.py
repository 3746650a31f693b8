"""Do the tests of the file speak of things that exist?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from streamproc.core.contract import Contract
from streamproc.core.plan import ABSTAIN, REVIEW, UNDECIDING, DriftPlan
from streamproc.core.records import DeadLetter
from streamproc.plan.document import Document, Path_
from streamproc.plan.models import ExpectPart, PipelineFile, TestPart
from streamproc.plan.names import closest, near
from streamproc.plan.scoring import placed
from streamproc.plan.sources import Sources

TIERS = ("automatic", "abstain")
FALLBACK = "fallback:"
STAND_IN = "stand-in:"

Vocabulary: TypeAlias = "dict[str, tuple[list[str], str]]"
"""For a key of ``expect`` the names that it can have, and what they are."""


def check_tests(
    document: Document,
    file: PipelineFile,
    contract: Contract | None,
    recorded: Iterable[str],
    drift: DriftPlan | None = None,
    sources: Sources | None = None,
) -> None:
    """Note every test that cannot be meant as it stands. ``recorded`` are the columns that decisions show."""
    names: dict[str, int] = {}
    shown, vocabulary = set(recorded), _vocabulary(document, file)
    for index, test in enumerate(file.tests):
        at: Path_ = ("tests", index)
        if document.is_broken(at):
            continue
        if not document.is_broken((*at, "name")):
            if test.name in names:
                line, _ = document.spot(("tests", names[test.name], "name"))
                hint = "give each a name of its own: it says what fails"
                document.problem((*at, "name"), f"two tests are called `{test.name}`, the first in line {line}", hint)
            names.setdefault(test.name, index)
        _check_score(document, file, at, test)
        _check_drift(document, at, test, drift)
        _check_looked_up(document, at, test, sources)
        if contract is not None and not document.is_broken((*at, "event")):
            _check_event(document, contract, at, test)
        if not document.is_broken((*at, "expect")):
            _check_expect(document, (*at, "expect"), test.expect, shown, vocabulary)


def event_bytes(event: Mapping[str, Any]) -> bytes:
    """A test's event as the value of a record."""
    return json.dumps(event, ensure_ascii=False, allow_nan=False).encode("utf-8", errors="surrogatepass")


def _check_score(document: Document, file: PipelineFile, at: Path_, test: TestPart) -> None:
    for key in ("score", "no_score", "model_confidence"):
        if document.has((*at, key)) and not document.has(("model",)):
            hint = "take it out, or add a model"
            document.problem((*at, key), "the test speaks of a score, and there is no model", hint, at_key=True)
    alone = len(placed(file)[0]) < 2
    if test.score is not None and test.no_score is not None and alone:
        message = "the test gives a score, and says that there is none"
        document.problem((*at, "no_score"), message, "keep `score` or `no_score`", at_key=True)
    if test.model_confidence is not None and test.score is None and document.has(("model",)):
        message = "`model_confidence` changes nothing: the model is asked"
        document.problem((*at, "model_confidence"), message, "add `score: …`, or take it out", at_key=True)
    _check_answer(document, file, at, test)
    if test.age is not None and not document.has(("events", "max_age")):
        message = "`age` changes nothing: events have no `max_age`"
        document.problem((*at, "age"), message, "take it out, or add `max_age` under `events`", at_key=True)


def _check_answer(document: Document, file: PipelineFile, at: Path_, test: TestPart) -> None:
    """A test never asks a language model: it costs, and it may answer otherwise the next time."""
    chain, _ = placed(file)
    if not chain or document.is_broken_within(("model",)):
        return
    in_words = chain[0][2].llm is not None
    given = [name for name in ("score", "no_score", "answer") if document.has((*at, name))]
    if in_words and not given:
        document.problem(at, "a test asks no language model", "add `answer: {score: …}`, `score: …` or `no_score: …`")
    elif test.answer is not None and (not in_words or len(given) > 1):
        message = "`answer` stands for that of a language model" + ("" if not in_words else ", and so does another key")
        document.problem((*at, "answer"), message, "give a test one of `answer`, `score` and `no_score`", at_key=True)


def _check_drift(document: Document, at: Path_, test: TestPart, drift: DriftPlan | None) -> None:
    if document.is_broken_within(("drift",)):
        return
    watched = () if drift is None else drift.watch
    for name in test.drift:
        if name not in watched:
            hint = near(name, watched, "columns") if watched else "take it out, or add `drift: …`"
            document.problem((*at, "drift", name), f"`{name}` is not watched", hint, at_key=True)


def _check_looked_up(document: Document, at: Path_, test: TestPart, sources: Sources | None) -> None:
    """Is there what the test gives rows of, and do they satisfy its contract?"""
    if sources is None or document.is_broken_within(("tables",), ("stores",)):
        return
    for kind, rows in (("tables", test.tables), ("stores", test.stores)):
        named = [name for name, one in sources.items() if one.at[0] == kind]
        for name, row in rows.items():
            path: Path_ = (*at, kind, name)
            if document.is_broken(path):
                continue
            if name not in named:
                message = f"there is no {kind.removesuffix('s')} `{name}`"
                document.problem(path, message, near(name, named, kind), at_key=True)
            elif (contract := sources[name].contract) is not None:
                outcome = contract.decode(event_bytes(row))
                if isinstance(outcome, DeadLetter):
                    why = outcome.detail.removeprefix("does not satisfy ") or outcome.reason
                    message = f"the row does not satisfy the schema of the table: {why}"
                    document.problem(
                        (*path, *_parts(outcome.path)), message, "mend it, or take it out: it is missing then"
                    )


def _check_event(document: Document, contract: Contract, at: Path_, test: TestPart) -> None:
    described = contract.schema.get("properties") or {}
    for name in test.event:
        missing = [known for known in closest(name, described) if known not in test.event]
        if name not in described and missing:
            message = f"the contract describes no field `{name}`"
            document.problem((*at, "event", name), message, f"did you mean `{missing[0]}`?", at_key=True)
            return
    if test.expect.dead_letter is not None or document.is_broken((*at, "expect")):
        return
    outcome = contract.decode(event_bytes(test.event))
    if isinstance(outcome, DeadLetter):
        place = (*at, "event", *_parts(outcome.path))
        name = f"`{place[-1]}`" if len(place) > len(at) + 1 else "the event"
        why = outcome.detail.removeprefix("does not satisfy ") or outcome.reason
        message = f"{name} does not satisfy the contract: {why}"
        document.problem(place, message, f"mend it, or expect `dead_letter: {outcome.reason}`")


def _parts(json_path: str) -> list[str | int]:
    """The parts of a JSON path, as far as they are plain."""
    found = re.findall(r"\.([^.\[]+)|\[(\d+)\]", json_path)
    return [name or int(number) for name, number in found]


def _check_expect(
    document: Document, at: Path_, expect: ExpectPart, recorded: set[str], vocabulary: Vocabulary
) -> None:
    if not expect.model_fields_set:
        if not document.is_broken_within(at):
            hint = "say what: `expect: {decision: review}`"
            document.problem(at, "the test expects nothing", hint, at_key=True)
        return
    if expect.dead_letter is not None and expect.model_fields_set != {"dead_letter"}:
        message = "a dead letter is not decided, and the test expects both"
        document.problem((*at, "dead_letter"), message, "keep `dead_letter`, or the rest", at_key=True)
    for key, (names, what) in vocabulary.items():
        value = getattr(expect, key)
        for number, name in enumerate(value if isinstance(value, list) else []):
            _known(document, (*at, key, number), name, names, what)
        if isinstance(value, str):
            _known(document, (*at, key), value, names, what)
    whole = document.broken & {("features",), ("params",), ()}
    if not (whole or document.is_broken_within(("model",))):
        for name in expect.features or ():
            _known(document, (*at, "features", name), name, recorded, "features", at_key=True)


def _known(
    document: Document, path: Path_, name: str, names: Iterable[str], what: str, *, at_key: bool = False
) -> None:
    if name not in (options := set(names)) and not document.is_broken(path):
        message = f"unknown {what.removesuffix('s')} `{name}`"
        document.problem(path, message, near(name, options, what), at_key=at_key)


def _vocabulary(document: Document, file: PipelineFile) -> Vocabulary:
    """For each key of ``expect`` the names that it can have, and what they are; not where some are broken."""
    deciding = [part.id for part in file.rules if not part.observe]
    observing = [part.id for part in file.rules if part.observe]
    last_resort = [part.id for part in file.fallback]
    decisions = [part.decide or REVIEW for part in file.rules]
    decisions += [part.decide for part in file.fallback]
    decisions += [REVIEW, ABSTAIN, file.undecided, *file.actions]
    models = [name for _, name, _ in placed(file)[0]]
    vocabulary: Vocabulary = {}
    if not _incomplete(document, "decide"):
        vocabulary["decision"] = [name for name in decisions if name != "fallback"], "decisions"
        vocabulary["would_be"] = [name for name in decisions if name not in UNDECIDING], "decisions"
    if not _incomplete(document, "id", "observe"):
        vocabulary["tier"] = (
            [
                *TIERS,
                *(FALLBACK + name for name in last_resort),
                *(STAND_IN + name for name in models[1:]),
            ],
            "tiers",
        )
        vocabulary["rule"] = [*deciding, *last_resort], "deciding rules"
        vocabulary["rules"] = deciding, "deciding rules"
        vocabulary["observed"] = observing, "observing rules"
        vocabulary["undecided"] = [*deciding, *observing], "rules"
    if not document.is_broken_within(("model",)):
        vocabulary["scored_by"] = models, "models"
    if not _incomplete(document, "reason"):
        vocabulary["reasons"] = [part.reason for part in file.rules if part.reason is not None], "reasons"
    return vocabulary


def _incomplete(document: Document, *keys: str) -> bool:
    """Is there a rule, or something else that names are in, that could not be read?"""
    for path in document.broken:
        if path[:1] in (("rules",), ("fallback",)) and (len(path) < 3 or closest(str(path[2]), keys)):
            return True
        if path[:1] in (("actions",), ("undecided",)) and "decide" in keys:
            return True
    return False

"""The part of a file about a language model: its prompt, what its answer must be, and the columns of both."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import yaml
from pydantic import ValidationError

from streamproc.core.contract import Contract
from streamproc.core.contract.fields import INT64
from streamproc.core.llm.policy import TOLD, LlmPlan
from streamproc.core.llm.prompt import Prompt
from streamproc.core.llm.tokens import Tokens
from streamproc.core.plan import OF_MODELS
from streamproc.errors import UserError
from streamproc.plan.contract import read_contract
from streamproc.plan.document import Document, Path_
from streamproc.plan.llm_cache import cache_policy, check_limit
from streamproc.plan.llm_parts import LabelsPart, LlmPart
from streamproc.wording import counted

LABELS = "labels.yaml"
LARGEST_PROMPT = 256 << 10
MOST_CHARS = 400_000
OWN_PARAMETERS = frozenset(
    {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "min_tokens", "n",
     "best_of", "tools", "tool_choice", "functions", "function_call", "store"}
)  # fmt: skip
LEAST_ROOM = 64
"""Tokens for the texts of an event; with fewer there is no use in asking."""


def make_llm(document: Document, at: Path_, name: str, part: LlmPart, pipeline: str) -> LlmPlan | None:
    """What the core needs of it; ``None`` with what is wrong with it noted."""
    bounded = _check_bounds(document, at, part)
    prompt = _prompt(document, (*at, "prompt"), part)
    output = _output(document, (*at, "output"), part)
    if not bounded or prompt is None or output is None:
        return None
    plan = LlmPlan(
        prefix=re.sub(r"\W", "_", name),
        fields=tuple(part.input),
        prompt=prompt,
        output=output,
        tokens=part.budget.tokens_per_request,
        answer_tokens=part.budget.answer,
        cut=part.cut,
        most_chars=part.most_chars,
        counter=Tokens(part.bytes_per_token),
        flag_above=part.flag_above,
        pipeline=pipeline,
        cache=None if part.cache is None else cache_policy(part.cache),
    )
    own = {*plan.given, *map(plan.name, TOLD), *OF_MODELS}
    if odd := sorted(own & set(output.columns)):
        message = f"the answer has a field `{odd[0]}`, and a column of streamproc's own has that name"
        document.problem((*at, "output"), message, "give it another name there")
        return None
    if plan.room < LEAST_ROOM:
        taken = counted(plan.instruction_tokens, "token")
        message = f"the prompt takes {taken}, and {max(plan.room, 0)} are left for the texts of an event"
        hint = "raise `tokens_per_request`, shorten the prompt, or state `bytes_per_token` if you know the tokenizer"
        document.problem((*at, "budget"), message, hint)
        return None
    return plan


def _check_bounds(document: Document, at: Path_, part: LlmPart) -> bool:
    """What no single key says: whether all inputs together are bounded, and what else requests hold."""
    before = len(document.problems)
    if part.most_chars * len(part.input) > MOST_CHARS:
        message = (
            f"{counted(len(part.input), 'input')} of {part.most_chars:,} characters are too much work for one event"
        )
        hint = f"let `most_chars` be {MOST_CHARS // len(part.input):,} at most"
        document.problem((*at, "most_chars") if "most_chars" in part.model_fields_set else at, message, hint)
    if part.cache is not None:
        check_limit(document, (*at, "cache"), part.cache)
    for name, value in part.parameters.items():
        if name in OWN_PARAMETERS:
            message = f"`{name}` is not for `parameters`: it would break what is promised of requests"
            document.problem((*at, "parameters", name), message, "take it out", at_key=True)
        elif type(value) is int and value not in INT64:
            hint = "write a smaller one"
            document.problem((*at, "parameters", name), f"`{name}` is a number of more than 64 bits", hint)
    return len(document.problems) == before


def read_prompt(folder: Path) -> Prompt:
    """The version of a prompt that is labelled ``production``. Raises UserError where there is none, or it changed."""
    try:
        labels = LabelsPart.model_validate(yaml.safe_load((folder / LABELS).read_text("utf-8")))
        raw = (folder / f"{labels.production}.md").read_bytes()
        text = raw.decode()
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _unreadable(folder, error) from error
    found = hashlib.sha256(raw).hexdigest()
    version = labels.production
    if len(raw) > LARGEST_PROMPT:
        raise UserError(f"version {version} of the prompt {folder.name} is too large", "256 kB is the most")
    if labels.versions.get(version, found) != found:
        raise UserError(
            f"version {version} of the prompt {folder.name} has changed since it was registered",
            f"a version never changes: save it as a new one, and undo the change of {version}.md",
        )
    if not text.strip():
        raise UserError(f"version {version} of the prompt {folder.name} is empty", "write what the model is to do")
    return Prompt(folder.name, version, text, found)


def _unreadable(folder: Path, error: Exception) -> UserError:
    """Why a prompt cannot be read."""
    match error:
        case OSError():
            name = Path(error.filename or LABELS).name
            hint = "a prompt is a folder with `1.md` and `labels.yaml`, where `production: 1` stands"
            return UserError(f"cannot read {name} of the prompt {folder.name}: {error.strerror}", hint)
        case UnicodeDecodeError():
            return UserError(f"the prompt {folder.name} is not UTF-8", "save its files as UTF-8")
        case ValidationError() | yaml.YAMLError():
            hint = "write `production: 1`, and under `versions:` for each version the SHA-256 of its file"
            return UserError(f"{LABELS} of the prompt {folder.name} does not say which version is used", hint)
        case _:
            return UserError("the prompt has a name that no folder can have", "write a path")


def _prompt(document: Document, at: Path_, part: LlmPart) -> Prompt | None:
    if document.is_broken(at):
        return None
    try:
        return read_prompt(document.file.parent / part.prompt)
    except UserError as error:
        document.problem(at, error.message, error.hint)
        return None


def _output(document: Document, at: Path_, part: LlmPart) -> Contract | None:
    if document.is_broken(at):
        return None
    output = read_contract(document, at, document.file.parent / part.output, "the output schema")
    if output is None:
        return None
    score = output.columns.get("score")
    confidence = output.columns.get("confidence")
    if confidence is not None and not confidence.is_numeric():
        document.problem(at, "`confidence` of the answer is no number", "make it one, or give it another name there")
        return None
    if score is None or not score.is_numeric():
        document.problem(at, "the answer has no number `score`", "describe it there: 0 for no, 1 for yes")
        return None
    if odd := next((name for name in output.columns if not re.fullmatch(r"[A-Za-z_]\w*", name)), None):
        document.problem(at, f"`{odd}` of the answer cannot be a column", "use letters, digits and _, not nested")
        return None
    return output

"""The part of a file about a language model: its prompt, what its answer must be, and the columns of both."""

from __future__ import annotations

import re

from streamproc.core.contract import Contract
from streamproc.core.contract.fields import INT64
from streamproc.core.llm.policy import TOLD, LlmPlan
from streamproc.core.llm.prompt import Prompt
from streamproc.core.llm.prompts import Prompts
from streamproc.core.llm.tokens import Counted, Tokens
from streamproc.core.plan import OF_MODELS
from streamproc.errors import EnvironmentFault, UserError
from streamproc.plan.contract import read_contract
from streamproc.plan.document import Document, Path_
from streamproc.plan.llm_budget import budget_of, limits_of
from streamproc.plan.llm_cache import cache_policy, check_limit
from streamproc.plan.llm_parts import LlmPart
from streamproc.plan.models import PipelineFile
from streamproc.plan.prompts import read_prompts
from streamproc.plan.scope import Scope
from streamproc.plan.tokenizer import read_tokenizer
from streamproc.wording import counted

AROUND = 64
"""Tokens: templates take 5 to 10 a message, and some put a date or a line of their own before them."""
MOST_CHARS = 400_000
OWN_PARAMETERS = frozenset(
    {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "min_tokens", "n",
     "best_of", "tools", "tool_choice", "functions", "function_call", "store"}
)  # fmt: skip
ROOM_HINT = "raise `tokens_per_request`, shorten the prompt, or name the model's `tokenizer`"


def make_llm(
    document: Document, at: Path_, name: str, part: LlmPart, file: PipelineFile, scope: Scope
) -> LlmPlan | None:
    """What the core needs of it; ``None`` with what is wrong with it noted."""
    bounded = _check_bounds(document, at, part)
    prompts = _prompts(document, (*at, "prompt"), part)
    output = _output(document, (*at, "output"), part)
    budget, limits = budget_of(document, at, part, file, scope), limits_of(document, at, part, scope)
    counter = _counter(document, at, part, [] if prompts is None else [prompt.text for prompt in prompts.versions])
    if not bounded or prompts is None or output is None or counter is None:
        return None
    plan = LlmPlan(
        prefix=re.sub(r"\W", "_", name),
        fields=tuple(part.input),
        prompt=prompts.production,
        output=output,
        tokens=part.budget.tokens_per_request,
        answer_tokens=part.budget.answer,
        cut=part.cut,
        most_chars=part.most_chars,
        counter=counter,
        tokens_around=tokens_around(part),
        flag_above=part.flag_above,
        canary=prompts.canary,
        canary_share=prompts.share,
        registered=prompts.registered,
        pipeline=file.pipeline,
        budget=budget,
        limits=limits,
        cache=None if part.cache is None else cache_policy(part.cache),
        classifier=part.guards is not None,
        sureness=part.confidence == "logprobs",
    )
    own = {*plan.given, *map(plan.name, TOLD), *OF_MODELS}
    if odd := sorted(own & set(output.columns)):
        message = f"the answer has a field `{odd[0]}`, and a column of streamproc's own has that name"
        document.problem((*at, "output"), message, "give it another name there")
        return None
    if plan.sureness and "confidence" in output.columns:
        message = "the answer has a field `confidence`, and with `logprobs` it would not count"
        document.problem((*at, "confidence"), message, "take one of them out", at_key=True)
        return None
    for prompt in prompts.versions:
        if not plan.takes(prompt):
            document.problem((*at, "budget"), too_long(plan, prompt), ROOM_HINT)
            return None
    return plan


def too_long(plan: LlmPlan, prompt: Prompt) -> str:
    """What is wrong with a prompt that leaves too little room."""
    taken = counted(plan.instruction_tokens(prompt), "token")
    left = max(plan.room(prompt), 0)
    return f"version {prompt.version} of the prompt takes {taken}, and {left} are left for the texts of an event"


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


def tokens_around(part: LlmPart) -> int:
    """Tokens that a server puts around the two messages: roles, begin and end, and what a template says by itself."""
    if part.tokens_around is not None:
        return part.tokens_around
    return 0 if part.tokenizer is None else AROUND


def _counter(document: Document, at: Path_, part: LlmPart, texts: list[str]) -> Tokens | Counted | None:
    if part.tokenizer is None or not document.prompts:
        return Tokens(part.bytes_per_token)
    if "bytes_per_token" in part.model_fields_set:
        message = "with a `tokenizer` tokens are not counted by bytes"
        document.problem((*at, "bytes_per_token"), message, "take one of them out", at_key=True)
    try:
        return read_tokenizer(document.file.parent / part.tokenizer, texts)
    except EnvironmentFault as fault:
        document.fault = fault
    except UserError as error:
        document.problem((*at, "tokenizer"), error.message, error.hint)
    return None


def _prompts(document: Document, at: Path_, part: LlmPart) -> Prompts | None:
    if document.is_broken(at):
        return None
    folder = document.file.parent / part.prompt
    if not document.prompts:
        return Prompts(Prompt(folder.name, "", "", ""))
    try:
        return read_prompts(folder)
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

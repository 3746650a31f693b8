"""What a pipeline file says of a language model, as the core needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import polars as pl

from streamproc.core.contract import Contract
from streamproc.core.llm.budget import BudgetPlan
from streamproc.core.llm.cache_policy import CACHE, CHECK, CachePolicy
from streamproc.core.llm.guard import FLAG_ABOVE, STEPS
from streamproc.core.llm.prompt import Marks, Prompt, instructions
from streamproc.core.llm.prompts import Prompts
from streamproc.core.llm.rates import LimitsPlan
from streamproc.core.llm.tokens import Counted, Cut, Tokens

INPUT_TOKENS = "input_tokens"
INPUT_CHARS = "input_chars"
SCRIPT = "script"
RISK = "risk"
PROMPT = "prompt"
PROMPT_HASH = "prompt_hash"
OUTPUT_TOKENS = "output_tokens"
CALLS = "calls"
TOKENS = "tokens"
MONEY = "money"
GUARD = "guard_"
CLASSIFIER = GUARD + "classifier"
SCORES = frozenset({"score", "confidence"})
"""Fields of an answer that have columns anyway."""
TOOK = (OUTPUT_TOKENS, CALLS, TOKENS, MONEY)
"""What asking took."""
TOLD = (*TOOK, CACHE, CHECK)
"""Of these columns the shell tells."""
LEAST_ROOM = 64
"""Tokens for the texts of an event; with fewer there is no use in asking."""


@dataclass(frozen=True)
class LlmPlan:
    """``fields`` of the event are shown to the model, each in ``most_chars`` characters at most, and ``output`` is what
    its answer must satisfy.

    A request has at most ``tokens`` tokens with its answer, for which ``answer_tokens`` are kept free. Texts that are
    too long are ``cut``. Whatever is riskier than ``flag_above`` is not asked, and a ``classifier`` may have a word in
    that. ``prefix`` begins the names of columns.
    ``prompt`` is the version of production, ``canary`` the one that ``canary_share`` millionths of all keys are given,
    as long as nobody says otherwise on the control topic.
    What is spent is kept within ``budget``, requests within ``limits``, and answers are kept as ``cache`` has it: all
    for the pipeline of this name alone.
    """

    prefix: str
    fields: tuple[str, ...]
    prompt: Prompt
    output: Contract
    tokens: int = 1_500
    answer_tokens: int = 300
    cut: Cut = "middle"
    most_chars: int = 20_000
    counter: Tokens | Counted = field(default_factory=Tokens)
    tokens_around: int = 0
    """What a server puts around the two messages, in tokens."""
    flag_above: float = FLAG_ABOVE
    canary: Prompt | None = None
    canary_share: int = 0
    registered: Mapping[str, str] = field(default_factory=dict, compare=False)
    """By version of the prompt the SHA-256 that its files register: no other text is ever used as that version."""
    pipeline: str = ""
    budget: BudgetPlan = field(default_factory=BudgetPlan)
    limits: LimitsPlan = field(default_factory=LimitsPlan)
    cache: CachePolicy | None = None
    classifier: bool = False
    sureness: bool = False
    """Whether confidence is that of the tokens of the score, and not what the answer says of itself."""

    @property
    def unlimited(self) -> LlmPlan:
        """The same where nothing is spent, or where that is nobody's budget: without limits and without a cache."""
        return replace(self, budget=BudgetPlan(price=self.budget.price), limits=LimitsPlan(), cache=None)

    @property
    def prompts(self) -> Prompts:
        """What the file says of its prompt."""
        return Prompts(self.prompt, self.canary, self.canary_share, self.registered)

    def instruction_tokens(self, prompt: Prompt) -> int:
        """Tokens of the instructions and of what is put around messages, with marks of some event: those of others
        are as many bytes, but perhaps not as many tokens."""
        return _instruction_tokens(self.counter, prompt) + self.tokens_around

    def system_tokens(self, prompt: Prompt, system: str) -> int:
        """The same with the marks that stand there."""
        if isinstance(self.counter, Tokens):
            return self.instruction_tokens(prompt)
        return self.counter.count(system) + self.tokens_around

    def room(self, prompt: Prompt) -> int:
        """Tokens that are left for the texts of an event and the marks around them."""
        return self.tokens - self.answer_tokens - self.instruction_tokens(prompt)

    def takes(self, prompt: Prompt) -> bool:
        """Whether a prompt leaves enough of them."""
        return self.room(prompt) >= LEAST_ROOM

    @property
    def given(self) -> Mapping[str, pl.DataType]:
        """The columns that say what the model was shown, before it is asked."""
        own: dict[str, pl.DataType] = {
            PROMPT: pl.String(), INPUT_CHARS: pl.Int64(), INPUT_TOKENS: pl.Int64(), SCRIPT: pl.String(),
            **{GUARD + step: pl.Float64() for step in STEPS}, RISK: pl.Float64(), PROMPT_HASH: pl.String(),
        }  # fmt: skip
        if self.classifier:
            own[CLASSIFIER] = pl.Float64()
        return {self.name(name): dtype for name, dtype in own.items()}

    @property
    def reads(self) -> frozenset[str]:
        """The columns of the frame that decide what it is asked, or from what it is answered."""
        by = None if self.cache is None else self.cache.by
        return frozenset(self.fields) | ({by} if by is not None else frozenset())

    @property
    def said(self) -> Mapping[str, pl.DataType]:
        """The columns that its answer gives beside the score."""
        kept = () if self.cache is None else (CACHE, CHECK) if self.cache.semantic is not None else (CACHE,)
        return {
            **dict.fromkeys(map(self.name, TOOK), pl.Float64()),
            **dict.fromkeys(map(self.name, kept), pl.String()),
            **{name: dtype for name, dtype in self.output.columns.items() if name not in SCORES},
        }

    @property
    def free_texts(self) -> frozenset[str]:
        """Those of its answer's fields that may hold any text."""
        return frozenset(name for name, kind in self.output.columns.items() if kind == pl.String()) - self.bounded

    @property
    def bounded(self) -> frozenset[str]:
        """Those of its answer's fields that have one of a few values: an ``enum``, a ``const``, true or false."""
        fields = self.output.schema.get("properties", {})
        bound = {name for name, field in fields.items() if isinstance(field, Mapping) and {"enum", "const"} & {*field}}
        truths = {name for name, kind in self.output.columns.items() if kind == pl.Boolean()}
        return frozenset((bound | truths) & {*self.output.columns}) - SCORES

    @property
    def judged(self) -> frozenset[str]:
        """Those of them that a classifier has a word in: without asking it they are not known."""
        return frozenset(map(self.name, (CLASSIFIER, RISK))) if self.classifier else frozenset()

    @property
    def watched(self) -> tuple[str, ...]:
        """Those of its columns that may be watched for drift: not texts of any kind, nor times."""
        # Tokens are counted with the instructions: another prompt would be drift.
        free = {*map(self.name, (PROMPT, PROMPT_HASH, INPUT_TOKENS)), *self.free_texts}
        said = (name for name, kind in self.said.items() if not (kind.is_nested() or kind.is_temporal()))
        return tuple(name for name in (*self.given, *said) if name not in free)

    @property
    def spent(self) -> frozenset[str]:
        """Those of them that say what asking took, or what was found out by it."""
        return frozenset(map(self.name, (*TOOK, CHECK)))

    def name(self, of: str) -> str:
        """The name of one of its own columns."""
        return f"{self.prefix}_{of}"


@lru_cache(64)
def _instruction_tokens(counter: Tokens | Counted, prompt: Prompt) -> int:
    return counter.count(instructions(prompt, Marks.of(prompt, "")))

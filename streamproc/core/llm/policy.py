"""What a pipeline file says of a language model, as the core needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from streamproc.core.contract import Contract
from streamproc.core.llm.guard import FLAG_ABOVE, STEPS
from streamproc.core.llm.prompt import Marks, Prompt, instructions
from streamproc.core.llm.tokens import Cut, Tokens

INPUT_TOKENS = "input_tokens"
INPUT_CHARS = "input_chars"
SCRIPT = "script"
RISK = "risk"
PROMPT = "prompt"
OUTPUT_TOKENS = "output_tokens"
CALLS = "calls"
GUARD = "guard_"
CLASSIFIER = GUARD + "classifier"
SCORES = frozenset({"score", "confidence"})
"""Fields of an answer that have columns anyway."""
TOOK = (OUTPUT_TOKENS, CALLS)
"""What asking took: of these the shell tells."""


@dataclass(frozen=True)
class LlmPlan:
    """``fields`` of the event are shown to the model, each in ``most_chars`` characters at most, and ``output`` is what
    its answer must satisfy.

    A request has at most ``tokens`` tokens with its answer, for which ``answer_tokens`` are kept free. Texts that are
    too long are ``cut``. Whatever is riskier than ``flag_above`` is not asked, and a ``classifier`` may have a word in
    that. ``prefix`` begins the names of columns.
    """

    prefix: str
    fields: tuple[str, ...]
    prompt: Prompt
    output: Contract
    tokens: int = 1_500
    answer_tokens: int = 300
    cut: Cut = "middle"
    most_chars: int = 20_000
    counter: Tokens = field(default_factory=Tokens)
    flag_above: float = FLAG_ABOVE
    classifier: bool = False
    sureness: bool = False
    """Whether confidence is that of the tokens of the score, and not what the answer says of itself."""

    @cached_property
    def instruction_tokens(self) -> int:
        """Tokens of the instructions: as many for each event, since marks are of one length."""
        return self.counter.count(instructions(self.prompt, Marks.of(self.prompt, "")))

    @property
    def room(self) -> int:
        """Tokens that are left for the texts of an event and the marks around them."""
        return self.tokens - self.answer_tokens - self.instruction_tokens

    @property
    def given(self) -> Mapping[str, pl.DataType]:
        """The columns that say what the model was shown, before it is asked."""
        own: dict[str, pl.DataType] = {
            PROMPT: pl.String(), INPUT_CHARS: pl.Int64(), INPUT_TOKENS: pl.Int64(), SCRIPT: pl.String(),
            **{GUARD + step: pl.Float64() for step in STEPS}, RISK: pl.Float64(),
        }  # fmt: skip
        if self.classifier:
            own[CLASSIFIER] = pl.Float64()
        return {self.name(name): dtype for name, dtype in own.items()}

    @property
    def said(self) -> Mapping[str, pl.DataType]:
        """The columns that its answer gives beside the score."""
        return {
            **dict.fromkeys(map(self.name, TOOK), pl.Float64()),
            **{name: dtype for name, dtype in self.output.columns.items() if name not in SCORES},
        }

    @property
    def free_texts(self) -> frozenset[str]:
        """Those of its answer's fields that may hold any text."""
        fields = self.output.schema.get("properties", {})
        bound = {name for name, field in fields.items() if isinstance(field, Mapping) and {"enum", "const"} & {*field}}
        return frozenset(name for name, kind in self.output.columns.items() if kind == pl.String()) - bound

    @property
    def judged(self) -> frozenset[str]:
        """Those of them that a classifier has a word in: without asking it they are not known."""
        return frozenset(map(self.name, (CLASSIFIER, RISK))) if self.classifier else frozenset()

    @property
    def watched(self) -> tuple[str, ...]:
        """Those of its columns that may be watched for drift: not texts of any kind, nor times."""
        free = {self.name(PROMPT), *self.free_texts}
        said = (name for name, kind in self.said.items() if not (kind.is_nested() or kind.is_temporal()))
        return tuple(name for name in (*self.given, *said) if name not in free)

    @property
    def spent(self) -> frozenset[str]:
        """Those of them that say what asking took."""
        return frozenset(map(self.name, TOOK))

    def name(self, of: str) -> str:
        """The name of one of its own columns."""
        return f"{self.prefix}_{of}"

"""What may stand under ``model.llm``."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from streamproc.core.llm.cache_policy import VERIFIED_LAST
from streamproc.core.llm.tokens import Cut
from streamproc.core.names import VARIABLE
from streamproc.plan.amounts import Amount, Count, RateOf
from streamproc.plan.budgets import Portion, Share
from streamproc.plan.durations import Duration
from streamproc.plan.parts import Constant, Part, Slug, Text


class KeyBudgetPart(Part):
    """What the events of one key may take."""

    by: Text = Field(description="The field or feature whose values are the keys")
    per: Duration = Field(
        timedelta(days=1), description="In each period of this length; they begin at the epoch, in UTC"
    )
    limit: Count = Field(description="So many tokens: `200k`")


class LlmBudgetPart(Part):
    """What may be spent."""

    tokens_per_request: int = Field(1_500, ge=64, le=1_000_000, description="Tokens of a request with its answer")
    answer: int = Field(300, ge=16, le=100_000, description="So many of them are kept free for the answer")
    tokens_per_key: KeyBudgetPart | None = Field(None, description="What the events of one key may take in a period")
    money_per_day: Amount | None = Field(None, description="What all events together may cost in a day: `20 USD`")


class PricePart(Part):
    """What a million tokens cost."""

    input: Amount = Field(description="Of what the model is shown: `2.50 USD`")
    output: Amount = Field(description="Of what it writes: `10 USD`")


class LlmLimitsPart(Part):
    """How many requests may be made."""

    requests: RateOf | None = Field(None, description="Of all events together: `50/s`")
    per: dict[Text, RateOf] | None = Field(
        None, min_length=1, description="Of the events of one key: `{tenant: 5/s}`, a field or a feature"
    )


class LatencyPart(Part):
    """How long calls take; measured as soon as there are some."""

    p95: Duration = Field(timedelta(milliseconds=800), description="19 of 20 calls are over by then")
    p99: Duration = Field(timedelta(milliseconds=1500), description="99 of 100 calls are over by then")
    hedges: Share = Field(100_000, description="At most such a share of calls are second ones beside slow ones: `10%`")


class GuardsPart(Part):
    """What else looks at texts before the model is asked."""

    classifier: Text = Field(description="`stackone-defender`, or a folder with a classifier of texts in ONNX")
    deadline: Duration = Field(timedelta(milliseconds=500), description="For all of a batch")


class SemanticPart(Part):
    """Answers for texts that are alike."""

    threshold: float = Field(0.95, ge=0.5, le=1, description="The cosine similarity from which on texts are alike")
    verify: Share = Field(50_000, description="Of such answers so many are compared with a real one: `5%`")
    limit: Share = Field(50_000, description="At most so many of them may be wrong, at 95 % confidence: `5%`")
    fewest: int = Field(100, ge=30, le=VERIFIED_LAST, description="Before so many were compared none is served")
    tolerance: float = Field(0.1, ge=0, le=1, description="Scores that differ by no more agree")
    most: int = Field(2_000, ge=1, le=20_000, description="Texts that are held for one tenant and prompt")
    wait: Duration = Field(timedelta(milliseconds=50), description="So long an event waits for its vector at most")


class AnswersPart(Part):
    """Answers that are kept and given again."""

    exact: Duration = Field(description="For how long, for equal texts")
    semantic: SemanticPart | None = Field(None, description="Also for texts that are alike")
    by: Text | None = Field(None, description="A field: nothing goes from one of its values to another")
    most: int = Field(100_000, ge=1, le=10_000_000, description="Answers kept in memory, where there is no `redis`")
    megabytes: int = Field(64, ge=1, le=65_536, description="What they may take there")
    least_confidence: Portion = Field(0.5, description="Answers that state less are not kept")


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


class LlmPart(Part):
    """A language model behind an OpenAI-compatible API."""

    endpoint: Annotated[list[Text], BeforeValidator(_several, json_schema_input_type=str | list[str])] = Field(
        min_length=1, max_length=16,
        description="Addresses up to `/v1`; `${NAME}` is taken from the environment. Several take turns",
    )  # fmt: skip
    key: str | None = Field(None, description="Sent as `Authorization: Bearer …`: `${NAME}`, from the environment")
    model: Text = Field(description="Its name there")
    prompt: Text = Field(description="The folder of a prompt, relative to this file: `VERSION.md` and `labels.yaml`")
    input: list[Text] = Field(min_length=1, max_length=20, description="The texts that it is shown: fields, features")
    output: Text = Field(description="A JSON Schema that its answer must satisfy, with a number `score`")
    budget: LlmBudgetPart = Field(LlmBudgetPart(), description="What may be spent")  # type: ignore[call-arg]
    price: PricePart | None = Field(None, description="Of a million tokens: `{input: 2.50 USD, output: 10 USD}`")
    limits: LlmLimitsPart = Field(LlmLimitsPart(), description="How many requests may be made")  # type: ignore[call-arg]
    cut: Cut = Field("middle", description="What is kept of what is too long: `head`, `tail`, `middle` or `refuse`")
    most_chars: int = Field(20_000, ge=100, le=200_000, description="Of each input no more is read")
    bytes_per_token: float = Field(
        1.0, ge=1, le=8, description="Of texts, by the model's tokenizer; 1 is never too few tokens"
    )
    tokenizer: Text | None = Field(
        None, description="The model's `tokenizer.json`, relative to this file: tokens are counted by it, not by bytes"
    )
    tokens_around: int | None = Field(
        None, ge=0, le=10_000, description="What the server puts around messages: 64 with a `tokenizer`, otherwise 0"
    )
    flag_above: float = Field(0.7, ge=0, le=1, description="What is riskier than this is not asked")
    guards: GuardsPart | None = Field(None, description="What else looks at texts before the model is asked")
    deadline: Duration = Field(timedelta(seconds=2), description="For all of a batch, with every attempt")
    latency: LatencyPart = Field(LatencyPart(), description="How long calls take")  # type: ignore[call-arg]
    confidence: Literal["answer", "logprobs"] = Field(
        "answer",
        description="Where `model_confidence` is from: the answer's own field, or probabilities of the score's tokens",
    )
    redis: str | None = Field(
        None, description="`${NAME}`: a Redis in which all workers share what they spent, their rates and their cache"
    )
    cache: AnswersPart | None = Field(None, description="Answers that are kept and given again")
    in_flight: int = Field(32, ge=1, le=64, description="So many calls at once")
    parameters: dict[Slug, Constant] = Field({}, description="Also sent with each request: `{seed: 1}`")

    @property
    def variables(self) -> frozenset[str]:
        """The environment variables that it names: they hold secrets."""
        return frozenset(
            name for text in [*self.endpoint, self.key or "", self.redis or ""] for name in VARIABLE.findall(text)
        )

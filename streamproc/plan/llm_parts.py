"""What may stand under ``model.llm``."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from streamproc.core.llm.tokens import Cut
from streamproc.core.names import VARIABLE
from streamproc.plan.budgets import Share
from streamproc.plan.durations import Duration
from streamproc.plan.parts import Constant, Part, Slug, Text


class LlmBudgetPart(Part):
    """What a request may take."""

    tokens_per_request: int = Field(1_500, ge=64, le=1_000_000, description="Tokens of a request with its answer")
    answer: int = Field(300, ge=16, le=100_000, description="So many of them are kept free for the answer")


class LatencyPart(Part):
    """How long calls take; measured as soon as there are some."""

    p95: Duration = Field(timedelta(milliseconds=800), description="19 of 20 calls are over by then")
    p99: Duration = Field(timedelta(milliseconds=1500), description="99 of 100 calls are over by then")
    hedges: Share = Field(100_000, description="At most such a share of calls are second ones beside slow ones: `10%`")


class GuardsPart(Part):
    """What else looks at texts before the model is asked."""

    classifier: Text = Field(description="`stackone-defender`, or a folder with a classifier of texts in ONNX")
    deadline: Duration = Field(timedelta(milliseconds=500), description="For all of a batch")


def _as_version(value: object) -> object:
    """YAML reads ``1`` as a number; as a version it is a name."""
    return str(value) if type(value) is int else value


Version = Annotated[Slug, BeforeValidator(_as_version)]


class LabelsPart(Part):
    """``prompts/NAME/labels.yaml``: which version is which, and what its file must be."""

    production: Version = Field(description="The version that is used")
    versions: dict[Version, str] = Field({}, description="By version, the SHA-256 of its file")


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
    budget: LlmBudgetPart = Field(LlmBudgetPart(), description="What a request may take")  # type: ignore[call-arg]
    cut: Cut = Field("middle", description="What is kept of what is too long: `head`, `tail`, `middle` or `refuse`")
    most_chars: int = Field(20_000, ge=100, le=200_000, description="Of each input no more is read")
    bytes_per_token: float = Field(
        1.0, ge=1, le=8, description="Of texts, by the model's tokenizer; 1 is never too few tokens"
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
    in_flight: int = Field(32, ge=1, le=64, description="So many calls at once")
    parameters: dict[Slug, Constant] = Field({}, description="Also sent with each request: `{seed: 1}`")

    @property
    def variables(self) -> frozenset[str]:
        """The environment variables that it names: they hold secrets."""
        return frozenset(
            name for text in [*self.endpoint, self.key or "", self.redis or ""] for name in VARIABLE.findall(text)
        )

"""A pipeline that is ready to run: its plan, its model, and the processor made of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from streamproc.core.decide import DecideProcessor
from streamproc.core.llm.policy import LlmPlan
from streamproc.core.plan import Plan
from streamproc.core.sensitive import Masker
from streamproc.core.signatures import Signatures
from streamproc.errors import UserError
from streamproc.io.answers import Answers, Source
from streamproc.io.keeper import Recycling
from streamproc.io.model import Guarded, Model, Reading, RowModel
from streamproc.io.onnx import OnnxModel
from streamproc.io.python import PythonModel
from streamproc.io.seal import sealer
from streamproc.io.signatures import verifier
from streamproc.plan.build import ModelFacts
from streamproc.plan.load import Loaded, load_plan
from streamproc.plan.models import ModelPart
from streamproc.stores import open_stores, policy_of

SECRET = "STREAMPROC_SENSITIVE_KEY"  # noqa: S105 - the name of a variable
SHORTEST_SECRET = 16


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What a pipeline file becomes.

    ``plan`` is what the file says. The processor's own plan differs from it where the pipeline was opened unmasked.
    """

    loaded: Loaded
    processor: DecideProcessor
    answers: Answers

    @property
    def plan(self) -> Plan:
        """What the file means, as the core sees it."""
        return self.loaded.plan


def open_pipeline(path: Path, environ: Mapping[str, str] = os.environ, *, masked: bool = True) -> Pipeline:
    """Load, check and open a pipeline file. Raises PipelineError with everything that is wrong with it.

    ``masked=False`` is for what sends nothing anywhere, such as tests of the file: its processor leaves sensitive
    fields as they are, and no key and no other variable is needed.
    """
    opened: dict[str, tuple[ModelPart, Model | RowModel]] = {}

    def inspect(name: str, part: ModelPart, llm: LlmPlan | None, folder: Path, secrets: frozenset[str]) -> ModelFacts:
        model = open_model(part, llm, folder, environ if masked else None, secrets)
        opened[name] = part, model
        return ModelFacts(model.version, model.width if isinstance(model, OnnxModel) else None)

    loaded = load_plan(path, inspect)
    shadows = {model.name for model in loaded.plan.shadows}
    first = opened[loaded.plan.model.name][0].time if loaded.plan.model is not None else None
    sources = {
        # A shadow is asked beside the first model, and must not make a batch wait longer than that may.
        name: source_of(part, model, most=first if name in shadows else None)
        for name, (part, model) in opened.items()
    }
    for model in (*loaded.plan.models, *loaded.plan.shadows):
        part, own = opened[model.name]
        if model.guard is not None and part.llm is not None and part.llm.guards is not None:
            assert isinstance(own, Guarded) and own.guard is not None
            time = part.llm.guards.deadline
            if model.name in shadows and first is not None:
                time = min(time, first)
            sources[model.guard] = Source(own.guard, time, policy_of(part.breaker))
    if masked:
        processor = DecideProcessor.of(loaded.plan, make_masker(loaded.plan, environ))
    else:
        processor = DecideProcessor.of(in_clear(loaded.plan))
    return Pipeline(loaded, processor, Answers(sources, open_stores(loaded, environ if masked else None)))


def open_before_models(path: Path, environ: Mapping[str, str] = os.environ) -> Pipeline:
    """The same for what runs only the stages before the models, which may be still to be trained, and their prompts
    to be written.

    Stores are not asked: they know what is now.
    """
    loaded = load_plan(path, lambda *_: ModelFacts(""), prompts=False)
    return Pipeline(loaded, DecideProcessor.of(loaded.plan, make_masker(loaded.plan, environ)), Answers({}))


def in_clear(plan: Plan) -> Plan:
    """The plan without masking, which changes no decision but shows values where hashes would be."""
    events = replace(plan.events, sensitive=frozenset())
    return replace(plan, events=events, sensitive=frozenset(), dead_letter_mode="plain")


def open_model(
    part: ModelPart,
    llm: LlmPlan | None,
    folder: Path,
    environ: Mapping[str, str] | None = None,
    secrets: frozenset[str] = frozenset(),
) -> Model | RowModel:
    """A model that a file names. Raises UserError where it cannot be used.

    ``llm`` is what the file means by it, where it is a language model.

    Without an environment the variables of its headers stay as they are written: nothing of them is needed to check.
    ``secrets`` are the variables that a Python model does not see.
    """
    reading = Reading.of(part.classes, part.score)
    if part.onnx is not None:
        return OnnxModel(folder / part.onnx, part.inputs, part.output, reading=reading, confidence=part.confidence)
    if part.python is not None:
        recycle = part.recycle
        recycling = Recycling() if recycle is None else Recycling(recycle.calls, _bytes(recycle.megabytes))
        return PythonModel(
            part.python, folder.resolve(), part.timeout, reading=reading, recycling=recycling, secrets=secrets
        )
    if part.llm is not None:
        from streamproc.llms import open_llm

        assert llm is not None
        return open_llm(part.llm, llm, part.breaker, environ, folder)
    from streamproc.io.http import HttpModel, with_environment  # aiohttp takes a while to import

    assert part.http is not None
    headers = part.headers if environ is None else with_environment(part.headers, environ)
    return HttpModel(
        part.http,
        part.inputs,
        part.timeout,
        tensor=part.tensor,
        output=part.output,
        headers=headers,
        reading=reading,
        confidence=part.confidence,
    )


def _bytes(megabytes: int | None) -> int | None:
    return None if megabytes is None else megabytes << 20


def source_of(part: ModelPart, model: Model | RowModel, most: timedelta | None = None) -> Source:
    """A model with its time, at ``most`` so much, its bounds and its breaker."""
    timeout = part.time if most is None else min(part.time, most)
    return Source(model, timeout, policy_of(part.breaker), part.in_flight)


def signatures_of(plan: Plan) -> Signatures:
    """Whose word counts. Raises EnvironmentFault where signatures cannot be told on this machine."""
    review = plan.review
    if review is None:
        return Signatures()
    return Signatures(review.keys, review.require_signature, verifier() if review.keys else None)


def make_masker(plan: Plan, environ: Mapping[str, str]) -> Masker | None:
    """The keyed hash for sensitive fields; its key comes from the environment alone."""
    if not plan.events.sensitive:
        return None
    secret = environ.get(SECRET, "").encode()
    if len(secret) < SHORTEST_SECRET:
        raise UserError(
            f"the pipeline has sensitive fields, and {SECRET} is {'too short' if secret else 'not set'}",
            f"set it to at least {SHORTEST_SECRET} random characters, the same for every worker",
        )
    hashing = hashlib.blake2b(secret, digest_size=32, person=b"hash").digest()
    if plan.dead_letter_mode != "encrypted":
        return Masker(hashing)
    return Masker(hashing, sealer(sealing_key(secret)))


def sealing_key(secret: bytes) -> bytes:
    """The key that dead letters are encrypted with."""
    return hashlib.blake2b(secret, digest_size=32, person=b"seal").digest()

"""A pipeline that is ready to run: its plan, its model, and the processor made of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamproc.core.decide import DecideProcessor
from streamproc.core.plan import Plan
from streamproc.core.sensitive import Masker
from streamproc.errors import UserError
from streamproc.io.answers import Answers, Source
from streamproc.io.model import Model
from streamproc.io.onnx import OnnxModel
from streamproc.io.python import PythonModel
from streamproc.io.seal import sealer
from streamproc.plan.build import DEFAULT_MODEL, ModelFacts
from streamproc.plan.load import Loaded, load_plan
from streamproc.plan.models import PipelineFile

SECRET = "STREAMPROC_SENSITIVE_KEY"  # noqa: S105 - the name of a variable
SHORTEST_SECRET = 16


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What a pipeline file becomes."""

    loaded: Loaded
    processor: DecideProcessor
    answers: Answers

    @property
    def plan(self) -> Plan:
        return self.loaded.plan


def open_pipeline(path: Path, environ: Mapping[str, str] = os.environ) -> Pipeline:
    """Load, check and open a pipeline file. Raises PipelineError with everything that is wrong with it."""
    opened: dict[str, Model] = {}

    def inspect(file: PipelineFile, folder: Path) -> ModelFacts:
        model = open_model(file, folder)
        opened[DEFAULT_MODEL] = model
        return ModelFacts(model.version, model.width if isinstance(model, OnnxModel) else None)

    loaded = load_plan(path, inspect)
    part = loaded.file.model
    sources = {name: Source(model, part.timeout) for name, model in opened.items()} if part else {}
    masker = make_masker(loaded.plan, environ)
    return Pipeline(loaded, DecideProcessor.of(loaded.plan, masker), Answers(sources))


def open_model(file: PipelineFile, folder: Path) -> Model:
    """The model that a file names. Raises UserError where it cannot be used."""
    part = file.model
    assert part is not None
    if part.onnx is not None:
        return OnnxModel(folder / part.onnx, part.inputs, part.output)
    assert part.python is not None
    return PythonModel(part.python, folder.resolve())


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

"""What decisions refer to by hash, kept: file, contract, model and prompts, on a compacted topic or in a directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson
from aiokafka import AIOKafkaProducer

from streamproc.core.llm.prompt import Prompt
from streamproc.core.records import TYPED
from streamproc.errors import UserError
from streamproc.kafka.connection import Connection
from streamproc.pipeline import Pipeline
from streamproc.plan.scoring import placed
from streamproc.topics import LARGE_BYTES

Kind = Literal["plan", "model", "prompt"]
KIND = "sp-kind"


@dataclass(frozen=True, slots=True)
class Artefact:
    """One thing that decisions name. ``body`` is JSON for a plan, the model's own bytes for a model, its
    file's for a prompt."""

    kind: Kind
    hash: str
    body: bytes


def artefacts(pipeline: Pipeline) -> list[Artefact]:
    """The plan, as the file and contract it was made of, the model's bytes where it has a file, and the prompts that
    labels in files name. What people say on the control topic stands on the audit topic, with its prompts."""
    loaded = pipeline.loaded
    plan = loaded.plan
    body = {
        "hash": plan.hash,
        "pipeline": plan.pipeline,
        "file": loaded.text,
        "contract": plan.contract.schema,
        "model": plan.model_version,
    }
    if plan.model_types:
        body["of_models"] = {name: str(kind) for name, kind in plan.model_types.items()}
    if tables := {one.name: one.contract.schema for one in plan.sources if one.contract is not None}:
        body["tables"] = tables
    found = [Artefact("plan", plan.hash, orjson.dumps(body))]
    versions = {model.name: model.version for model in (*plan.models, *plan.shadows)}
    bodies = {
        versions[name]: (loaded.path.parent / part.onnx).read_bytes()
        for group in placed(loaded.file)
        for _, name, part in group
        if part.onnx is not None
    }
    found += [Artefact("model", version, body) for version, body in bodies.items()]
    llms = plan.language_models.values()
    prompts = {prompt.hash: prompt for llm in llms for prompt in llm.prompts.versions}
    return [*found, *map(of_prompt, prompts.values())]


def of_prompt(prompt: Prompt) -> Artefact:
    """A version of a prompt, by the SHA-256 of its file."""
    return Artefact("prompt", prompt.hash, prompt.file.encode())


def to_directory(found: list[Artefact], folder: Path) -> None:
    """Write each artefact to ``folder/kind/hash``, where it is not there yet."""
    for artefact in found:
        path = folder / artefact.kind / artefact.hash
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(artefact.body)
            part.rename(path)


async def to_topic(found: list[Artefact], connection: Connection, topic: str) -> None:
    """Write each artefact under its hash. Raises UserError for a model that no record can hold."""
    for artefact in found:
        if len(artefact.body) > LARGE_BYTES - 1024:
            raise UserError(
                f"the {artefact.kind} of {len(artefact.body)} bytes is too large for topic {topic}",
                "keep artefacts in a directory: `streamproc run … --artefacts DIR`",
            )
    producer = AIOKafkaProducer(
        **connection.client_kwargs(),
        enable_idempotence=True,
        max_request_size=LARGE_BYTES,
        max_batch_size=LARGE_BYTES,
    )
    await producer.start()
    try:
        for artefact in found:
            headers: Mapping[str, bytes | None] = dict(TYPED["artefact"]) | {KIND: artefact.kind.encode()}
            await producer.send_and_wait(
                topic, artefact.body, key=artefact.hash.encode(), headers=list(headers.items())
            )
    finally:
        await producer.stop()

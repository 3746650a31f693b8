"""The contract that a pipeline file names, and what the file says about its fields."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import orjson
import polars as pl

from streamproc.core.contract import Contract, may_be_missing
from streamproc.core.plan import EVENT_TIME, RESERVED
from streamproc.errors import UserError
from streamproc.plan.document import Document, Path_
from streamproc.plan.models import PipelineFile
from streamproc.plan.names import near

SCHEMA: Path_ = ("events", "schema")


def open_contract(document: Document, file: PipelineFile) -> Contract | None:
    """The contract, or ``None`` with what is wrong with it noted."""
    if document.is_broken(SCHEMA):
        return None
    path = document.file.parent / file.events.schema_
    contract = read_contract(document, SCHEMA, path, "the contract")
    if contract is None:
        return None
    for name, count in Counter(field.name for field in contract.fields).items():
        if count > 1:
            message = f"the contract {path.name} describes `{name}` twice, with a dot and nested"
            document.problem(SCHEMA, message, "rename one of them there")
        if name in RESERVED and not (name == EVENT_TIME == file.events.time):
            remedy = "rename it there" + (f", or add `time: {name}` under `events`" if name == EVENT_TIME else "")
            document.problem(
                SCHEMA, f"the contract {path.name} has a field `{name}`, a name of streamproc's own", remedy
            )
    return contract


def check_fields(document: Document, file: PipelineFile, contract: Contract | None) -> None:
    """Do the fields that ``events`` names exist, and fit?"""
    events = file.events
    named: list[tuple[Path_, str]] = [(("events", "sensitive", i), name) for i, name in enumerate(events.sensitive)]
    keys = ("key", "time", "id", "repartition_by")
    named += [(("events", key), name) for key in keys if (name := getattr(events, key)) is not None]
    if contract is not None:
        columns = contract.columns
        for at, name in named:
            if name not in columns and not document.is_broken(at):
                document.problem(at, f"unknown field `{name}`", near(name, columns, "fields of the contract"))
        if events.time is not None and columns.get(events.time) == pl.Boolean:
            hint = "name a text or a number"
            document.problem(("events", "time"), f"`{events.time}` is true or false, not a time", hint)
    _check_dedupe(document, file, contract)
    if events.max_age is not None and events.time is None and not document.has(("events", "time")):
        document.problem(("events", "max_age"), "`max_age` needs to know how old an event is", "add `time: FIELD`")
    if events.repartition_by is not None and events.time is None and not document.has(("events", "time")):
        message = "`repartition_by` sends events on: the time of their records is then that of the sending"
        document.problem(("events", "repartition_by"), message, "add `time: FIELD`")
    if document.has(("dead_letters", "sensitive")) and not document.has(("events", "sensitive")):
        message = "`dead_letters.sensitive` changes nothing: no field is sensitive, so dead letters are plain"
        document.problem(
            ("dead_letters", "sensitive"), message, "add `sensitive: [FIELD]` under `events`, or take it out"
        )


def _check_dedupe(document: Document, file: PipelineFile, contract: Contract | None) -> None:
    id_, dedupe = file.events.id, file.events.dedupe
    if document.has(("events", "max_ids")) and not document.has(("events", "dedupe")):
        message = "`max_ids` changes nothing without `dedupe`"
        document.problem(("events", "max_ids"), message, "add `dedupe: 24h`, or take it out")
    if id_ is None:
        if dedupe is not None and not document.has(("events", "id")):
            message = "`dedupe` needs to know by which field an event is the same one again"
            document.problem(("events", "dedupe"), message, "add `id: FIELD`")
        return
    if dedupe is None and not document.has(("events", "dedupe")):
        document.problem(("events", "id"), "`id` changes nothing without `dedupe`", "add `dedupe: 24h`, or take it out")
    path = next((field.path for field in contract.fields if field.name == id_), None) if contract is not None else None
    if contract is None or path is None:
        return
    if contract.columns[id_] == pl.Boolean:
        document.problem(("events", "id"), f"`{id_}` is true or false, not an id", "name a text or a number")
    elif may_be_missing(contract.schema, path):
        message = f"the contract lets `{id_}` be null or missing: such an event is never a duplicate"
        document.warn(("events", "id"), message, "make it `required` there, and of one type")


def read_contract(document: Document, at: Path_, path: Path, what: str) -> Contract | None:
    """A contract that the file names; ``None`` with what is wrong with it noted."""
    name = path.name
    try:
        schema = orjson.loads(path.read_bytes())
        if isinstance(schema, dict):
            return Contract(schema)
        message, remedy = (
            f"{what} {name} is no JSON object",
            'begin it with {"type": "object", "properties": …}',
        )
    except OSError as error:
        message = f"cannot read {what} {name}: {error.strerror}"
        remedy = "the path counts from the folder of this file"
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        message = f"{what} {name} is not JSON: {error.msg}, at its {where}"
        remedy = "a contract is a JSON Schema, written in JSON"
    except UserError as error:
        message, remedy = (
            f"{what} {name}: {error.message}",
            error.hint or "see https://json-schema.org/learn",
        )
    except (TypeError, AttributeError, ValueError, LookupError, RecursionError):
        message, remedy = (
            f"{what} {name} is not a usable JSON Schema",
            "see https://json-schema.org/learn",
        )
    document.problem(at, message, remedy)
    return None

"""Where features are looked up: the tables and stores of the file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import polars as pl

from streamproc.core.contract import Contract
from streamproc.core.names import VARIABLE
from streamproc.core.plan import AnyFeature, LookupFeature, LookupSource
from streamproc.core.records import Topics
from streamproc.plan.contract import read_contract
from streamproc.plan.document import Document, Path_
from streamproc.plan.models import PipelineFile
from streamproc.plan.source_parts import StorePart, TablePart

ADDRESS = re.compile(r"(redis|rediss|unix)://\S+")
OF_REDIS = ("as_", "hash")
NAMES = {"as_": "as"}


@dataclass(frozen=True, slots=True)
class Declared:
    """A table or a store as the file says it. ``contract`` is that of a table, where it could be read."""

    name: str
    at: Path_
    part: TablePart | StorePart
    contract: Contract | None = None

    @property
    def what(self) -> str:
        """What it is called in messages."""
        return f"the {'table' if isinstance(self.part, TablePart) else 'store'} `{self.name}`"


Sources: TypeAlias = Mapping[str, Declared]
"""By name."""


def declared(document: Document, file: PipelineFile) -> Sources:
    """The tables and stores of a file; those that are broken are among them."""
    found = dict[str, Declared]()
    for name, table in file.tables.items():
        at: Path_ = ("tables", name)
        contract = None
        if not document.is_broken((*at, "schema")):
            what = f"the schema of the table `{name}`,"
            contract = read_contract(document, (*at, "schema"), document.file.parent / table.schema_, what)
        found[name] = Declared(name, at, table, contract)
        _check_table(document, file, at, table, name)
    for name, store in file.stores.items():
        at = ("stores", name)
        if name in found:
            message = f"`{name}` is a table and a store"
            document.problem(at, message, "give one of them another name: features name both alike", at_key=True)
        else:
            found[name] = Declared(name, at, store)
        _check_store(document, at, store)
    return found


def sources_of(document: Document, sources: Sources, features: Iterable[AnyFeature]) -> tuple[LookupSource, ...]:
    """What features are looked up in, each with the fields that are read there."""
    fields: dict[str, dict[str, pl.DataType]] = {}
    for feature in features:
        if isinstance(feature, LookupFeature):
            fields.setdefault(feature.source, {})[feature.field or ""] = feature.dtype
    for name, one in sources.items():
        if name not in fields and not document.problems:
            document.warn(one.at, f"nothing is looked up in {one.what}", "add a feature that is, or take it out")
    return tuple(
        LookupSource(
            name,
            one.part.key,
            fields[name],
            by_lane=isinstance(one.part, TablePart) and one.part.hold == "lanes",
            contract=one.contract,
        )
        for name, one in sources.items()
        if name in fields
    )


def content_of(source: LookupSource, file: PipelineFile) -> list[Any]:
    """What of a source decides what it answers, for the plan's hash."""
    if (table := file.tables.get(source.name)) is not None:
        schema = None if source.contract is None else source.contract.schema
        return [source.name, source.key, table.topic, table.hold, schema]
    store = file.stores[source.name]
    return [source.name, source.key, store.kind, store.python, store.as_, store.hash]


def _check_table(document: Document, file: PipelineFile, at: Path_, part: TablePart, name: str) -> None:
    own = {file.events.topic, *asdict(Topics.of(file.pipeline)).values(), *file.actions.values()}
    if part.topic in own and not document.is_broken((*at, "topic")):
        message = f"`{part.topic}` is a topic of this pipeline, and no table"
        document.problem((*at, "topic"), message, "name the compacted topic that holds the table's rows")
    for other, table in file.tables.items():
        if other == name:
            break
        if table.topic == part.topic and not document.is_broken((*at, "topic")):
            message = f"the table `{other}` has the topic `{part.topic}` too"
            document.problem((*at, "topic"), message, "look all of it up in one table")
    if part.fresh and document.has((*at, "staleness")):
        message = "`staleness` says how old the table may be, and `fresh` that it may not be"
        document.problem((*at, "staleness"), message, "take one of them out", at_key=True)
    if part.hold == "lanes" and part.key != (file.events.repartition_by or file.events.key):
        message = f"rows by `{part.key}` are where the events are only if these have the same key"
        hint = f"write `events: {{key: {part.key}}}` if the topic is keyed by it, or `repartition_by: {part.key}`"
        document.warn((*at, "hold"), message, hint)


def _check_store(document: Document, at: Path_, part: StorePart) -> None:
    if (part.redis is None) == (part.python is None):
        if not any(document.is_broken((*at, kind)) for kind in ("redis", "python")):
            document.problem(at, "a store is either `redis` or `python`", "state exactly one of them", at_key=True)
        return
    if part.redis is not None and not document.is_broken((*at, "redis")):
        # Never told as it is: a password may stand in it.
        if not ADDRESS.fullmatch(VARIABLE.sub("x", part.redis)):
            document.problem((*at, "redis"), "this is no address of a Redis", "write `redis://HOST:PORT/DB`")
        if "{}" not in part.as_ and not document.is_broken((*at, "as")):
            message = f"every key stands under `{part.as_}`"
            document.problem((*at, "as"), message, "put `{}` where the key goes, as in `risk:{}`")
    for key in OF_REDIS if part.python is not None else ():
        name = NAMES.get(key, key)
        if document.has((*at, name)):
            document.problem((*at, name), f"`{name}` is for `redis`", "take it out", at_key=True)

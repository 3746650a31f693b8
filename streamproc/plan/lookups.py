"""Features that are looked up: in which table or store, by what."""

from __future__ import annotations

import math
from collections.abc import Mapping

import polars as pl

from streamproc.core.contract.fields import fit
from streamproc.core.plan import LookupFeature
from streamproc.plan.document import Document, Path_
from streamproc.plan.feature_parts import LookupPart
from streamproc.plan.models import PipelineFile
from streamproc.plan.names import near
from streamproc.plan.scope import Scope
from streamproc.plan.source_parts import FieldType, StorePart
from streamproc.plan.sources import Declared, Sources

TYPES: Mapping[FieldType, pl.DataType] = {
    "number": pl.Float64(),
    "text": pl.String(),
    "boolean": pl.Boolean(),
    "integer": pl.Int64(),
}
NAMED: Mapping[pl.DataType, str] = {dtype: name for name, dtype in TYPES.items()}
OF_KEYS = (pl.String(), pl.Int64(), pl.Boolean())


def make_lookup(
    document: Document, file: PipelineFile, scope: Scope, name: str, sources: Sources
) -> LookupFeature | None:
    """The feature of this name; ``None`` where it is wrong, which was told."""
    part, at = file.features[name], ("features", name)
    assert isinstance(part, LookupPart)
    source = sources.get(part.lookup)
    if source is None:
        broken = document.is_broken_within(("tables",), ("stores",))
        if not (broken or document.is_broken((*at, "lookup"))):
            message = f"there is no table and no store `{part.lookup}`"
            hint = (
                near(part.lookup, sources, "tables and stores") if sources else "declare it under `tables` or `stores`"
            )
            document.problem((*at, "lookup"), message, hint)
        return None
    known = len(document.problems)
    dtype = _type(document, file, at, part, source)
    _check_same_type(document, file, at, name, part, source)
    _check_key(document, scope, source)
    if dtype is None or len(document.problems) > known or source.part.key not in scope.known:
        return None
    endless = isinstance(part.default, float) and not math.isfinite(part.default)
    default = None if part.default is None or endless else fit(part.default, dtype)
    if default is None and part.default is not None:
        remedy = f"write a {NAMED[dtype]}, or take it out"
        document.problem((*at, "default"), f"the default is no {NAMED[dtype]}", remedy)
        return None
    return LookupFeature(name, part.lookup, source.part.key, part.field, dtype, default)


def type_of(part: LookupPart, source: StorePart | None, columns: Mapping[str, pl.DataType]) -> pl.DataType | None:
    """The type of a feature that is looked up: of the ``columns`` of a table, or as a store or the feature says."""
    if source is None:
        return columns.get(part.field or "")
    said = part.type or source.types.get(part.field or "")
    return None if said is None else TYPES[said]


def _type(document: Document, file: PipelineFile, at: Path_, part: LookupPart, source: Declared) -> pl.DataType | None:
    if isinstance(source.part, StorePart):
        return _type_in_store(document, file, at, part, source, source.part)
    columns = {} if source.contract is None else source.contract.columns
    if part.field is None:
        _tell_no_field(document, at)
        return None
    dtype = type_of(part, None, columns)
    if source.contract is None or document.is_broken((*at, "field")):
        return None
    if dtype is None:
        hint = near(part.field, columns, "fields of the table")
        document.problem((*at, "field"), f"{source.what} has no field `{part.field}`", hint)
    elif part.type is not None and TYPES[part.type] != dtype:
        message = f"`{part.field}` is a {NAMED[dtype]} in the schema of {source.what}"
        document.problem((*at, "type"), message, "take `type` out: the schema says it", at_key=True)
        return None
    return dtype


def _type_in_store(
    document: Document, file: PipelineFile, at: Path_, part: LookupPart, source: Declared, store: StorePart
) -> pl.DataType | None:
    if part.field is None and (store.redis is None or store.hash):
        _tell_no_field(document, at)
        return None
    whole = [one for one in file.features.values() if isinstance(one, LookupPart) and one.lookup == part.lookup]
    if len({one.field is None for one in whole}) > 1:
        message = f"of {source.what} some features read a field, and others all of it"
        document.problem(at, message, "a row is JSON, or one plain value", at_key=True)
    dtype = type_of(part, store, {})
    if dtype is None and not document.is_broken((*at, "type")):
        hint = "add `type: number`, `text`, `boolean` or `integer`"
        document.problem(at, "it does not say what type its value is", hint, at_key=True)
    return dtype


def _tell_no_field(document: Document, at: Path_) -> None:
    if not document.is_broken((*at, "field")):
        document.problem(at, "it does not say what of the row is wanted", "add `field: …`", at_key=True)


def _check_same_type(
    document: Document, file: PipelineFile, at: Path_, name: str, part: LookupPart, source: Declared
) -> None:
    """A field that two features read is read once."""
    for other, first in file.features.items():
        if other == name or not isinstance(source.part, StorePart):
            return
        same = isinstance(first, LookupPart) and (first.lookup, first.field) == (part.lookup, part.field)
        if isinstance(first, LookupPart) and same and type_of(first, source.part, {}) != type_of(part, source.part, {}):
            message = f"`{other}` has the same value of {source.what}, as another type"
            document.problem(at, message, "give both the same type", at_key=True)


def _check_key(document: Document, scope: Scope, source: Declared) -> None:
    at, key = (*source.at, "key"), source.part.key
    if document.is_broken(at):
        return
    kind = scope.known.get(key)
    if kind is None:
        if not (scope.open or key in scope.uncertain):
            message = f"`{key}` is no field, and no feature above those that are looked up by it"
            document.problem(at, message, near(key, scope.known, "columns"))
    elif kind not in OF_KEYS:
        what = "a time" if kind.is_temporal() else "a number with a fraction"
        document.problem(at, f"`{key}` is {what}, and no key", "keys are texts or whole numbers: make a feature of it")

"""What the models say of a place in the file: its keys, what a value should be, and what it means."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from streamproc.plan.document import Path_
from streamproc.plan.models import PipelineFile

_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    timedelta: "a duration like 90s or 1h",
}


def keys_at(path: Path_) -> list[str]:
    """The keys that a mapping here may have; none where its keys are the user's own."""
    model = _model(_annotation(path))
    return list(fields_of(model)) if model is not None else []


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a part by the names that they have in the file."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def parts(model: type[BaseModel] = PipelineFile, path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every part of the file with its path, like ``events``; the file itself has none."""
    yield path, model
    for name, info in fields_of(model).items():
        inner = _model(info.annotation)
        if inner is not None:
            yield from parts(inner, f"{path}.{name}".lstrip("."))


def homes(name: str) -> list[str]:
    """The parts of the file that have a key of this name."""
    return [path for path, model in parts() if name in fields_of(model)]


def meaning(path: Path_) -> str:
    """What the key is for."""
    model = _model(_annotation(path[:-1])) if path else None
    info = fields_of(model).get(str(path[-1])) if model is not None else None
    return (info.description or "") if info is not None else ""


def expected(path: Path_) -> str:
    """What a value here should be, for people."""
    return _named(_annotation(path))


def _named(annotation: Any) -> str:
    annotation = _bare(annotation)
    if get_origin(annotation) in (Union, UnionType):
        kinds = [option for option in get_args(annotation) if option is not NoneType]
        options = [_named(kind) for kind in kinds if kind is not int or float not in kinds]
        return " or ".join(filter(None, (", ".join(options[:-1]), options[-1])))
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is list:
        return "a list"
    return _NAMES.get(annotation, "a mapping")


def _annotation(path: Path_) -> Any:
    here: Any = PipelineFile
    for part in path:
        model, inner = _model(here), _bare(here)
        lists = [one for one in _options(here) if get_origin(one) is list]
        if isinstance(part, int) and lists:
            here = get_args(lists[0])[0]
        elif isinstance(part, str) and get_origin(inner) is dict:
            here = get_args(inner)[1]
        elif model is not None and part in fields_of(model):
            here = fields_of(model)[str(part)].annotation
        else:
            return None
    return here


def _options(annotation: Any) -> list[Any]:
    """What may stand here, without constraints."""
    bare = _bare(annotation)
    return list(map(_bare, get_args(bare))) if get_origin(bare) in (Union, UnionType) else [bare]


def _bare(annotation: Any) -> Any:
    """Without constraints, and without the ``None`` of a key that may be left out."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        options = [option for option in get_args(annotation) if option is not NoneType]
        if len(options) == 1:
            return _bare(options[0])
    return annotation


def _model(annotation: Any) -> type[BaseModel] | None:
    """The part that stands here, or may stand here, or in the items of a list here."""
    annotation = _bare(annotation)
    if get_origin(annotation) in (Union, UnionType):
        return next(filter(None, map(_model, get_args(annotation))), None)
    if get_origin(annotation) is list:
        return _model(get_args(annotation)[0])
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None

"""The first half of checking: does the file have the right shape? Everything wrong at once, in the user's words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from streamproc.plan.document import Document, Path_
from streamproc.plan.models import PipelineFile

ROUNDS = 10


def shape(document: Document) -> tuple[PipelineFile | None, set[str]]:
    """The file as models, with the names of features that had to be left out.

    Notes every problem of shape in the document. What is wrong is left out and the rest is read again, so that the
    second half of checking can still say what is wrong there. ``None`` where too little is left.
    """
    data, dropped = document.data, set[str]()
    if not isinstance(data, dict):
        document.problem((), "a pipeline file is a mapping", "begin with `pipeline: NAME`")
        return None, dropped
    told: set[tuple[Path_, str]] = set()
    for _ in range(ROUNDS):
        try:
            return PipelineFile.model_validate(data), dropped
        except ValidationError as error:
            for item in error.errors():
                path = _in_file(item["loc"], data)
                if (document.original(path), item["type"]) not in told:
                    told.add((document.original(path), item["type"]))
                    _tell(document, path, item)
                if path[:1] == ("features",) and len(path) > 1:
                    dropped.add(str(path[1]))
            data = _without(document, data, [_in_file(item["loc"], data) for item in error.errors()])
            if data is None:
                return None, dropped
    return None, dropped


def _in_file(loc: tuple[str | int, ...], data: Any) -> Path_:
    """pydantic's location without what is not in the file (union members, validators)."""
    path: list[str | int] = []
    here = data
    for number, part in enumerate(loc):
        last = number == len(loc) - 1
        if isinstance(here, dict) and (part in here or last):
            path.append(part)
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            path.append(part)
            here = here[part]
    return tuple(path)


def _tell(document: Document, path: Path_, item: Any) -> None:
    kind, name = item["type"], path[-1] if path else ""
    if kind == "extra_forbidden":
        known = _keys_at(path[:-1])
        document.problem(path, f"unknown key `{name}`", near(str(name), known, "keys here"), at_key=True)
    elif kind == "missing":
        document.problem(path[:-1], f"`{name}` is missing", f"add `{name}: …`{_meaning(path)}", at_key=True)
    elif kind == "too_short" or kind == "string_too_short":
        document.problem(path, f"`{name}` is empty", "put at least one in")
    elif kind == "string_pattern_mismatch":
        document.problem(path, f"`{item['input']}` is no name for `{name}`", _pattern_hint(item["ctx"]["pattern"]))
    elif kind == "literal_error":
        document.problem(path, f"`{name}` cannot be {item['input']!r}", f"one of {item['ctx']['expected']}")
    elif kind == "value_error":
        document.problem(path, f"`{name}` cannot be {item['input']!r}", str(item["ctx"]["error"]))
    else:
        got = type(item["input"]).__name__
        names = {"dict": "a mapping", "list": "a list", "str": "a text", "NoneType": "nothing", "int": "a number",
                 "float": "a number", "bool": "true or false"}  # fmt: skip
        message = item["msg"][0].lower() + item["msg"][1:]
        document.problem(path, f"`{name}` is {names.get(got, got)}: {message}", _meaning(path).strip(" —"))


def _pattern_hint(pattern: str) -> str:
    if pattern.startswith("^[A-Za-z_]"):
        return "letters, digits and underscores, not beginning with a digit"
    return "letters, digits, dots, dashes and underscores"


def _model_at(path: Path_) -> type[BaseModel] | None:
    model: Any = PipelineFile
    for part in path:
        if isinstance(part, int):
            continue
        fields = {info.alias or key: info for key, info in model.model_fields.items()}
        if part not in fields:
            return None
        model = _inner_model(fields[part].annotation)
        if model is None:
            return None
    return model  # type: ignore[no-any-return]


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _inner_model(arg))), None)


def _keys_at(path: Path_) -> list[str]:
    model = _model_at(path)
    return [info.alias or key for key, info in model.model_fields.items()] if model else []


def _meaning(path: Path_) -> str:
    model = _model_at(path[:-1])
    if model is None or not path:
        return ""
    fields = {info.alias or key: info for key, info in model.model_fields.items()}
    info = fields.get(str(path[-1]))
    return f" — {info.description}" if info is not None and info.description else ""


def near(name: str, known: Iterable[str], what: str) -> str:
    """A remedy that names what was probably meant, or what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(f"`{one}`" for one in close) + "?"
    shown = ", ".join(f"`{one}`" for one in names[:12])
    return f"{what}: {shown}{', …' if len(names) > 12 else ''}" if names else f"there are no {what}"


def _without(document: Document, data: Any, paths: list[Path_]) -> Any:
    """The data without what stands at the paths; without its parent, where a key is missing there."""
    targets = set()
    for path in paths:
        target = path
        while target and not _there(data, target):
            target = target[:-1]
        if not target:
            return None
        targets.add(target)
    if any(target in {("pipeline",), ("events",), ("rules",)} for target in targets):
        return None
    return _prune(document, data, (), (), targets)


def _there(data: Any, path: Path_) -> bool:
    for part in path:
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return False
    return True


def _prune(document: Document, data: Any, path: Path_, original: Path_, targets: set[Path_]) -> Any:
    if isinstance(data, dict):
        return {
            key: _prune(document, value, (*path, key), (*original, key), targets)
            for key, value in data.items()
            if (*path, key) not in targets
        }
    if isinstance(data, list):
        numbers = document.kept.get(original, list(range(len(data))))
        left = [index for index in range(len(data)) if (*path, index) not in targets]
        items = [
            _prune(document, data[index], (*path, index), (*original, numbers[index]), targets) for index in left
        ]
        if len(left) < len(data):
            document.kept[original] = [numbers[index] for index in left]
        return items
    return data

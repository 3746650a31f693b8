"""The first half of checking: does the file have the right shape?

What is wrong is told, marked as broken and taken out (or replaced, where the file needs something there),
until the rest can be read: so the second half of checking can still say what is wrong with that.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from streamproc.plan.anatomy import expected, homes, keys_at, meaning
from streamproc.plan.document import Document, Path_
from streamproc.plan.models import PipelineFile
from streamproc.plan.names import closest, near
from streamproc.plan.reader import BEGIN

ROUNDS = 20
_NAMED = {("features",)}
_MODEL = {"http": "http://placeholder/v2", "inputs": ["placeholder"]}
_RULE = {"id": "placeholder", "decide": "review"}
_TEST: dict[str, Any] = {"name": "placeholder", "event": {}, "expect": {}}
# What stands in for something broken that a file cannot do without. `*` is any item of a list, or of a part whose names
# are the user's.
_PLACEHOLDERS: Mapping[tuple[str, ...], Any] = {
    ("pipeline",): "placeholder",
    ("events",): {"topic": "placeholder", "schema": "placeholder"},
    ("events", "topic"): "placeholder",
    ("events", "schema"): "placeholder",
    ("events", "sensitive", "*"): "placeholder",
    ("model", "inputs"): ["placeholder"],
    ("model", "inputs", "*"): "placeholder",
    ("model", "classes", "*"): "placeholder",
    **{
        (name, *item, "llm", *rest): value
        for name, item in (("model", ()), ("model", ("*",)), ("shadow", ("*",)))
        for rest, value in (
            (("budget", "tokens_per_key", "by"), "placeholder"),
            (("budget", "tokens_per_key", "limit"), "1G"),
            (("price", "input"), "1 USD"),
            (("price", "output"), "1 USD"),
            (("limits", "per", "*"), "1/s"),
        )
    },
    **{
        (name, "*", *rest): value
        for name in ("model", "shadow")
        for rest, value in (
            ((), _MODEL),
            (("inputs",), ["placeholder"]),
            (("inputs", "*"), "placeholder"),
            (("classes", "*"), "placeholder"),
        )
    },
    ("tables", "*"): {"topic": "placeholder", "schema": "placeholder", "key": "placeholder"},
    ("drift", "reference"): "placeholder",
    ("drift", "false_alarms"): "1 per 1000000 events",
    ("drift", "watch", "*"): "placeholder",
    ("drift", "exclude", "*"): "placeholder",
    ("drift", "segments", "*"): "placeholder",
    ("outcomes", "values"): ["placeholder"],
    ("outcomes", "values", "*"): "placeholder",
    ("outcomes", "unlabelled", "*"): "review",
    ("outcomes", "segments", "*"): "placeholder",
    ("outcomes", "errors", "*", "*"): "placeholder",
    ("outcomes", "baseline", "name"): "placeholder",
    ("review", "ttl"): "1h",
    ("review", "on_expiry"): "placeholder",
    ("review", "explore", "instead_of"): "placeholder",
    ("review", "explore", "decide"): "placeholder",
    ("review", "explore", "share"): 0.1,
    ("review", "explore", "budget"): "1 per 1h",
    ("features", "*", "by"): "placeholder",
    ("features", "*", "agg"): "count",
    ("features", "*", "lookup"): "placeholder",
    ("rules",): [_RULE],
    ("rules", "*"): _RULE,
    ("rules", "*", "id"): "placeholder",
    ("fallback", "*"): _RULE,
    ("fallback", "*", "id"): "placeholder",
    ("fallback", "*", "decide"): "review",
    ("tests", "*"): _TEST,
    **{("tests", "*", key): value for key, value in _TEST.items()},
    **{("tests", "*", "expect", key, "*"): "" for key in ("rules", "reasons", "observed", "undecided")},
}


def shape(document: Document) -> PipelineFile | None:
    """The file as models, with every problem of shape noted; ``None`` where nothing can be read."""
    if not isinstance(document.data, dict):
        document.problem((), f"a pipeline file is a mapping, and this is {_kind(document.data)}", BEGIN)
        return None
    data = deepcopy(document.data)
    _tell_empty(document)
    for path in sorted(document.broken, key=len):
        _repair(data, path)
    for _ in range(ROUNDS):
        try:
            return PipelineFile.model_validate(data)
        except ValidationError as error:
            found = {_in_file(item["loc"], data): item for item in reversed(error.errors())}
        # Unknown keys first: a key that is missing may be there under a misspelt name.
        for path, item in sorted(found.items(), key=lambda entry: entry[1]["type"] != "extra_forbidden"):
            if not document.is_broken(path):
                _tell(document, path, item)
                document.broken.add(path)
            _repair(data, path)
    return None


def _tell_empty(document: Document) -> None:
    """A key with nothing behind it is a slip: a rule with an empty ``when:`` would always match."""
    for path, place in document.places.items():
        empty = place.value.tag == "tag:yaml.org,2002:null" and path[-1:] != ()
        free = path[:1] in (("actions",), ("params",)) or (path[:1] == ("tests",) and len(path) > 3)
        if empty and not free and path[-1] in keys_at(path[:-1]) and not document.is_broken(path):
            _tell_wrong_kind(document, path, f"`{path[-1]}`", None)
            document.broken.add(path)


def _in_file(loc: tuple[str | int, ...], data: Any) -> Path_:
    """pydantic's location without what is not in the file: members of unions, validators, ``[key]``."""
    path: list[str | int] = []
    here = data
    for number, part in enumerate(loc):
        if (
            isinstance(here, dict)
            and isinstance(part, str)
            and (part in here or _is_key(path, part, loc[number + 1 :]))
        ):
            path.append(part)
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            path.append(part)
            here = here[part]
    return tuple(path)


def _is_key(path: list[str | int], part: str, rest: tuple[str | int, ...]) -> bool:
    """A key that is missing is the last part of a location, and one that the models know."""
    return not rest and part in keys_at(tuple(path))


def _tell(document: Document, path: Path_, item: Any) -> None:
    name, value = (path[-1] if path else ""), item["input"]
    what = f"`{name}`" if isinstance(name, str) else f"item {name + 1} of `{path[-2]}`"
    match item["type"]:
        case "extra_forbidden":
            document.problem(path, f"unknown key `{name}`", _where_it_belongs(path), at_key=True)
            for meant in closest(str(name), keys_at(path[:-1]))[:1]:
                if not document.has((*path[:-1], meant)):
                    document.broken.add((*path[:-1], meant))
        case "missing":
            note = meaning(path)
            document.problem(
                path[:-1],
                f"{what} is missing",
                f"add `{name}: …`" + (f": {note}" if note else ""),
                at_key=True,
            )
        case "too_short" | "string_too_short":
            document.problem(path, f"{what} is empty", meaning(path) or "put something there")
        case "string_pattern_mismatch" if item["loc"][-1] == "[key]":
            document.problem(path, f"`{name}` cannot be a name", _allowed(item["ctx"]["pattern"]), at_key=True)
        case "string_pattern_mismatch":
            document.problem(path, f"{what} cannot be `{_short(value)}`", _allowed(item["ctx"]["pattern"]))
        case "string_too_long":
            document.problem(path, f"{what} is too long", f"at most {item['ctx']['max_length']} characters")
        case "value_error":
            document.problem(path, f"{what} cannot be `{_short(value)}`", str(item["ctx"]["error"]))
        case "greater_than_equal" | "less_than_equal":
            bound = item["ctx"].get("ge", item["ctx"].get("le"))
            limit = "at least" if "ge" in item["ctx"] else "at most"
            document.problem(path, f"{what} cannot be {value}", f"{limit} {bound}")
        case "literal_error":
            close = closest(value, keys) if isinstance(value, str) and (keys := _literals(path)) else []
            hint = f"did you mean `{close[0]}`?" if close else f"it is {expected(path)}"
            document.problem(path, f"{what} cannot be `{_short(value)}`", hint)
        case _:
            _tell_wrong_kind(document, path, what, value)


def _tell_wrong_kind(document: Document, path: Path_, what: str, value: Any) -> None:
    should = expected(path)
    if value is None:
        document.problem(path, f"{what} is empty", f"put {should} there, or take the line out", at_key=True)
        return
    if isinstance(value, str) and should == "true or false":
        remedy = "write `true` or `false`"
    elif isinstance(value, bool | int | float) and "text" in should:
        remedy = "put it into quotes"
    elif isinstance(value, str) and should == "a list":
        remedy = f"write `[{_short(value)}]`"
    elif isinstance(value, str) and "number" in should:
        remedy = "write it without quotes and units"
    else:
        remedy = meaning(path) or meaning(path[:-1]) or f"write {should}"
    document.problem(path, f"{what} is {_kind(value)}, and should be {should}", remedy)


def _where_it_belongs(path: Path_) -> str:
    name, here = str(path[-1]), keys_at(path[:-1])
    if not closest(name, here) and (others := [home for home in homes(name) if home]):
        return "it belongs under " + " or ".join(f"`{home}`" for home in others)
    if not closest(name, here) and "" in homes(name):
        return f"it belongs at the top of the file: write `{name}:` without indentation"
    return near(name, here, "keys")


def _literals(path: Path_) -> list[str]:
    return expected(path).replace("`", "").split(" or ")


def _allowed(pattern: str) -> str:
    if pattern.startswith("^[A-Za-z_]"):
        return "letters, digits and underscores, and no digit in front"
    first = ", and a letter or digit in front" if pattern.startswith("^[A-Za-z0-9][") else ""
    return f"letters, digits, dots, dashes and underscores{first}"


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    names = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "a number")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _repair(data: Any, path: Path_) -> None:
    """Take out what stands at a path, or put something in its place that the models accept."""
    pattern = tuple(
        "*" if isinstance(part, int) or path[:number] in _NAMED else part for number, part in enumerate(path)
    )
    *parents, name = path or ("",)
    here: Any = data  # indexed by texts and numbers
    for part in parents:
        if not (isinstance(here, list) or (isinstance(here, dict) and part in here)):
            return
        here = here[part]  # type: ignore[index]
    if pattern in _PLACEHOLDERS:
        here[name] = deepcopy(_PLACEHOLDERS[pattern])
    elif isinstance(here, dict):
        here.pop(name, None)

"""Columns that the file adds to the event: params, features, confidence."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from streamproc.core.contract.fields import INT64
from streamproc.core.expressions import Expression
from streamproc.core.plan import CONFIDENCE, MISSING, RESERVED, AnyFeature, Feature
from streamproc.core.windows.policy import CAPPED
from streamproc.plan.document import Document, Path_
from streamproc.plan.durations import in_words
from streamproc.plan.feature_parts import LookupPart, WindowPart
from streamproc.plan.lookups import make_lookup
from streamproc.plan.models import PipelineFile
from streamproc.plan.scope import Scope, without_score
from streamproc.plan.sources import Sources
from streamproc.plan.windows import make_window

OWN = "`{}` is a name of streamproc's own"
RENAME = "give it another name"


def check_params(document: Document, file: PipelineFile, scope: Scope) -> None:
    """Params must not shadow anything."""
    for name, value in file.params.items():
        at: Path_ = ("params", name)
        if name in RESERVED:
            document.problem(at, OWN.format(name), RENAME, at_key=True)
        elif name in scope.known:
            document.problem(at, f"param `{name}` is a field of the event too", RENAME, at_key=True)
        if isinstance(value, int) and value not in INT64:
            document.problem(at, f"`{name}` is a number of more than 64 bits", f"write it as a float: {value}.0")


def make_features(document: Document, file: PipelineFile, scope: Scope, sources: Sources) -> list[AnyFeature]:
    """The features that can be made, each reading those above it."""
    features = list[AnyFeature]()
    derived = dict[str, str]()
    names = list(file.features)
    without_score(
        scope,
        "features cannot read `{name}`: they are computed before the model",
        "use it in `confidence` or in a rule",
    )
    for place, (name, part) in enumerate(file.features.items()):
        at: Path_ = ("features", name)
        scope.absent.pop(name, None)
        for later in names[place + 1 :]:
            if later not in scope.known:
                scope.absent[later] = f"`{later}` is defined below `{name}`", f"move `{later}` above `{name}`"
        if name in RESERVED:
            document.problem(at, OWN.format(name), RENAME, at_key=True)
            continue
        if name in scope.known or name in file.params:
            what = "param" if name in file.params else "field of the event"
            document.problem(at, f"feature `{name}` is a {what} too", RENAME, at_key=True)
            continue
        scope.absent[name] = (
            f"feature `{name}` reads itself",
            "a feature can read fields, params and the features above it",
        )
        feature: AnyFeature | None
        match part:
            case WindowPart():
                feature = make_window(document, file, scope, name, derived)
            case LookupPart():
                feature = make_lookup(document, file, scope, name, sources)
            case _:
                expression = scope.compile(at, part)
                feature = None if expression is None else Feature(name, expression)
        del scope.absent[name]
        if feature is None:
            scope.uncertain.update(names_of(name, part))
        else:
            _add(document, file, scope, feature)
            features.append(feature)
            if window := name if isinstance(part, WindowPart) else _window_of(feature, derived):
                derived.update(dict.fromkeys(feature.columns, window))
    return features


def names_of(name: str, part: object) -> tuple[str, ...]:
    """The columns that a feature of the file adds."""
    match part:
        case WindowPart(agg="distinct"):
            return name, name + CAPPED
        case LookupPart():
            return name, name + MISSING
        case _:
            return (name,)


def feature_text(part: object) -> str:
    """What a feature is, in a line for people."""
    match part:
        case WindowPart():
            whole = f"{part.agg}({'' if part.of is None else part.of})"
            where = "" if part.where is None else f" where {part.where}"
            over = "of all" if part.window is None else f"of the last {in_words(part.window)}"
            return f"{whole} {over} by {part.by}{where}"
        case LookupPart():
            return f"{part.lookup}{'' if part.field is None else f'.{part.field}'}"
        case _:
            return str(part)


def _window_of(feature: AnyFeature, derived: Mapping[str, str]) -> str | None:
    """The window that a feature derives from, where there is one."""
    return next((derived[name] for name in sorted(feature.reads) if name in derived), None)


def _add(document: Document, file: PipelineFile, scope: Scope, feature: AnyFeature) -> None:
    """Let what is below read the columns of a feature."""
    for name, dtype in feature.columns.items():
        if name != feature.name and (name in scope.known or name in file.params or name in file.features):
            document.problem(
                ("features", feature.name),
                f"`{feature.name}` adds a column `{name}`, and there is one of that name",
                RENAME,
                at_key=True,
            )
        scope.known[name] = dtype


def make_confidence(document: Document, file: PipelineFile, scope: Scope) -> Expression | None:
    """The expression of ``confidence``, and its column."""
    scope.absent[CONFIDENCE] = "`confidence` reads itself", "it can read `score`, features, fields and params"
    expression = None
    if file.confidence is not None:
        expression = scope.compile(("confidence",), file.confidence, want="number")
    if document.has(("confidence",)):
        del scope.absent[CONFIDENCE]
        scope.known[CONFIDENCE] = pl.Float64()
    else:
        message = "`confidence` is not defined in this file"
        scope.absent[CONFIDENCE] = message, "say what it is, for example `confidence: ABS(score - 0.5) * 2`"
    return expression

"""Columns that the file adds to the event: params, features, confidence."""

from __future__ import annotations

import polars as pl

from streamproc.core.expressions import Expression
from streamproc.core.plan import CONFIDENCE, RESERVED, Feature
from streamproc.plan.document import Document, Path_
from streamproc.plan.models import PipelineFile
from streamproc.plan.scope import Scope, without_score

INT64 = range(-(2**63), 2**63)
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


def make_features(document: Document, file: PipelineFile, scope: Scope) -> list[Feature]:
    """The features that can be made, each reading those above it."""
    features = []
    names = list(file.features)
    without_score(
        scope,
        "features cannot read `{name}`: they are computed before the model",
        "use it in `confidence` or in a rule",
    )
    for place, (name, text) in enumerate(file.features.items()):
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
        expression = scope.compile(at, text)
        del scope.absent[name]
        if expression is None:
            scope.uncertain.add(name)
        else:
            scope.known[name] = expression.dtype
            features.append(Feature(name, expression))
    return features


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

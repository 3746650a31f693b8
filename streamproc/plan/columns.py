"""Columns that the file adds to the event: params, features, the model's score, confidence."""

from __future__ import annotations

import polars as pl

from streamproc.core.expressions import Expression
from streamproc.core.plan import CONFIDENCE, RESERVED, SCORE, Feature, ModelPlan
from streamproc.errors import EnvironmentFault, StreamprocError, UserError
from streamproc.plan.document import Document, Path_
from streamproc.plan.inspect import DEFAULT_MODEL, Inspect, ModelFacts
from streamproc.plan.models import ModelPart, PipelineFile
from streamproc.plan.names import near
from streamproc.plan.scope import Scope, without_score
from streamproc.wording import counted

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


def make_model(document: Document, file: PipelineFile, scope: Scope, inspect: Inspect) -> ModelPlan | None:
    """The model, and its score as a column."""
    if not document.has(("model",)):
        without_score(scope, "`{name}` needs a model, and this file has none", "add `model: …`, or take it out")
        return None
    scope.absent.pop(SCORE, None)
    scope.known[SCORE] = pl.Float64()
    part = file.model
    if part is None:
        return None
    _check_inputs(document, part, scope)
    facts = _inspected(document, file, part, inspect)
    return ModelPlan(DEFAULT_MODEL, tuple(part.inputs), facts.version) if facts is not None else None


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


def _check_inputs(document: Document, part: ModelPart, scope: Scope) -> None:
    seen: set[str] = set()
    for index, name in enumerate(part.inputs):
        at: Path_ = ("model", "inputs", index)
        if document.is_broken(at):
            continue
        if name in seen:
            document.problem(at, f"`{name}` is listed twice", "list each input once, in the model's order")
        seen.add(name)
        kind = scope.known.get(name)
        if name in (SCORE, CONFIDENCE):
            document.problem(at, f"the model cannot read `{name}`, which follows from it", "name fields and features")
        elif name in scope.params:
            document.problem(at, f"`{name}` is a param, not a column", f"make a feature of it: `name: {name}`")
        elif kind is None:
            if not (scope.open or name in scope.uncertain):
                hint = near(name, set(scope.known) - {SCORE, CONFIDENCE}, "columns")
                document.problem(at, f"the model's input `{name}` is no field and no feature", hint)
        elif part.onnx and not (kind.is_numeric() or kind == pl.Boolean):
            message = f"`{name}` is {'text' if kind == pl.String else 'a time'}, and the model wants numbers"
            document.problem(at, message, "make a number of it in a feature: CASE … WHEN … THEN 1.0 … END")


def _inspected(document: Document, file: PipelineFile, part: ModelPart, inspect: Inspect) -> ModelFacts | None:
    if sum(one is not None for one in (part.onnx, part.python, part.http)) != 1:
        if not any(document.is_broken(("model", kind)) for kind in ("onnx", "python", "http")):
            hint = "state exactly one of them"
            document.problem(("model",), "a model is either `onnx`, `python` or `http`", hint, at_key=True)
        return None
    if part.python is not None and part.output is not None:
        document.problem(("model", "output"), "`output` is for ONNX and HTTP models", "take it out", at_key=True)
    for name, there in (("headers", part.headers), ("tensor", part.tensor)):
        if part.http is None and there:
            document.problem(("model", name), f"`{name}` is for HTTP models", "take it out", at_key=True)
    at: Path_ = ("model", part.kind)
    try:
        facts = inspect(file, document.file.parent)
    except UserError as error:
        at = ("model", "output") if part.output is not None and f"output {part.output!r}" in error.message else at
        document.problem(at, error.message, error.hint)
        return None
    except EnvironmentFault as fault:
        document.fault = fault
        return None
    except (Exception, SystemExit) as error:
        if part.python is None or isinstance(error, StreamprocError):
            raise
        # Importing a module runs it, and it may raise whatever it likes.
        said = str(error).split("\n", 1)[0]
        message = f"`{part.python}` cannot be used: {type(error).__name__}" + (f": {said}" if said else "")
        document.problem(at, message, "import the module in a Python of its own, and mend what it says")
        return None
    sound = all(path[:2] != ("model", "inputs") for path in document.broken)
    if facts.inputs is not None and facts.inputs != len(part.inputs) and sound:
        message = f"the model takes {counted(facts.inputs, 'column')}, and the file lists {len(part.inputs)}"
        document.problem(("model", "inputs"), message, "list what it was trained on, in that order", at_key=True)
    return facts

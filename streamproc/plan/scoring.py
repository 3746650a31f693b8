"""The models of the file: what scores each event, what stands in, what is only recorded, and the columns of that."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import polars as pl

from streamproc.core.expressions import Expression
from streamproc.core.llm.policy import LlmPlan
from streamproc.core.names import MODEL_STATUS, SCORE_OF, SCORED_BY
from streamproc.core.plan import CONFIDENCE, OF_MODELS, SCORE, ModelPlan
from streamproc.errors import EnvironmentFault, UserError
from streamproc.plan.document import Document, Path_
from streamproc.plan.durations import in_words
from streamproc.plan.inspect import Inspect, ModelFacts
from streamproc.plan.llm import make_llm
from streamproc.plan.models import KINDS, ModelPart, PipelineFile
from streamproc.plan.names import near
from streamproc.plan.scope import Scope, without_score
from streamproc.wording import counted

NUMBERS: Final = frozenset({"output", "classes", "score", "confidence", "inputs", "timeout", "in_flight"})
"""Keys of models that are asked in numbers."""


@dataclass(frozen=True, slots=True)
class Models:
    """The models that were found sound: the first one with its stand-ins, and the shadows."""

    chain: tuple[ModelPlan, ...] = ()
    shadows: tuple[ModelPlan, ...] = ()

    @property
    def llms(self) -> list[LlmPlan]:
        """The language models among those that decide."""
        return [model.llm for model in self.chain if model.llm is not None]


Placed: TypeAlias = "list[tuple[Path_, str, ModelPart]]"
"""Where a model stands in the file, its id, and what is written."""


def placed(file: PipelineFile) -> tuple[Placed, Placed]:
    """The models and the shadows of a file. One without an id is called by its kind, and by a number where several
    are of that kind."""
    chain: list[tuple[Path_, ModelPart]] = []
    if isinstance(file.model, ModelPart):
        chain = [(("model",), file.model)]
    elif file.model is not None:
        chain = [(("model", index), part) for index, part in enumerate(file.model)]
    shadows: list[tuple[Path_, ModelPart]] = [(("shadow", index), part) for index, part in enumerate(file.shadow)]
    kinds, named = Counter[str](), list[tuple[Path_, str, ModelPart]]()
    for at, part in (*chain, *shadows):
        kinds[part.kind] += 1
        count = kinds[part.kind]
        named.append((at, part.id or (part.kind if count == 1 else f"{part.kind}-{count}"), part))
    return named[: len(chain)], named[len(chain) :]


def make_models(document: Document, file: PipelineFile, scope: Scope, inspect: Inspect) -> Models:
    """The models, and what they say as columns."""
    if not document.has(("model",)):
        without_score(scope, "`{name}` needs a model, and this file has none", "add `model: …`, or take it out")
        for name in OF_MODELS:
            if name not in scope.known:
                scope.absent[name] = f"`{name}` needs a model, and this file has none", "add `model: …`"
        if file.shadow:
            message = "a shadow is recorded beside the decisions of a model, and this file has none"
            document.problem(("shadow",), message, "add `model: …`, or take it out", at_key=True)
        return Models()
    scope.absent.pop(SCORE, None)
    scope.known[SCORE] = pl.Float64()
    if file.model is None:
        return Models()
    chain, shadows = placed(file)
    _check_ids(document, [*chain, *shadows])
    secrets = secrets_of(file)
    made = [[_made(document, *one, file, scope, inspect, secrets) for one in group] for group in (chain, shadows)]
    first, *others = (tuple(one for one in group if one is not None) for group in made)
    models = Models(first, *others)
    _check_shadows(document, chain, shadows)
    _check_prompts(document, [*chain, *shadows])
    _add_columns(document, chain, models, scope)
    return models


def secrets_of(file: PipelineFile) -> frozenset[str]:
    """The environment variables that hold secrets of the file's models and stores."""
    chain, shadows = placed(file)
    of_models = [part.variables for _, _, part in (*chain, *shadows)]
    return frozenset[str]().union(*of_models, *(part.variables for part in file.stores.values()))


def of_score(scope: Scope) -> list[str]:
    """The columns of models that are not there where there is no score."""
    return [name for name in scope.of_models if name not in (MODEL_STATUS, SCORED_BY) and name not in scope.given]


def shown(models: Models, scope: Scope, read: list[Expression]) -> tuple[str, ...]:
    """The columns of models that expressions read, and those that stand in decisions anyway: of classes that have
    names, and all of language models."""
    reads = {name for expression in read for name in expression.columns}
    of_words = {name for llm in models.llms for name in {MODEL_STATUS: None, **llm.given, **llm.said}}
    return tuple(name for name in scope.of_models if name in reads or name in of_words or name.startswith(SCORE_OF))


def texts_of_sensitive(models: Models, sensitive: frozenset[str]) -> frozenset[str]:
    """The texts that a language model may write freely where it is shown something sensitive: they may repeat it."""
    found = [model.llm.free_texts for model in models.chain if model.llm is not None and sensitive & {*model.inputs}]
    return frozenset[str]().union(*found)


def check_kept(document: Document, file: PipelineFile, sensitive: frozenset[str]) -> None:
    """Answers to something sensitive are not kept: they may repeat it, and nobody masks them there."""
    for at, _, part in [one for group in placed(file) for one in group]:
        if part.llm is None or part.llm.cache is None:
            continue
        for name in part.llm.input:
            if name in sensitive:
                message = f"`{name}` is sensitive or derives from what is, and answers to it would be kept"
                remedy = "take `cache` out, or the input"
                document.problem((*at, "llm", "cache"), message, remedy, at_key=True)


def _add_columns(document: Document, chain: Placed, models: Models, scope: Scope) -> None:
    own: dict[str, tuple[Path_, pl.DataType]] = {name: (("model",), kind) for name, kind in OF_MODELS.items()}
    plans = {model.name: model.llm for model in models.chain}
    for at, id_, part in chain:
        for index, name in enumerate(part.classes):
            own.setdefault(SCORE_OF + name, ((*at, "classes", index), pl.Float64()))
        if (llm := plans.get(id_)) is not None:
            scope.given.update(llm.given)
            for name, kind in {**llm.given, **llm.said}.items():
                place, known = own.setdefault(name, ((*at, "llm", "output"), kind))
                if known != kind or (name in llm.given and place[: len(at)] != at):
                    hint = "give it another name there, or the model another `id`"
                    document.problem((*at, "llm", "output"), f"another model gives a column `{name}` too", hint)
    if models.llms:
        watched = (name for llm in models.llms for name in llm.watched)
        scope.watched = list(dict.fromkeys([MODEL_STATUS, *watched]))
        unasked = {name for llm in models.llms for name in {*llm.given} - llm.judged}
        scope.answered = [name for name in scope.watched if name not in unasked]
    for name, (place, kind) in own.items():
        if name in scope.known or name in scope.params:
            what = "param" if name in scope.params else "column"
            remedy = f"give that {what} another name"
            document.problem(place, f"the model gives a column `{name}`, and a {what} has that name", remedy)
        scope.known[name] = scope.of_models[name] = kind


def _check_shadows(document: Document, chain: Placed, shadows: Placed) -> None:
    """A shadow is asked beside the first model and has no more time than it: the calls of a language model would
    cost, and be given up."""
    first = chain[0][2].time
    for at, _, part in shadows:
        if part.llm is not None and part.llm.deadline > first:
            message = "a shadow has as much time as the first model, and this language model has more"
            document.problem((*at, "llm", "deadline"), message, f"let `deadline` be {in_words(first)} at most")


def _check_prompts(document: Document, models: Placed) -> None:
    """Labels are said of a prompt by its name, so no two may have one."""
    seen: dict[str, Path] = {}
    for at, _, part in models:
        if part.llm is not None and not document.is_broken((*at, "llm", "prompt")):
            folder = Path(os.path.normpath(part.llm.prompt))
            if seen.setdefault(folder.name, folder) != folder:
                message = f"two prompts have the name `{folder.name}`"
                document.problem((*at, "llm", "prompt"), message, "labels are said by that name: rename a folder")


def _check_ids(document: Document, models: Placed) -> None:
    seen: set[str] = set()
    for at, name, part in models:
        if name in seen and not document.is_broken((*at, "id")):
            place = (*at, "id") if part.id is not None else at
            document.problem(place, f"two models have the id `{name}`", "decisions name models by their ids")
        seen.add(name)


def _made(
    document: Document,
    at: Path_,
    name: str,
    part: ModelPart,
    file: PipelineFile,
    scope: Scope,
    inspect: Inspect,
    secrets: frozenset[str],
) -> ModelPlan | None:
    if document.is_broken(at):
        return None
    _check_inputs(document, at, part, scope)
    _check_classes(document, at, part)
    llm = None if part.llm is None else make_llm(document, (*at, "llm"), name, part.llm, file, scope)
    sound = part.llm is None or llm is not None
    facts = _inspected(document, at, name, part, llm, inspect, secrets) if sound else None
    if facts is None and part.llm is not None:
        document.broken.add((*at, "llm"))
        scope.open = True  # nobody knows the fields of its answers
    return ModelPlan(name, tuple(part.columns), facts.version, tuple(part.classes), llm) if facts is not None else None


def _check_inputs(document: Document, path: Path_, part: ModelPart, scope: Scope) -> None:
    seen: set[str] = set()
    for index, name in enumerate(part.columns):
        at: Path_ = (*path, "inputs", index) if part.llm is None else (*path, "llm", "input", index)
        if document.is_broken(at):
            continue
        if name in seen:
            document.problem(at, f"`{name}` is listed twice", "list each input once, in the model's order")
        seen.add(name)
        kind = _column(document, at, name, scope, "the model's input")
        numbers = part.kind == "onnx" and part.llm is None
        if kind is not None and numbers and not (kind.is_numeric() or kind == pl.Boolean):
            message = f"`{name}` is {'text' if kind == pl.String else 'a time'}, and the model wants numbers"
            document.problem(at, message, "make a number of it in a feature: CASE … WHEN … THEN 1.0 … END")
    if part.llm is not None and (cache := part.llm.cache) is not None and cache.by is not None:
        at = (*path, "llm", "cache", "by")
        if not document.is_broken(at):
            _column(document, at, cache.by, scope, "`by`")


def _column(document: Document, at: Path_, name: str, scope: Scope, what: str) -> pl.DataType | None:
    """The type of a column that is there before any model is asked; ``None`` with what is wrong noted. ``what`` it
    is, is for people."""
    if name in (SCORE, CONFIDENCE):
        document.problem(at, f"the model cannot read `{name}`, which follows from it", "name fields and features")
        return None
    if name in scope.params:
        document.problem(at, f"`{name}` is a param, not a column", f"make a feature of it: `name: {name}`")
        return None
    kind = scope.known.get(name)
    if kind is None and not (scope.open or name in scope.uncertain):
        hint = near(name, set(scope.known) - {SCORE, CONFIDENCE}, "columns")
        document.problem(at, f"{what} `{name}` is no field and no feature", hint)
    return kind


def _check_classes(document: Document, path: Path_, part: ModelPart) -> None:
    for index, name in enumerate(part.classes):
        if name in part.classes[:index] and not document.is_broken((*path, "classes", index)):
            document.problem((*path, "classes", index), f"`{name}` is listed twice", "list each class once, in order")
    at: Path_ = (*path, "score")
    if part.score is not None and not document.is_broken((*path, "classes")):
        if not part.classes:
            document.problem(
                at, "`score` names a class, and no `classes` are listed", "add `classes: […]`", at_key=True
            )
        elif part.score not in part.classes:
            document.problem(at, f"unknown class `{part.score}`", near(part.score, part.classes, "classes"))


def _inspected(
    document: Document,
    path: Path_,
    name: str,
    part: ModelPart,
    llm: LlmPlan | None,
    inspect: Inspect,
    secrets: frozenset[str],
) -> ModelFacts | None:
    if sum(getattr(part, kind) is not None for kind in KINDS) != 1:
        if not any(document.is_broken((*path, kind)) for kind in KINDS):
            hint = "state exactly one of them"
            document.problem(
                path, "a model is either `onnx`, `python`, `http` or `llm`", hint, at_key=path == ("model",)
            )
        return None
    if part.llm is None and not part.inputs:
        if not document.is_broken((*path, "inputs")):
            document.problem(path, "the model has no `inputs`", "list the columns that it takes, in its order")
        return None
    _check_keys(document, path, part)
    at: Path_ = (*path, part.kind)
    try:
        facts = inspect(name, part, llm, document.file.parent, secrets)
    except UserError as error:
        for key in ("output", "confidence"):
            named = getattr(part, key)
            if named is not None and f"output {named!r}" in error.message:
                at = (*path, key)
        document.problem(at, error.message, error.hint)
        return None
    except EnvironmentFault as fault:
        document.fault = fault
        return None
    inputs = (*path, "inputs")
    sound = not document.is_broken_within(inputs)
    if facts.inputs is not None and facts.inputs != len(part.inputs) and sound:
        message = f"the model takes {counted(facts.inputs, 'column')}, and the file lists {len(part.inputs)}"
        document.problem(inputs, message, "list what it was trained on, in that order", at_key=True)
    return facts


def _check_keys(document: Document, path: Path_, part: ModelPart) -> None:
    """Is a key there that means nothing for this kind of model?"""
    if part.llm is not None:
        for key in sorted(part.model_fields_set & NUMBERS):
            message = f"`{key}` is for models that are asked in numbers"
            document.problem((*path, key), message, "take it out: under `llm` stands what is like it", at_key=True)
    if part.python is not None:
        for key, hint in (
            ("output", "take it out"),
            ("confidence", "take it out: what the function returns under `confidence` is it"),
        ):
            if getattr(part, key) is not None:
                document.problem((*path, key), f"`{key}` is for ONNX and HTTP models", hint, at_key=True)
    for key, there in (("headers", part.headers), ("tensor", part.tensor)):
        if part.http is None and there:
            document.problem((*path, key), f"`{key}` is for HTTP models", "take it out", at_key=True)
    if part.python is None and part.recycle is not None:
        document.problem((*path, "recycle"), "`recycle` is for Python models", "take it out", at_key=True)

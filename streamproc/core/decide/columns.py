"""Stages 2 and 4, features and confidence: expressions, look-ups and windows that add columns."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from itertools import groupby

from streamproc.core.decide.frame import Context, Frame, Stage
from streamproc.core.decide.lookups import lookups_stage
from streamproc.core.decide.windows import windows_stage
from streamproc.core.plan import CONFIDENCE, AnyFeature, Feature, LookupFeature, Plan
from streamproc.core.processor import Answer, Ask
from streamproc.core.sensitive import Masker
from streamproc.core.windows.policy import WindowFeature


def features_stages(plan: Plan, masker: Masker | None = None) -> list[Stage]:
    """Add the declared features: a later one may read an earlier one, whatever kinds they are.

    All windows are worked out at once, since they share the state of a key. What does not derive from any comes before
    them, all else after. Keys that are sensitive are remembered under their hashes.
    """
    before, windows, after = list[AnyFeature](), list[WindowFeature](), list[AnyFeature]()
    derived = set[str]()
    for feature in plan.features:
        if isinstance(feature, WindowFeature):
            windows.append(feature)
        elif feature.reads & derived:
            after.append(feature)
        else:
            before.append(feature)
            continue
        derived.update(feature.columns)
    remembered = [windows_stage(plan, windows, masker)] if windows else []
    stages = [*_stages(plan, before), *remembered, *_stages(plan, after)]
    return stages or [_columns_stage("features", [])]


def confidence_stage(plan: Plan) -> Stage:
    """Adds the business's own measure of how far the score can be trusted."""
    columns = (Feature(CONFIDENCE, plan.confidence),) if plan.confidence is not None else ()
    return _columns_stage("confidence", columns)


def _stages(plan: Plan, features: Sequence[AnyFeature]) -> list[Stage]:
    """Expressions with as few passes over the frame as possible, and look-ups as soon as their keys are there."""
    stages = []
    layers = enumerate(_layers(features))
    ordered = [(number, feature) for number, layer in layers for feature in sorted(layer, key=_is_lookup)]
    # Expressions of several layers are one stage; a look-up may need another one's answer for its key.
    for (_, looked_up), several in groupby(ordered, lambda one: (_is_lookup(one[1]) and one[0], _is_lookup(one[1]))):
        if looked_up:
            stages.append(lookups_stage(plan, [one for _, one in several if isinstance(one, LookupFeature)]))
        else:
            stages.append(_columns_stage("features", [one for _, one in several if isinstance(one, Feature)]))
    return stages


def _is_lookup(feature: AnyFeature) -> bool:
    return isinstance(feature, LookupFeature)


def _columns_stage(name: str, columns: Sequence[Feature]) -> Stage:
    layers = [
        [feature.expression.expr.alias(feature.name) for feature in layer if isinstance(feature, Feature)]
        for layer in _layers(columns)
    ]

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        # Eager, and one after another: planning a lazy frame, and handing a batch's columns to threads, cost more than
        # they save.
        for layer in layers:
            frame.columns = frame.columns.with_columns_seq(layer)
        return
        yield []

    own = frozenset(feature.name for feature in columns)
    reads = frozenset().union(*(feature.expression.columns for feature in columns)) - own
    return Stage(name, reads, tuple(feature.name for feature in columns), run)


def _layers(columns: Iterable[AnyFeature]) -> list[list[AnyFeature]]:
    """Features that do not read one another share a pass over the frame."""
    layers: list[list[AnyFeature]] = []
    depth: dict[str, int] = {}
    for feature in columns:
        level = 1 + max((depth.get(name, -1) for name in feature.reads), default=-1)
        depth.update(dict.fromkeys(feature.columns, level))
        if level == len(layers):
            layers.append([])
        layers[level].append(feature)
    return layers

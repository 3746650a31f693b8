"""Stages 2 and 4, features and confidence: expressions that add columns."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from streamproc.core.decide.frame import Context, Frame, Stage
from streamproc.core.plan import CONFIDENCE, Feature, Plan
from streamproc.core.processor import Answer, Ask


def features_stage(plan: Plan) -> Stage:
    """Adds the declared features in their order: a later one may read an earlier one."""
    return _columns_stage("features", plan.features)


def confidence_stage(plan: Plan) -> Stage:
    """Adds the business's own measure of how far the score can be trusted."""
    columns = (Feature(CONFIDENCE, plan.confidence),) if plan.confidence is not None else ()
    return _columns_stage("confidence", columns)


def _columns_stage(name: str, columns: Sequence[Feature]) -> Stage:
    layers = [[feature.expression.expr.alias(feature.name) for feature in layer] for layer in _layers(columns)]

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        for layer in layers:  # eager: planning and handing over a lazy frame costs more than it saves
            frame.columns = frame.columns.with_columns(layer)
        return
        yield []

    own = frozenset(feature.name for feature in columns)
    reads = frozenset().union(*(feature.expression.columns for feature in columns)) - own
    return Stage(name, reads, tuple(feature.name for feature in columns), run)


def _layers(columns: Sequence[Feature]) -> list[list[Feature]]:
    """Features that do not read one another share a pass over the frame."""
    layers: list[list[Feature]] = []
    depth: dict[str, int] = {}
    for feature in columns:
        level = 1 + max((depth.get(name, -1) for name in feature.expression.columns), default=-1)
        depth[feature.name] = level
        if level == len(layers):
            layers.append([])
        layers[level].append(feature)
    return layers

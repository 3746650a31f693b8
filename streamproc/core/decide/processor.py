"""The decide processor: a short composition of stages over one frame."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import takewhile
from typing import Final

from streamproc.core.decide.cap import TABLE as CAP_TABLE
from streamproc.core.decide.cap import cap_stage
from streamproc.core.decide.columns import confidence_stage, features_stages
from streamproc.core.decide.dedupe import STAGE as DEDUPE
from streamproc.core.decide.dedupe import dedupe_stage
from streamproc.core.decide.drift import WATCH, Watch, drift_stage, watched_columns
from streamproc.core.decide.effects import make_effects
from streamproc.core.decide.encode import Encoder
from streamproc.core.decide.events import contract_stage
from streamproc.core.decide.explore import TABLE as EXPLORE_TABLE
from streamproc.core.decide.explore import explore_stage
from streamproc.core.decide.frame import Context, Frame, LanesRecords, Stage
from streamproc.core.decide.model import MODEL, model_stage
from streamproc.core.decide.rules import rules_stage
from streamproc.core.decide.spending import TABLE as SPENT_TABLE
from streamproc.core.dedupe.memory import TABLE as DEDUPE_TABLE
from streamproc.core.drift.baseline import Baseline
from streamproc.core.plan import Plan
from streamproc.core.processor import Answer, Ask, Batch, Effects, LanesSteps, Output, Seen, State, Steps
from streamproc.core.sensitive import Masker
from streamproc.core.windows.lane import TABLE as WINDOWS_TABLE

TABLES: Final = (CAP_TABLE, EXPLORE_TABLE, DEDUPE_TABLE, WINDOWS_TABLE, SPENT_TABLE)
"""The tables of a lane, whatever the plan: what a plan before this one wrote may be there."""


@dataclass(frozen=True, slots=True)
class DecideProcessor:
    """Decides events by a plan. ``masker`` is needed where the plan has sensitive fields.

    With a ``watch``, its own or one that it sees, it sends panes of what it counts.
    """

    plan: Plan
    stages: tuple[Stage, ...]
    encoder: Encoder
    masker: Masker | None = None
    watch: Watch | None = None

    @classmethod
    def of(
        cls, plan: Plan, masker: Masker | None = None, baseline: Baseline | None = None, *, lanes: int = 0
    ) -> DecideProcessor:
        """The processor of a plan on so many lanes. Raises ValueError where sensitive fields would have no masker.

        Without lanes, such as over a file, nothing is explored, and one lane may spend all.
        """
        if plan.events.sensitive and masker is None:
            raise ValueError("a plan with sensitive fields needs a masker")
        models = partial(model_stage, masker=masker, lanes=max(lanes, 1))
        makers: list[Callable[[Plan], Stage]] = [models, drift_stage, confidence_stage, rules_stage]
        if plan.capped:
            makers.append(cap_stage)
        if plan.explore is not None and lanes:
            makers.append(partial(explore_stage, lanes=lanes))
        watch = None if baseline is None else Watch.of(plan, baseline)
        once = [] if plan.events.dedupe is None else [dedupe_stage(plan, masker=masker)]
        stages = [contract_stage(plan), *once, *features_stages(plan, masker), *(make(plan) for make in makers)]
        return cls(plan, tuple(stages), Encoder(plan), masker, watch)

    @classmethod
    def of_the_past(cls, plan: Plan, masker: Masker | None = None) -> DecideProcessor:
        """One that decides events again which were decided before: nothing of it counts against what may be spent
        today, and what was sent twice is decided twice."""
        made = cls.of(plan.unlimited, masker)
        return replace(made, stages=tuple(stage for stage in made.stages if stage.name != DEDUPE))

    def process(self, batch: Batch, state: State, seen: Seen, now: datetime) -> Steps:
        """Decisions, actions, review items and dead letters of one batch of events."""
        [effects] = yield from self.process_lanes([batch], [state], seen, now)
        return effects

    def process_lanes(self, batches: Sequence[Batch], states: Sequence[State], seen: Seen, now: datetime) -> LanesSteps:
        """The same for the batches of several lanes, in one frame: on small batches the fixed cost is most of it."""
        frame, context = yield from self.judge(batches, seen, now, states)
        effects = make_effects(self.plan, self.encoder, frame, context, self.masker)
        watch: Watch | None = seen.views.get(WATCH, self.watch)
        if watch is None:
            return effects
        panes = dict[int, list[Output]]()
        for partition, output in watch.outputs(watched_columns(self.plan, frame)):
            panes.setdefault(partition, []).append(output)
        return [
            replace(own, records=[*own.records, *panes.get(batch.partition, ())])
            for own, batch in zip(effects, batches, strict=True)
        ]

    def judge(
        self, batches: Sequence[Batch], seen: Seen, now: datetime, states: Sequence[State] = ()
    ) -> Generator[list[Ask], list[Answer], tuple[Frame, Context]]:
        """The batches' events through all stages, up to their verdicts.

        The lanes' states are needed where something that is seen drifts; without them no event is a duplicate.
        """
        return (yield from self._through(self.stages, batches, Context(now, seen, states)))

    def prepare(
        self, batches: Sequence[Batch], seen: Seen, now: datetime, states: Sequence[State] = ()
    ) -> Generator[list[Ask], list[Answer], tuple[Frame, Context]]:
        """The batches' events through the stages before the model: all that a model may learn from."""
        before = takewhile(lambda stage: stage.name != MODEL, self.stages)
        return (yield from self._through(before, batches, Context(now, seen, states)))

    def _through(
        self, stages: Iterable[Stage], batches: Sequence[Batch], context: Context
    ) -> Generator[list[Ask], list[Answer], tuple[Frame, Context]]:
        frame = Frame(LanesRecords.of([batch.topics[self.plan.events.topic] for batch in batches]))
        for stage in stages:
            yield from stage.run(frame, context)
        return frame, context

    def tick(self, state: State, seen: Seen, now: datetime) -> Steps:
        """Nothing happens by time alone."""
        return Effects()
        yield []

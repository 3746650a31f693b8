"""The baseline of a pipeline: read from beside its file, or learned from its reference."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from streamproc.core.decide import TABLES, DecideProcessor
from streamproc.core.decide.drift import Watch, watched_columns
from streamproc.core.decide.recorded import recorded as recorded_answer
from streamproc.core.drift.baseline import Baseline, loads
from streamproc.core.drift.budget import FEWEST_EVENTS
from streamproc.core.drift.panes import Counted
from streamproc.core.plan import DEAD_LETTERS, SCORE, DriftPlan
from streamproc.core.processor import Answer, Ask, Batch, Score
from streamproc.errors import EnvironmentFault, UserError
from streamproc.io.answers import FAILURES
from streamproc.offline import Offline, batch_of
from streamproc.pipeline import Pipeline, open_pipeline
from streamproc.plan.models import StreamReference
from streamproc.recorded_answers import InRows, Recorded, in_rows
from streamproc.reference_outcomes import Outcomes
from streamproc.rows import Told, chunks

log = logging.getLogger(__name__)


def baseline_path(file: Path) -> Path:
    """Where the baseline of a pipeline file stands."""
    return file.with_suffix(".baseline.json")


def open_watched(file: Path) -> Pipeline:
    """The pipeline in the clear. Raises UserError where it watches nothing."""
    pipeline = open_pipeline(file, masked=False)
    if pipeline.plan.drift is None:
        raise UserError(f"{file} watches nothing", "add `drift: {reference: …, false_alarms: 1 per 30d}`")
    return pipeline


def watching(pipeline: Pipeline, told: Told | None = None) -> tuple[Pipeline, Baseline | None]:
    """The pipeline with panes of what it watches, and the baseline; as it is where it watches nothing.

    A baseline beside the file is used where it was made from this plan, model and reference. Else one is learned.
    Raises UserError where that is to be learned from a topic: `kept_or_learned` says what may be had without Kafka.
    """
    if pipeline.plan.drift is None:
        return pipeline, None
    baseline = kept_or_learned(pipeline, told)
    if baseline is None:
        hint = "`streamproc drift calibrate` keeps a baseline beside the file"
        raise UserError("what is normal is still to be learned from a topic", hint)
    return with_baseline(pipeline, baseline), baseline


def kept_or_learned(pipeline: Pipeline, told: Told | None = None) -> Baseline | None:
    """The baseline beside the file, or that of the reference file; ``None`` where a topic is the reference."""
    kept = read_baseline(baseline_path(pipeline.loaded.path), pipeline)
    if kept is not None or stream_reference(pipeline) is not None:
        return kept
    return learn(pipeline, told)


def with_baseline(pipeline: Pipeline, baseline: Baseline) -> Pipeline:
    """The pipeline with panes of what the baseline watches."""
    watch = Watch.of(pipeline.plan, baseline)
    return replace(pipeline, processor=replace(pipeline.processor, watch=watch))


def read_baseline(path: Path, pipeline: Pipeline) -> Baseline | None:
    """The baseline in a file, or ``None`` where there is none that belongs to the pipeline as it is now."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        log.info("no baseline in %s: learning one; `streamproc drift calibrate` keeps it", path.name)
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "make it readable, or take it away") from error
    try:
        baseline = loads(raw)
    except ValueError as error:
        raise UserError(f"{path} cannot be used: {error}", "make it anew with `streamproc drift calibrate`") from error
    wanted = source_of(pipeline)
    if any(baseline.source.get(name) != value for name, value in wanted.items()):
        log.warning("%s was made from another plan, model or reference: learning a baseline anew", path.name)
        return None
    return baseline


def learn(pipeline: Pipeline, told: Told | None = None) -> Baseline:
    """The baseline of the pipeline's reference file. Raises UserError where that cannot be used."""
    path, taken = _reference_path(pipeline), outcomes_of(pipeline, "the reference")
    answers = asyncio.run(in_rows(pipeline.plan, str(path), "the reference"))
    parts = asyncio.run(_read(pipeline, str(path), told, taken, answers))
    recorded = None if answers is None else answers.recorded
    return baseline_of(pipeline, parts, f"the reference {path}", source_of(pipeline), taken, recorded)


def outcomes_of(pipeline: Pipeline, rows: str) -> Outcomes | None:
    """What takes outcomes out of rows, where the pipeline names their field."""
    drift = pipeline.plan.drift
    if drift is None or drift.outcome is None:
        return None
    return Outcomes(drift.outcome, keep=drift.outcome in pipeline.plan.contract.columns, of=rows)


def baseline_of(
    pipeline: Pipeline,
    parts: Sequence[Counted],
    what: str,
    source: Mapping[str, Any],
    taken: Outcomes | None = None,
    recorded: Recorded | None = None,
) -> Baseline:
    """The baseline of events: ``what`` they are is for people.

    ``source`` goes into it, and what the outcomes show that were ``taken`` from them. What ``recorded`` answers are too
    few for is not watched.
    Raises UserError where they cannot be used.
    """
    from streamproc.core.drift.calibrate import Reference, calibrate  # SciPy takes most of a second to import

    drift = pipeline.plan.drift
    assert drift is not None
    if not sum(len(part.events) for part in parts):
        raise UserError(f"no event of {what} can be used", "every one is a dead letter: `streamproc batch`")
    columns = pl.concat([part.columns for part in parts])
    record_columns = {
        name: pl.concat([part.record_columns[name] for part in parts]) for name in drift.watch if name == DEAD_LETTERS
    }
    record_times = np.concatenate([part.times for part in parts])
    times = np.concatenate([part.times[part.events] for part in parts])
    events_of = np.concatenate([part.events + offset for part, offset in zip(parts, _offsets(parts), strict=True)])
    outcomes = None if taken is None else taken.known()[events_of]
    seconds = float(times.max() - times.min()) / 1e6  # rows of a file without event times all have one time
    order = np.argsort(times, kind="stable")
    times, outcomes = times[order], None if outcomes is None else outcomes[order]
    if columns.width:
        columns = columns[order]
    if not any(len(part.events) < len(part.times) for part in parts):  # of dead letters the event time is not known
        order = np.argsort(record_times, kind="stable")
        record_columns = {name: column[order] for name, column in record_columns.items()}
    try:
        events = drift.budget.events_per_alarm(len(times) / seconds if seconds > 0 else None)
    except ValueError as error:
        hint = "write the budget as `1 per 1000000 events`, or declare `events.time`"
        raise UserError(f"`false_alarms`: {error}", hint) from error
    if events < FEWEST_EVENTS:
        message = f"`false_alarms` allows one in {events:,.0f} events of this stream, which is no monitoring"
        raise UserError(message, f"allow at most one in {FEWEST_EVENTS:,}")
    unwatched = {} if recorded is None else recorded.unwatched
    unwatched = {name: unwatched[name] for name in drift.watch if name in unwatched}
    watched = [name for name in drift.watch if name != DEAD_LETTERS and name not in unwatched]
    made_from: dict[str, Any] = {**source, "events": len(times), "seconds": seconds or None}
    reference = Reference(
        columns,
        watched,
        drift.segments,
        record_columns,
        times=times,
        season=drift.season,
        max_age=drift.max_age,
        score=SCORE,
        outcomes=outcomes,
        unwatched=unwatched,
    )
    try:
        baseline = calibrate(reference, events, made_from)
    except ValueError as error:
        hint = "give a longer reference" + _without(drift)
        raise UserError(f"{what} cannot be used: {error}", hint) from error
    if not baseline.bins:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in baseline.unwatched.items())
        raise UserError(f"nothing can be watched: {reasons}", "name other columns in `drift.watch`")
    return baseline


def source_of(pipeline: Pipeline) -> dict[str, Any]:
    """What a baseline belongs to."""
    plan, stream = pipeline.plan, stream_reference(pipeline)
    reference = stream.topic if stream is not None else _digest(_reference_path(pipeline))
    return {"pipeline": plan.pipeline, "plan": plan.hash, "model": plan.model_version, "reference": reference}


def _digest(path: Path) -> str:
    """The hash of a reference's bytes."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise UserError(
            f"the reference {path} cannot be read: {error.strerror}", "`drift.reference` names it"
        ) from error


def stream_reference(pipeline: Pipeline) -> StreamReference | None:
    """The topic that is the reference, where it is one."""
    part = pipeline.loaded.file.drift
    assert part is not None
    return part.reference if isinstance(part.reference, StreamReference) else None


def _reference_path(pipeline: Pipeline) -> Path:
    part = pipeline.loaded.file.drift
    assert part is not None and isinstance(part.reference, str)
    return pipeline.loaded.path.parent / part.reference


def _offsets(parts: Sequence[Counted]) -> list[int]:
    """How many records there are before each part."""
    return list(accumulate((len(part.times) for part in parts[:-1]), initial=0))


def _without(drift: DriftPlan) -> str:
    """What may be taken out where a reference is too short for it."""
    named = [f"`drift.{name}`" for name in ("season", "max_age", "outcome") if getattr(drift, name) is not None]
    return f", or take {' or '.join(named)} out" if named else ""


async def _read(
    pipeline: Pipeline, source: str, told: Told | None, taken: Outcomes | None, answers: InRows | None
) -> list[Counted]:
    return [part async for part in watched_of(pipeline, source, told, taken, answers)]


async def watched_of(
    pipeline: Pipeline,
    source: str,
    told: Told | None = None,
    taken: Outcomes | None = None,
    answers: InRows | None = None,
) -> AsyncIterator[Counted]:
    """What there is to watch in a file of events, chunk by chunk, decided as one partition: row n has offset n.

    ``taken`` takes what came true out of the rows, ``answers`` what language models answered.
    """
    done, judging = 0, Judging(pipeline, None if answers is None else answers.recorded)
    async for chunk in chunks(source):
        if chunk.values:
            values = chunk.values if taken is None else taken.take(chunk.values)
            values = values if answers is None else answers.take(values)
            batch = batch_of(pipeline.plan.events.topic, values, first_offset=done)
            done += len(chunk.values)
            yield judging.counted([batch])
        if told is not None:
            told(done, chunk.progress)


class Judging:
    """Decides events of the past as if nothing drifted, batch after batch: lanes remember those before.

    What was sent twice there is decided twice. How long ago each event was sent the rows of a file do not tell.

    Language models are not asked: they answer what is ``recorded``. Events without an answer are left out where most
    have one.
    """

    def __init__(self, pipeline: Pipeline, recorded: Recorded | None = None) -> None:
        whole = pipeline.processor
        self._plan, self._pipeline = pipeline.plan, pipeline
        self._in_words, self._recorded = pipeline.plan.in_words, recorded or Recorded(pipeline.plan)
        self._processor = DecideProcessor.of_the_past(whole.plan, whole.masker)
        self._offline = Offline(self._processor, self._answer, tables=TABLES)

    def _answer(self, ask: Ask) -> Answer:
        if isinstance(ask, Score) and ask.model in self._in_words:
            return recorded_answer(self._plan, self._recorded.said, ask)
        return self._pipeline.answers.now(ask)

    def counted(self, batches: Sequence[Batch]) -> Counted:
        """What there is to watch in batches of the events topic, one for each lane."""
        frame = self._offline.frame(self._processor.judge, batches)
        failed = not self._plan.of_answers and FAILURES.issuperset(map(str, frame.unscored))
        if len(frame) and failed:
            raise EnvironmentFault(
                f"the model does not answer ({frame.unscored[0]}), and what is normal has its scores too",
                "start the model, or keep a baseline beside the file: `streamproc drift calibrate`",
            )
        watched = watched_columns(self._plan, frame)
        if not self._recorded.enough:
            return watched
        there = np.array([id in self._recorded.said for id in frame.ids], np.bool_)
        return replace(watched, events=watched.events[there], columns=watched.columns.filter(pl.Series(there)))

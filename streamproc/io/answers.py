"""Answers asks: each within its time, with a bound on how many are under way. A failure is an answer with a reason."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from streamproc.core.processor import Answer, Ask, Score
from streamproc.io.model import Model

log = logging.getLogger(__name__)

IN_FLIGHT = 8


@dataclass(frozen=True, slots=True)
class Source:
    """A model with the time that it has for one batch."""

    model: Model
    timeout: timedelta


class Answers:
    """Answers ``Score`` asks from models by name."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = dict(sources)
        self._pool = ThreadPoolExecutor(2, "model")
        self._in_flight = 0

    async def __call__(self, asks: Sequence[Ask]) -> list[Answer]:
        """One answer per ask, never an exception."""
        return list(await asyncio.gather(*map(self._answer, asks)))

    async def _answer(self, ask: Ask) -> Answer:
        if not isinstance(ask, Score):
            return Answer.nothing(len(ask.keys), "no_such_source")
        source = self._sources[ask.model]
        if self._in_flight >= IN_FLIGHT:
            return Answer.nothing(len(ask.ids), "busy", source.model.version)
        self._in_flight += 1
        work = asyncio.get_running_loop().run_in_executor(self._pool, self.now, ask)
        work.add_done_callback(self._done)
        try:
            async with asyncio.timeout(source.timeout.total_seconds()):
                return await asyncio.shield(work)
        except TimeoutError:
            # The call cannot be stopped; when it ends at last its answer is thrown away.
            return Answer.nothing(len(ask.ids), "timeout", source.model.version)

    def _done(self, work: asyncio.Future[Answer]) -> None:
        self._in_flight -= 1
        if not work.cancelled():
            work.exception()

    def now(self, ask: Ask) -> Answer:
        """The answer, in this thread and however long it takes."""
        if not isinstance(ask, Score):
            return Answer.nothing(len(ask.keys), "no_such_source")
        model, rows = self._sources[ask.model].model, len(ask.ids)
        try:
            values = model.score(ask.columns, rows)
        except (Exception, SystemExit) as error:  # a model may raise whatever it likes, and even leave
            log.warning("the model failed on a batch of %d: %s at %s", rows, type(error).__name__, _place(error))
            return Answer.nothing(rows, "model_error", model.version)
        if values.shape != (rows,):
            return Answer.nothing(rows, "wrong_length", model.version)
        finite = np.isfinite(values)
        reasons: list[str | None] = [None] * rows
        for row in np.flatnonzero(~finite).tolist():
            reasons[row] = "not_finite"
        return Answer(values, reasons, model.version)  # type: ignore[arg-type]


def _place(error: BaseException) -> str:
    """File and line of the innermost frame. The error's text may quote an event, so it is not told."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"

"""Outcomes as the labels of events: which event is meant by a key, and which of its outcomes holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.outcomes.joining import text
from streamproc.core.outcomes.outcome import Outcome

ROW: Final = "row"
OUTCOME: Final = "outcome"
OUTCOME_TIME: Final = "outcome_time"
TIME = pl.Datetime("us", "UTC")
NEVER: Final = np.iinfo(np.int64).min
SCHEMA: Final[dict[str, Any]] = {"key": pl.String, "id": pl.String, OUTCOME: pl.String, OUTCOME_TIME: TIME}


class Labels:
    """What came true of the events of a history, which are shown to it in their order, some at a time.

    An outcome that names a key is that of the newest event that had happened with it by the outcome's time. Of an
    event's outcomes the one with the latest time holds, and of equal times the one that comes later.
    """

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        rows = [(said.key, said.id, text(said.value), said.time) for said in outcomes]
        said = pl.DataFrame(rows, SCHEMA, orient="row").sort(OUTCOME_TIME, maintain_order=True)
        self._said = said.with_row_index("said")
        keyed = self._said.filter(pl.col("key").is_not_null()).sort("key", OUTCOME_TIME, maintain_order=True)
        self._keyed = keyed.select("said", "key", OUTCOME_TIME)
        ranges = self._keyed.with_row_index("at").group_by("key").agg(pl.col("at").min(), pl.len())
        self._places = {key: (at, at + count) for key, at, count in ranges.iter_rows()}
        self._named = self._said.filter(pl.col("id").is_not_null()).group_by("id").agg("said")
        self._times = np.full(len(said), NEVER, np.int64)
        self._rows = np.full(len(said), -1, np.int64)

    def __len__(self) -> int:
        return len(self._said)

    @property
    def joined(self) -> int:
        """How many outcomes are of an event that has been shown."""
        return int((self._rows >= 0).sum())

    def see(self, rows: NDArray[np.int64], keys: Sequence[str | None], times: pl.Series, ids: Sequence[str]) -> None:
        """Show events: their rows, ascending and larger than before, keys, times (microseconds, UTC) and ids."""
        events = pl.DataFrame(
            {ROW: rows, "key": pl.Series(keys, dtype=pl.String), "time": times, "id": pl.Series(ids, dtype=pl.String)}
        )
        named = events.select(ROW, "id").join(self._named, on="id").explode("said")
        self._rows[named["said"].to_numpy()] = named[ROW].to_numpy()
        spans = [self._places[key] for key in dict.fromkeys(keys) if key in self._places]
        if not spans:
            return
        asked = self._keyed[np.concatenate([np.arange(*span) for span in spans])].sort(OUTCOME_TIME)
        newest = asked.join_asof(
            events.filter(pl.col("key").is_not_null()).select(ROW, "key", "time").sort("time", ROW),
            left_on=OUTCOME_TIME,
            right_on="time",
            by="key",
            check_sortedness=False,
        ).drop_nulls(ROW)
        said, new = newest["said"].to_numpy(), newest["time"].to_physical().to_numpy()
        later = new >= self._times[said]
        self._times[said[later]], self._rows[said[later]] = new[later], newest[ROW].to_numpy()[later]

    def table(self) -> pl.DataFrame:
        """The label of each row that has one: ``row``, ``outcome`` (text), ``outcome_time``."""
        found = self._said.select(pl.Series(ROW, self._rows), OUTCOME, OUTCOME_TIME).filter(pl.col(ROW) >= 0)
        return found.unique(ROW, keep="last", maintain_order=True)

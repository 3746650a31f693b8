"""What decisions see of drift: the present state of every monitor, by column and segment."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from streamproc.core.drift.baseline import Segment
from streamproc.core.drift.detector import LEVELS
from streamproc.core.drift.volume import TESTS as VOLUME_TESTS

VIEW: Final = "drift"
"""The name of the view in ``Seen``."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How bad it is: a place in ``LEVELS``, and the severity of the worst monitor that is drifting."""

    level: int = 0
    severity: float = 0.0

    def worse(self, other: Standing) -> Standing:
        return Standing(max(self.level, other.level), max(self.severity, other.severity))


STEADY = Standing()


@dataclass(frozen=True, slots=True)
class DriftView:
    """``everywhere`` is by column; ``within`` by column, and then by segment. What is stable is in neither."""

    everywhere: Mapping[str, Standing] = field(default_factory=dict)
    within: Mapping[str, Mapping[Segment, Standing]] = field(default_factory=dict)

    @classmethod
    def of(cls, states: Iterable[Mapping[str, Any]], baseline: str) -> DriftView:
        """The view of the records of the compacted topic that belong to a baseline."""
        everywhere, within = dict[str, Standing](), dict[str, dict[Segment, Standing]]()
        for state in states:
            level = LEVELS.index(state["state"])
            if state["baseline"] != baseline or not level or state.get("test") in VOLUME_TESTS:
                continue  # how many events there are says nothing of any of them
            standing = Standing(level, float(state["severity"]) if level == len(LEVELS) - 1 else 0.0)
            column, segment = state["column"], state["segment"]
            if segment is None:
                everywhere[column] = everywhere.get(column, STEADY).worse(standing)
            else:
                own = within.setdefault(column, {})
                key = Segment(segment["column"], segment["value"])
                own[key] = own.get(key, STEADY).worse(standing)
        return cls(everywhere, within)

    def of_column(self, column: str | None, aside: Collection[str] = ()) -> tuple[Standing, Mapping[Segment, Standing]]:
        """How a column stands for all events, and for those of segments; ``None`` is the worst of all but ``aside``."""
        if column is not None:
            return self.everywhere.get(column, STEADY), self.within.get(column, {})
        worst, segments = STEADY, dict[Segment, Standing]()
        for name, standing in self.everywhere.items():
            worst = worst if name in aside else worst.worse(standing)
        for name, own in self.within.items():
            for segment, standing in () if name in aside else own.items():
                segments[segment] = segments.get(segment, STEADY).worse(standing)
        return worst, segments


NO_DRIFT = DriftView()

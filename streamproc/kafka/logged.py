"""What a lane's tables hold of its changelog for sure: that is what a checkpoint may say of them.

Only what the lane wrote itself moves it on. Offsets tell whether anybody else wrote: each record of ours takes one, and
so does the marker at the end of a transaction. What is in between otherwise is a *gap*, and is looked at later: markers
and records of transactions that were aborted do no harm, a record does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

NO_EPOCH: Final = -1
MOST_MARKERS: Final = 2
"""Two producers take turns, and one begins its next transaction only when the marker of its last one is written."""
MOST_GAPS: Final = 100


class Landed(NamedTuple):
    """A record batch of so many records in a log: the offset of the first, -1 where the broker does not say, and the
    time that the log gave them (ms), -1 where they keep their own."""

    base: int
    records: int
    timestamp: int = -1


class Sent(NamedTuple):
    """Before a transaction was sent: the time, in seconds since the epoch, and an epoch that the leader had by then."""

    time: float
    epoch: int


NOT_SENT: Final = Sent(0.0, NO_EPOCH)


class Gap(NamedTuple):
    """Offsets from ``start`` to before ``end`` that somebody else may have filled, not before ``since``."""

    start: int
    end: int
    since: float


class Logged(NamedTuple):
    """A lane's tables hold all that is committed before ``offset`` of its changelog, but for what is in ``gaps``.

    The changelog is the topic with that id. At ``time``, in seconds since the epoch, the log was seen to hold no more
    than that. ``epoch`` is one that its leader had before it gave or took the last of it. So many ``markers`` of ours
    may stand, or come to stand, after it.
    """

    topic_id: str
    offset: int
    time: float
    epoch: int
    markers: int = 0
    gaps: tuple[Gap, ...] = ()

    def after(self, landed: Sequence[Landed], sent: Sent) -> Logged | None:
        """The same after a transaction of ours; ``None`` where the log has lost records.

        A transaction that wrote nothing here, or of which the broker does not say where it is, moves nothing. What it
        wrote is found in a gap then.
        """
        if not landed:
            return self
        end, markers, gaps = self.offset, self.markers, self.gaps
        for base, records, _ in landed:
            if base < end:
                return None
            if base - end <= markers:
                markers -= base - end
            else:
                gaps, markers = (*gaps, Gap(end, base, self.time)), 0
            end = base + records
        if len(gaps) > MOST_GAPS:
            return None
        return Logged(self.topic_id, end, sent.time, sent.epoch, min(markers + 1, MOST_MARKERS), gaps)

    def without(self, gaps: Sequence[Gap]) -> Logged:
        """The same when nothing was found in some gaps."""
        return self._replace(gaps=tuple(gap for gap in self.gaps if gap not in gaps))

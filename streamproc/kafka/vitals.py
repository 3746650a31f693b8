"""Whether lanes live: what is behind, what is stuck, and what is shown of it.

A broker that is away stops nothing, and a lane without work is not stuck. All else that stands still for too long is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from aiokafka import TopicPartition

from streamproc import metrics
from streamproc.kafka.cycle import BrokerState
from streamproc.kafka.lane import Lane, LaneId


class Ahead(NamedTuple):
    """Records between a position and the last stable offset, and from there to the end: behind an open transaction."""

    stable: int = 0
    unstable: int = 0


class Fetcher(Protocol):
    """What lanes need of the consumer."""

    async def seek_all(self, positions: Mapping[TopicPartition, int]) -> None:
        """Fetch from these offsets on, where the partition is still assigned."""
        ...

    async def poll(self) -> None:
        """Keep the group membership going, and raise what went wrong with it."""
        ...

    def interrupt(self) -> None:
        """End a fetch that waits without partitions which are wanted by now."""
        ...

    def ahead(self, tp: TopicPartition) -> Ahead:
        """What there is after the consumer's position, as of the last fetch."""
        ...


class Vitals:
    """What the watchdog and the health page look at. Times are monotonic seconds.

    ``polled`` is when records were last asked for; ``opening`` is when the opening of lanes last got on, if there is
    one, and ``opening_since`` when it began.
    """

    def __init__(self, broker: BrokerState) -> None:
        self.polled = time.monotonic()
        self.opening: float | None = None
        self.opening_since = self.polled
        self.fetcher: Fetcher | None = None
        self._broker = broker

    def refresh(self, lanes: Mapping[LaneId, Lane]) -> None:
        """The broker was away: what waited for it is not stuck."""
        now = self.polled = time.monotonic()
        for lane in lanes.values():
            lane.progressed, lane.behind_since = now, None

    def look(self, lanes: Mapping[LaneId, Lane]) -> None:
        """Note which lanes have records before them that they were not given."""
        now = time.monotonic()
        for lane in lanes.values():
            if not lane.free or not any(self.lag(lane).values()):
                lane.behind_since = None
            elif lane.behind_since is None:
                lane.behind_since = now

    def lag(self, lane: Lane) -> dict[TopicPartition, int]:
        """Records that the lane has not been given yet, as of the last fetch."""
        return {tp: self._ahead(tp).stable for tp in lane.positions}

    def _ahead(self, tp: TopicPartition) -> Ahead:
        return Ahead() if self.fetcher is None else self.fetcher.ahead(tp)

    def stuck(self, lanes: Mapping[LaneId, Lane], seconds: float) -> str | None:
        """What has had work for longer than ``seconds`` without progress."""
        now = time.monotonic()
        if self._broker.away_since is not None:
            return None
        if lanes and now - self.polled > seconds:
            return "nothing is fetched"
        if self.opening is not None and now - self.opening > seconds:
            return "lanes do not open"
        for lane in list(lanes.values()):
            name = f"lane {lane.agent.name}/{lane.partition}"
            if not lane.idle and now - lane.progressed > seconds:
                return f"{name} is stuck"
            if lane.behind_since is not None and now - lane.behind_since > seconds:
                return f"{name} is behind, but nothing is fetched"
        return None

    def health(self, lanes: Mapping[LaneId, Lane], seconds: float) -> dict[str, Any]:
        """Whether all is well, and where every lane is."""
        stuck, away = self.stuck(lanes, seconds), self._broker.away_since
        return {
            "ok": stuck is None and away is None,
            "stuck": stuck,
            "broker_away_seconds": None if away is None else round(time.monotonic() - away, 1),
            "opening": self.opening is not None,
            "lanes": {
                f"{lane.agent.name}/{lane.partition}": {tp.topic: at for tp, at in lane.positions.items()}
                for lane in lanes.values()
            },
        }

    def set_gauges(self, lanes: Mapping[LaneId, Lane]) -> None:
        """Bring the gauges up to date."""
        now, wall = time.monotonic(), time.time()
        metrics.LANES.labels("open").set(len(lanes))
        metrics.OPENING.set(0.0 if self.opening is None else now - self.opening_since)
        since = [lane.progressed for lane in lanes.values() if not lane.idle]
        since += [lane.behind_since for lane in lanes.values() if lane.behind_since is not None]
        metrics.STALLED.set(now - min(since) if since and self._broker.away_since is None else 0.0)
        for gauge in (metrics.LAG, metrics.LAG_SECONDS, metrics.UNSTABLE):
            gauge.clear()
        for lane in lanes.values():
            for tp in lane.positions:
                ahead, place = self._ahead(tp), (tp.topic, str(tp.partition))
                metrics.LAG.labels(*place).set(ahead.stable)
                metrics.UNSTABLE.labels(*place).set(ahead.unstable)
                age = max(wall - lane.newest[tp] / 1000, 0.0) if ahead.stable and tp in lane.newest else 0.0
                metrics.LAG_SECONDS.labels(*place).set(age)

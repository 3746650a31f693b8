"""Where each outgoing record goes: its partition by key, and the dead-letter topic for what its topic cannot hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import numpy as np

from streamproc.core.partitioner import partitions
from streamproc.core.processor import Effects, Output
from streamproc.core.records import too_large
from streamproc.errors import LaneStopped
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.lane import Entry, Outgoing

RECORD_OVERHEAD = 200  # bytes of a record batch's header and a record's own fields, generously
DEFAULT_LIMIT = 1_048_588  # the broker's default of message.max.bytes


class Router:
    """Knows the partition count and the size limit of every topic that was written to."""

    def __init__(self, connection: Connection, dead_letters: str) -> None:
        self._connection = connection
        self._dead_letters = dead_letters
        self._counts: dict[str, int] = {}
        self._limits: dict[str, int] = {}

    @property
    def limits(self) -> Mapping[str, int]:
        """The most bytes of a record batch, by topic."""
        return self._limits

    def place(self, lane_partition: int, effects: Effects) -> Outgoing | None:
        """The effects' records by topic and partition; ``None`` where a topic is not known yet."""
        outputs = [output for output in effects.records if len(output)]
        if any(topic not in self._counts for topic in self._needed(outputs)):
            return None
        routed: Outgoing = defaultdict(list)
        for output in outputs:
            self._place(routed, output, lane_partition)
        return dict(routed)

    async def route(self, lane_partition: int, effects: Effects) -> Outgoing:
        """The same, after asking the broker about topics that are new. Raises LaneStopped for one that is not there."""
        await self.learn(self._needed([output for output in effects.records if len(output)]))
        placed = self.place(lane_partition, effects)
        assert placed is not None
        return placed

    def _needed(self, outputs: list[Output]) -> set[str]:
        return {output.topic for output in outputs} | ({self._dead_letters} if outputs else set())

    async def learn(self, topics: Collection[str]) -> None:
        """Ask the broker about topics. Raises LaneStopped where one does not exist."""
        unknown = sorted(set(topics) - set(self._counts))
        infos = await admin.describe(self._connection, unknown) if unknown else {}
        for topic in unknown:
            if topic not in infos:
                raise LaneStopped(
                    f"output topic {topic!r} does not exist", "create it with `streamproc topics FILE --create`"
                )
            self._limits[topic] = int(infos[topic].configs.get("max.message.bytes", DEFAULT_LIMIT))
            self._counts[topic] = infos[topic].partitions

    def _place(self, routed: Outgoing, output: Output, lane_partition: int) -> None:
        topic = output.topic
        places = partitions(output.keys, self._counts[topic], lane_partition)
        entries: list[Entry] = list(zip(output.keys, output.values, output.headers, strict=True))
        if (places == places[0]).all():
            groups = [(int(places[0]), entries)]
        else:
            order = np.argsort(places, kind="stable")
            borders = np.flatnonzero(np.diff(places[order])) + 1
            groups = [(int(places[rows[0]]), [entries[row] for row in rows]) for rows in np.split(order, borders)]
        for place, group in groups:
            routed[topic, place] += self._fitting(routed, topic, group, lane_partition)

    def _fitting(self, routed: Outgoing, topic: str, entries: list[Entry], lane_partition: int) -> list[Entry]:
        """The entries that the topic can hold; the others become dead letters."""
        limit = self._limits[topic] - RECORD_OVERHEAD
        heads = max(sum(len(name) + len(content) + 10 for name, content in one) for one in {h for _, _, h in entries})
        if max(len(key or b"") + len(value or b"") for key, value, _ in entries) + heads <= limit:
            return entries
        fitting = []
        for entry in entries:
            if _size(entry) <= limit:
                fitting.append(entry)
                continue
            key, value, headers = entry
            body, told = too_large(topic, value, headers)
            target = lane_partition % self._counts[self._dead_letters]
            routed[self._dead_letters, target].append((key, body, told))
        return fitting


def _size(entry: Entry) -> int:
    key, value, headers = entry
    return len(key or b"") + len(value or b"") + sum(len(name) + len(content) + 10 for name, content in headers)

"""Where each outgoing record goes: its partition by key, and the dead-letter topic for what its topic cannot hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, pairwise
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from streamproc.core.partitioner import partitions
from streamproc.core.processor import Effects, Headers, Output
from streamproc.core.records import TRUNCATED_BYTES, too_large
from streamproc.errors import LaneStopped
from streamproc.kafka import admin
from streamproc.kafka.admin import TopicInfo
from streamproc.kafka.connection import Connection
from streamproc.kafka.lane import Entries, Outgoing

RECORD_OVERHEAD = 200  # bytes of a record batch's header and a record's own fields, generously


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

    def place(self, effects: Sequence[tuple[int, Effects]]) -> Outgoing | None:
        """The effects' records by topic and partition; ``None`` where a topic is not known yet.

        Each comes with its lane's partition number.
        """
        outputs: dict[str, list[tuple[int, Output]]] = defaultdict(list)
        for partition, one in effects:
            for output in one.records:
                if len(output):
                    outputs[output.topic].append((partition, output))
        if any(topic not in self._counts for topic in self._needed(outputs)):
            return None
        routed: Outgoing = defaultdict(Entries)
        for topic, parts in outputs.items():
            self._place(routed, topic, parts)
        return dict(routed)

    async def route(self, effects: Sequence[tuple[int, Effects]]) -> Outgoing:
        """The same, after asking the broker about topics that are new. Raises LaneStopped for one that is not there."""
        await self.learn(self._needed({output.topic for _, one in effects for output in one.records if len(output)}))
        placed = self.place(effects)
        assert placed is not None
        return placed

    def _needed(self, topics: Collection[str]) -> set[str]:
        return {*topics, self._dead_letters} if topics else set()

    async def learn(self, topics: Collection[str]) -> None:
        """Ask the broker about topics. Raises LaneStopped where one does not exist."""
        unknown = sorted(set(topics) - set(self._counts))
        infos = await admin.describe(self._connection, unknown) if unknown else {}
        for topic in unknown:
            if topic not in infos:
                raise LaneStopped(
                    f"output topic {topic!r} does not exist", "create it with `streamproc topics FILE --create`"
                )
        self.note(infos.values())

    def note(self, infos: Iterable[TopicInfo]) -> None:
        """Take over what is known about topics."""
        for info in infos:
            self._limits[info.name], self._counts[info.name] = info.most_bytes, info.partitions

    def _place(self, routed: Outgoing, topic: str, parts: Sequence[tuple[int, Output]]) -> None:
        lengths = [len(output) for _, output in parts]
        lanes = np.repeat(np.array([partition for partition, _ in parts], np.int64), lengths)
        entries = Entries(
            list(chain.from_iterable(output.keys for _, output in parts)),
            list(chain.from_iterable(output.values for _, output in parts)),
            list(chain.from_iterable(output.headers for _, output in parts)),
        )
        places = self._places(topic, parts, entries.keys, lanes)
        if not self._all_fit(topic, entries):
            rows = self._fitting(routed, topic, lanes, entries)
            places, entries = places[rows], _chosen(entries, rows)
        order = np.argsort(places.astype(np.uint16), kind="stable")  # few bits: numpy sorts them by counting
        places, entries = places[order], _chosen(entries, order)
        cuts = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(places)]
        for begin, end in pairwise(cuts):
            if end > begin:
                one = Entries(entries.keys[begin:end], entries.values[begin:end], entries.headers[begin:end])
                routed[topic, int(places[begin])].extend(one)

    def _places(
        self,
        topic: str,
        parts: Sequence[tuple[int, Output]],
        keys: Sequence[bytes | None],
        lanes: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """The partition of each record: as its output says, or by its key."""
        count = self._counts[topic]
        given = [output.places for _, output in parts]
        if all(places is None for places in given):
            return partitions(keys, count, lanes)
        begin, places = 0, np.empty(len(keys), np.int64)
        for (_, output), own in zip(parts, given, strict=True):
            end = begin + len(output)
            chosen = partitions(output.keys, count, lanes[begin:end]) if own is None else own % count
            places[begin:end] = chosen
            begin = end
        return places

    def _all_fit(self, topic: str, entries: Entries) -> bool:
        """Whether even a record of the longest key, the longest value and the longest headers would fit."""
        distinct = entries.headers[:1] if _all_one(entries.headers) else set(entries.headers)
        longest = (_longest(entries.keys), _longest(entries.values), max(map(_header_bytes, distinct)))
        return sum(longest) <= self._most(topic)

    def _fitting(self, routed: Outgoing, topic: str, lanes: NDArray[np.int64], entries: Entries) -> NDArray[np.int64]:
        """The rows that the topic can hold; the others become dead letters."""
        sizes = map(_size, entries.keys, entries.values, entries.headers)
        fits = np.fromiter(sizes, np.int64, len(entries)) <= self._most(topic)
        for row in np.flatnonzero(~fits).tolist():
            key, value, headers = entries.keys[row], entries.values[row], entries.headers[row]
            body, told = too_large(topic, value, headers)
            target = int(lanes[row]) % self._counts[self._dead_letters]
            short = key is None or len(key) <= TRUNCATED_BYTES
            routed[self._dead_letters, target].add(key if short else None, body, told)
        return np.flatnonzero(fits)

    def _most(self, topic: str) -> int:
        return self._limits[topic] - RECORD_OVERHEAD


def _longest(parts: list[bytes | None]) -> int:
    return max(map(len, parts)) if None not in parts else max(len(part or b"") for part in parts)  # type: ignore[arg-type]


def _size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    return len(key or b"") + len(value or b"") + _header_bytes(headers)


def _header_bytes(headers: Headers) -> int:
    return sum(len(name) + len(content or b"") + 10 for name, content in headers)


def _chosen(entries: Entries, rows: NDArray[np.int64]) -> Entries:
    """The entries of these rows, in this order."""
    if len(rows) < 2:
        return Entries(
            *([column[row] for row in rows.tolist()] for column in (entries.keys, entries.values, entries.headers))
        )
    choose = itemgetter(*rows.tolist())
    headers = entries.headers[: len(rows)] if _all_one(entries.headers) else list(choose(entries.headers))
    return Entries(list(choose(entries.keys)), list(choose(entries.values)), headers)


def _all_one(headers: list[Headers]) -> bool:
    """Whether all are equal, as most records' of a topic are."""
    return headers.count(headers[0]) == len(headers)

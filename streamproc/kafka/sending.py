"""Sending record batches as one producer: with its id and their numbers, each partition's in order, until a broker has
them. Transactions are somebody else's matter."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import defaultdict, deque
from collections.abc import Collection, Coroutine, Mapping
from typing import Any, Final, TypeAlias

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest

from streamproc.errors import FencedOffsets, StreamprocError
from streamproc.kafka.batches import Batches, RecordBatch
from streamproc.kafka.group import MOVED_ON
from streamproc.kafka.logged import Landed

log = logging.getLogger(__name__)

FENCED: Final = frozenset({47, 90})  # invalid producer epoch, producer fenced
DUPLICATE_SEQUENCE: Final = 46  # the broker has the batch already
CONCURRENT_TRANSACTIONS: Final = 51  # the markers of the last transaction are still on their way
OPERATION_NOT_ATTEMPTED: Final = 55  # another partition of the same request was refused
QUICK_SECONDS: Final = 0.005
SLOW_SECONDS: Final = 0.2
SEQUENCES: Final = 2**31  # they begin again at 0
PRODUCE_SECONDS: Final = 5.0
UNKNOWN_TRIES: Final = 100  # some 20 s of answers: a broker that starts does not know its topics at once

Codes: TypeAlias = set[int]
Written: TypeAlias = dict[tuple[str, int], list[Landed]]
"""Where batches are, in their order, by topic and partition."""


class Sending:
    """Sends batches through a client, as ``producer`` (its id and epoch); ``transactional_id`` is that of their
    transaction, if any. What fails leaves the numbers uncertain: another producer has to go on."""

    def __init__(self, client: AIOKafkaClient, transactional_id: str | None = None) -> None:
        self._client, self._id = client, transactional_id
        self._sequences: dict[tuple[str, int], int] = defaultdict(int)
        self._known: set[str] = set()
        self.producer = (-1, -1)

    async def learn(self, topics: Collection[str]) -> None:
        """See to it that the client knows where the topics' partitions are."""
        if unknown := set(topics) - self._known:
            self._known |= unknown
            await self._client.set_topics(self._known)

    async def send(self, batches: Batches) -> Written:
        """Send every batch and wait for its acknowledgement; of one partition, one after another.

        Tries for as long as that can help. Raises KafkaError, FencedOffsets and StreamprocError.
        """
        written: Written = {target: [] for target in batches}
        left: dict[tuple[str, int], deque[RecordBatch]] = {}
        for target, several in batches.items():
            for batch in several:
                batch.seal(*self.producer, self._sequences[target])
                self._sequences[target] = (self._sequences[target] + batch.records) % SEQUENCES
            left[target] = deque(several)
        pause, tries = QUICK_SECONDS, itertools.count(1)
        while left:
            by_node: dict[int, list[tuple[str, int]]] = defaultdict(list)
            for target in left:
                by_node[self._client.cluster.leader_for_partition(TopicPartition(*target))].append(target)
            known = [node for node in by_node if node is not None and node >= 0]
            answers = await side_by_side(*(self._send(node, by_node[node], left) for node in known))
            taken = {target: landed for answer in answers for target, landed in answer.items()}
            for target, landed in taken.items():
                left[target].popleft()
                written[target].append(landed)
                if not left[target]:
                    del left[target]
            if len(taken) < sum(map(len, by_node.values())):  # the same batch goes again, with its sequence number
                await asyncio.sleep(pause)
                answered = await self._client.force_metadata_update()
                if None in by_node and answered and next(tries) > UNKNOWN_TRIES:
                    raise gone()
                pause = min(2 * pause, SLOW_SECONDS)
        return written

    async def _send(
        self, node: int, targets: Collection[tuple[str, int]], left: Mapping[tuple[str, int], deque[RecordBatch]]
    ) -> dict[tuple[str, int], Landed]:
        """Send the first batch of each target. Where those are that the broker has now. Raises what a retry does not
        mend."""
        topics: dict[str, list[Any]] = defaultdict(list)
        for topic, partition in targets:
            topics[topic].append((partition, left[topic, partition][0].data))
        request = ProduceRequest(self._id, -1, int(PRODUCE_SECONDS * 1000), list(topics.items()))
        try:
            response = await self._client.send(node, request)
        except kafka_errors.KafkaError as error:
            if not error.retriable:
                raise
            log.debug("no answer to a produce request: %s", type(error).__name__)
            return {}
        taken, refused = dict[tuple[str, int], Landed](), Codes()
        for topic, answers in response.topics:
            for partition, code, base, stamp, *_ in answers:
                if code in {0, DUPLICATE_SEQUENCE}:
                    taken[topic, partition] = Landed(base, left[topic, partition][0].records, stamp)
                else:
                    refused.add(code)
        raise_unless_retriable(refused)
        return taken


async def side_by_side(*steps: Coroutine[Any, Any, Any]) -> list[Any]:
    """The results of steps that run side by side; the first to fail ends the others."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def raise_unless_retriable(codes: Codes) -> None:
    """Raise what the broker's error codes say, unless all of them only ask to try again."""
    if codes & MOVED_ON:
        raise FencedOffsets("offsets of an older generation were refused")
    if codes & FENCED:
        raise kafka_errors.ProducerFenced
    for code in sorted(codes - {CONCURRENT_TRANSACTIONS, OPERATION_NOT_ATTEMPTED}):
        error = kafka_errors.for_code(code)
        if not error.retriable:
            raise error


def gone() -> StreamprocError:
    """For a topic that is not there any more."""
    return StreamprocError(
        "the broker does not know an output topic any more", "`streamproc topics FILE` shows which one is missing"
    )

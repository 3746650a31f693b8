"""One transaction for all lanes that have something finished, and what became of it when the broker went away.

Two producers take turns, because a broker takes no new transaction of a producer before the markers of its last one
are written. That one is decided by then: the next can only become final after it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors

from streamproc import metrics
from streamproc.errors import BrokerUnavailable, EnvironmentFault, FencedOffsets, StreamprocError, UserError, causes
from streamproc.kafka.batches import Batches, encode
from streamproc.kafka.connection import Connection
from streamproc.kafka.group import Claim, GroupOffsets
from streamproc.kafka.lane import Share, Work
from streamproc.kafka.logged import Sent
from streamproc.kafka.producer import LaneProducer, transactional_ids
from streamproc.kafka.sending import side_by_side

log = logging.getLogger(__name__)

TRANSACTION_SECONDS = 30.0
START_SECONDS = 20.0
RETRY_SECONDS = 0.5
MOST_ABORTS = 20

Result = TypeVar("Result")


@dataclass(slots=True)
class BrokerState:
    """Whether the worker is waiting for the broker, and since when (monotonic seconds)."""

    away_since: float | None = None
    on_back: Callable[[], None] = lambda: None

    def away(self, reason: BaseException) -> None:
        if self.away_since is None:
            self.away_since = time.monotonic()
            metrics.BROKER_AWAY.set(1)
            log.warning("the broker is away, waiting for it: %s", type(reason).__name__)

    def back(self) -> None:
        if self.away_since is None:
            return
        log.warning("the broker is back after %.1f s", time.monotonic() - self.away_since)
        self.on_back()
        self.away_since = None
        metrics.BROKER_AWAY.set(0)

    async def waiting(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Try until the broker is there. What waiting does not mend is raised."""
        while True:
            try:
                return await attempt()
            except (BrokerUnavailable, kafka_errors.KafkaError) as error:
                if not is_away(error):
                    raise
                self.away(error)
                await asyncio.sleep(RETRY_SECONDS)


class Cycle:
    """Commits work, one transaction after another. ``owner`` is what the claims of its lanes say."""

    def __init__(self, connection: Connection, group: GroupOffsets, app: str, owner: str, encoder: Executor) -> None:
        self._ids = transactional_ids(owner)
        self.broker = BrokerState()
        self._connection = connection
        self._group = group
        self._app = app
        self._encoder = encoder
        self._producers: deque[LaneProducer] = deque()
        self._number = 0
        self._aborts = 0

    async def start(self) -> None:
        self._producers.extend(await side_by_side(*map(self._start_producer, self._ids)))

    async def stop(self) -> None:
        producers = list(self._producers)
        self._producers.clear()
        await asyncio.gather(*(producer.discard() for producer in producers))

    def encode(self, work: Work, limits: Mapping[str, int]) -> None:
        """Begin to make the record batches of a finished work, which may be before its transaction can begin.

        ``limits`` are the topics' bytes for a batch.
        """
        work.encoding = asyncio.get_running_loop().run_in_executor(self._encoder, encode, self._app, work, limits)

    async def commit(self, works: Sequence[Work]) -> bool:
        """Make all of the work final, or none of it: whether it was.

        Raises FencedOffsets when the group has moved on, UserError where a permission is missing, and what else the
        broker will not take however often it is sent. Waits for as long as the broker is away.
        """
        self._number += 1
        shares = [share for work in works for share in work.shares]
        claims = {tp: replace(claim, cycle=self._number) for share in shares for tp, claim in share.lane.claims.items()}
        for share in shares:
            share.landed, share.sent = (), Sent(time.time(), share.lane.epoch)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS):
                await self._transaction(works, shares, claims)
            done = True
        except FencedOffsets:
            await self._renew()
            raise
        except (kafka_errors.KafkaError, TimeoutError) as error:
            _raise_if_final(error)
            if isinstance(error, TimeoutError):
                self.broker.away(error)
            done = await self._outcome(shares, claims, error)
        self._aborts = 0 if done else self._aborts + 1
        if self._aborts > MOST_ABORTS:
            raise StreamprocError(f"{self._aborts} transactions in a row came to nothing", "the log says why")
        metrics.TRANSACTION.observe(time.perf_counter() - started)
        metrics.TRANSACTIONS.labels("committed" if done else "aborted").inc()
        if done:
            for share in shares:
                share.lane.claims = {tp: claims[tp] for tp in share.lane.claims}
        return done

    async def _transaction(
        self,
        works: Sequence[Work],
        shares: Sequence[Share],
        claims: dict[TopicPartition, Claim],
    ) -> None:
        producer, member = self._producers[0], works[0].member
        if any(work.member is not member for work in works):
            raise FencedOffsets("batches of two generations met in one transaction")
        offsets = {tp: (offset, claims[tp].encode()) for share in shares for tp, offset in share.positions.items()}
        written = await producer.commit(offsets, member, _encoded(works))
        for share in shares:
            landed = written.get((share.lane.agent.changelog(self._app), share.lane.partition), ())
            share.landed = [one for one in landed if one.base >= 0]
        self._producers.rotate()
        self.broker.back()

    async def _outcome(
        self, shares: Sequence[Share], claims: dict[TopicPartition, Claim], error: BaseException
    ) -> bool:
        """What became of a transaction whose end nobody told us."""
        log.warning("a transaction ended without an answer (%s): asking what became of it", type(error).__name__)
        await self._renew()
        wanted = {tp for share in shares for tp in share.positions}
        fetch = partial(self._group.fetch, wanted, stable=True)
        while True:
            committed = await self.broker.waiting(fetch)
            if len(committed) == len(wanted):
                break
            await asyncio.sleep(RETRY_SECONDS)
        self.broker.back()
        found = {tp: committed[tp].claim for tp in wanted}
        if all(found[tp] == claims[tp] for tp in wanted):
            return True
        before = {tp: claim for share in shares for tp, claim in share.lane.claims.items()}
        if all(found[tp] == before[tp] for tp in wanted):
            return False
        raise FencedOffsets("another worker owns lanes of this one")

    async def _renew(self) -> None:
        """Other producers with the same ids: they end what those before left open."""
        await self.stop()
        await self.start()

    async def _start_producer(self, transactional_id: str) -> LaneProducer:
        while True:
            producer = LaneProducer(self._connection, transactional_id)
            try:
                async with asyncio.timeout(START_SECONDS):
                    await producer.start()
            except (kafka_errors.KafkaError, TimeoutError, OSError) as error:
                await producer.discard()
                if isinstance(error, kafka_errors.KafkaError) and not is_away(error):
                    _raise_if_final(error)
                    raise
                self.broker.away(error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.broker.back()
                return producer


async def _encoded(works: Sequence[Work]) -> Batches:
    """The record batches of all works."""
    batches: Batches = {}
    for work in works:
        assert work.encoding is not None
        for target, several in (await work.encoding).items():
            batches[target] = [*batches.get(target, []), *several]
    return batches


def is_away(error: BaseException) -> bool:
    """Whether it means that the broker is not there, or not ready: waiting mends it."""
    if isinstance(error, kafka_errors.KafkaError):
        return error.retriable or isinstance(error, kafka_errors.KafkaConnectionError)
    return isinstance(error, BrokerUnavailable)


PASSING = (
    kafka_errors.ProducerFenced,
    kafka_errors.InvalidProducerEpoch,
    kafka_errors.OutOfOrderSequenceNumber,
    kafka_errors.DuplicateSequenceNumber,
    kafka_errors.InvalidTxnState,
    kafka_errors.InvalidProducerIdMapping,
    kafka_errors.UnknownProducerId,
    kafka_errors.UnknownError,  # a broker that is being stopped may say so
)
"""What a new producer with the same id mends."""

DENIED = (
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.TransactionalIdAuthorizationFailed,
    kafka_errors.ClusterAuthorizationFailedError,
)


def _raise_if_final(error: BaseException) -> None:
    """Raise where trying again would go on for ever. The whole chain of causes is looked at."""
    for cause in causes(error):
        if isinstance(cause, FencedOffsets):
            raise cause
        if isinstance(cause, DENIED):
            raise UserError(
                f"the broker refuses a transaction: {type(cause).__name__}",
                "`streamproc topics FILE --acls` lists the permissions that a worker needs",
            ) from cause
        if isinstance(cause, kafka_errors.InvalidTimestampError):
            raise EnvironmentFault(
                "the broker refuses the times of this worker's records", "is this machine's clock right?"
            ) from cause
        refused = isinstance(cause, kafka_errors.BrokerResponseError) and not isinstance(cause, PASSING)
        if refused and not cause.retriable:  # type: ignore[attr-defined]
            raise StreamprocError(
                f"the broker will not take a transaction: {type(cause).__name__}",
                "an output topic has changed, or cannot hold what is sent to it",
            ) from cause

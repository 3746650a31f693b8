"""Faust's transport for lanes, registered under the entry point group ``faust.transports`` as ``lanes://``.

Faust keeps what it is good at: agents, the assignor, the web server. Delivery is ours: its commits, acks, gap tracking
and tables are off, because they lose events. One Faust message is what one fetch gave for an agent's lanes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Protocol, TypeAlias, cast

import faust
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors
from faust.transport import base
from faust.transport.drivers import aiokafka as driver
from faust.types.transports import ConsumerT
from faust.types.tuples import TP, ConsumerMessage
from mode.utils.times import Seconds

from streamproc.errors import LaneStopped
from streamproc.kafka.connection import Connection
from streamproc.kafka.fetching import MORE_SECONDS, fetch_without_pause, take
from streamproc.kafka.group import Member
from streamproc.kafka.lane import Fetched, RecordsByPartition
from streamproc.kafka.lanes import Lanes
from streamproc.kafka.vitals import Ahead
from streamproc.kafka.watchdog import end_process

FETCH_SECONDS = 0.1
FETCH_WAIT_MS = 10
LEAD_SECONDS = 0.005
"""So long before a work begins the next fetch may go out, to be there in time. Sooner it would bring each record by
itself, and cost as much as one that brings all of them."""
BUSY_SECONDS = 0.05
FETCH_RECORDS = 16_000
PARTITION_BYTES = 2 << 20
FAUST_LOG = logging.getLogger("faust.lanes")
NEVER_MS = 24 * 3600 * 1000
METADATA_MS = 30_000  # how soon new partitions are noticed


FetchResult: TypeAlias = tuple[RecordsByPartition, Mapping[TopicPartition, int]]


class LaneApp(Protocol):
    """What the transport needs of its Faust application."""

    lanes: Lanes
    connection: Connection
    partition_bytes: int


class LaneSchema(faust.Schema[Any, Any]):
    """A fetched batch goes to its agent as it is."""

    def loads_key(self, app: Any, message: Any, **kwargs: Any) -> None:
        return None

    def loads_value(self, app: Any, message: Any, **kwargs: Any) -> Any:
        return message.value


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that fetches and keeps the group membership alive."""

    logger = FAUST_LOG

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        app, conf = cast(LaneApp, self.app), self.app.conf
        self._assignor = self.app.assignor  # Faust would pick round-robin, which does not co-partition
        return AIOKafkaConsumer(
            **app.connection.client_kwargs() | {"metadata_max_age_ms": METADATA_MS},
            group_id=conf.id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_poll_records=FETCH_RECORDS,
            max_partition_fetch_bytes=app.partition_bytes,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_poll_interval_ms=NEVER_MS,  # the watchdog sees to that
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
        )

    async def on_start(self) -> None:
        await super().on_start()
        self._turn = asyncio.Lock()
        self._number = self._interrupted = 0
        self._asked: set[TopicPartition] | None = None
        self._enough: asyncio.Future[None] | None = None
        lanes = cast(LaneApp, self.app).lanes
        fetch_without_pause(self._ensure_consumer(), lambda: lanes.due - LEAD_SECONDS)

    async def fetch(self, wanted: set[TopicPartition], epoch: int) -> FetchResult:
        """Records of the wanted partitions, and the consumer's positions after them."""
        self._number += 1
        self._asked = wanted
        try:
            result: FetchResult = await self.call_thread(self._fetch, wanted, epoch, self._number)
        finally:
            self._asked = None
        return result

    def interrupt(self) -> None:
        """See ``lanes.Fetcher``."""
        if self._asked is not None and cast(LaneApp, self.app).lanes.wanted() - self._asked:
            self.thread_loop.call_soon_threadsafe(self._interrupt, self._number)

    def _interrupt(self, number: int) -> None:
        self._interrupted = number
        self._end_wait()

    def _end_wait(self) -> None:
        if self._enough is not None and not self._enough.done():
            self._enough.set_result(None)

    async def _fetch(self, wanted: set[TopicPartition], epoch: int, number: int) -> FetchResult:
        consumer = self._ensure_consumer()
        self._check(consumer)
        # One at a time with seeks: a fetch that drained records behind a seek's back would leave a hole.
        async with self._turn:
            wanted = wanted & consumer.assignment()
            if not wanted or not self.consumer.flow_active or epoch != cast(LaneApp, self.app).lanes.epoch:
                return {}, {}
            self._enough = asyncio.get_running_loop().create_future()
            if self._interrupted == number:
                self._enough.set_result(None)
            more = 0.0 if cast(LaneApp, self.app).lanes.at_rest else MORE_SECONDS
            records = await take(
                consumer, wanted, seconds=FETCH_SECONDS, most=FETCH_RECORDS, more=more, enough=self._enough
            )
            states = consumer._subscription.subscription.assignment
            here = wanted & consumer.assignment()
            found = {tp: states.state_value(tp) for tp in here}
            return records, {tp: state.position for tp, state in found.items() if state and state.has_valid_position}

    @staticmethod
    def _check(consumer: AIOKafkaConsumer) -> None:
        """aiokafka stops coordinating after an error until somebody polls, and says nothing of a dead fetcher."""
        consumer._coordinator.check_errors()
        task = consumer._fetcher._fetch_task
        if task.done() and not task.cancelled() and not consumer._closed:
            task.result()
            raise RuntimeError("the fetcher has ended")

    async def poll(self) -> None:
        """See ``lanes.Fetcher``."""
        await self.call_thread(self._poll)

    async def _poll(self) -> None:
        consumer = self._ensure_consumer()
        self._check(consumer)
        with consumer._subscription.fetch_context():  # counts as activity: an idle member would leave the group
            pass

    async def seek_all(self, positions: Mapping[TopicPartition, int]) -> None:
        """See ``lanes.Fetcher``."""
        await self.call_thread(self._seek_all, positions)

    async def _seek_all(self, positions: Mapping[TopicPartition, int]) -> None:
        consumer = self._ensure_consumer()
        self._end_wait()
        async with self._turn:
            for tp, offset in positions.items():
                if tp in consumer.assignment():
                    consumer.seek(tp, offset)

    def ahead(self, tp: TopicPartition) -> Ahead:
        """See ``lanes.Fetcher``."""
        consumer = self._ensure_consumer()
        assigned = consumer._subscription.subscription and consumer._subscription.subscription.assignment
        if assigned is None or tp not in assigned.tps:
            return Ahead()
        state = assigned.state_value(tp)
        if not state.has_valid_position or state.lso is None:
            return Ahead()
        return Ahead(max(state.lso - state.position, 0), max((state.highwater or 0) - state.lso, 0))


class Consumer(driver.Consumer):
    """Faust's consumer, with lanes in place of its delivery."""

    logger = FAUST_LOG

    _thread: ConsumerThread

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = itertools.count(1)

    @property
    def lanes(self) -> Lanes:
        return cast(LaneApp, self.app).lanes

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109
        """What Faust asks for again and again, without what is off."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]
        found = await self._getmany(None, timeout)
        # Not before: an assignment may come while that waits, and what it then fetches belongs to it.
        generation = self.app.consumer_generation_id
        for tp, [fetched] in found.items():
            if not self.flow_active or generation != self.app.consumer_generation_id:
                break
            yield TP(*tp), self._to_message(TP(*tp), fetched)

    async def sleep(self, n: Seconds) -> None:
        """Faust gives others a turn between two fetches, and means to hear at once that it should end."""
        await (super().sleep(n) if n else asyncio.sleep(0))

    async def _getmany(
        self,
        active_partitions: set[TP] | None,
        timeout: float,  # noqa: ASYNC109 - Faust's signature
    ) -> dict[TopicPartition, list[Fetched]]:
        lanes = self.lanes
        if not lanes.wanted():
            await lanes.until_wanted(BUSY_SECONDS)
        wanted, epoch = lanes.wanted(), lanes.epoch
        try:
            records, positions = await self._thread.fetch(wanted, epoch)
        except (kafka_errors.KafkaError, kafka_errors.ConsumerStoppedError, LaneStopped) as error:
            if not self.should_stop and not self.app.should_stop:
                lanes.fail(error)
                await asyncio.sleep(BUSY_SECONDS)
            return {}
        return {next(iter(batch.records)): [batch] for batch in lanes.fetched(epoch, records, positions)}

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        # Faust drops what is not after the last offset that it saw; a batch that is run again may go back.
        return ConsumerMessage(
            tp.topic, tp.partition, next(self._numbers), 0.0, 0, [], None, record, None, 0, 0, TP(*tp),
            generation_id=self.app.consumer_generation_id,  # Faust drops messages of another generation
        )  # fmt: skip

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        try:
            await super().on_partitions_revoked(revoked)
            await self.lanes.revoke()
        except Exception as error:
            end_process(error)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        try:
            member = Member.of(self._thread._ensure_consumer()._coordinator)
            await super().on_partitions_assigned(assigned, generation_id)
            self.lanes.assign([TopicPartition(*tp) for tp in assigned], member, self._thread)
        except Exception as error:
            end_process(error)

    # Faust's own delivery, off.

    async def commit(self, *args: Any, **kwargs: Any) -> bool:
        return False

    async def force_commit(self, *args: Any, **kwargs: Any) -> bool:
        return False

    async def _add_gap(self, *args: Any) -> None:
        return None

    async def perform_seek(self) -> None:
        return None

    def verify_event_path(self, now: float, tp: TP) -> None:
        return None


class Producer(driver.Producer):
    """Faust wants a producer to start; nothing is ever sent with it."""

    logger = FAUST_LOG

    async def on_start(self) -> None:
        await base.Producer.on_start(self)

    async def on_stop(self) -> None:
        await base.Producer.on_stop(self)

    async def flush(self) -> None:
        return None


class Transport(driver.Transport):
    Consumer: ClassVar[type[ConsumerT]] = Consumer
    Producer: ClassVar[type[Any]] = Producer
    driver_version = f"lanes on {driver.Transport.driver_version}"

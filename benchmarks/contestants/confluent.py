"""What the contestants on confluent-kafka share: clients with the settings of its guide, and a way to end."""

# mypy: disable-error-code="import-not-found,import-untyped"
from __future__ import annotations

import signal
import threading
from typing import Any

from confluent_kafka import Consumer, Producer

from benchmarks.contestants.base import Setup

BATCH = 5_000
"""Records that one call of ``consume`` may return."""


def clients(setup: Setup) -> tuple[Any, Any]:
    """A consumer of the input, which commits what was stored every 5 s by itself, and a producer."""
    consumer = Consumer(
        {
            "bootstrap.servers": setup.address,
            "group.id": setup.topics.prefix,
            "auto.offset.reset": "earliest",
            "enable.auto.offset.store": False,
        }
    )
    # Java's partitioner, as everybody else has it; and room for a batch with all its outputs.
    producer = Producer(
        {
            "bootstrap.servers": setup.address,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 200_000,
        }
    )
    consumer.subscribe([setup.input])
    return consumer, producer


def until_told() -> threading.Event:
    """Set when SIGTERM or SIGINT comes."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def finish_batch(consumer: Any, producer: Any, messages: list[Any]) -> None:
    """At-least-once: what was produced is acknowledged before the offsets may be committed."""
    producer.flush()
    for message in messages:
        consumer.store_offsets(message)

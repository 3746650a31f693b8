"""confluent-kafka copies every record, at-least-once, and looks at none."""

from __future__ import annotations

from benchmarks.contestants.base import Setup, arguments
from benchmarks.contestants.confluent import BATCH, clients, finish_batch, until_told


def run(setup: Setup) -> None:
    stop = until_told()
    consumer, producer = clients(setup)
    topic = setup.topics.decisions
    try:
        while not stop.is_set():
            messages = [one for one in consumer.consume(BATCH, timeout=0.02) if one.error() is None]
            for message in messages:
                producer.produce(topic, message.value(), message.key())
            if messages:
                finish_batch(consumer, producer, messages)
    finally:
        consumer.close()
        producer.flush(10)


if __name__ == "__main__":
    run(arguments())

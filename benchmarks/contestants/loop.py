"""A plain Python loop over confluent-kafka: consume a batch, decide each event, produce, flush, commit.

At-least-once. It has batches, so the model is called once for each and a summary is written for each.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson

from benchmarks.contestants.base import Setup, arguments
from benchmarks.contestants.confluent import BATCH, clients, finish_batch, until_told
from benchmarks.contestants.work import Work, review_item
from benchmarks.jobs.job import Event


def run(setup: Setup) -> None:
    work = Work(setup.job)
    stop = until_told()
    consumer, producer = clients(setup)
    try:
        while not stop.is_set():
            messages = [one for one in consumer.consume(BATCH, timeout=0.02) if one.error() is None]
            if messages:
                process(setup, work, producer, messages)
                finish_batch(consumer, producer, messages)
    finally:
        consumer.close()
        producer.flush(10)


def process(setup: Setup, work: Work, producer: Any, messages: list[Any]) -> None:
    topics, good = setup.topics, list[tuple[bytes, Event]]()
    for message in messages:
        event = work.read(message.value())
        if event is None:
            producer.produce(topics.dead_letters, message.value(), message.key())
        else:
            good.append((message.key(), event))
    rows = [work.features(event) for _, event in good]
    scores = work.scores(rows) if setup.job.features and rows else [0.0] * len(good)
    counts = Counter[str]()
    for (key, event), features, score in zip(good, rows, scores, strict=True):
        decision, record = work.decide_scored(event, features, score)
        value = orjson.dumps(record)
        producer.produce(topics.decisions, value, key)
        counts[decision.decision] += 1
        if setup.job.acts:
            action = review_item(value, event) if decision.decision == "review" else value
            producer.produce(topics.actions[decision.decision], action, key)
    if setup.job.acts:
        summary = {"events": len(messages), "dead_letters": len(messages) - len(good), "decisions": counts}
        producer.produce(topics.summaries, orjson.dumps(summary))


if __name__ == "__main__":
    run(arguments())

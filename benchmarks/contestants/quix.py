# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "confluent-kafka ==2.12.2",
#   "jsonschema-rs ==0.60.3",
#   "numpy ==2.4.6",
#   "onnxruntime ==1.31.1",
#   "orjson ==3.13.0",
#   "quixstreams ==3.28.1",
# ]
# ///
"""Quix Streams, as its documentation writes a pipeline: a streaming dataframe, functions, and topics to write to.

It has an environment of its own (the lines above), since it wants an older pydantic than streamproc is tested with.
At-least-once, its default: with exactly-once it commits every 5 s, so no reader would see a decision sooner.
"""

# mypy: disable-error-code="import-not-found,import-untyped,misc"
from __future__ import annotations

from typing import Any

import orjson
from quixstreams import Application
from quixstreams.models import Serializer

from benchmarks.contestants.base import Setup, arguments
from benchmarks.contestants.work import Work, review_item

Item = dict[str, Any]


class Part(Serializer):
    """Writes one part of what ``decide`` returned."""

    def __init__(self, part: str) -> None:
        self._part = part

    def __call__(self, value: Item, ctx: Any) -> bytes:
        part: bytes = value[self._part]
        return part


def run(setup: Setup) -> None:
    work, topics = Work(setup.job), setup.topics
    app = Application(
        broker_address=setup.address,
        consumer_group=topics.prefix,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        use_changelog_topics=False,
        loglevel="WARNING",
    )

    def topic(name: str, part: str) -> Any:
        return app.topic(name, key_serializer="bytes", value_serializer=Part(part))

    def decide(value: bytes) -> Item:
        event = work.read(value)
        if event is None:
            return {"outcome": value, "decision": None}
        decision, record = work.decide(event)
        encoded = orjson.dumps(record)
        review = setup.job.acts and decision.decision == "review"
        return {
            "outcome": encoded,
            "decision": decision.decision,
            "action": review_item(encoded, event) if review else encoded,
        }

    # One chain without branches: a branch would copy every value with pickle.
    events = app.topic(setup.input, key_deserializer="bytes", value_deserializer="bytes")
    decisions = topic(topics.decisions, "outcome")
    rows = app.dataframe(events).apply(decide)
    if not setup.job.acts:
        rows.to_topic(decisions)
    else:
        dead_letters = topic(topics.dead_letters, "outcome")
        actions = {decision: topic(name, "action") for decision, name in topics.actions.items()}
        rows = rows.to_topic(lambda item, *_: decisions if item["decision"] else dead_letters)
        rows = rows.filter(lambda item: item["decision"] is not None)
        rows.to_topic(lambda item, *_: actions[item["decision"]])
    app.run()


if __name__ == "__main__":
    run(arguments())

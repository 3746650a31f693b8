"""Stock Faust, as its documentation writes an agent: ``async for`` over a topic, ``await topic.send``.

At-least-once, its default. Other settings are the defaults too, but for the web server, which is off.
"""

from __future__ import annotations

import sys
from typing import Any

import faust
import orjson

from benchmarks.contestants.base import Setup, arguments
from benchmarks.contestants.work import Work, review_item


def make_app(setup: Setup) -> Any:
    work, topics = Work(setup.job), setup.topics
    app = faust.App(
        topics.prefix,
        broker=f"kafka://{setup.address}",
        store="memory://",
        web_enabled=False,
        topic_replication_factor=1,
        datadir=str(setup.folder / "faust"),
    )

    def topic(name: str) -> Any:
        return app.topic(name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    events, decisions, dead_letters = topic(setup.input), topic(topics.decisions), topic(topics.dead_letters)
    actions = {decision: topic(name) for decision, name in topics.actions.items()}

    async def decide(stream: Any) -> None:
        async for key, value in stream.items():
            event = work.read(value)
            if event is None:
                await dead_letters.send(key=key, value=value)
                continue
            decision, record = work.decide(event)
            encoded = orjson.dumps(record)
            await decisions.send(key=key, value=encoded)
            if setup.job.acts:
                action = review_item(encoded, event) if decision.decision == "review" else encoded
                await actions[decision.decision].send(key=key, value=action)

    app.agent(events)(decide)
    return app


if __name__ == "__main__":
    app = make_app(arguments())
    sys.argv = [sys.argv[0], "worker", "--without-web", "-l", "warn"]
    app.main()

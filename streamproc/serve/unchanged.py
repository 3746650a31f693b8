"""Notices topics that become others while a door runs: keys go elsewhere then, or decisions come where none is read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Final

from streamproc.errors import EnvironmentFault, UserError
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0


async def changed(connection: Connection, known: Mapping[str, admin.TopicInfo], events: Collection[str]) -> None:
    """Wait until one of the topics is another one, or has other partitions. Raises UserError then, with what to do.

    ``events`` are those whose partitions are lanes.
    """
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            infos = await admin.describe(connection, sorted(known))
        except EnvironmentFault as error:
            log.debug("asking for topics: %s", error.message)
            continue
        for name, info in infos.items():  # one that is gone may come back: the door is not ready without it
            compare(known[name], info, of_lanes=name in events)


def compare(before: admin.TopicInfo, now: admin.TopicInfo, *, of_lanes: bool) -> None:
    """Raises UserError where a topic is not what it was."""
    todo = (
        "lanes stop as well, and say what to do; then start the door again"
        if of_lanes
        else "start the door again: it then reads what is there now"
    )
    if before.topic_id and now.topic_id and before.topic_id != now.topic_id:  # brokers before 2.8 give none
        raise UserError(f"topic {now.name!r} was deleted and made anew", todo)
    if before.partitions != now.partitions:
        moved = ": keys have moved between lanes" if of_lanes else ""
        raise UserError(
            f"topic {now.name!r} has {now.partitions} partitions now and had {before.partitions}{moved}", todo
        )

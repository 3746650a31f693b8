"""The demonstration: real events through a real Kafka, what goes wrong on the way, and a recount of what came out."""

from streamproc.demo.events import Events, produce, real_events
from streamproc.demo.people import ModelServer, Reviewing, review, tell_outcomes, until_over
from streamproc.demo.story import Story, interrupt, repaid, settled, told, without_people
from streamproc.demo.surroundings import (
    PARTITIONS,
    Worker,
    free_ports,
    make_events_topic,
    prepare,
    remove_topics,
    until_ready,
)
from streamproc.demo.tally import Tally, add, deciding, following, read_later, reader, recount

__all__ = [
    "PARTITIONS",
    "Events",
    "ModelServer",
    "Reviewing",
    "Story",
    "Tally",
    "Worker",
    "add",
    "deciding",
    "following",
    "free_ports",
    "interrupt",
    "make_events_topic",
    "prepare",
    "produce",
    "read_later",
    "reader",
    "real_events",
    "recount",
    "remove_topics",
    "repaid",
    "review",
    "settled",
    "tell_outcomes",
    "told",
    "until_over",
    "until_ready",
    "without_people",
]

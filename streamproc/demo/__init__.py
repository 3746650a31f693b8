"""The demonstration: real events through a real Kafka, what goes wrong on the way, and a recount of what came out."""

from collections.abc import Callable, Mapping
from typing import Final

from streamproc.demo.events import Events, by_place, by_trace, produce
from streamproc.demo.loan_show import LoanShow
from streamproc.demo.loans import real_events
from streamproc.demo.payment_show import PaymentShow
from streamproc.demo.running import Demonstration
from streamproc.demo.show import Show
from streamproc.demo.surroundings import (
    PARTITIONS,
    Worker,
    free_ports,
    make_events_topic,
    prepare,
    remove_topics,
    until_ready,
)
from streamproc.demo.tally import Tally, add, deciding, following, reader, recount
from streamproc.demo.triage_show import TriageShow

SHOWS: Final[Mapping[str, Callable[..., Show]]] = {show.example: show for show in (LoanShow, PaymentShow, TriageShow)}

__all__ = [
    "PARTITIONS",
    "SHOWS",
    "Demonstration",
    "Events",
    "Show",
    "Tally",
    "Worker",
    "add",
    "by_place",
    "by_trace",
    "deciding",
    "following",
    "free_ports",
    "make_events_topic",
    "prepare",
    "produce",
    "reader",
    "real_events",
    "recount",
    "remove_topics",
    "until_ready",
]

"""Logs: for people by default, one JSON object a line where asked for. Event payloads are never in them."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import orjson

LogFormat = Literal["human", "json"]
LEVELS = ("debug", "info", "warning", "error")
NOISY = ("aiokafka", "faust", "mode", "asyncio")
"""Libraries that say at length what we say in a line: heard at debug level only."""


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and where it failed."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. Of an exception only its type: its text may quote an event."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return orjson.dumps(line).decode()


class HumanFormatter(logging.Formatter):
    """Time, level and message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")


def configure(form: LogFormat, level: str) -> None:
    """Send this process's logs to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else HumanFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.CRITICAL + 1)
    # It logs the keys and values that it sends.
    logging.getLogger("aiokafka.producer").setLevel(logging.WARNING if level == "debug" else logging.CRITICAL + 1)

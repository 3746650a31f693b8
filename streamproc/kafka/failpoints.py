"""Deaths at chosen moments, for tests: ``STREAMPROC_FAILPOINT=NAME:N`` is kill -9 at the Nth passing of that point."""

from __future__ import annotations

import os
import signal

VARIABLE = "STREAMPROC_FAILPOINT"

CLAIMING = "claiming"  # the state is restored, no claim stands on the offsets
CLAIMED = "claimed"  # the claim stands, no batch was taken
RESTORING = "restoring"  # some of the changelog is read, not all
OFFSETS = "offsets"  # the offsets are in the transaction, no record is
COMMITTING = "committing"  # everything is sent, nothing is committed
COMMITTED = "committed"  # the broker has said that it is final, the lanes do not know

POINTS = (CLAIMING, CLAIMED, RESTORING, OFFSETS, COMMITTING, COMMITTED)


class Armed:
    """A point that is to be deadly, and how often it may still be passed."""

    __slots__ = ("left", "name")

    def __init__(self, text: str) -> None:
        name, _, count = text.partition(":")
        if name not in POINTS or not (count or "1").isdecimal():
            raise ValueError(f"{VARIABLE} is {text!r}, not NAME or NAME:N with one of {', '.join(POINTS)}")
        self.name, self.left = name, int(count or 1)


def failpoint(name: str) -> None:
    """Pass a point; does nothing unless the environment names it."""
    if _armed is None or _armed.name != name:
        return
    _armed.left -= 1
    if _armed.left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)


_armed = Armed(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None

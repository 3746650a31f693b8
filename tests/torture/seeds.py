"""What continuous integration runs, 60 seconds of faults in all. A seed that found something joins them."""

from __future__ import annotations

SECONDS = 20.0
SEEDS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (1, ("kill", "term", "stop", "failpoint")),
    (2, ("broker", "fenced", "aborted", "big", "broker-restart")),
    (3, ("model-hangs", "scale", "model-raises", "all", "clock")),
)

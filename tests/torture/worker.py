"""One worker under torture: ``python -m tests.torture.worker PIPELINE SESSION_SECONDS LANES``.

Kafka is where the environment says.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import ModuleType

from streamproc import run_agents
from streamproc.app import WorkerSettings
from streamproc.baselines import watching
from streamproc.kafka.lanes import LaneSettings
from streamproc.pipeline import open_pipeline
from streamproc.worker import stop_with_parent, warm_up
from tests.torture.subject import agents

CLOCK = "STREAMPROC_TORTURE_CLOCK"
"""Seconds by which this worker's wall clock is wrong."""
WATCHDOG_SECONDS = 30.0
CHECKPOINT_SECONDS = 2.0


def main() -> None:
    """Run until SIGTERM, or until whoever started us is gone."""
    stop_with_parent()
    pipeline, baseline = watching(open_pipeline(Path(sys.argv[1])))
    warm_up(pipeline)
    if seconds := float(os.environ.get(CLOCK, "0")):
        shift_clock(seconds)
    lanes = LaneSettings(
        watchdog=WATCHDOG_SECONDS, state_dir=Path(sys.argv[1]).parent / "state", checkpoint=CHECKPOINT_SECONDS
    )
    settings = WorkerSettings(session_timeout=float(sys.argv[2]), lanes=lanes)
    own = agents(pipeline, int(sys.argv[3]), baseline)
    run_agents(pipeline.plan.pipeline, own, settings=settings, answerer=pipeline.answers)


def shift_clock(seconds: float) -> list[ModuleType]:
    """Make the wall clock wrong wherever the engine reads it: ``time.time``, and in the modules that are returned.

    The monotonic clock goes on as it should.
    """
    right = time.time

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=seconds)

    time.time = lambda: right() + seconds
    engine = [module for name, module in list(sys.modules.items()) if name.startswith("streamproc.kafka")]
    readers = [module for module in engine if getattr(module, "datetime", None) is datetime]
    assert readers, "nothing of the engine reads the wall clock as this function expects it to"
    for module in readers:
        module.datetime = Shifted  # type: ignore[attr-defined]
    return readers


if __name__ == "__main__":
    main()

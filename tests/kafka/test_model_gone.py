"""A model that goes and comes back, while events keep coming: nothing waits for it, and nothing is lost."""

from __future__ import annotations

import time
from typing import Any

from streamproc.kafka.connection import Connection
from tests.faulty_server import Server, good, hang, reset
from tests.kafka.car_loan import make, worker
from tests.kafka.test_control import Stream

SECONDS = 60.0


def test_the_fallback_chain_decides_until_the_model_is_back(connection: Connection) -> None:
    server = Server()
    server.start()
    changes = [
        ("  onnx: model.onnx", f"  http: {server.url}\n  breaker: {{calls: 3, wait: 1s}}"),
        ("timeout: 5s", "timeout: 500ms"),
    ]
    made = make(connection, 2, changes)
    stream, found = Stream(made), list[dict[str, Any]]()

    def until(tier: str, reasons: set[str | None]) -> None:
        """Decisions go on until some are all of this tier, and all reasons have been seen."""
        deadline, missing = time.monotonic() + SECONDS, set(reasons)
        while True:
            decisions = stream.decided()
            found.extend(decisions)
            missing -= {one["score_reason"] for one in decisions}
            if not missing and all(one["tier"].startswith(tier) for one in decisions):
                return
            assert time.monotonic() < deadline, (missing, decisions[-1])

    try:
        with worker(made):
            until("automatic", {None})
            for handler, reason in ((reset, "model_unavailable"), (hang, "timeout")):
                server.handler = handler
                until("fallback:", {reason, "breaker_open"})
                server.handler = good
                until("automatic", {None})
    finally:
        server.stop()
    assert len({one["id"] for one in found}) == len(found)
    assert {one["why"] for one in found if one["tier"].startswith("fallback:")} == {"no_score"}

"""A model that goes and comes back, while events keep coming: nothing waits for it, and nothing is lost."""

from __future__ import annotations

import re
import time
from typing import Any

import orjson

from streamproc.kafka.connection import Connection
from tests.faulty_server import FAULTS, Server, good, hang, reset
from tests.kafka.car_loan import make, worker
from tests.kafka.test_control import Stream
from tests.record_schemas import record_problems

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

    try:
        with worker(made):
            found += stream.until_tier("automatic", {None}, SECONDS)
            for handler, reason in ((reset, "model_unavailable"), (hang, "timeout")):
                server.handler = handler
                found += stream.until_tier("fallback:", {reason, "breaker_open"}, SECONDS)
                server.handler = good
                found += stream.until_tier("automatic", {None}, SECONDS)
    finally:
        server.stop()
    assert len({one["id"] for one in found}) == len(found)
    assert {one["why"] for one in found if one["tier"].startswith("fallback:")} == {"no_score"}


INPUTS = "[car_value, debt_to_income_ratio, loan_length, tenure, repaid_before, downpayment, salary]"
STAND_IN = """
import os, threading
from pathlib import Path

HERE = Path(__file__).parent

def score(columns):
    if (HERE / "crash").exists():
        os._exit(1)
    if (HERE / "hang").exists():
        threading.Event().wait()
    print("a model that talks")
    return {"score": columns["repaid_before"] * 0.98 + 0.01, "version": "simple"}
"""


def test_stand_ins_and_shadows_on_lanes_that_go_on_whatever_fails(connection: Connection) -> None:
    server = Server()
    server.start()
    model = f"model:\n  onnx: model.onnx\n  inputs: {INPUTS}\n  timeout: 5s\n"
    models = f"""model:
  - {{id: far, http: "{server.url}", inputs: {INPUTS}, timeout: 300ms, breaker: {{calls: 3, wait: 500ms}}}}
  - {{id: near, python: "own_stand_in:score", inputs: [repaid_before], timeout: 1s, breaker: {{calls: 3, wait: 500ms}}}}
shadow:
  - {{id: next, onnx: model.onnx, inputs: {INPUTS}}}
"""
    changes = [(model, models), ("{id: no-score, decide: review}", "{id: no-score, decide: abstain}")]
    made = make(connection, 2, changes)
    rules = made.file.read_text(encoding="utf-8")
    nothing = re.sub(r"(id: no-score-(?:light|short|small), .*decide: )\w+", r"\1abstain", rules)
    made.file.write_text(nothing, encoding="utf-8")
    folder = made.file.parent
    (folder / "own_stand_in.py").write_text(STAND_IN, encoding="utf-8")
    stream, found = Stream(made), list[dict[str, Any]]()

    def until(tier: str, reasons: set[str | None]) -> None:
        """Decisions go on until some are all of this tier, and all these reasons have been seen with it."""
        deadline, missing = time.monotonic() + SECONDS, set(reasons)
        while True:
            decisions = stream.decided()
            found.extend(decisions)
            missing -= {one["fallback_reason"] for one in decisions if one["tier"] == tier}
            if not missing and all(one["tier"] == tier for one in decisions):
                return
            assert time.monotonic() < deadline, (tier, missing, decisions[-1])

    try:
        with worker(made):
            until("automatic", {None})
            for fault, reason in (
                ("500", "error"),
                ("hang", "timeout"),
                ("wrong length", "error"),
                ("NaN", "no_score"),
            ):
                server.handler = FAULTS[fault][0]
                until("stand-in:near", {reason})
            server.handler = FAULTS["429"][0]
            for marker in ("crash", "hang"):
                (folder / marker).touch()
                until("abstain", {"breaker_open"})
                (folder / marker).unlink()
                until("stand-in:near", {"error"})
            server.handler = good
            until("automatic", {None})
    finally:
        server.stop()
    assert len({one["id"] for one in found}) == len(found)
    versions = {one["tier"]: one["model"] for one in found}
    assert versions["stand-in:near"].endswith("@simple")
    assert {one["shadows"]["next"]["reason"] for one in found} == {None}
    abstained = made.read("abstained")
    assert {one["id"] for one in found if one["decision"] == "abstain"} <= {
        record_id(record.value) for record in abstained
    }
    for record in (*abstained, *made.read("decisions")):
        assert record_problems(record.value, record.headers) == []


def record_id(value: bytes) -> str:
    """The id of a decision."""
    return str(orjson.loads(value)["id"])

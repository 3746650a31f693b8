"""Requests made at random from the door's own description find no bug, and no answer that it does not describe.

schemathesis has an environment of its own, as it brings a web framework and a client.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.kafka import car_loan
from tests.kafka.doors import door

ROOT = Path(__file__).parents[2]
SCHEMATHESIS = "schemathesis ==4.32.5"
EXCEPT = "positive_data_acceptance"  # a worker refuses what no contract can say, as a time that is none
PARTS = (
    "serve: {deadline: 20ms, longest: 1s}\n"
    "review: {ttl: 4h, on_expiry: escalate}\n"
    "outcomes: {values: [repaid, defaulted]}\n"
    "actions:\n  escalate: null\n"
)
DEDUPE = ("  key: id\n", "  key: id\n  id: id\n  dedupe: 24h\n")


@pytest.mark.timeout(290)
def test_fuzzing_finds_nothing(connection: Any, tmp_path: Path) -> None:
    made = car_loan.make(connection, partitions=2, changes=[DEDUPE, ("actions:\n", PARTS)])
    with car_loan.worker(made), door(made) as opened:
        api = opened.call("GET", "/openapi.json").json
        for schema in api["components"]["schemas"].values():
            jsonschema_rs.Draft202012Validator({**schema, "components": api["components"]})
        found = subprocess.run(
            [
                *(ROOT / "scripts/uv", "tool", "run", "--from", SCHEMATHESIS, "schemathesis", "run"),
                *(f"http://127.0.0.1:{opened.port}/openapi.json", "--exclude-checks", EXCEPT, "--max-examples", "10"),
                *(
                    "--exclude-path",
                    "/v1/decisions/stream",
                    "--seed",
                    "7",
                    "--phases",
                    "coverage,fuzzing",
                    "--no-color",
                    "--request-timeout",
                    "20",
                ),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
        metrics = opened.call("GET", "/metrics").body.decode()
        assert 'status="500"' not in metrics
        assert 'route="/v1/decide",status="200"' in metrics or 'route="/v1/decide",status="202"' in metrics
        page = opened.call("GET", "/")
        assert page.headers["Content-Type"].startswith("text/html")
        text = page.body.decode()
        assert "/v1/decide" in text and "http:" not in text.replace("https://json-schema.org", "")
        assert "<script" not in text and "src=" not in text
    assert "a request failed" not in (made.file.parent / "door.log").read_text()

"""Verdicts and outcomes by HTTP stand on the topics as the commands write them, and count as those do."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from streamproc.core.outcomes.outcome import Outcome
from streamproc.core.outcomes.outcome import encode as encode_outcome
from streamproc.core.review.said import Said, encode
from tests.kafka import car_loan
from tests.kafka.doors import JSON, LINES, door

PARTS = (
    "review: {ttl: 4h, on_expiry: escalate, keys: {eve: KEY}}\n"
    "outcomes: {values: [repaid, defaulted], errors: {approve: [defaulted]}}\n"
    "actions:\n  escalate: null\n"
)
REVIEWED = [("rules:\n", "rules:\n  - {id: people, when: car_value > 0, decide: review}\n")]
ROWS = [value or b"" for _, value in car_loan.events(5, damaged=False)]


@pytest.mark.timeout(240)
def test_what_people_and_others_say_counts(connection: Any, tmp_path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    public = base64.b64encode(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    parts = PARTS.replace("KEY", public)
    made = car_loan.make(connection, partitions=2, changes=[*REVIEWED, ("actions:\n", parts)])
    with car_loan.worker(made), door(made) as opened:
        decided = [opened.decide(row).json for row in ROWS]
        assert {one["decision"] for one in decided} == {"review"}
        first, second, third = (one["id"] for one in decided[:3])

        said = Said(id=first, by="ada", decision="approve", note="known to us")
        answer = opened.call("POST", "/v1/verdicts", orjson.dumps({**orjson.loads(encode(said))}), JSON)
        assert answer.status == 202 and answer.json["topic"] == made.topic("verdicts")

        signed = orjson.dumps({"id": second, "by": "eve", "decision": "decline"})
        headers = {"Streamproc-Signer": "eve", "Streamproc-Signature": base64.b64encode(private.sign(signed)).decode()}
        assert opened.call("POST", "/v1/verdicts", signed, JSON | headers).status == 202
        forged = opened.call("POST", "/v1/verdicts", signed + b" ", JSON | {**headers, "Streamproc-Signature": "AAAA"})
        assert forged.status == 422 and forged.json["errors"][0]["reason"] == "bad_signature"
        for bad in (b"{", b"[]", b'{"id": "x", "by": "ada", "decision": "approve"}'):
            assert opened.call("POST", "/v1/verdicts", bad, JSON).status == 422

        came = Outcome(id=third, value="repaid", time=datetime(2026, 1, 1, tzinfo=UTC), amount=1.5)
        line, by_key = encode_outcome(came), b'{"key": "50003", "value": "defaulted", "time": "2026-01-01T00:00:00Z"}'
        assert opened.call("POST", "/v1/outcomes", line + b"\n" + by_key, LINES).json == {"taken": 2}
        assert opened.call("POST", "/v1/outcomes", line, JSON).json == {"taken": 1}
        mixed = opened.call("POST", "/v1/outcomes", line + b'\n{"id": "1", "value": "lost"}', LINES)
        assert mixed.status == 422 and mixed.json["errors"][0]["line"] == 2

        until = time.monotonic() + 30
        while (now := opened.call("GET", f"/v1/decisions/{first}").json)["decision"] != "approve":
            assert time.monotonic() < until, "the verdict did not count"
            time.sleep(0.05)
        assert now["tier"] == "reviewer" and now["review"]["by"] == "ada"
        repeated = opened.decide(ROWS[0], Idempotency_Key="none of ours")
        assert repeated.status == 200
        verdicts = {record.value: dict(record.headers) for record in made.read("verdicts")}
        assert verdicts[encode(said)] == {"sp-type": b"verdict", "sp-version": b"1"}
        assert verdicts[signed]["sp-key"] == b"eve"
        outcomes = made.read("outcomes")
        assert [record.value for record in outcomes].count(line) == 2
        assert {record.key for record in outcomes} == {third.encode(), b"50003"}
        file = tmp_path / "outcomes.ndjson"
        file.write_bytes(line + b"\n")
        car_loan.command(made, "outcomes", "send", str(made.file), str(file))
        sent = [record for record in made.read("outcomes") if record.value == line]
        assert len(sent) == 3
        assert len({(record.key, record.value, record.partition, tuple(record.headers)) for record in sent}) == 1


def test_a_pipeline_without_the_parts_takes_neither(connection: Any) -> None:
    made = car_loan.make(connection, partitions=1)
    car_loan.command(made, "topics", str(made.file), "--create")
    with door(made) as opened:
        for path in ("/v1/verdicts", "/v1/outcomes"):
            assert opened.call("POST", path, b"{}", JSON).status == 404
        assert not {"/v1/verdicts", "/v1/outcomes"} & set(opened.call("GET", "/openapi.json").json["paths"])

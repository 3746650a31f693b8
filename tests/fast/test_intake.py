"""What people and other systems write reaches its lane, or is a dead letter with the reason."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from streamproc.core.intake import IntakeProcessor
from streamproc.core.processor import NOTHING_SEEN, Effects, Headers, run
from streamproc.core.records import Source
from streamproc.core.signatures import Signatures
from streamproc.core.state import Tables
from streamproc.errors import UserError
from streamproc.io.signatures import sign, verifier
from streamproc.offline import batch_of
from tests.fast.plans import NOW
from tests.fast.review_lane import decision_id, said

LANES = 4


def give(topic: str, *values: bytes | None, headers: Headers = (), signatures: Signatures | None = None) -> Effects:
    batch = batch_of(f"t.{topic}", list(values), partition=1, first_offset=7, keys=[b"k"] * len(values), timestamp=5)
    for place in range(len(values)):
        batch.topics[f"t.{topic}"].headers[place] = headers
    intake = IntakeProcessor("t", LANES, signatures or Signatures())
    return run(intake.process(batch, Tables(), NOTHING_SEEN, NOW), None)


def outcome_bytes(**more: Any) -> bytes:
    """An outcome by id, or by the key that is given."""
    whose = {} if "key" in more else {"id": decision_id(1)}
    return orjson.dumps({**whose, "value": "repaid", "time": "2026-01-01T00:00:00Z"} | more)


def placed(effects: Effects, topic: str) -> list[tuple[int, bytes | None, dict[str, Any]]]:
    """Lane, value and headers of what went to a topic."""
    return [
        (lane, value, dict(headers))
        for output in effects.records
        if output.topic == f"t.{topic}" and output.places is not None
        for lane, value, headers in zip(output.places.tolist(), output.values, output.headers, strict=True)
    ]


def reasons(effects: Effects) -> list[bytes]:
    return [headers["sp-reason"] for _, _, headers in placed(effects, "dead-letter")]


def test_what_people_say_goes_to_the_lane_that_the_id_names() -> None:
    values = [said(decision_id(1, lane), decision="approve") for lane in range(LANES)]
    second = said(decision_id(1, 2) + ".2", decision="approve")
    effects = give("verdicts", *values, second, headers=(("traceparent", b"00-1"), ("cookie", b"x")))
    found = placed(effects, "cases")
    assert [(lane, value) for lane, value, _ in found] == [*enumerate(values), (2, second)]
    assert {key for output in effects.records for key in output.keys} == {b"k"}
    for place, (_, _, headers) in enumerate(found):
        assert (headers["sp-type"], headers["sp-signed"], headers["traceparent"]) == (b"verdict", b"0", b"00-1")
        assert Source.of(headers["sp-from"].decode()) == Source("t.verdicts", 1, 7 + place, 5)
        assert "cookie" not in headers
    assert effects.counts == {("verdicts", "verdict"): 5}


@pytest.mark.parametrize(
    ("topic", "value", "reason"),
    [
        ("verdicts", None, b"malformed"),
        ("verdicts", b"", b"malformed"),
        ("verdicts", b"\xff", b"malformed"),
        ("verdicts", b"[]", b"malformed"),
        ("verdicts", b'{"id": "x", "by": "ada", "decision": "approve"}', b"malformed"),
        ("verdicts", said(1, kind="verdict"), b"malformed"),
        ("verdicts", said(1, kind="claim")[:-1] + b', "decision": "approve"}', b"malformed"),
        ("verdicts", said(1, decision="approve", by=""), b"malformed"),
        ("verdicts", said(1, decision="approve", fence=0), b"malformed"),
        ("verdicts", said(1, decision="approve", extra=1), b"malformed"),
        ("verdicts", said(1, decision="approve", fence=2**31 + 1), b"malformed"),
        ("verdicts", b"[" * 100_000, b"malformed"),
        ("outcomes", b'{"value": ' + b"[" * 100_000, b"malformed"),
        ("verdicts", said(decision_id(1, LANES), decision="approve"), b"no_such_lane"),
        ("action-results", b'{"id": "x", "status": "done"}', b"no_such_lane"),
        ("action-results", orjson.dumps({"id": decision_id(1), "status": "maybe"}), b"malformed"),
        ("action-results", orjson.dumps({"id": decision_id(1), "status": "done", "time": "2026-01-01"}), b"malformed"),
        ("outcomes", orjson.dumps({"id": decision_id(1), "value": "repaid"}), b"malformed"),
        ("outcomes", orjson.dumps({"value": "repaid", "time": "2026-01-01T00:00:00Z"}), b"malformed"),
        ("outcomes", orjson.dumps({"id": "x", "value": 1, "time": "2026-01-01T00:00:00Z"}), b"malformed"),
        # what can be read, and could not be kept
        ("outcomes", outcome_bytes(time="9999-12-31T23:59:59-12:00"), b"malformed"),
        ("outcomes", outcome_bytes(time="0001-01-01T00:00:00+14:00"), b"malformed"),
        ("outcomes", outcome_bytes(value="?").replace(b'"?"', b"123456789012345678901234567890"), b"malformed"),
        ("outcomes", outcome_bytes(value=2**53 + 1), b"malformed"),
        ("outcomes", outcome_bytes(value="x" * 201), b"malformed"),
        ("outcomes", outcome_bytes(key="x" * 201), b"malformed"),
        ("outcomes", b'{"value":' + b"[" * 100_000, b"malformed"),
    ],
)
def test_what_cannot_be_taken_is_a_dead_letter(topic: str, value: bytes | None, reason: bytes) -> None:
    effects = give(topic, value)
    [(lane, kept, headers)] = placed(effects, "dead-letter")
    assert (lane, kept) == (1, value)
    assert (headers["sp-stage"], headers["sp-reason"], headers["sp-topic"]) == (
        b"intake",
        reason,
        f"t.{topic}".encode(),
    )
    assert (headers["sp-partition"], headers["sp-offset"]) == (b"1", b"7")
    assert len(effects.records) == 1


def test_outcomes_by_id_go_to_one_lane_and_those_by_key_to_all() -> None:
    by_id = orjson.dumps({"id": decision_id(1, 2), "value": "repaid", "time": "2026-01-01T00:00:00Z"})
    by_key = orjson.dumps({"key": "k1", "value": True, "time": "2026-01-01T00:00:00Z", "amount": 12.5})
    effects = give("outcomes", by_id, by_key)
    found = [(lane, value) for lane, value, _ in placed(effects, "outcomes-by-lane")]
    assert found == [(2, by_id), *((lane, by_key) for lane in range(LANES))]


def test_results_of_actions_are_counted() -> None:
    values = [orjson.dumps({"id": decision_id(1), "status": status}) for status in ("done", "failed", "done")]
    effects = give("action-results", *values)
    assert effects.counts == {("action_results", "done"): 2, ("action_results", "failed"): 1}
    assert not effects.records


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, bytes]:
    """A private key's file, and the public key."""
    private = Ed25519PrivateKey.generate()
    form = serialization.PrivateFormat.PKCS8
    pem = private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (tmp_path / "ada.pem").write_bytes(pem)
    return tmp_path / "ada.pem", private.public_key().public_bytes_raw()


def test_signatures_are_checked(key: tuple[Path, bytes]) -> None:
    private, public = key
    value = said(1, decision="approve")
    signature = sign(private, value)
    signatures = Signatures({"ada": public, "bob": bytes(32)}, verify=verifier())
    required = replace(signatures, required=True)
    good: Headers = (("sp-key", b"ada"), ("sp-signature", signature))
    for policy in (signatures, required):
        [(_, _, headers)] = placed(give("verdicts", value, headers=good, signatures=policy), "cases")
        assert headers["sp-signed"] == b"1"
    assert reasons(give("verdicts", value, signatures=required)) == [b"unsigned"]
    assert placed(give("verdicts", value, signatures=signatures), "cases")[0][2]["sp-signed"] == b"0"
    for wrong, reason in (
        ((("sp-key", b"ada"), ("sp-signature", base64.b64encode(bytes(64)))), b"bad_signature"),
        ((("sp-key", b"ada"), ("sp-signature", b"?")), b"bad_signature"),
        ((("sp-key", b"bob"), ("sp-signature", signature)), b"signed_by_another"),
        ((("sp-key", b"eve"), ("sp-signature", signature)), b"unknown_key"),
        ((("sp-signature", signature),), b"unknown_key"),
    ):
        assert reasons(give("verdicts", value, headers=wrong, signatures=signatures)) == [reason]
    assert reasons(give("verdicts", said(1, decision="decline"), headers=good, signatures=signatures)) == [
        b"bad_signature"
    ]


def test_a_file_that_is_no_key_is_told(tmp_path: Path) -> None:
    for content in (b"", b"-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n"):
        (tmp_path / "key.pem").write_bytes(content)
        with pytest.raises(UserError, match="cannot use the key"):
            sign(tmp_path / "key.pem", b"")

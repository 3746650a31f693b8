"""Every record of a real run satisfies schemas/."""

from __future__ import annotations

from collections import Counter

from streamproc.core.records import text_headers
from streamproc.kafka.connection import Connection
from tests.kafka import car_loan
from tests.record_schemas import record_problems


def test_every_record_of_a_run(connection: Connection) -> None:
    made = car_loan.decided(connection.address)
    types = {
        "decisions": "decision",
        "approvals": "decision",
        "declines": "decision",
        "review": "review-item",
        "dead-letter": "dead-letter",
        "artefacts": "artefact",
    }
    counts: Counter[str] = Counter()
    for role, record_type in types.items():
        for record in made.read(role):
            assert record_problems(record.value, record.headers) == [], (role, record)
            text = text_headers(record.headers)
            assert text["sp-type"] == record_type
            if role != "artefacts":
                assert text["traceparent"].startswith("00-")
            counts[role] += 1
    assert counts["decisions"] == 270
    assert counts["dead-letter"] == 30
    assert counts["approvals"] + counts["declines"] + counts["review"] == 270
    assert min(counts[role] for role in types) >= 1

"""The job itself, for the contestants in Python: plain functions around orjson, jsonschema-rs and ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from benchmarks.jobs import Decision, Job
from benchmarks.jobs.job import Event, Features


class Work:
    """A job, with its contract and model loaded."""

    def __init__(self, job: Job) -> None:
        self.job = job
        if job.features is not None:
            import jsonschema_rs
            from onnxruntime import InferenceSession, SessionOptions

            options = SessionOptions()
            options.intra_op_num_threads = 1  # ten features are not worth a second thread
            self._validator = jsonschema_rs.validator_for(orjson.loads(job.schema))
            self._session: Any = InferenceSession(str(job.model), options, providers=["CPUExecutionProvider"])

    def read(self, value: bytes) -> Event | None:
        """The event; None for one that is no JSON or breaks the contract."""
        if self.job.features is None:
            event: Event = orjson.loads(value)
            return event
        try:
            event = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
        return event if self._validator.is_valid(event) else None

    def features(self, event: Event) -> Features:
        return self.job.features(event) if self.job.features is not None else {}

    def scores(self, rows: list[Features]) -> list[float]:
        """The model's score of each row, in one call."""
        matrix = np.array([list(row.values()) for row in rows], dtype=np.float32)
        (scores,) = self._session.run(["score"], {"features": matrix})
        found: list[float] = scores[:, 0].tolist()
        return found

    def decide(self, event: Event) -> tuple[Decision, dict[str, Any]]:
        """One event by itself: the decision, and its record."""
        features = self.features(event)
        score = self.scores([features])[0] if features else 0.0
        return self.decide_scored(event, features, score)

    def decide_scored(self, event: Event, features: Features, score: float) -> tuple[Decision, dict[str, Any]]:
        """The decision and its record, for an event whose score is known."""
        decision = self.job.decide(event, features, score)
        record: dict[str, Any] = {
            "id": event["id"],
            "decision": decision.decision,
            "rule": decision.rule,
            "rules": decision.rules,
            "reasons": decision.reasons,
        }
        if features:
            record |= {"score": score, "features": features}
        return decision, record


def review_item(record: bytes, event: Event) -> bytes:
    """What a person is asked: the decision and the event."""
    return orjson.dumps({"decision": orjson.Fragment(record), "event": event})

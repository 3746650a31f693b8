"""The decision record as JSON bytes, column by column.

Everything that varies per event is encoded by Polars at once; what a verdict says is encoded once per distinct verdict.
The layout of the record is schemas/decision.schema.json.
"""

from __future__ import annotations

import orjson
import polars as pl

from streamproc.core.decide.frame import Context, Frame
from streamproc.core.decide.verdict import Verdict
from streamproc.core.plan import CONFIDENCE, EVENT_TIME, SCORE, Plan
from streamproc.core.sensitive import Masker

ISO = "%Y-%m-%dT%H:%M:%S%.6fZ"


def encode_decisions(plan: Plan, frame: Frame, context: Context, keys: pl.Series, masker: Masker | None) -> list[bytes]:
    """One JSON object per row of the frame. ``keys`` are the events' keys as text."""
    assert frame.verdicts is not None
    records, rows = frame.records, frame.rows
    identity = pl.DataFrame(
        {
            "id": pl.Series(frame.ids, dtype=pl.String),
            "source": pl.DataFrame(
                {
                    "topic": pl.repeat(records.topic, len(rows), eager=True),
                    "partition": pl.repeat(records.partition, len(rows), dtype=pl.Int64, eager=True),
                    "offset": pl.Series(records.offsets[rows]),
                    "timestamp": pl.Series(records.timestamps[rows]),
                }
            ).to_struct(),
            "key": keys,
            "time": frame.columns[EVENT_TIME].dt.strftime(ISO),
        }
    )
    scored = frame.columns[SCORE]
    confidence = (
        frame.columns[CONFIDENCE] if plan.confidence is not None else pl.Series([None] * len(rows), dtype=pl.Float64)
    )
    measured = pl.DataFrame(
        {
            "score": scored,
            "scored": scored.is_not_null(),
            "score_reason": pl.Series(frame.unscored, dtype=pl.String),
            "confidence": confidence,
            **({"features": recorded(plan, frame, masker)} if plan.recorded else {}),
        }
    )
    verdicts = pl.Series([verdict_json(verdict) for verdict in frame.verdicts.distinct], dtype=pl.String)
    provenance = orjson.dumps(
        {
            "pipeline": plan.pipeline,
            "plan": plan.hash,
            "model": frame.model_version,
            "seen": dict(context.seen.offsets),
            **({} if plan.recorded else {"features": {}}),
        }
    ).decode()
    parts = pl.DataFrame(
        {
            "identity": _json(identity).str.strip_suffix("}"),
            "verdict": verdicts.gather(frame.verdicts.of_row),
            "measured": _json(measured).str.strip_prefix("{").str.strip_suffix("}"),
        }
    )
    whole = pl.concat_str("identity", "verdict", "measured", pl.lit(provenance[1:]), separator=",")
    return parts.select(whole.cast(pl.Binary)).to_series().to_list()


def recorded(plan: Plan, frame: Frame, masker: Masker | None) -> pl.Series:
    """The columns that stand in the decision, sensitive ones hashed, as one struct per row."""
    columns = []
    for name in plan.recorded:
        column = frame.columns[name]
        if name in plan.sensitive:
            assert masker is not None
            column = pl.Series(name, [masker.hash(value) for value in column.to_list()], dtype=pl.String)
        columns.append(column)
    return pl.DataFrame(columns, height=len(frame)).to_struct("features")


def verdict_json(verdict: Verdict) -> str:
    """A verdict as the inside of a JSON object."""
    return (
        orjson.dumps(
            {
                "decision": verdict.decision,
                "tier": verdict.tier,
                "why": verdict.why,
                "rule": verdict.rule,
                "would_be": verdict.would_be,
                "rules": verdict.rules,
                "reasons": verdict.reasons,
                "observed": verdict.observed,
                "undecided": verdict.undecided,
            }
        )
        .decode()
        .removeprefix("{")
        .removesuffix("}")
    )


def _json(columns: pl.DataFrame) -> pl.Series:
    return columns.to_struct("row").struct.json_encode()

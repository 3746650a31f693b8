"""The decision record as JSON bytes, column by column.

Everything that varies per event is encoded by Polars at once; what a verdict says is encoded once per distinct verdict.
The layout of the record is schemas/decision.schema.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import orjson
import polars as pl

from streamproc.core.decide.frame import Context, Frame
from streamproc.core.decide.verdict import Verdict
from streamproc.core.plan import CONFIDENCE, EVENT_TIME, SCORE, Plan
from streamproc.core.sensitive import Masker

ISO = "%Y-%m-%dT%H:%M:%S%.6fZ"
MOST_KNOWN = 20_000
OWN = "\x00"
"""Begins the names of columns that are ours: no field of a contract is called like that."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Keys and values of the decision records, one per row of the frame."""

    keys: list[bytes | None]
    values: list[bytes]


def encode_decisions(plan: Plan, frame: Frame, context: Context, masker: Masker | None) -> Encoded:
    """One JSON object per row of the frame, and the key that its records carry.

    It is one ``select``: on small batches the number of Polars calls is what costs.
    """
    assert frame.verdicts is not None
    records, rows = frame.records, frame.rows
    verdicts = pl.Series([verdict_json(verdict) for verdict in frame.verdicts.distinct], dtype=pl.String)
    key = event_key(plan, frame, masker)
    own = {
        "id": pl.Series(frame.ids, dtype=pl.String),
        "partition": pl.Series(records.partitions[rows]),
        "offset": pl.Series(records.offsets[rows]),
        "timestamp": pl.Series(records.timestamps[rows]),
        "key": key,
        "verdict": verdicts.gather(frame.verdicts.of_row),
        "score_reason": pl.Series(frame.unscored, dtype=pl.String),
    }
    hidden = _hashed(plan, frame, masker)
    wide = frame.columns.hstack([column.alias(OWN + name) for name, column in (own | hidden).items()])
    source = pl.struct(
        pl.lit(records.topic).alias("topic"),
        _own("partition"),
        _own("offset"),
        _own("timestamp"),
    )
    time = pl.col(EVENT_TIME).dt.strftime(ISO).alias("time")
    identity = _json(_own("id"), source.alias("source"), _own("key").cast(pl.String), time)
    confidence = pl.col(CONFIDENCE) if plan.confidence is not None else pl.lit(None, dtype=pl.Float64)
    measured = _json(
        pl.col(SCORE).alias("score"),
        pl.col(SCORE).is_not_null().alias("scored"),
        _own("score_reason"),
        confidence.alias("confidence"),
        *_features(plan, hidden),
    )
    provenance = {
        "pipeline": plan.pipeline,
        "plan": plan.hash,
        "model": frame.model_version,
        "seen": dict(context.seen.offsets),
        **({} if plan.recorded else {"features": {}}),
    }
    whole = pl.concat_str(
        identity.str.strip_suffix("}"),
        _own("verdict"),
        measured.str.strip_prefix("{").str.strip_suffix("}"),
        pl.lit(orjson.dumps(provenance).decode().removeprefix("{")),
        separator=",",
    )
    made = wide.select(whole.cast(pl.Binary).alias("value"), _own("key").cast(pl.String).cast(pl.Binary))
    keys = _raw_keys(frame) if plan.events.key is None else made["key"].to_list()
    return Encoded(keys, made["value"].to_list())


def event_key(plan: Plan, frame: Frame, masker: Masker | None) -> pl.Series:
    """The key of each row's records as text or number: the declared field's value, or else the event's own key."""
    name = plan.events.key
    if name is None:
        raw = _raw_keys(frame)
        return pl.Series([None if key is None else key.decode(errors="replace") for key in raw], dtype=pl.String)
    if name in plan.events.sensitive:
        return _hashes(frame.columns[name], masker)
    return frame.columns[name]


def _raw_keys(frame: Frame) -> list[bytes | None]:
    return [frame.records.keys[row] for row in frame.rows.tolist()]


def _features(plan: Plan, hidden: dict[str, pl.Series]) -> list[pl.Expr]:
    """The recorded columns as one struct, sensitive ones hashed; nothing where none is recorded."""
    if not plan.recorded:
        return []
    columns = [_own(name) if name in hidden else pl.col(name) for name in plan.recorded]
    return [pl.struct(columns).alias("features")]


def _hashed(plan: Plan, frame: Frame, masker: Masker | None) -> dict[str, pl.Series]:
    names = [name for name in plan.recorded if name in plan.sensitive]
    return {name: _hashes(frame.columns[name], masker) for name in names}


def _hashes(column: pl.Series, masker: Masker | None) -> pl.Series:
    assert masker is not None
    return pl.Series([masker.hash(value) for value in column.to_list()], dtype=pl.String)


def _own(name: str) -> pl.Expr:
    return pl.col(OWN + name).alias(name)


def _json(*columns: pl.Expr) -> pl.Expr:
    return pl.struct(*columns).struct.json_encode()


@lru_cache(MOST_KNOWN)
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

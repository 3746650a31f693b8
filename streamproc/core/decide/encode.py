"""The decision record as JSON bytes, column by column.

Everything that varies per event is encoded by Polars at once; what a verdict says is encoded once per distinct verdict.
The layout of the record is schemas/decision.schema.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import orjson
import polars as pl

from streamproc.core.decide.frame import Context, Frame
from streamproc.core.decide.verdict import MOST_KNOWN, Verdict
from streamproc.core.plan import CONFIDENCE, EVENT_TIME, SCORE, Plan
from streamproc.core.sensitive import Masker

ISO = "%Y-%m-%dT%H:%M:%S%.6fZ"
OWN = "\x00"
"""Begins the names of columns that are ours: no field of a contract is called like that."""
SHADOW = "shadow\x00"
"""Stands between, where such a column is what a shadow model said."""
HIDDEN = "hidden\x00"
"""Stands between, where such a column is the hash of one of the contract's: their names may be those of ours."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Keys and values of the decision records, one per row of the frame."""

    keys: list[bytes | None]
    values: list[bytes]


class Encoder:
    """Encodes the decisions of one plan.

    Its expressions are made once, and a batch is one ``select``: on small batches both are what costs.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._hidden = [name for name in plan.recorded if name in plan.sensitive]
        self._key = _own("key").cast(pl.String)
        name = plan.events.key
        is_text = name is None or name in plan.events.sensitive or plan.contract.columns[name] == pl.String
        key = _inside(_json(_own("key")), "key") if is_text else _quoted(self._key)
        topic = orjson.dumps(plan.events.topic).decode()
        self._whole = pl.concat_str(
            pl.lit('{"id":"'),
            _own("id"),
            pl.lit(f'","source":{{"topic":{topic},"partition":'),
            _own("partition"),
            pl.lit(',"offset":'),
            _own("offset"),
            pl.lit(',"timestamp":'),
            _own("timestamp"),
            pl.lit('},"key":'),
            key,
            pl.lit(',"time":'),
            _quoted(pl.col(EVENT_TIME).dt.strftime(ISO)),
            pl.lit(","),
            _own("verdict"),
            pl.lit(","),
            *([_own("late")] if plan.remembers else []),
            self._measured(),
            pl.lit(","),
            _own("provenance"),
        )

    def __call__(self, frame: Frame, context: Context, masker: Masker | None) -> Encoded:
        """One JSON object per row of the frame, and the key that its records carry."""
        assert frame.verdicts is not None
        plan, records, rows = self._plan, frame.records, frame.rows
        verdicts = pl.Series([verdict_json(verdict) for verdict in frame.verdicts.distinct], dtype=pl.String)
        own = {
            "id": pl.Series(frame.ids, dtype=pl.String),
            "partition": pl.Series(records.partitions[rows]),
            "offset": pl.Series(records.offsets[rows]),
            "timestamp": pl.Series(records.timestamps[rows]),
            "key": event_key(plan, frame, masker),
            "verdict": verdicts.gather(frame.verdicts.of_row),
            "score_reason": pl.Series(frame.unscored, dtype=pl.String),
            "provenance": self._provenances(frame, context),
            **({"late": _late(frame)} if plan.remembers else {}),
            **{SHADOW + model.name: said for model, said in zip(plan.shadows, frame.shadows, strict=True)},
            **{HIDDEN + name: hashes(frame.columns[name], masker) for name in self._hidden},
        }
        wide = frame.columns.hstack([column.alias(OWN + name) for name, column in own.items()])
        made = wide.select_seq(value=self._whole.cast(pl.Binary), key=self._key.cast(pl.Binary))
        keys = _raw_keys(frame) if plan.events.key is None else made["key"].to_list()
        return Encoded(keys, made["value"].to_list())

    def _measured(self) -> pl.Expr:
        """The inside of an object: the score, and the recorded columns as one struct, sensitive ones hashed."""
        plan = self._plan
        confidence = pl.col(CONFIDENCE) if plan.confidence is not None else pl.lit(None, dtype=pl.Float64)
        recorded = [_own(HIDDEN + name).alias(name) if name in self._hidden else pl.col(name) for name in plan.recorded]
        shadows = [_own(SHADOW + model.name).alias(model.name) for model in plan.shadows]
        whole = _json(
            pl.col(SCORE).alias("score"),
            pl.col(SCORE).is_not_null().alias("scored"),
            _own("score_reason"),
            confidence.alias("confidence"),
            *([pl.struct(shadows).alias("shadows")] if shadows else []),
            *([pl.struct(recorded).alias("features")] if recorded else []),
        )
        return whole.str.strip_prefix("{").str.strip_suffix("}")

    def _provenances(self, frame: Frame, context: Context) -> pl.Series:
        """The end of each object of the batch: mostly the same for all of them."""
        versions = frame.model_versions
        if versions is None:
            return pl.Series([self._provenance(frame, frame.model_version, context)]).new_from_index(0, len(frame))
        made = {version: self._provenance(frame, version, context) for version in set(versions)}
        return pl.Series([made[version] for version in versions], dtype=pl.String)

    def _provenance(self, frame: Frame, model: str | None, context: Context) -> str:
        plan = self._plan
        provenance = {
            "pipeline": plan.pipeline,
            "plan": plan.hash,
            "model": model,
            "confidence_hash": plan.confidence_hash,
            "seen": dict(context.seen.offsets),
            **({"lookups": frame.lookups} if plan.sources else {}),
            **({} if plan.recorded else {"features": {}}),
        }
        return orjson.dumps(provenance).decode().removeprefix("{")


def _late(frame: Frame) -> pl.Series:
    """What stands in the records of events that were too late for their windows, and of the others."""
    late = np.zeros(len(frame), np.int64) if frame.late is None else frame.late.astype(np.int64)
    return pl.Series(["", '"late":true,'], dtype=pl.String).gather(late)


def event_key(plan: Plan, frame: Frame, masker: Masker | None) -> pl.Series:
    """The key of each row's records as text or number: the declared field's value, or else the event's own key."""
    name = plan.events.key
    if name is None:
        raw = _raw_keys(frame)
        return pl.Series([None if key is None else key.decode(errors="replace") for key in raw], dtype=pl.String)
    if name in plan.events.sensitive:
        return hashes(frame.columns[name], masker)
    return frame.columns[name]


def _raw_keys(frame: Frame) -> list[bytes | None]:
    return [frame.records.keys[row] for row in frame.rows.tolist()]


def hashes(column: pl.Series, masker: Masker | None) -> pl.Series:
    """A sensitive column as it may leave the process: text."""
    assert masker is not None
    return pl.Series([masker.hash(value) for value in column.to_list()], dtype=pl.String)


def _own(name: str) -> pl.Expr:
    return pl.col(OWN + name).alias(name)


def _json(*columns: pl.Expr) -> pl.Expr:
    return pl.struct(*columns).struct.json_encode()


def _inside(whole: pl.Expr, name: str) -> pl.Expr:
    """The value in an object of one."""
    return whole.str.strip_prefix(f'{{"{name}":').str.strip_suffix("}")


def _quoted(text: pl.Expr) -> pl.Expr:
    """A JSON string of what needs no escapes, or null."""
    return pl.concat_str(pl.lit('"'), text, pl.lit('"')).fill_null("null")


@lru_cache(MOST_KNOWN)
def verdict_json(verdict: Verdict) -> str:
    """A verdict as the inside of a JSON object."""
    drifted = verdict.drifted
    by_drift = {} if drifted is None else {"without_drift": drifted.without, "drift_capped": drifted.capped}
    by_chance = verdict.explored
    explored = {} if by_chance is None else {"explored": by_chance}
    return (
        orjson.dumps(
            {
                "decision": verdict.decision,
                "tier": verdict.tier,
                "why": verdict.why,
                "fallback_reason": verdict.fallback_reason,
                "rule": verdict.rule,
                "scored_by": verdict.scored_by,
                "would_be": verdict.would_be,
                **by_drift,
                "rules": verdict.rules,
                "reasons": verdict.reasons,
                "observed": verdict.observed,
                "undecided": verdict.undecided,
                **explored,
            }
        )
        .decode()
        .removeprefix("{")
        .removesuffix("}")
    )

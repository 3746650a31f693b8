"""The car loans of the demonstration: what is sent of them, and which of them were repaid."""

from __future__ import annotations

import random
from typing import Any

import orjson
import polars as pl

from streamproc.demo.events import Events, Fields, damage
from streamproc.demo.profiles import customer_of
from streamproc.sample import car_loans

SEED = 7
FIELDS = Fields("car_value", "salary_range", "debt_to_income_ratio")


def real_events(count: int, bad_share: float, missing_share: float = 0.0) -> Events:
    """The car-loan analysis file as events (from the start again where more are wanted), some of them damaged."""
    rows = pl.read_csv(car_loans().analysis).select(pl.exclude("y_pred_proba", "y_pred"))
    lines = [_line(row) for row in rows.to_dicts()]
    ids = rows["id"].to_list()
    values: list[bytes | None] = [lines[number % len(lines)] for number in range(count)]
    keys = [b"%d" % ids[number % len(ids)] for number in range(count)]
    chance = random.Random(SEED)  # noqa: S311 - not for secrets
    damaged = damage(values, bad_share, FIELDS, chance)
    incomplete = _incomplete() if missing_share else {}
    sound = set(range(count)) - set(damaged)
    chosen = [number for number in sorted(sound) if keys[number] in incomplete and chance.random() < missing_share]
    for number in chosen:
        values[number] = incomplete[keys[number]]
    return Events(keys, values, len(damaged), len(chosen))


def _incomplete() -> dict[bytes, bytes]:
    """Applications with a value missing, by their keys."""
    rows = pl.read_csv(car_loans().incomplete).select(pl.exclude("y_pred_proba", "y_pred"))
    rows = rows.filter(pl.any_horizontal(pl.all().is_null()))
    return {b"%d" % row["id"]: _line(row) for row in rows.to_dicts()}


def _line(row: dict[str, Any]) -> bytes:
    """An application, with who makes it."""
    return orjson.dumps(row | {"customer_id": customer_of(row["id"])})


def repaid() -> dict[str, bool]:
    """Whether the loan of each key was repaid."""
    outcomes = pl.read_csv(car_loans().outcomes)
    pairs = zip(outcomes["id"].to_list(), outcomes["repaid"].to_list(), strict=True)
    return {str(key): repaid == 1 for key, repaid in pairs}

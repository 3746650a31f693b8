"""The card payments of the example as events, in the order of their times, with the reports of fraud among them."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import polars as pl

from streamproc.sample import card_payments

REPORTED_AFTER: Final = timedelta(days=10)
"""The data say which payments were frauds, and not when that was learned: this is assumed."""
PAYMENTS: Final = 100_000
"""Ids of payments are below this; the report of a payment has its id and this much."""
FRAUD: Final = "fraud"
"""The column that is no field of an event: what came true of a payment. Of a report it is null."""


def events() -> pl.DataFrame:
    """All payments, and a report for each one that was a fraud. ``time`` is ISO 8601, in UTC."""
    at = pl.col("datetime").str.to_datetime(time_zone="UTC")
    rows = pl.read_csv(card_payments(), infer_schema_length=None).with_columns(time=at)
    payments = rows.with_columns(kind=pl.lit("payment"))
    reports = rows.filter(FRAUD).with_columns(
        kind=pl.lit("report"),
        id=pl.col("id") + PAYMENTS,
        time=pl.col("time") + REPORTED_AFTER,
        fraud=pl.lit(None, pl.Boolean),
    )
    columns = ("id", "kind", "card_id", "store_id", "time", "amount", "customer_present", "provider", "country", FRAUD)
    return (
        pl.concat([payments, reports])
        .sort("time", "id")
        .select(columns)
        .with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    )

"""Choosing a share of events by a hash of their decisions' ids: the same ones whenever and wherever that is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.review.policy import MILLION

Purpose: TypeAlias = Literal["audit", "second_opinion", "explore"]
DIGITS = 8
WORDS: dict[Purpose, int] = {"audit": 0, "explore": 1, "second_opinion": 2}
"""Which eight of the 24 hex digits at an id's end choose, so that one choice says nothing of another."""


def chosen(ids: Sequence[str] | pl.Series, share: int, purpose: Purpose) -> NDArray[np.bool_]:
    """Which of the decisions are in a sample of ``share`` millionths; shape (n,)."""
    if share >= MILLION:
        return np.ones(len(ids), np.bool_)
    limit = -(-(share << 4 * DIGITS) // MILLION)
    digits = pl.Series(ids, dtype=pl.String).str.slice((WORDS[purpose] - len(WORDS)) * DIGITS, DIGITS)
    below: NDArray[np.bool_] = (digits < f"{limit:0{DIGITS}x}").to_numpy()  # digits of one length: as numbers are
    return below


def verdict_id(item: str, by: str, decision: str | None) -> str:
    """The id of a verdict that has none of its own: said again, it is the same."""
    said = "\0".join((item, by, decision or ""))
    return hashlib.blake2b(said.encode(errors="surrogatepass"), digest_size=12).hexdigest()

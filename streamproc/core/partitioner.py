"""Kafka's default partitioner for keyed records (murmur2 of the key), for many keys at once."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SEED = 0x9747B28C
MULTIPLIER = np.uint32(0x5BD1E995)
POSITIVE = np.uint32(0x7FFFFFFF)
SHORT = 64
FEW = 8
"""Up to so many keys are hashed one by one: arrays would take longer."""
WORD = 0xFFFFFFFF


def murmur2(keys: Sequence[bytes]) -> NDArray[np.uint32]:
    """32-bit murmur2 of each key, shape (n,), as ``org.apache.kafka.common.utils.Utils.murmur2`` computes it.

    Keys of one length are hashed together, so the cost is one numpy pass per length and four bytes.

    >>> [int(h) for h in murmur2([b"21", b"foobar"]).view(np.int32)]
    [-973932308, -790332482]
    """
    if len(keys) <= FEW:
        return np.array([_of_one(key) for key in keys], np.uint32)
    hashes = np.empty(len(keys), dtype=np.uint32)
    lengths = np.fromiter(map(len, keys), dtype=np.int64, count=len(keys))
    joined = np.frombuffer(b"".join(keys), dtype=np.uint8)
    begins = np.cumsum(lengths) - lengths
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        if length <= SHORT:
            data = joined[begins[rows][:, None] + np.arange(length)]
        else:  # an index of eight bytes for each would be much
            data = np.frombuffer(b"".join([keys[row] for row in rows.tolist()]), np.uint8).reshape(len(rows), length)
        hashes[rows] = _same_length(data)
    return hashes


def _of_one(key: bytes) -> int:
    m, whole = int(MULTIPLIER), len(key) & ~3
    h = SEED ^ len(key)
    for (word,) in struct.iter_unpack("<I", key[:whole]):
        k = word * m & WORD
        h = (h * m & WORD) ^ ((k ^ k >> 24) * m & WORD)
    if tail := key[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * m & WORD
    h = (h ^ h >> 13) * m & WORD
    return h ^ h >> 15


def _same_length(data: NDArray[np.uint8]) -> NDArray[np.uint32]:
    count, length = data.shape
    whole = length // 4
    h = np.full(count, np.uint32(SEED ^ length), dtype=np.uint32)
    words = np.ascontiguousarray(data[:, : whole * 4]).view("<u4")
    for column in range(whole):
        k = words[:, column] * MULTIPLIER
        k ^= k >> np.uint32(24)
        k *= MULTIPLIER
        h *= MULTIPLIER
        h ^= k
    tail = data[:, whole * 4 :]
    if tail.shape[1]:
        for index in range(tail.shape[1]):
            h ^= tail[:, index].astype(np.uint32) << np.uint32(8 * index)
        h *= MULTIPLIER
    h ^= h >> np.uint32(13)
    h *= MULTIPLIER
    h ^= h >> np.uint32(15)
    return h


def partitions(keys: Sequence[bytes | None], count: int, otherwise: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """The partition of each key among ``count``; a null key goes to ``otherwise`` modulo ``count``. Shape (n,).

    ``otherwise`` is one number, or one per key.
    """
    if None not in keys:
        return ((murmur2(keys) & POSITIVE) % np.uint32(count)).astype(np.int64)  # type: ignore[arg-type]
    chosen = np.broadcast_to(np.asarray(otherwise, np.int64) % count, len(keys)).copy()
    rows = [row for row, key in enumerate(keys) if key is not None]
    if rows:
        chosen[rows] = (murmur2([keys[row] for row in rows]) & POSITIVE) % np.uint32(count)  # type: ignore[misc]
    return chosen

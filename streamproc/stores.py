"""The online stores of a pipeline file, opened."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from streamproc.core.plan import LookupSource, Plan
from streamproc.errors import UserError
from streamproc.io.breaker import BreakerPolicy
from streamproc.io.cache import CachePolicy
from streamproc.io.store import Rows, Store, StorePolicy
from streamproc.io.variables import filled
from streamproc.plan.load import Loaded
from streamproc.plan.parts import BreakerPart
from streamproc.plan.scoring import secrets_of
from streamproc.plan.source_parts import StorePart

MILLION = 1_000_000


def open_stores(loaded: Loaded, environ: Mapping[str, str] | None) -> dict[str, Store]:
    """The stores that features are looked up in, by name. Raises UserError where one cannot be used.

    Without an environment those that need a variable of it are left out: they are not asked then.
    """
    found = dict[str, Store]()
    for source in loaded.plan.sources:
        part = loaded.file.stores.get(source.name)
        if part is None or (environ is None and part.variables):
            continue
        try:
            rows = _rows(loaded, source, part, environ or {})
        except UserError as error:
            raise UserError(f"the store {source.name}: {error.message}", error.hint) from error
        cache = None if part.cache is None else CachePolicy(part.cache.rows, part.cache.ttl.total_seconds())
        policy = StorePolicy(part.timeout.total_seconds(), part.in_flight, policy_of(part.breaker), cache)
        found[source.name] = Store(source.name, rows, policy)
    return found


def policy_of(part: BreakerPart) -> BreakerPolicy:
    """What a breaker does, as the file says it: shares are in millionths there."""
    return BreakerPolicy(part.failures / MILLION, part.calls, part.wait.total_seconds())


def _rows(loaded: Loaded, source: LookupSource, part: StorePart, environ: Mapping[str, str]) -> Rows:
    if part.python is not None:
        from streamproc.io.python_rows import PythonRows

        folder, secrets = loaded.path.parent.resolve(), secrets_of(loaded.file)
        integers = key_type(loaded.plan, source) == pl.Int64
        return PythonRows(
            part.python, folder, tuple(source.fields), integers=integers, calls=part.in_flight, secrets=secrets
        )
    from streamproc.io.redis import RedisRows  # an extra

    assert part.redis is not None
    url = filled(part.redis, environ, f"`redis` of the store {source.name}")
    return RedisRows(url, source.fields, part.as_, is_hash=part.hash, connections=part.in_flight)


def key_type(plan: Plan, source: LookupSource) -> pl.DataType:
    """The type of the column whose values are looked up."""
    of_features = {name: dtype for feature in plan.features for name, dtype in feature.columns.items()}
    return (plan.contract.columns | of_features)[source.key]

"""What decisions cost, in millionths: expressions by decision and outcome, for many rows at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any, Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.outcomes.measures import MILLION, Counts
from streamproc.core.outcomes.policy import AMOUNT, OutcomesPlan

Money: TypeAlias = int | None
"""In millionths; ``None`` where it is not known, because a column that the expression reads is missing."""
LARGEST: Final = 1e9
"""Beyond this on either side a cost counts as this."""


class Costs:
    """The cost matrix of a plan. Expressions are compiled once; a table of numbers alone costs nothing."""

    def __init__(self, plan: OutcomesPlan) -> None:
        self._columns = {name: plan.columns[name] for name in plan.priced}
        self._cells = [(decision, value) for decision, row in plan.costs.items() for value in row]
        expressions = [plan.costs[decision][value].expr for decision, value in self._cells]
        self._select = [expr.cast(pl.Float64).alias(str(number)) for number, expr in enumerate(expressions)]
        self._fixed: dict[tuple[str, str], Money] | None = None
        if all(not cost.columns for row in plan.costs.values() for cost in row.values()):
            self._fixed = {cell: column[0] for cell, column in self._table({}, [None]).items()}

    def __bool__(self) -> bool:
        return bool(self._cells)

    def table(self, columns: Mapping[str, Sequence[Any]], amounts: Sequence[float | None]) -> CostTable:
        """The cost of each row, were it decided so and came that true. The columns have as many rows as ``amounts``."""
        if self._fixed is not None or not self._cells or not amounts:
            return CostTable(self._fixed or {}, {})
        return CostTable({}, self._table(columns, amounts))

    def _table(
        self, columns: Mapping[str, Sequence[Any]], amounts: Sequence[float | None]
    ) -> dict[tuple[str, str], list[Money]]:
        series = [
            pl.Series(name, columns.get(name) or [None] * len(amounts), dtype=kind, strict=False)
            for name, kind in self._columns.items()
        ]
        frame = pl.DataFrame([*series, pl.Series(AMOUNT, amounts, dtype=pl.Float64)])
        found = frame.select(self._select)
        return {cell: _millionths(found[str(number)]) for number, cell in enumerate(self._cells)}


class CostTable:
    """The costs of some rows."""

    def __init__(self, fixed: Mapping[tuple[str, str], Money], rows: Mapping[tuple[str, str], Sequence[Money]]) -> None:
        self._fixed, self._rows = fixed, rows

    def column(self, rows: Sequence[int], decision: str, value: str) -> NDArray[np.float64]:
        """What a decision costs in each of some rows; NaN where it is not known."""
        costs = [self.cost(row, decision, value) for row in rows]
        return np.array([np.nan if cost is None else cost for cost in costs], np.float64)

    def cost(self, row: int, decision: str, value: str) -> Money:
        """What a decision costs where a value comes true."""
        cell = decision, value
        return self._rows[cell][row] if cell in self._rows else self._fixed.get(cell)


def micros(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """``micro`` of each, as whole numbers."""
    whole: NDArray[np.float64] = np.rint(np.clip(costs, -LARGEST, LARGEST) * MILLION)
    return whole


def _millionths(costs: pl.Series) -> list[Money]:
    """``micro`` of each."""
    whole = micros(costs.to_numpy())
    if not costs.null_count():
        exact: list[Money] = whole.astype(np.int64).tolist()
        return exact
    return [None if isnan(cost) else int(cost) for cost in whole.tolist()]


def micro(cost: float) -> int:
    """Millionths of a number."""
    return round(max(-LARGEST, min(LARGEST, cost)) * MILLION)


def total(name: str, cost: int, weight: float = 1.0) -> Counts:
    """The counts by which the mean of a cost, and how sure that is, can be told: sum, sum of squares, number."""
    cost = round(cost * weight) if weight != 1.0 else cost
    return {f"{name}/sum": cost, f"{name}/squares": cost * cost, f"{name}/n": 1}

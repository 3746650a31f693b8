"""What a model is to the shell: something that scores columns and has a version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Model(Protocol):
    """Scores a batch. It may raise: that is an answer with a reason, and not a bug of the worker's."""

    @property
    def version(self) -> str:
        """A hash of what decides its scores."""
        ...

    def score(self, columns: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.float64]:
        """One score per row, shape (rows,); NaN where there is none."""
        ...

"""What a model is to the shell: something that scores columns and has a version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


class Unavailable(Exception):
    """The model cannot answer at the moment, whatever it is asked."""


class Rejected(Exception):
    """The model would not take this batch; it may take a part of it."""


@runtime_checkable
class Closing(Protocol):
    """A model that holds something open."""

    def close(self) -> None:
        """Let go of it."""
        ...


class Model(Protocol):
    """Scores a batch. It may raise: that is an answer with a reason, and not a bug of the worker's.

    Unavailable and TimeoutError say that there is no use in asking for a part of the batch.
    """

    @property
    def version(self) -> str:
        """A hash of what decides its scores."""
        ...

    def score(self, columns: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.float64]:
        """One score per row, shape (rows,); NaN where there is none."""
        ...

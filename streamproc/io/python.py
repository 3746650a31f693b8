"""Models that are Python functions: ``module:function`` on the batch's columns."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamproc.errors import UserError

HASH_BYTES = 16


class PythonModel:
    """A function from columns (name to array of shape (n,)) to n scores.

    That it treats every row by itself is the user's word: nothing can check it.
    """

    def __init__(self, target: str, folder: Path) -> None:
        self._function = load_function(target, folder)
        module = sys.modules[self._function.__module__]
        source = Path(module.__file__).read_bytes() if module.__file__ else target.encode()
        self.version = hashlib.blake2b(source + target.encode(), digest_size=HASH_BYTES).hexdigest()

    def score(self, columns: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.float64]:
        """What the function returns, as float64, whatever its shape. Raises where that is not numbers."""
        return np.asarray(self._function(columns), dtype=np.float64)


def load_function(target: str, folder: Path) -> Callable[..., Any]:
    """Import ``module:function``, looking into ``folder`` first. Raises UserError where there is none."""
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise UserError(
            f"`{target}` is not `module:function`",
            "for example `scoring:score` for scoring.py beside this file",
        )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"cannot import {module_name!r}: {error}",
            "put the module beside the pipeline file, or install it",
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(
            f"{module_name!r} has no function {name!r}", "name one that takes the columns and returns scores"
        )
    return function  # type: ignore[no-any-return]

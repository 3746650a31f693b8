"""Names of columns that the model stage adds, and how a file names variables.

The process of a model knows them too, and little else of streamproc."""

from __future__ import annotations

import re
from typing import Final

MODEL_STATUS: Final = "model_status"
"""'ok', or why the first model gave no usable score."""
MODEL_OK: Final = "ok"
SCORED_BY: Final = "scored_by"
"""The id of the model whose score it is; null where there is no score."""
MODEL_CONFIDENCE: Final = "model_confidence"
"""What the model that scored says of its own confidence; null where it says nothing."""
SCORE_OF: Final = "score_"
"""Begins the names of columns with the probability of one class, where the model's classes have names."""
VARIABLE: Final = re.compile(r"\$\{(\w+)\}")
"""In the headers of a model, or the address of a store: a variable of the environment."""
NO_SUCH_KEY: Final = "no_such_key"
WRONG_TYPE: Final = "wrong_type"
"""Why a look-up gives no value: the source has nothing of the key; what it has is of another type."""
STALE: Final = "stale"
"""The health of a table that is older than it may be."""

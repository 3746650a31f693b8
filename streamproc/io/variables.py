"""Texts of a pipeline file that name variables of the environment as ``${NAME}``: they hold secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping

from streamproc.core.names import VARIABLE
from streamproc.errors import UserError


def filled(text: str, environ: Mapping[str, str], what: str) -> str:
    """The text with the variables' values. Raises UserError where one is not set; ``what`` takes it is for people."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise UserError(f"the variable {match[1]} is not set", f"{what} takes it from the environment")
        return environ[match[1]]

    return VARIABLE.sub(value, text)

"""Files that are seen only once they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from streamproc.errors import UserError


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to. It takes its name when all went well; else what stood there before stays.

    Raises UserError where it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", "name another file, where there is room") from error
    finally:
        part.unlink(missing_ok=True)

"""The process of a Python model or look-up: ``python -m streamproc.io.model_process SOCKET LIFELINE``.

It is told what to import, says whether it could, and then answers one batch after another. It ends with its worker,
however that ends and whatever the model does: the lifeline is a pipe that nobody writes to, and that closes with the
worker.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamproc.errors import UserError
from streamproc.io import frames
from streamproc.io.model import named, numbers
from streamproc.io.python import load_function, version_of


def main(own: socket.socket) -> None:
    """Serve a function until the other side has enough."""
    told, _ = frames.receive(own)
    sys.path[:] = told["path"]
    try:
        function = load_function(told["target"], Path(told["folder"]))
        hello: dict[str, Any] = {"version": version_of(told["target"], function)}
    except UserError as error:
        frames.send(own, {"error": error.message, "hint": error.hint})
        return
    except (Exception, SystemExit) as error:  # importing a module runs it, and it may raise whatever it likes
        said = str(error).split("\n", 1)[0]
        message = f"`{told['target']}` cannot be used: {type(error).__name__}" + (f": {said}" if said else "")
        frames.send(own, {"error": message, "hint": "import the module in a Python of its own, and mend what it says"})
        return
    frames.send(own, hello)
    while True:
        try:
            asked, body = frames.receive(own)
        except frames.Closed:
            return
        _answer(own, function, asked, body)


def _answer(own: socket.socket, function: Callable[..., Any], asked: dict[str, Any], body: memoryview) -> None:
    try:
        columns = frames.unpack(asked["columns"], body)
        if asked.get("lookup"):
            answer, version = _columns(function(columns["keys"])), ""
        else:
            answer, version = _parts(function(columns))
        said, packed = frames.pack(answer)
    except (Exception, SystemExit) as error:  # a model may raise whatever it likes, and even leave
        frames.send(own, {"error": f"{type(error).__name__} at {_place(error)}", "memory": memory()})
        return
    frames.send(own, {"columns": said, "version": version, "memory": memory()}, packed)


def _parts(result: Any) -> tuple[dict[str, NDArray[Any]], str]:
    """Scores and the model's own confidence, and its version. Raises where the result is none of what it may be."""
    if not isinstance(result, dict):
        return {"scores": numbers(result)}, ""
    confidence = result.get("confidence")
    own = {} if confidence is None else {"confidence": numbers(confidence)}
    return {"scores": numbers(result["score"]), **own}, named(result.get("version"))


def _columns(result: Any) -> dict[str, NDArray[Any]]:
    """The columns of a look-up. Raises where the result is no dict of them."""
    if not isinstance(result, dict):
        raise TypeError("a look-up returns a dict of columns")
    return {str(name): _column(values) for name, values in result.items()}


def _column(values: Any) -> NDArray[Any]:
    """An array as it is; of anything else the things in it, which numpy would make texts of where one is."""
    if isinstance(values, np.ndarray):
        return values
    things = [one.item() if isinstance(one, np.generic) else one for one in values]
    return np.array([*things, None], object)[:-1]


def _place(error: BaseException) -> str:
    """File and line of the innermost frame. The error's text may quote an event, so it is not told."""
    found = traceback.extract_tb(error.__traceback__)
    return f"{Path(found[-1].filename).name}:{found[-1].lineno}" if found else "?"


def memory() -> int:
    """Bytes of this process that are in memory; 0 where that cannot be known."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def end_with(lifeline: int) -> None:
    """Kill this process, and those that the model has started, when the lifeline closes."""

    def watch() -> None:
        while os.read(lifeline, 1):
            pass
        os.killpg(0, signal.SIGKILL)

    # A thread needs the interpreter, which a model in native code may hold for ever. Linux can do without.
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=watch, name="lifeline", daemon=True).start()


if __name__ == "__main__":
    np.seterr(all="ignore")  # what is no number is told as a missing score
    end_with(int(sys.argv[2]))
    with socket.socket(fileno=int(sys.argv[1])) as own_socket:
        main(own_socket)
    os._exit(0)  # threads of the model must not keep it

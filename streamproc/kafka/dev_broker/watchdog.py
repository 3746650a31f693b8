"""Ends what a killed process started. Run as a script of its own, with the standard library only.

It reads lines from the process that it watches over: ``watch PID``, ``forget PID``, ``remove DIRECTORY``,
``done``. When its input ends without ``done``, that process is gone, however it went: the watched processes
are killed and the directories removed. (PR_SET_PDEATHSIG would not do: Linux sends it when the *thread* that
forked ends.)
"""

from __future__ import annotations

import os
import shutil
import signal
import sys


def main() -> None:
    handles: dict[int, int | None] = {}
    directories: list[str] = []
    for line in sys.stdin:
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "watch":
            handles[int(rest)] = _open(int(rest))
        elif word == "forget":
            handle = handles.pop(int(rest), None)
            if handle is not None:
                os.close(handle)
        elif word == "remove":
            directories.append(rest)
        elif word == "done":
            return
    for pid, handle in handles.items():
        _kill(pid, handle)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _open(pid: int) -> int | None:
    """A handle on the process that no later process with the same id can be mistaken for (Linux)."""
    try:
        return os.pidfd_open(pid) if sys.platform == "linux" else None
    except OSError:
        return None


def _kill(pid: int, handle: int | None) -> None:
    try:
        if sys.platform == "linux" and handle is not None:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    except OSError:
        pass


if __name__ == "__main__":
    main()

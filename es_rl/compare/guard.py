"""Kill what a process has started and left behind: `python -m es_rl.compare.guard NAME=VALUE FOLDER`.

The guard's stdin is a pipe from that process. When the other end closes for any reason, the guard kills every process
that has NAME=VALUE in its environment, with its descendants, and removes FOLDER. Libraries that start their own
servers, such as Ray, need this: the servers outlive a killed parent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NAME = "ES_RL_GUARDED"
ROUNDS = 50  # searches at most: processes may start others meanwhile
PAUSE = 0.1  # seconds between two searches


@contextlib.contextmanager
def guarded(folder: str) -> Iterator[None]:
    """Kill what was started inside the block when the block or this process ends, then remove `folder`."""
    command = [sys.executable, "-m", "es_rl.compare.guard", f"{NAME}={folder}", folder]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    os.environ[NAME] = folder
    try:
        yield
    finally:
        del os.environ[NAME]
        guard.communicate()


def main(mark: str, folder: str) -> None:
    """Wait until the pipe closes, then kill all processes with the mark and remove the folder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.read()
    for _ in range(ROUNDS):
        if not _kill(mark.encode()):
            break
        time.sleep(PAUSE)
    shutil.rmtree(folder, ignore_errors=True)


def _kill(mark: bytes) -> int:
    """Kill every process with the mark in its environment, and its descendants; return how many there were.

    Processes that set their own title overwrite their environment, so they are found as children of others.
    """
    parents = {int(path.parent.name): _parent(path) for path in Path("/proc").glob("[0-9]*/stat")}
    found = {process for process in parents if mark in _environment(process)}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    for process in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)
    return len(found)


def _parent(stat: Path) -> int:
    """Return the parent of a process, 0 if it has ended."""
    with contextlib.suppress(OSError):
        return int(stat.read_text().rpartition(")")[2].split()[1])
    return 0


def _environment(process: int) -> list[bytes]:
    """Return the environment of a process, empty if it has ended or is another user's."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return []


if __name__ == "__main__":
    main(*sys.argv[1:])

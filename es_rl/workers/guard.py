"""Kill what a process has started and left behind: `python -m es_rl.workers.guard NAME=VALUE [FOLDER [all]]`.

The guard's stdin is a pipe from that process. When the other end closes for any reason, the guard kills every process
that has NAME=VALUE in its environment, with their descendants. Environments and libraries start processes of their own
that would outlive a killed parent.

With a FOLDER, it removes the folder as well, and looks from time to time at what runs: servers such as Ray's overwrite
their environment, and lose their parents. It also kills what it has then seen: with `all`, everything that the process
has started since; else the processes with NAME=VALUE and their descendants.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from es_rl.errors import ResourceError
from es_rl.workers.machine import process_stat

NAME = "ES_RL_GUARDED"
ROUNDS = 50  # searches at most: processes may start others meanwhile
LOOK = 1.0  # seconds between looks at the parent's descendants
PAUSE = 0.1  # seconds between two searches


class Guard:
    """A guard of the processes with a mark in their environment."""

    def __init__(self, mark: str, folder: str = "", *, everything: bool = False) -> None:
        # -P: nothing is imported from the current directory, whatever lies there.
        command = [sys.executable, "-P", "-m", __spec__.name, f"{NAME}={mark}", folder, "all" if everything else ""]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            )  # fmt: skip
        except OSError as error:
            raise ResourceError(f"a process cannot be started: {error}. Try fewer workers.") from error

    def close(self) -> None:
        """Kill what is left, and wait until it is gone."""
        self._process.communicate(b"close")  # a byte, since a fork of this process may hold the pipe open


@contextlib.contextmanager
def guarded(folder: str) -> Iterator[None]:
    """Kill what was started inside the block when the block or this process ends, then remove `folder`."""
    guard = Guard(folder, folder, everything=True)
    os.environ[NAME] = folder
    try:
        yield
    finally:
        del os.environ[NAME]
        guard.close()


def main(mark: str, folder: str = "", everything: str = "") -> None:
    """Wait until the pipe ends, or brings something. Then kill all that bear the mark."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent, known = os.getppid(), dict[int, str]()
    before = _family({parent})  # these are not the guard's, and neither is the guard itself
    while not select.select([sys.stdin], [], [], LOOK if folder else None)[0]:
        roots = {parent} if everything else _marked(mark.encode())
        known |= {process: _begun(process) for process in _family(roots) - before}
    for _ in range(ROUNDS):
        if not _kill(mark.encode(), known):
            break
        time.sleep(PAUSE)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def _kill(mark: bytes, known: Mapping[int, str]) -> int:
    """Kill every process with the mark in its environment, known ones, and their descendants. Return their number.

    A process that sets its own title overwrites its environment. It is known, or the child of another.
    """
    still = {process for process, begun in known.items() if begun and _begun(process) == begun}
    found = _family(_marked(mark) | still)
    for process in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)
    return len(found)


def _marked(mark: bytes) -> set[int]:
    return {process for process in _processes() if mark in _environment(process)}


def _family(roots: set[int]) -> set[int]:
    """Return these processes and their descendants."""
    parents = {process: _parent(process) for process in _processes()}
    found = set(roots)
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _begun(process: int) -> str:
    """Return when a process began, which tells it from a later one of the same number; "" if it has ended."""
    with contextlib.suppress(OSError):
        words = process_stat(process)
        return "" if words[0] == "Z" else words[19]
    return ""


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _parent(process: int) -> int:
    """Return the parent of a process, 0 if it has ended."""
    with contextlib.suppress(OSError):
        return int(process_stat(process)[1])
    return 0


def _environment(process: int) -> list[bytes]:
    """Return the environment of a process, empty if it has ended or is another user's."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return []


if __name__ == "__main__":
    main(*sys.argv[1:])

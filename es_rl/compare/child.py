"""Run the modules of a comparison in child processes that write to a log and do not outlive their parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from es_rl.workers.processes import die_with_parent

STOP_SECONDS = 60.0  # time for a terminated process to save before it is killed


def call(folder: Path, module: str, keys: list[str], *, seconds: float, stdout: Path | None = None) -> str | None:
    """Run a module. Return why it failed, or None: its last line, or that it had not ended after `seconds`.

    Raises `Stopped` or KeyboardInterrupt only after the child has ended, because a training saves first.
    """
    log = folder / "log.txt"
    with log.open("ab") as errors, (stdout or log).open("wb" if stdout else "ab") as output:
        dies = partial(die_with_parent, os.getpid(), signal.SIGTERM)
        command = [sys.executable, "-m", module, *keys]
        process = subprocess.Popen(
            command, stdout=output, stderr=errors, stdin=subprocess.DEVNULL, preexec_fn=dies, start_new_session=True
        )  # its own session does not receive Ctrl-C: `_end` sends SIGTERM instead
        try:
            code = process.wait(seconds)
        except BaseException as error:
            _end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                return f"{module} was ended after {seconds / 60:.0f} minutes"
            raise
        _end_group(process.pid)
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing was said"]
    return f"{module} ended with exit code {code}: {said[-1]}" if code else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate the process and wait. Kill it if that takes too long or another signal arrives."""
    process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    finally:
        _end_group(process.pid)
        process.kill()
        process.wait()


def _end_group(leader: int) -> None:
    """Kill the processes that a child has started and left behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)

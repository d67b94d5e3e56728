"""Processes of a comparison: modules run with all that they say in a log, which end when they should."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from es_rl.workers.processes import die_with_parent

STOP_SECONDS = 60.0  # that a stopped process has to save


def call(folder: Path, module: str, keys: list[str], *, seconds: float, stdout: Path | None = None) -> str | None:
    """Run a module; its last line if it failed, or that it hung for so many seconds.

    Raises `Stopped` or KeyboardInterrupt after the child has ended: a training saves first.
    """
    log = folder / "log.txt"
    with log.open("ab") as errors, (stdout or log).open("wb" if stdout else "ab") as output:
        dies = partial(die_with_parent, os.getpid(), signal.SIGTERM)
        command = [sys.executable, "-m", module, *keys]
        process = subprocess.Popen(
            command, stdout=output, stderr=errors, stdin=subprocess.DEVNULL, preexec_fn=dies, start_new_session=True
        )  # a session of its own: Ctrl-C comes to it as SIGTERM from here
        try:
            code = process.wait(seconds)
        except BaseException as error:
            _end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                return f"{module} had not ended after {seconds / 60:.0f} minutes"
            raise
        _end_group(process.pid)
    said = log.read_text(errors="replace").strip().splitlines() or ["nothing was said"]
    return f"{module} ended with exit code {code}: {said[-1]}" if code else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, wait for that, and kill it in the end, also when another signal comes."""
    process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    finally:
        _end_group(process.pid)
        process.kill()
        process.wait()


def _end_group(leader: int) -> None:
    """Kill what a process has started and left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)

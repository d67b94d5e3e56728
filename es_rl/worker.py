"""What runs in a worker process: it computes jobs, one after the other, until the pipe to its supervisor ends."""

from __future__ import annotations

import os
import time
import traceback
import warnings
from dataclasses import dataclass
from typing import Any

from multiprocess.connection import Connection

from es_rl.errors import EsRlError
from es_rl.processes import take_slot, use_one_thread

BEAT_SECONDS = 0.5  # at most so often does a worker report steps


@dataclass(frozen=True)
class Failed:
    """The outcome of a job that could not be done."""

    reason: str  # "died", "hung" or "raised"
    message: str  # one line
    detail: str = ""  # a traceback


def work(pipe: Connection, slot: int) -> None:
    """A worker's life: end of file on the pipe, or the parent's death, ends it."""
    use_one_thread()
    take_slot(slot)
    warnings.simplefilter("ignore", DeprecationWarning)  # shown once, by the parent
    os.environ.setdefault("MUJOCO_GL", "disabled")  # workers only simulate
    try:
        pipe.send(("ready",))
        _serve(pipe)
    except (EOFError, OSError):
        pass  # the parent is gone, or has given this worker up
    os._exit(0)


def _serve(pipe: Connection) -> None:
    function: Any = None
    context: Any = None
    pending, last = 0, time.monotonic()

    def beat(steps: int) -> None:
        nonlocal pending, last
        pending += steps
        now = time.monotonic()
        if now - last > BEAT_SECONDS:
            pipe.send(("beat", pending))
            pending, last = 0, now

    while True:
        match pipe.recv():
            case ("function", value):
                function = value
            case ("context", value):
                context = value
            case ("job", index, job):
                last = time.monotonic()
                try:
                    outcome = function(context, job, beat)
                except Exception as error:  # noqa: BLE001 - sent as text: a foreign exception may not unpickle
                    outcome = failure(error)
                if pending:
                    pipe.send(("beat", pending))
                    pending = 0
                pipe.send(("done", index, outcome))


def failure(error: Exception) -> Failed:
    lines = str(error).strip().splitlines() or [""]
    text = lines[0] if isinstance(error, EsRlError) else f"{type(error).__name__}: {lines[0]}"
    return Failed("raised", text, traceback.format_exc())

"""The process of one tracker: it reads JSON lines from the run and hands them to the tracker.

The run sends `{"log": numbers, "step": …}`, `{"video": path, "step": …}` and, at its end, `{"finish": true}`. The
process answers with `{"entry": id}` once the tracker has begun, at last with `{"finished": true}` or `{"failed": why}`.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from es_rl.errors import FOREIGN, text_of

if TYPE_CHECKING:
    from multiprocess.connection import Connection

    from es_rl.run.trackers import Told, Tracker

NICE = 5  # the training comes first


def serve(pipe: Connection, make: Callable[[], Tracker], told: Told, entry: str | None) -> None:
    """Run a tracker until the run has finished, or the tracker has failed."""
    os.nice(NICE)
    for number in (signal.SIGTERM, signal.SIGHUP):  # a cluster sends them to all; the run tells when it ends
        signal.signal(number, signal.SIG_IGN)
    try:
        _follow(pipe, make(), told, entry)
        _tell(pipe, finished=True)
    except FOREIGN as error:
        _tell(pipe, failed=f"{type(error).__name__}: {next(iter(text_of(error).strip().splitlines()), '')}")
    os._exit(0)  # what a library does at exit may take long, or for ever


def _follow(pipe: Connection, tracker: Tracker, told: Told, entry: str | None) -> None:
    begun, last = tracker.start(told, entry)
    _tell(pipe, entry=begun)
    with open(pipe.fileno(), "rb", closefd=False) as lines:
        for line in lines:
            match json.loads(line):
                case {"log": numbers, "step": step}:
                    if step > last:  # the entry has those of generations that a resumed run runs again
                        tracker.log(numbers, step)
                case {"video": path, "step": step}:
                    tracker.video(path, step)
                case {"finish": True}:
                    break
        else:
            os._exit(1)  # the run was killed, and this process is about to be: it must not begin to store anything
    tracker.finish()


def _tell(pipe: Connection, **message: Any) -> None:
    os.write(pipe.fileno(), json.dumps(message).encode() + b"\n")

"""The worker's side on a cluster: a Ray actor, in which one thread computes jobs as in any worker.

The pool always waits for a `collect`, which returns what the worker has to say, after a while even if that is nothing.
So a worker needs no connection of its own to the pool. Jobs come with the next `collect`, or by `give` during one.

The function and what all jobs share lie in the cluster's object store, once on each machine.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import socket
import sys
import threading
import warnings
from collections import deque
from collections.abc import Mapping
from typing import Any

import cloudpickle

from es_rl.workers.cluster.admission import software
from es_rl.workers.cluster.fingerprint import fingerprint
from es_rl.workers.fork_server import PRELOADED
from es_rl.workers.machine import use_one_thread
from es_rl.workers.processes import take_slot
from es_rl.workers.worker import failure, serve

PRINTED = 200  # lines that a worker keeps until the pool takes them; later ones are lost
LONGEST = 10_000  # characters of a line: some programs print without ever ending one


class Channel:
    """The worker's end of the way to the pool, used like a pipe by `es_rl.workers.worker`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inbox: deque[bytes] = deque()
        self._outbox: list[bytes] = []
        self._steps: int | None = None  # of beats since the last answer; None: there was none
        self._lines: list[str] = []

    def send(self, message: Any) -> None:
        """Keep a message for the pool. A beat waits for the next answer: else many workers would keep the pool busy."""
        if message[0] != "beat":
            self.send_bytes(cloudpickle.dumps(message))
            return
        with self._changed:
            self._steps = (self._steps or 0) + message[1]

    def send_bytes(self, data: bytes) -> None:
        with self._changed:
            self._outbox.append(data)
            self._changed.notify_all()

    def poll(self) -> bool:
        return bool(self._inbox)

    def recv(self) -> Any:
        """Wait for a message."""
        with self._changed:
            self._changed.wait_for(self.poll)
            data = self._inbox.popleft()
        return cloudpickle.loads(data)

    def put(self, data: bytes) -> None:
        """Bring a message to the worker."""
        with self._changed:
            self._inbox.append(data)
            self._changed.notify_all()

    def say(self, line: str) -> None:
        """Keep a printed line for the pool."""
        with self._changed:
            if len(self._lines) < PRINTED:
                self._lines.append(line)

    def collect(self, seconds: float) -> tuple[list[bytes], list[str]]:
        """Return the worker's messages and lines; wait up to some seconds for a message that is no beat."""
        with self._changed:
            self._changed.wait_for(lambda: self._outbox, seconds)
            beats = [] if self._steps is None else [cloudpickle.dumps(("beat", self._steps))]
            messages, self._outbox, self._steps = [*beats, *self._outbox], [], None
            lines, self._lines = self._lines, []
        return messages, lines


class Actor:
    """A worker. `environment` is set before MuJoCo and torch are imported, which read it."""

    def __init__(self, slot: int, environment: Mapping[str, str], folder: str) -> None:
        os.environ.update(environment)
        with contextlib.suppress(OSError):  # another machine may not have it
            os.chdir(folder)
        self._channel = Channel()
        sys.stdout = sys.stderr = _Lines(self._channel)
        threading.Thread(target=self._work, args=(slot,), daemon=True).start()

    def give(self, shared: list[Any], jobs: bytes) -> None:
        """Take jobs, and before them what lies in the object store: the function or the context, if they changed."""
        import ray

        try:
            for data in ray.get(shared):
                self._channel.put(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, the pool must hear of it
            self._channel.send(("broken", failure(error).message))
            return
        self._channel.put(jobs)

    def collect(self, seconds: float) -> tuple[list[bytes], list[str]]:
        """Return the worker's messages and the lines that it printed; wait for the first message."""
        return self._channel.collect(seconds)

    def give_and_collect(self, shared: list[Any], jobs: bytes, seconds: float) -> tuple[list[bytes], list[str]]:
        """Do both in one call: each call costs the pool's process time."""
        self.give(shared, jobs)
        return self.collect(seconds)

    def _work(self, slot: int) -> None:
        try:
            for name in PRELOADED:
                importlib.import_module(name)
            warnings.simplefilter("ignore", DeprecationWarning)  # shown once, by the pool's process
            use_one_thread()
            take_slot(slot)
            self._channel.send(("ready", facts()))
            serve(self._channel)
        except BaseException as error:  # noqa: BLE001 - foreign code may raise anything
            self._channel.send(("broken", failure(error).message))


def facts() -> dict[str, Any]:
    """Return what tells this worker's machine and its software from others."""
    import ray

    return {
        "host": socket.gethostname(),
        "node": ray.get_runtime_context().get_node_id(),
        "pid": os.getpid(),
        "software": software(),
        "fingerprint": fingerprint(),
    }


class _Lines(io.TextIOBase):
    """Standard output: brings whole lines to the pool."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._open = channel, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, rest = (self._open + text).split("\n")
        self._open = rest[-LONGEST:]
        for line in lines:
            self._channel.say(line[-LONGEST:])
        return len(text)

"""Fork workers from a process that has imported what they need.

A forked worker begins within milliseconds, and all workers share the memory of what was imported. The process that
trains cannot fork them itself, since it has threads: those of torch, of logs, of a notebook. The server has one.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import struct
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from multiprocess.connection import Connection, wait

from es_rl.errors import ResourceError
from es_rl.workers.processes import die_with_parent, kill_process, start_process

PRELOADED = ("torch", "gymnasium")
# Imported as well if workers do not draw. With a renderer, this import may start threads and open a GPU.
PRELOADED_WITHOUT_RENDERER = ("mujoco", "gymnasium.envs.mujoco.mujoco_env")
RENDERER = "MUJOCO_GL"  # the environment variable that MuJoCo reads when it is imported
REQUEST = struct.Struct("q")  # the worker's place in its pool
NUMBER = struct.Struct("q")  # what comes through a worker's status pipe: its process id, then its exit code


class ForkServer:
    """A process that forks workers, which run `target(pipe, slot)`. It starts with the first worker."""

    def __init__(self, target: Callable[[Connection, int], Any], *, log: Path | None = None, mark: str = "") -> None:
        self._target, self._log, self._mark = target, log, mark
        self._process: Any = None
        self._link: socket.socket | None = None  # to the server, once there is one

    def start(self, pipe: Connection, slot: int) -> Forked:
        """Ask for one more worker. It dies with the server, which dies with the thread that called this first.

        Raises `ResourceError` if the system refuses to start the server.
        """
        status, theirs = os.pipe()
        try:
            if not self._ask(pipe, theirs, slot):
                self.close()  # it was killed, or has not begun
                self._begin()
                if not self._ask(pipe, theirs, slot):
                    raise ResourceError("a process cannot be started: it ends at once. Try fewer workers.")
        except BaseException:
            os.close(status)
            raise
        finally:
            os.close(theirs)
        return Forked(status)

    def _ask(self, pipe: Connection, status: int, slot: int) -> bool:
        """Send a request. Return False if there is no server."""
        if self._link is None:
            return False
        try:
            socket.send_fds(self._link, [REQUEST.pack(slot)], [pipe.fileno(), status])
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Kill the server, and with it its workers."""
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._process is not None:
            kill_process(self._process)
            self._process = None

    def _begin(self) -> None:
        self._link, theirs = socket.socketpair()
        try:
            self._process = start_process(_serve, theirs, self._target, log=self._log, mark=self._mark)
        except BaseException:
            self.close()
            raise
        finally:
            theirs.close()


class Forked:
    """A forked worker, seen from the process that asked for it. It has what the pool uses of `multiprocess.Process`."""

    def __init__(self, status: int) -> None:
        self.sentinel = status  # readable when the worker has begun, and again when it has ended
        self._pid: int | None = None
        self._exitcode: int | None = None

    @property
    def pid(self) -> int | None:
        """Process id; None as long as the server has not forked it."""
        self._listen(0.0)
        return self._pid

    @property
    def exitcode(self) -> int | None:
        """Exit code, −n after signal n, None while it runs. Who dies with the server counts as killed."""
        self._listen(0.0)
        return self._exitcode

    def kill(self) -> None:
        """Kill it if it runs. If the server has not forked it yet, it ends when it finds its pipe closed."""
        if self.pid is not None and self.exitcode is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, signal.SIGKILL)

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, but not for one that the server has not forked."""
        if self.pid is not None:
            self._listen(timeout)

    def close(self) -> None:
        os.close(self.sentinel)

    def _listen(self, timeout: float | None) -> None:
        """Take what the status pipe brings. Wait up to `timeout` seconds for the end."""
        while self._exitcode is None and wait([self.sentinel], timeout):
            data = os.read(self.sentinel, NUMBER.size)
            if not data:
                self._exitcode = -signal.SIGKILL
            elif self._pid is None:
                self._pid = NUMBER.unpack(data)[0]
            else:
                self._exitcode = NUMBER.unpack(data)[0]


def _serve(link: socket.socket, target: Callable[[Connection, int], Any]) -> None:
    """Import what workers need, then fork them."""
    _preload()
    fork_on_request(link, target)


def fork_on_request(link: socket.socket, target: Callable[[Connection, int], Any]) -> None:
    """Fork a process that runs `target(pipe, slot)` for each request, and tell how each ends. End with the link."""
    wake, waker = os.pipe()
    for end in (wake, waker):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    me, requests, statuses = os.getpid(), link.fileno(), dict[int, int]()  # a worker's status pipe, by process id
    while True:
        at_hand, _, _ = select.select([requests, wake], [], [])
        if wake in at_hand:
            os.read(wake, 4096)
            _reap(statuses)
        if requests in at_hand:
            request, ends, _, _ = socket.recv_fds(link, REQUEST.size, 2)
            if not request:
                return  # the pool is gone
            pipe, status = ends
            pid = _fork()
            if pid == 0:
                for end in (requests, wake, waker, status, *statuses.values()):
                    os.close(end)
                _work(target, pipe, REQUEST.unpack(request)[0], me)
            os.close(pipe)
            if pid is None:
                os.close(status)  # this tells the pool
            else:
                statuses[pid] = status
                os.write(status, NUMBER.pack(pid))


def _preload() -> None:
    """Import what nearly every worker needs, and keep it out of their garbage collectors, which would copy it."""
    os.environ.setdefault(RENDERER, "disabled")  # workers only simulate
    drawing = os.environ[RENDERER] != "disabled"
    for name in (*PRELOADED, *(() if drawing else PRELOADED_WITHOUT_RENDERER)):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _fork() -> int | None:
    """Fork. Return None if there is no room for a process."""
    try:
        return os.fork()
    except OSError:
        return None


def _reap(statuses: dict[int, int]) -> None:
    """Tell how workers ended."""
    for pid, status in list(statuses.items()):
        ended, code = os.waitpid(pid, os.WNOHANG)
        if ended:
            with contextlib.suppress(BrokenPipeError):  # the pool no longer listens
                os.write(status, NUMBER.pack(os.waitstatus_to_exitcode(code)))
            os.close(statuses.pop(pid))


def _work(target: Callable[[Connection, int], Any], pipe: int, slot: int, server: int) -> NoReturn:
    """Be a worker, from the fork to the end of the process."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent(server)
        os.setsid()
        np.random.seed()  # noqa: NPY002  the global generator, which all would share
        target(Connection(pipe), slot)
    except BaseException:  # noqa: BLE001  whatever ends it is told in the log
        traceback.print_exc()
    finally:
        os._exit(1)

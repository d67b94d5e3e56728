"""Child processes that cannot outlive their parent."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import os
import resource
import signal
import socket
import struct
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import multiprocess
from multiprocess import resource_tracker

from es_rl.errors import ResourceError
from es_rl.workers import guard

if TYPE_CHECKING:
    from multiprocess.connection import Connection

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

SAFE_PATH = "PYTHONSAFEPATH"  # set: a beginning Python does not look for its own modules in the current directory
KILL_SECONDS = 10.0  # limit for waiting until a killed process is gone

spawning = multiprocess.get_context("spawn")  # fork is not safe where there are threads


_slot = 0


def take_slot(slot: int) -> None:
    """Set this worker's place in its pool."""
    global _slot
    _slot = slot


def worker_slot() -> int:
    """Return this worker's place in its pool, from 0 on. A replacement gets the place of the lost worker."""
    return _slot


def start_process(target: Callable[..., Any], *args: Any, log: Path | None = None, mark: str = "") -> Any:
    """Start a child that runs `target(*args)`, dies with this thread, gets no Ctrl-C and prints into `log`.

    The child leads its own process group. It and all that it starts bear the `mark` of a `Guard`. Raises
    `ResourceError` if the system refuses to start it.
    """
    safe = os.environ.get(SAFE_PATH)
    process = spawning.Process(
        target=_child, args=(target, args, os.getpid(), str(log or os.devnull), safe), daemon=True
    )
    try:
        with environment({SAFE_PATH: "1"}):
            resource_tracker.ensure_running()  # without the mark: it is this process's own
            with child_environment(mark), _without_main():
                process.start()
    except OSError as error:
        raise ResourceError(f"a process cannot be started: {error}. Try fewer workers.") from error
    return process


def kill_process(process: Any) -> None:
    """Kill a child and its process group. Wait until the child is gone."""
    if process.pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join(KILL_SECONDS)
    process.close()


def death(process: Any) -> str:
    """Describe how a child ended."""
    process.join(1.0)
    code = process.exitcode
    if code in (-signal.SIGKILL, -signal.SIGXCPU) and resource.getrlimit(resource.RLIMIT_CPU)[0] >= 0:
        return "was killed, probably because its processor time (ulimit -t) or the memory ran out"
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL, probably because memory ran out; try fewer workers"
    if code is not None and code < 0:
        names = {int(number): number.name for number in signal.Signals}  # real-time signals have no names
        return f"died of {names.get(-code, f'signal {-code}')}"
    return f"ended with exit code {code}"


def limit_waiting(pipe: Connection, seconds: int) -> None:
    """Set a time limit for sending and receiving, so that a stopped or half-dead child cannot block its parent."""
    with socket.socket(fileno=os.dup(pipe.fileno())) as link:
        timeval = struct.pack("ll", seconds, 0)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)


def die_with_parent(parent: int, with_signal: int = signal.SIGKILL) -> None:
    """Let the kernel end this process when the thread that started it ends (Linux). Exit now if the parent is gone."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, with_signal)
    if os.getppid() != parent:
        os._exit(1)


def _child(target: Callable[..., Any], args: tuple[Any, ...], parent: int, log: str, safe: str | None) -> None:
    os.setsid()
    _set(SAFE_PATH, safe)  # for what an environment starts
    die_with_parent(parent)
    print_into(log)
    target(*args)


def print_into(log: str) -> None:
    """Append what this process and those that it starts print to a file, and the trace of a crash of native code."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    sys.stdout, sys.stderr = _printing(1), _printing(2)
    faulthandler.enable()  # a crash of native code leaves a trace in the log


class _Output(io.RawIOBase):
    """Writes to a descriptor, and loses what it cannot write: a full disk must not fail an environment that prints."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            os.write(self._descriptor, data)
        return len(data)


def _printing(descriptor: int) -> io.TextIOWrapper:
    """Return a stream whose lines reach the descriptor at once, even if the process is killed, in any locale."""
    return io.TextIOWrapper(io.BufferedWriter(_Output(descriptor)), "utf-8", "backslashreplace", line_buffering=True)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Let a child begin without running the program's main file again, which it would otherwise import.

    That file may be a notebook or stdin, and it may start a training without a guard. What a child needs of it is sent
    with the function that it runs.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def child_environment(mark: str) -> Iterator[None]:
    """Set what a child inherits: one thread for numeric libraries, which read this when loaded, and no Ctrl-C."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # this process only gets it later
    try:
        with environment(dict.fromkeys(THREAD_VARIABLES, "1") | ({guard.NAME: mark} if mark else {})):
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def environment(values: Mapping[str, str], *others: str) -> Iterator[None]:
    """Set environment variables inside a block. After it, they and the `others` are as they were."""
    before = {name: os.environ.get(name) for name in (*values, *others)}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            _set(name, value)


def _set(name: str, value: str | None) -> None:
    """Set an environment variable; None removes it."""
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value

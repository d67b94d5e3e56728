"""Child processes that cannot outlive their parent; the processors, the memory and the GPU that there are."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import multiprocess

from es_rl.errors import ResourceError

if TYPE_CHECKING:
    import torch
    from multiprocess.connection import Connection

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

spawning = multiprocess.get_context("spawn")  # torch and MuJoCo have threads: fork is not safe


def available_processors() -> int:
    """Processors that this process may use: its affinity and its control group's quota, not the machine's number."""
    count = float(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, float(quota) / float(period))  # "max" is a ValueError: no quota
    return max(1, int(count))


def available_memory() -> int:
    """Bytes that could be given to processes: the machine's, and those of this control group."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, max(0, most - used))  # "max" is a ValueError: no limit
    return free


_slot = 0


def take_slot(slot: int) -> None:
    """Let this process be the one of that place among its pool's."""
    global _slot
    _slot = slot


def worker_slot() -> int:
    """The place of this worker among those of its pool, from 0 on; a worker's successor has its place."""
    return _slot


def choose_device(name: str) -> torch.device:
    """`cpu`, `cuda`, or `auto`: the GPU if there is one. Raises `ResourceError` for a GPU that there is not."""
    import torch

    if name == "cpu":
        return torch.device("cpu")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ResourceError(
            "device=cuda: this machine, or this build of torch, has no CUDA. Give a new run device=cpu or auto; "
            "one that began on a GPU goes on on one."
        )
    return torch.device("cuda" if found else "cpu")


def use_one_thread() -> None:
    """Arithmetic of torch and NumPy in this process on one thread.

    Workers take a processor each, and the bits of a result must not depend on the number of threads.
    """
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


def start_process(target: Callable[..., Any], *args: Any, log: Path | None = None) -> Any:
    """A child running `target(*args)` that dies with this process, hears no Ctrl-C and prints into `log`.

    It leads a process group of its own. Raises `ResourceError` if the system refuses.
    """
    process = spawning.Process(target=_child, args=(target, args, os.getpid(), str(log or os.devnull)), daemon=True)
    try:
        with _child_environment():
            process.start()
    except OSError as error:
        raise ResourceError(f"a process cannot be started: {error}. Try fewer workers.") from error
    return process


def kill_process(process: Any) -> None:
    """Kill a child with whatever it started, and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    process.close()


def death(process: Any) -> str:
    """How a child came to its end."""
    process.join(1.0)
    code = process.exitcode
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL: if nobody did it, the system ran out of memory; try fewer workers)"
    if code is not None and code < 0:
        return f"died of {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def limit_waiting(pipe: Connection, seconds: int) -> None:
    """Let no message through a pipe take longer: a stopped or half-dead child must not block its parent."""
    with socket.socket(fileno=os.dup(pipe.fileno())) as link:
        timeval = struct.pack("ll", seconds, 0)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)


def die_with_parent(parent: int, with_signal: int = signal.SIGKILL) -> None:
    """Let the kernel end this process when the thread that started it ends (Linux); ends at once if it has."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, with_signal)
    if os.getppid() != parent:
        os._exit(1)


def _child(target: Callable[..., Any], args: tuple[Any, ...], parent: int, log: str) -> None:
    os.setsid()
    die_with_parent(parent)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    for text in (sys.stdout, sys.stderr):  # what is printed is in the log at once, for whoever looks, or kills
        if isinstance(text, io.TextIOWrapper):
            text.reconfigure(line_buffering=True)
    faulthandler.enable()  # a crash of native code leaves a trace in the log
    target(*args)


@contextlib.contextmanager
def _child_environment() -> Iterator[None]:
    """What a child inherits: one thread for the numeric libraries, which they read when loaded, and no Ctrl-C."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # for us it is only delayed
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

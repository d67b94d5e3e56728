"""Facts about this machine and the use of its processors (Linux)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import resource
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from es_rl.errors import ResourceError

if TYPE_CHECKING:
    import torch


def description() -> dict[str, Any]:
    """Return the processor's name, the number of usable processors, the memory in GB, and the system."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "processor": names[0] if names else platform.machine(),
        "processors": available_processors(),
        "memory_gb": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


@cache
def source_digest() -> str:
    """Return the first 12 digits of the sha256 of the package's source files, in the order of their names."""
    package = Path(__file__).parents[1]
    files = sorted(package.rglob("*.py"), key=lambda path: path.relative_to(package).as_posix())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def children_seconds() -> float:
    """Return the processor seconds of children that were waited for, including their own children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def family_seconds() -> float:
    """Return the processor seconds of this process and of all its descendants that run or were waited for."""
    return time.process_time() + children_seconds() + _descendants_ticks("self") / os.sysconf("SC_CLK_TCK")


def process_stat(process: int | str) -> list[str]:
    """Return a process's numbers in /proc/PID/stat from its state on. Raises `OSError` if it has ended."""
    return Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _descendants_ticks(process: str) -> int:
    """Return the clock ticks used by the running descendants of a process and by children they waited for."""
    ticks = 0
    for listed in Path(f"/proc/{process}/task").glob("*/children"):  # one file for each thread
        with contextlib.suppress(OSError):  # the thread has just ended
            for child in listed.read_text(encoding="utf-8").split():
                with contextlib.suppress(OSError):  # it has just ended; its parent counts it
                    words = process_stat(child)
                    ticks += sum(map(int, words[11:15])) + _descendants_ticks(child)  # utime, stime, cutime, cstime
    return ticks


def processor_seconds() -> tuple[float, float, float]:
    """Return the busy seconds of our processors, their total seconds, and the seconds of our children.

    Busy seconds count the work of all processes. Only processors that we may run on count, so comparisons that run
    side by side on other processors do not disturb. Children count once they were waited for.
    """
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    rows = [
        line.split() for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines() if line.startswith("cpu")
    ]
    ticks = [sum(int(row[i]) for row in rows if row[0] in ours) for i in range(1, 9)]
    per_second = os.sysconf("SC_CLK_TCK")
    idle = ticks[3] + ticks[4]  # the second is the time spent waiting for disks
    return (sum(ticks) - idle) / per_second, sum(ticks) / per_second, children_seconds()


def available_processors() -> int:
    """Return how many processors this process may use, by its affinity and its control group's quota."""
    count = float(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        count = min(count, float(quota) / float(period))  # "max" means no quota and raises ValueError
    return max(1, int(count))


def available_memory() -> int:
    """Return the bytes available to processes, limited by the machine and by this control group."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    free = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most, used = (int((group / f"memory.{name}").read_text(encoding="utf-8")) for name in ("max", "current"))
        free = min(free, max(0, most - used))  # "max" means no limit and raises ValueError
    return free


def choose_device(name: str) -> torch.device:
    """Return the device `cpu`, `cuda` or `auto` (the GPU if any). Raises `ResourceError` for `cuda` without a GPU."""
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
    """Make torch and NumPy use one thread in this process.

    Each worker takes one processor, and the bits of a result must not depend on the number of threads.
    """
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


@contextlib.contextmanager
def as_in_workers() -> Iterator[None]:
    """Let torch and NumPy compute as worker processes do inside the block: in one thread, float32, on the CPU."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), usual_types():
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def usual_types() -> Iterator[None]:
    """Let torch make float32 tensors on the CPU inside the block, whatever the program has set."""
    import torch

    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    changed = dtype != torch.float32, device.type != "cpu"  # torch asks at every call once a device was set
    if changed[0]:
        torch.set_default_dtype(torch.float32)
    if changed[1]:
        torch.set_default_device(None)
    try:
        yield
    finally:
        if changed[0]:
            torch.set_default_dtype(dtype)
        if changed[1]:
            torch.set_default_device(device)

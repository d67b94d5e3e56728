"""What this machine is, and what its processors have done (Linux)."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

from es_rl.processes import available_processors


def description() -> dict[str, Any]:
    """The processor's name, how many of them may be used, and the memory in GB."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "processor": names[0] if names else platform.machine(),
        "processors": available_processors(),
        "memory_gb": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def children_seconds() -> float:
    """Processor time of the children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def family_seconds() -> float:
    """Processor time of this process and of its children, those that have ended and those that run."""
    children: list[str] = []
    for listed in Path("/proc/self/task").glob("*/children"):  # of each thread
        with contextlib.suppress(OSError):  # the thread has just ended
            children += listed.read_text().split()
    ticks = 0
    for child in children:
        with contextlib.suppress(OSError):  # it has just ended, and counts among those
            words = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            ticks += int(words[11]) + int(words[12])  # utime and stime
    return time.process_time() + children_seconds() + ticks / os.sysconf("SC_CLK_TCK")


def processor_seconds() -> tuple[float, float, float]:
    """Seconds that our processors have worked, for anybody, all of their seconds, and those of our own children.

    Of the machine's processors those that we may run on: side by side, comparisons with their own do not disturb.
    """
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    rows = [line.split() for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu")]
    ticks = [sum(int(row[i]) for row in rows if row[0] in ours) for i in range(1, 9)]
    per_second = os.sysconf("SC_CLK_TCK")
    idle = ticks[3] + ticks[4]  # the latter waiting for disks
    return (sum(ticks) - idle) / per_second, sum(ticks) / per_second, children_seconds()

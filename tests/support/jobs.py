"""Jobs for workers: few imports, so that a worker is at work at once."""

import os
import signal
import time
from pathlib import Path

import numpy as np


def double(context, job, beat):
    beat(1)
    return context + 2 * job


def draw(context, job, beat):
    """Draw from NumPy's global generator, long enough that another worker takes the next job."""
    time.sleep(0.5)
    return np.random.random()  # noqa: NPY002


def misbehave(context, job, beat):
    """`context` maps a job to what goes wrong and how often: counted in files, since workers are replaced."""
    what, times = context.get(job, ("", 0))
    count = Path(f"tries-{job}")
    tries = int(count.read_text()) if count.exists() else 0
    if tries < times:
        count.write_text(str(tries + 1))
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit":
            os._exit(3)
        if what == "hang":
            time.sleep(1000)
        if what == "raise":
            raise ValueError(f"job {job}\nsecond line")
    return job


def large(context, job, beat):
    return context + np.full(job, 1.0)


def slow(context, job, beat):
    """So many tenths of a second."""
    for _ in range(job):
        time.sleep(0.1)
        beat(1)
    return job


def print_and_report_signals(context, job, beat):
    print("printed by a worker")
    os.system("echo printed by its child")
    return os.getpgid(0) == os.getpid(), os.environ["OMP_NUM_THREADS"]


class NeverBegins:
    def stream(self, context, workers, take, beat):
        raise MemoryError("no room")
        yield


class Together:
    """Does up to five jobs side by side, and misbehaves in some; tells which were beside each."""

    def __call__(self, context, job, beat):
        raise AssertionError("it has a stream")

    def stream(self, context, workers, take, beat):
        running = {}
        while True:
            while len(running) < 5 and (taken := take()) is not None:
                running[taken[0]] = taken[1]
            if not running:
                return
            time.sleep(0.01)
            beat(1)
            index = next(iter(running))
            beside = sorted(running.values())
            yield index, (misbehave(context, running[index], beat), beside)
            del running[index]

"""The code that runs in a worker process: it computes jobs until the pipe to the pool closes.

    function(context, job, beat) → result             one job after the other
    function.stream(context, workers, take, beat)     optional method: an iterator over (index, result)

A stream may run several jobs side by side. `take()` returns the next one, (index, job), or None while none is
available. The stream ends when it has nothing to do. `workers` is the number of workers in the pool: a stream should
not take more than its share of the jobs.
"""

from __future__ import annotations

import os
import pickle
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import cloudpickle
from multiprocess.connection import Connection

from es_rl.errors import ConfigError, EsRlError, Stopped, text_of
from es_rl.workers.machine import use_one_thread
from es_rl.workers.processes import take_slot

BEAT_SECONDS = 0.5  # a worker reports steps at most this often while a job runs

Take = Callable[[], tuple[int, Any] | None]
Function = Callable[[Any, Any, Callable[[int], None]], Any]
Stream = Callable[[Any, int, Take, Callable[[int], None]], Iterator[tuple[int, Any]]]


@runtime_checkable
class Streaming(Protocol):
    """A function that can run several jobs side by side."""

    def stream(
        self, context: Any, workers: int, take: Take, beat: Callable[[int], None]
    ) -> Iterator[tuple[int, Any]]: ...


@dataclass(frozen=True)
class Jobs:
    """The message that brings jobs to a worker."""

    workers: int  # in the pool
    jobs: list[tuple[int, Any]]  # index and job of each


@dataclass(frozen=True)
class JobFailure:
    """The outcome of a failed job."""

    reason: str  # "died", "hung" or "raised"
    message: str = field(compare=False)  # one line
    detail: str = field(default="", compare=False)  # a traceback


def stream_of(function: Function) -> Stream:
    """Return the function's own stream, or one that runs one job after the other."""
    return function.stream if isinstance(function, Streaming) else one_by_one(function)


def one_by_one(function: Function) -> Stream:
    """Return a stream that runs a function on one job after the other."""

    def stream(context: Any, workers: int, take: Take, beat: Callable[[int], None]) -> Iterator[tuple[int, Any]]:
        while (taken := take()) is not None:
            index, job = taken
            yield index, function(context, job, beat)

    return stream


def work_off(
    stream: Stream, context: Any, workers: int, take: Take, beat: Callable[[int], None]
) -> Iterator[tuple[int, Any]]:
    """Yield (index, outcome) of each job that the stream takes.

    If the stream raises, its unfinished jobs run again, each alone. So a job fails only if it raises alone.
    """
    taken: dict[int, Any] = {}

    def noting() -> tuple[int, Any] | None:
        found = take()
        if found is not None:
            taken[found[0]] = found[1]
        return found

    running = stream(context, workers, noting, beat)
    while True:
        try:
            index, outcome = next(running)
        except StopIteration:
            return
        except (Stopped, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - foreign code may also raise SystemExit or GeneratorExit
            raised = error
            break
        del taken[index]
        yield index, outcome
    if not taken:
        noting()  # it raised before it took a job: let one job fail, so that the error is seen
    if len(taken) == 1:
        yield next(iter(taken)), failure(raised)
    else:
        for alone in [iter([job]) for job in taken.items()]:
            yield from work_off(stream, context, workers, partial(next, alone, None), beat)


def work(pipe: Connection, slot: int) -> None:
    """Run a worker until the pipe closes or the parent dies."""
    use_one_thread()
    take_slot(slot)
    warnings.simplefilter("ignore", DeprecationWarning)  # shown once, by the parent
    try:
        pipe.send(("ready",))
        serve(pipe)
    except (EOFError, OSError):
        pass  # the parent is gone, or has closed the pipe
    os._exit(0)


def tell(pipe: Connection, message: Any) -> None:
    """Send data to a process of the same run."""
    pipe.send_bytes(packed(message))


def packed(message: Any) -> bytes:
    """Return plain data as bytes; data with closures takes ten times as long.

    The pickled message only passes between processes of one run. It is never written to disk.
    """
    try:
        return pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError):
        return bytes(cloudpickle.dumps(message))


def tell_function(pipe: Connection, function: Function) -> None:
    """Send the function that a worker is to run. What it uses of the program's main file goes with it.

    Raises `ConfigError` if it uses something that cannot be sent.
    """
    try:
        data = cloudpickle.dumps(("function", function))
    except Exception as error:
        raise ConfigError(
            f"what worker processes are to run cannot be sent to them ({type(error).__name__}: {error}). "
            f"Make what it names inside the function itself, or give workers=0."
        ) from error
    pipe.send_bytes(data)


class JobQueue:
    """The jobs that this worker was given."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._at_hand: deque[tuple[int, Any]] = deque()
        self.open = 0  # jobs taken and not done
        self._asked = False  # for more jobs

    @property
    def laden(self) -> bool:
        """True while some jobs are not taken."""
        return bool(self._at_hand)

    def put(self, jobs: list[tuple[int, Any]]) -> None:
        self._at_hand.extend(jobs)
        self._asked = False

    def take(self) -> tuple[int, Any] | None:
        if not self._at_hand and self.open:  # an idle worker gets jobs without asking
            if self._pipe.poll():
                message: Jobs = self._pipe.recv()  # nothing else comes while jobs are open
                self.put(message.jobs)
            elif not self._asked:
                tell(self._pipe, ("more",))
                self._asked = True
        if not self._at_hand:
            return None
        self.open += 1
        return self._at_hand.popleft()

    def done(self, index: int, outcome: Any) -> None:
        self.open -= 1
        tell(self._pipe, ("done", index, outcome))


def serve(pipe: Connection) -> None:
    """Compute what comes through the pipe, or through what is used like one. Raises what `recv` raises at the end."""
    stream: Any = None
    context: Any = None
    desk = JobQueue(pipe)
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
                stream = stream_of(value)
            case ("context", value):
                context = value
            case Jobs(workers, jobs):
                desk.put(jobs)
                last = time.monotonic()
                while desk.laden:
                    for index, outcome in work_off(stream, context, workers, desk.take, beat):
                        if pending and desk.open == 1:
                            pipe.send(("beat", pending))
                            pending = 0
                        desk.done(index, outcome)


def failure(error: BaseException) -> JobFailure:
    """Return what a job has raised as text: a foreign exception may not unpickle."""
    lines = text_of(error).strip().splitlines() or [""]
    text = lines[0] if isinstance(error, EsRlError) else f"{type(error).__name__}: {lines[0]}"
    return JobFailure("raised", text, "".join(traceback.format_exception(error)))

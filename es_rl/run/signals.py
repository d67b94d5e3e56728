"""Requests to stop a run, from the terminal and the system."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from es_rl.errors import Stopped

SPARE = 5  # seconds of processor time for the last checkpoint before the system kills a process
USED_UP = "stopped because the limit of processor time (ulimit -t) is reached"


@contextlib.contextmanager
def stop_requests(*, patient: bool = False) -> Iterator[Callable[[], None]]:
    """Yield a `check` that raises `Stopped` after SIGTERM, SIGHUP or Ctrl-C, or when processor time runs out.

    A second Ctrl-C exits at once; for `patient` ones, whose process is not ours, it raises KeyboardInterrupt. Signals
    reach the main thread only: in another one, nothing is checked.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        if number == signal.SIGINT and signal.SIGINT in received:
            if patient:
                raise KeyboardInterrupt
            _leave_at_once()
        received.append(number)

    def check() -> None:
        if received:
            name, interrupted = signal.Signals(received[0]).name, received[0] == signal.SIGINT
            raise Stopped(USED_UP if name == "SIGXCPU" else f"stopped by {name}", 130 if interrupted else 75)

    # Signals ignored from the start stay ignored: nohup relies on it.
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)
    numbers = [n for n in wanted if signal.getsignal(n) != signal.SIG_IGN]
    _warn_before_the_end()
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stopped_by_signals(advice: str = "") -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C into `Stopped`, raised wherever the block is; `advice` ends its message."""

    def stop(*_: Any) -> NoReturn:
        raise Stopped(f"stopped by SIGTERM{advice}", 75)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(f"stopped by Ctrl-C{advice}", 130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _warn_before_the_end() -> None:
    """Ask for SIGXCPU some seconds before the limit at which the system kills this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard != resource.RLIM_INFINITY and hard - SPARE > 0 and not 0 <= soft <= hard - SPARE:
        resource.setrlimit(resource.RLIMIT_CPU, (hard - SPARE, hard))


def _leave_at_once() -> NoReturn:
    """Exit now. The kernel ends the workers, which die with their parent."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # show the cursor, which the live panel has hidden
    os._exit(130)

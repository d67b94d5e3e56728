"""Requests to stop a run, from the terminal and the system."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from es_rl.errors import Stopped


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], None]]:
    """Yield a `check` that raises `Stopped` after SIGTERM, SIGHUP or Ctrl-C. A second Ctrl-C exits at once."""
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        if number == signal.SIGINT and signal.SIGINT in received:
            _leave_at_once()
        received.append(number)

    def check() -> None:
        if received:
            interrupted = received[0] == signal.SIGINT
            raise Stopped(f"stopped by {signal.Signals(received[0]).name}", 130 if interrupted else 75)

    # Signals ignored from the start stay ignored: nohup relies on it.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
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


def _leave_at_once() -> NoReturn:
    """Exit now. The kernel ends the workers, which die with their parent."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # show the cursor, which the live panel has hidden
    os._exit(130)

"""What a pool on a cluster counts and writes down."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Ledger:
    """Counts since the last `figures`, and the log of what workers print."""

    log: Path | None
    lost: int = 0  # workers
    repeated: int = 0  # jobs that were run again
    twice: int = 0  # jobs that were given to a second worker
    bytes_out: int = 0  # of jobs, and of what they share once for each machine
    bytes_in: int = 0

    def figures(self) -> dict[str, float]:
        """Return the counts, and begin new ones."""
        names = ("lost", "repeated", "twice", "bytes_out", "bytes_in")
        found = {f"cluster/{name}": getattr(self, name) for name in names}
        for name in names:
            setattr(self, name, 0)
        return found

    def write(self, worker: str, lines: Sequence[str]) -> None:
        """Append what a worker printed."""
        if self.log is None or not lines:
            return
        with contextlib.suppress(OSError), self.log.open("a", encoding="utf-8") as file:  # a full disk, for example
            file.writelines(f"worker {worker}: {line}\n" for line in lines)

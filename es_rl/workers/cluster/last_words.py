"""Say why this process is gone if Ray ends it, at once and without an exception, as when a cluster loses its head."""

from __future__ import annotations

import subprocess
import sys

WAITS = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"


class LastWords:
    """A process that waits for the end of this one, and prints a line if `close` was not called before."""

    def __init__(self, text: str) -> None:
        command = [sys.executable, "-I", "-S", "-c", WAITS, text]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def close(self) -> None:
        """Say nothing any more."""
        self._process.communicate(b"close")

"""Files of JSON lines that grow during a run. What cannot be written waits; a line is there whole or not at all."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from es_rl.run import atomic

WAITING = 10_000  # lines kept until they can be written, at most


class JsonLines:
    """Appends objects to a file. If the file system refuses, `say` gets one warning and the run goes on."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path, self._say = path, say
        self._waiting: deque[str] = deque(maxlen=WAITING)
        self._refused = False

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write these objects, and those that could not be written before."""
        self._waiting.extend(json.dumps(row) + "\n" for row in rows)
        data = "".join(self._waiting).encode()
        try:
            with self._path.open("ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                try:
                    if file.write(data) != len(data):
                        raise OSError(0, "only a part could be written", str(self._path))
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            if not self._refused:
                self._say(f"warning: {self._path} cannot be written ({error.strerror}). It is tried again")
            self._refused = True
            return
        self._waiting.clear()
        if self._refused:
            self._say(f"{self._path} is written again")
        self._refused = False


def read(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a file of JSON lines, without lines that are cut off or damaged. Raises OSError."""
    found = []
    for line in atomic.contents_of(path).decode(errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # cut off by a crash, or being written now
        if isinstance(row, dict):
            found.append(row)
    return found


def keep_until(path: Path, generation: int) -> None:
    """Drop lines after the generation and cut-off lines. Replace the file atomically. Raises `CheckpointError`."""
    kept = []
    with atomic.reading(path):
        text = atomic.contents_of(path).decode(errors="replace")
    for line in text.splitlines():
        try:
            if json.loads(line)["generation"] <= generation:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # cut off by a crash
    atomic.replace_file(path, "".join(kept).encode())

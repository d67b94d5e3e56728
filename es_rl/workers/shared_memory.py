"""Arrays that this process and its workers see at once, in memory without a name: nothing can be left behind."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Fields = Mapping[str, tuple[tuple[int, ...], str]]  # name → shape and type
ALIGNED = 64  # bytes


@dataclass(frozen=True)
class Memory:
    """Where the memory is, and how it is cut: small enough to be sent."""

    path: str  # open to processes of the same user, as long as the one that made it lives
    fields: dict[str, tuple[tuple[int, ...], str]]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Views of it, which keep it alive. Raises OSError."""
        with open(self.path, "r+b") as file:  # noqa: PTH123 - a descriptor of another process
            memory = mmap.mmap(file.fileno(), _bytes(self.fields))
        start, result = 0, {}
        for name, (shape, kind) in self.fields.items():
            result[name] = np.frombuffer(memory, kind, int(np.prod(shape)), start).reshape(shape)
            start += _aligned(shape, kind)
        return result


def allocate(fields: Fields) -> tuple[int, Memory]:
    """Memory of zeros, and the descriptor that keeps it open to others until it is closed."""
    descriptor = os.memfd_create("es_rl")
    os.ftruncate(descriptor, _bytes(fields))
    return descriptor, Memory(f"/proc/{os.getpid()}/fd/{descriptor}", dict(fields))


def _bytes(fields: Fields) -> int:
    return sum(_aligned(shape, kind) for shape, kind in fields.values())


def _aligned(shape: tuple[int, ...], kind: str) -> int:
    return -(-int(np.prod(shape)) * np.dtype(kind).itemsize // ALIGNED) * ALIGNED

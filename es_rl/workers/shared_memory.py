"""Arrays shared by this process and its workers. The memory has no name, so it cannot be left behind."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.errors import ResourceError

Fields = Mapping[str, tuple[tuple[int, ...], str]]  # name → (shape, dtype)
ALIGNED = 64  # bytes; each array starts at a multiple of this


@dataclass(frozen=True)
class Memory:
    """The path and the layout of shared memory. Small enough to send to workers."""

    path: str  # processes of the same user can open it while its maker holds the descriptor
    fields: dict[str, tuple[tuple[int, ...], str]]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name: views that keep the memory alive. Raises OSError."""
        with open(self.path, "r+b") as file:  # noqa: PTH123 - a descriptor of another process
            memory = mmap.mmap(file.fileno(), _bytes(self.fields))
        start, result = 0, {}
        for name, (shape, kind) in self.fields.items():
            result[name] = np.frombuffer(memory, kind, int(np.prod(shape)), start).reshape(shape)
            start += _aligned(shape, kind)
        return result


def allocate(fields: Fields) -> tuple[int, Memory]:
    """Return a descriptor and memory of zeros. Others can open the memory until the descriptor is closed.

    Raises `ResourceError` if the system has no such memory.
    """
    descriptor = -1
    try:
        descriptor = os.memfd_create("es_rl")
        os.ftruncate(descriptor, _bytes(fields))
        memory = Memory(f"/proc/{os.getpid()}/fd/{descriptor}", dict(fields))
        memory.arrays()
    except (OSError, ValueError) as error:  # ValueError: it is larger than an address space
        if descriptor >= 0:
            os.close(descriptor)
        raise ResourceError(
            f"{_bytes(fields):,} bytes of shared memory cannot be had: {error}. Free memory or open files; a container "
            f"needs /proc. A training by inference=local needs none."
        ) from error
    return descriptor, memory


def _bytes(fields: Fields) -> int:
    return sum(_aligned(shape, kind) for shape, kind in fields.values())


def _aligned(shape: tuple[int, ...], kind: str) -> int:
    return -(-int(np.prod(shape)) * np.dtype(kind).itemsize // ALIGNED) * ALIGNED

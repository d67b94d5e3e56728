"""A text as bytes, and how well it is predicted without learning. Pure, but for reading the file.

The last part of the file is held out. All numbers are bits per byte.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from es_rl.errors import ConfigError

HELD_OUT = 0.1  # of the bytes
BLOCK = 1 << 20  # bytes looked at together, so that memory does not grow with the text
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Corpus:
    train: Bytes
    held_out: Bytes

    def digest(self) -> str:
        """The sha256 of all bytes."""
        found = hashlib.sha256()
        for part in (self.train, self.held_out):
            for first in range(0, len(part), BLOCK):
                found.update(part[first : first + BLOCK].tobytes())
        return found.hexdigest()


def read(path: str, ctx: int) -> Corpus:
    """A file's bytes in two parts, each longer than a sequence; they stay on the disk. Raises `ConfigError`."""
    try:
        size = Path(path).stat().st_size
        content: Bytes = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    except OSError as error:
        raise ConfigError(f"corpus={path}: cannot be read ({error.strerror}). Give a text file.") from error
    cut = round(len(content) * (1 - HELD_OUT))
    train, held_out = content[:cut], content[cut:]
    if min(len(train), len(held_out)) < ctx + 1:
        raise ConfigError(
            f"corpus={path}: {len(content)} bytes, of which {len(held_out)} are held out; both parts must be longer "
            f"than ctx={ctx}. Give a longer text, or a smaller ctx."
        )
    return Corpus(train, held_out)


def baselines(train: Bytes, inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> dict[str, float]:
    """What counting in `train` alone predicts of the targets (n, T) after the inputs (n, T), and gzip of the targets.

    Bits per byte of `unigram`, single bytes; `bigram`, each after the one before; `gzip`.
    """
    single, pairs = np.zeros(256), np.zeros(256 * 256)
    for first in range(0, len(train), BLOCK):
        block = train[first : first + BLOCK + 1].astype(np.int64)  # with the first byte of the next one
        single += np.bincount(block[:BLOCK], minlength=256)
        pairs += np.bincount(block[:-1] * 256 + block[1:], minlength=256 * 256)
    single += 1.0  # every byte is possible
    unigram = -np.log2(single / single.sum())
    # A byte after which little was seen is predicted as a single one.
    smooth = pairs.reshape(256, 256) + single / single.sum()
    bigram = -np.log2(smooth / smooth.sum(axis=1, keepdims=True))
    packed = gzip.compress(targets.astype(np.uint8).tobytes(), 9)
    return {
        "baseline/unigram": float(unigram[targets].mean()),
        "baseline/bigram": float(bigram[inputs, targets].mean()),
        "baseline/gzip": 8 * len(packed) / targets.size,
    }


def sequences(text: Bytes, starts: NDArray[np.int64], ctx: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The bytes at these places and those one further on: inputs and targets, (n, ctx) each."""
    rows = text[starts[:, None] + np.arange(ctx + 1)].astype(np.int64)
    return rows[:, :-1], rows[:, 1:]

"""A text as bytes, and baselines that predict it without a network. Pure, except for reading the file.

The last part of the file is held out. Baselines are in bits per byte.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from es_rl.errors import ConfigError

HELD_OUT = 0.1  # fraction of the bytes
BLOCK = 1 << 20  # bytes processed at a time, so that memory does not grow with the text
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Corpus:
    train: Bytes
    held_out: Bytes

    def digest(self) -> str:
        """Return the sha256 of all bytes."""
        found = hashlib.sha256()
        for part in (self.train, self.held_out):
            for first in range(0, len(part), BLOCK):
                found.update(part[first : first + BLOCK].tobytes())
        return found.hexdigest()


def read(path: str, ctx: int) -> Corpus:
    """Return a file's bytes in two parts, each longer than `ctx`. They stay on the disk. Raises `ConfigError`."""
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
    """Return the bits per byte of the targets (n, T), given the inputs (n, T), for three simple predictors.

    `unigram` counts bytes in `train`. `bigram` counts each byte after the one before. `gzip` compresses the targets.
    """
    single, pairs = np.zeros(256), np.zeros(256 * 256)
    for first in range(0, len(train), BLOCK):
        block = train[first : first + BLOCK + 1].astype(np.int64)  # with the first byte of the next block
        single += np.bincount(block[:BLOCK], minlength=256)
        pairs += np.bincount(block[:-1] * 256 + block[1:], minlength=256 * 256)
    single += 1.0  # no byte has probability 0
    unigram = -np.log2(single / single.sum())
    # After a rare byte, the prediction falls back to that of single bytes.
    smooth = pairs.reshape(256, 256) + single / single.sum()
    bigram = -np.log2(smooth / smooth.sum(axis=1, keepdims=True))
    packed = gzip.compress(targets.astype(np.uint8).tobytes(), 9)
    return {
        "baseline/unigram": float(unigram[targets].mean()),
        "baseline/bigram": float(bigram[inputs, targets].mean()),
        "baseline/gzip": 8 * len(packed) / targets.size,
    }


def sequences(text: Bytes, starts: NDArray[np.int64], ctx: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return inputs and targets, (n, ctx) each: `ctx` bytes from each start on, and those one byte further on."""
    rows = text[starts[:, None] + np.arange(ctx + 1)].astype(np.int64)
    return rows[:, :-1], rows[:, 1:]

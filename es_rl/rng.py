"""All randomness: counter-based random streams, each named by its seed, purpose and indices.

A stream is a Philox generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Its key is
(seed, purpose). The upper three words of its counter are the indices; the lowest word counts the blocks drawn.
Streams with different names therefore never overlap. An index left out counts as 0, so each purpose has its own number
of indices. Any stream can be opened anywhere, at any time, by its name.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

MAX_SEED = 2**63 - 1

# The random numbers of every run depend on these codes: add new ones, never renumber.
PURPOSES = {
    "noise": 1,
    "episode": 2,
    "eval": 3,
    "policy": 4,
    "evaluate": 5,
    "record": 6,
    "probe": 7,
    "bootstrap": 8,
    "fitness": 9,
    "data": 10,
    "sweep": 11,
    "batch": 12,
    "sample": 13,
    "action": 14,
    "critic": 15,
    "credit": 16,
    "robot": 17,
    "play": 18,
}


class _Key(ISeedSequence):
    """The key of a stream. Philox's `key=` would do the same, but NumPy would first ask the system for entropy."""

    def __init__(self, seed: int, purpose: str) -> None:
        self._words = np.array([seed, PURPOSES[purpose]], dtype=np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> NDArray[np.uint64]:
        return self._words


_key: Any = lru_cache(_Key)  # by (seed, purpose); Any, because NumPy's types accept only its own SeedSequence


def stream(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """Return the random stream of a purpose and up to three indices, such as (generation, pair, parameter).

    `seed` lies in [0, MAX_SEED]; 0 has no special meaning. Indices are non-negative. Raises ValueError otherwise.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed={seed}: must lie between 0 and {MAX_SEED}")
    if len(indices) > 3 or any(i < 0 for i in indices):
        raise ValueError(f"indices={indices}: give at most three, each at least 0")
    counter = np.zeros(4, np.uint64)
    counter[1 : 1 + len(indices)] = indices
    return np.random.Generator(np.random.Philox(_key(seed, purpose), counter=counter))


def integer_seed(seed: int, purpose: str, *indices: int) -> int:
    """Return a 31-bit integer from a stream, for libraries that take a seed, such as Gymnasium's `reset(seed=…)`."""
    return int(stream(seed, purpose, *indices).integers(2**31))

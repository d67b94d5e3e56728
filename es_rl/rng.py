"""All randomness: counter-based streams, each named by what it is for.

A stream is a Philox generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Its key is
(seed, purpose), the upper three words of its counter are the indices, and the lowest word counts the blocks drawn. Two
streams of different names therefore never overlap, and any stream can be opened anywhere, at any time, by its name.
"""

from __future__ import annotations

import numpy as np

MAX_SEED = 2**63 - 1

# Codes are part of the bits of every run: add, never renumber.
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
}


def stream(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """The random stream of a purpose and up to three indices, such as (generation, pair, parameter).

    `seed` lies in [0, MAX_SEED] and 0 is a seed like any other; indices are non-negative. Raises ValueError.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed={seed}: must lie between 0 and {MAX_SEED}")
    if len(indices) > 3 or any(i < 0 for i in indices):
        raise ValueError(f"indices={indices}: at most three, none negative")
    counter = [0, *indices, *([0] * (3 - len(indices)))]
    key = np.array([seed, PURPOSES[purpose]], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array(counter, dtype=np.uint64)))


def integer_seed(seed: int, purpose: str, *indices: int) -> int:
    """A 31-bit integer from a stream, for libraries that take a seed, such as Gymnasium's `reset(seed=…)`."""
    return int(stream(seed, purpose, *indices).integers(2**31))

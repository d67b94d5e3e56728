"""What a chunk is: which episodes it has, and their results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from es_rl.envs import EnvSpec
from es_rl.envs.spaces import Floats
from es_rl.es.chunks import TOGETHER
from es_rl.policies.normalizer import Moments, Normalizer
from es_rl.rl.config import Config
from es_rl.rl.episodes import Episodes
from es_rl.rng import integer_seed
from es_rl.workers.worker import JobFailure

# Attempts at a chunk whose environments break: only what breaks every time counts as failed.
ATTEMPTS = 2


@dataclass(frozen=True)
class Chunk:
    """Items `first … first+count−1`: members of the population, or evaluation episodes of the unperturbed policy."""

    kind: str  # "members" or "evaluation"
    first: int
    count: int

    @property
    def items(self) -> range:
        return range(self.first, self.first + self.count)

    def episodes(self, config: Config) -> int:
        """Return the number of episodes of each item."""
        return config.es.episodes if self.kind == "members" else 1


@dataclass
class ChunkResult:
    """The result of one chunk: arrays over its items."""

    fitness: Floats  # (count,) mean over episodes of return_ − reward_shift·length; NaN: failed
    returns: Floats  # (count,) mean return_ of the episodes
    lengths: Floats  # (count,) mean length of the episodes
    measured: Floats  # (count, K) sums over the steps of the episodes
    steps: int
    moments: Moments | None
    errors: list[str]
    simulating: float = field(default=0.0, compare=False)  # seconds spent in steps of the environments
    unsound: str = ""  # the first number that was not finite

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle few bytes a member: results of a cluster cross a network."""
        same = self.returns.tobytes() == self.fitness.tobytes()
        measured = self.measured if self.measured.size else self.measured.shape[1]
        rest = (self.steps, self.moments, self.errors, self.simulating, self.unsound)
        returns = b"" if same else self.returns.tobytes()
        return _unpacked, (self.fitness.tobytes(), returns, _short(self.lengths), measured, *rest)


def _short(lengths: Floats) -> bytes:
    """Return lengths as bytes, two for each if all are small whole numbers."""
    whole = lengths.clip(0, 65535).astype(np.uint16) if np.isfinite(lengths).all() else lengths
    return (whole if np.array_equal(whole, lengths) else lengths).tobytes()


def _unpacked(fitness: bytes, returns: bytes, lengths: bytes, measured: Floats | int, *rest: Any) -> ChunkResult:
    own, kind = np.frombuffer(fitness).copy(), np.uint16 if len(lengths) < len(fitness) else np.float64
    other = np.frombuffer(returns).copy() if returns else own.copy()
    sums = np.zeros((len(own), measured)) if isinstance(measured, int) else measured
    return ChunkResult(own, other, np.frombuffer(lengths, kind).astype(np.float64), sums, *rest)


def chunk_result(config: Config, chunk: Chunk, done: Episodes) -> ChunkResult:
    """Return the result of a chunk: means over the episodes of each item."""
    episodes, shift = chunk.episodes(config), config.es.reward_shift if chunk.kind == "members" else 0.0
    measured = done.measured.reshape(chunk.count, episodes, done.measured.shape[1])
    return ChunkResult(
        fitness=(done.returns - shift * done.lengths).reshape(-1, episodes).mean(axis=1),
        returns=done.returns.reshape(-1, episodes).mean(axis=1),
        lengths=done.lengths.reshape(-1, episodes).mean(axis=1),
        measured=measured.sum(axis=1),
        steps=int(done.lengths.sum()),
        moments=done.moments,
        errors=done.errors,
        simulating=done.simulating,
        unsound=done.unsound,
    )


def observed_mean(policy: nn.Module) -> Floats | None:
    """Return the mean (O,) about which observation moments are summed; None if observations are not normalised."""
    normalizer = policy.normalizer
    mean: Floats | None = None
    if isinstance(normalizer, Normalizer) and normalizer.gathers:
        mean = normalizer.mean.cpu().numpy()
    return mean


def episode_seeds(config: Config, generation: int, chunk: Chunk) -> list[int]:
    """Return the seed of every episode of a chunk. Both members of a pair get the same ones: common random numbers."""
    if chunk.kind == "evaluation":
        return [integer_seed(config.seed, "eval", generation, episode) for episode in chunk.items]
    return [
        integer_seed(config.seed, "episode", generation, member // 2, episode)
        for member in chunk.items
        for episode in range(config.es.episodes)
    ]


def capacity(config: Config) -> tuple[int, int]:
    """Return two counts: the simulations at which a process takes no further chunk, and those of the largest chunk."""
    assert config.chunk is not None
    of_chunk = config.chunk * config.es.episodes
    return min(TOGETHER, 2 * of_chunk), of_chunk


def result_of(outcome: ChunkResult | JobFailure, chunk: Chunk, spec: EnvSpec) -> ChunkResult:
    """Return the result of a chunk. If its job failed, all its members count as failed."""
    if isinstance(outcome, ChunkResult):
        return outcome
    nothing = np.full(chunk.count, np.nan)
    measured = np.zeros((chunk.count, len(spec.measures)))
    return ChunkResult(nothing, nothing, nothing, measured, 0, None, [outcome.message])

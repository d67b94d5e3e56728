"""One chunk: environments × members → fitness and observation moments.

Shapes: N simulations of a chunk (members × episodes, one member's episodes together), O observation, A action.

A `Rollout` is sent to each worker once and keeps its environments and its policy there; a `Generation` is sent once a
generation; a `Chunk` is one job. The result is a pure function of the three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from es_rl import envs, policies
from es_rl.actors import member_actors, policy_actor
from es_rl.config import Config
from es_rl.envs import EnvSpec, VectorEnv
from es_rl.envs.spaces import Floats, Ints, size
from es_rl.policies.normalizer import Moments, Normalizer
from es_rl.population import Generation
from es_rl.rng import integer_seed

Beat = Callable[[int], None]  # told the environment steps done since the last beat

HUGE = 1e30  # a number beyond is as good as infinite: its square would poison the statistics
TALLY_NUMBERS = 16_384  # observations are summed in blocks of about so many numbers, which stay in the cache
# A chunk in which an environment broke is rolled out again: only what breaks every time counts as failed.
ATTEMPTS = 2


@dataclass(frozen=True)
class Chunk:
    """Items `first … first+count−1`: members of the population, or episodes of the unperturbed policy."""

    kind: str  # "members" or "evaluation"
    first: int
    count: int


@dataclass
class Episodes:
    """N finished episodes. A failed one has a NaN return."""

    returns: Floats  # (N,)
    lengths: Ints  # (N,)
    moments: Moments | None
    errors: list[str]  # of environments that broke
    simulating: float = 0.0  # seconds spent in the environments' steps


@dataclass
class ChunkResult:
    """What one chunk gives back: arrays over its items."""

    fitness: Floats  # (count,) mean over a member's episodes of the return less the reward shift; NaN: failed
    returns: Floats  # (count,) mean return
    lengths: Floats  # (count,) mean length
    steps: int
    moments: Moments | None
    errors: list[str]
    simulating: float = 0.0  # seconds spent in the environments' steps


class Rollout:
    """Rolls out chunks of one run's members in one process, with environments and policy made at the first call."""

    def __init__(self, config: Config, env: EnvSpec) -> None:
        self._config, self._spec = config, env
        self._env: VectorEnv | None = None
        self._policy: nn.Module | None = None
        self._generation: Generation | None = None

    def __call__(self, generation: Generation, chunk: Chunk, beat: Beat) -> ChunkResult:
        env, policy = self.prepare(generation)
        p, es = generation.perturbation, self._config.es
        seeds = episode_seeds(self._config, generation.number, chunk)
        if chunk.kind == "evaluation":
            done = _attempt(lambda: rollout(env, policy_actor(policy, chunk.count), seeds, beat=beat))
            return chunk_result(done, episodes=1, shift=0.0)
        tally = policy.normalizer if isinstance(policy.normalizer, Normalizer) else None
        members = range(chunk.first, chunk.first + chunk.count)
        with member_actors(policy, members, p, es.episodes) as actor:
            done = _attempt(lambda: rollout(env, actor(), seeds, tally=tally, beat=beat, limit=generation.limit))
        return chunk_result(done, episodes=es.episodes, shift=es.reward_shift)

    def prepare(self, generation: Generation) -> tuple[VectorEnv, nn.Module]:
        """The environments, and the policy with the generation's weights and statistics."""
        if self._env is None or self._policy is None:
            self._env = make_env(self._config, self._spec)
            self._policy = make_policy(self._config, self._spec)
        if generation is not self._generation:
            self._policy.load_state_dict({k: torch.from_numpy(v) for k, v in generation.model.items()})
            self._generation = generation
        return self._env, self._policy


def _attempt(play: Callable[[], Episodes]) -> Episodes:
    for _ in range(ATTEMPTS):
        done = play()
        if not done.errors:
            break
    return done


def chunk_result(done: Episodes, *, episodes: int, shift: float) -> ChunkResult:
    """Means over the episodes of each item."""
    return ChunkResult(
        fitness=(done.returns - shift * done.lengths).reshape(-1, episodes).mean(axis=1),
        returns=done.returns.reshape(-1, episodes).mean(axis=1),
        lengths=done.lengths.reshape(-1, episodes).mean(axis=1),
        steps=int(done.lengths.sum()),
        moments=done.moments,
        errors=done.errors,
        simulating=done.simulating,
    )


def episode_seeds(config: Config, generation: int, chunk: Chunk) -> list[int]:
    """The seed of every episode of a chunk. Those of both members of a pair are equal: common random numbers."""
    items = range(chunk.first, chunk.first + chunk.count)
    if chunk.kind == "evaluation":
        return [integer_seed(config.seed, "eval", generation, episode) for episode in items]
    return [
        integer_seed(config.seed, "episode", generation, member // 2, episode)
        for member in items
        for episode in range(config.es.episodes)
    ]


def make_env(config: Config, env: EnvSpec) -> VectorEnv:
    """The simulations of a chunk, which observe no more than the policy sees."""
    assert config.chunk is not None
    n = config.chunk * config.es.episodes
    return envs.make_vector(env.id, n, env.backend, env.kwargs, config.obs_first)


def make_policy(config: Config, env: EnvSpec) -> nn.Module:
    """The freshly initialised policy of a configuration, for an environment."""
    return policies.make(config, size(env.observation_space), env.action_space)


def rollout(
    env: VectorEnv,
    actor: Callable[[Ints, Floats], NDArray[Any]],
    seeds: Sequence[int],
    *,
    tally: Normalizer | None = None,
    beat: Beat = lambda steps: None,
    record: list[tuple[Ints, NDArray[Any]]] | None = None,
    limit: int | None = None,
) -> Episodes:
    """One episode in each of N = len(seeds) simulations, with one call of the actor and one of the environment a step.

    With a `tally`, moments of what the policy sees are gathered about its mean. A reward, an observation or an
    action that is not finite, or beyond `HUGE`, ends its simulation as failed. `record` receives (simulations, actions)
    of every step. Episodes are cut off after `limit` steps.
    """
    n = len(seeds)
    returns, lengths, failed = np.zeros(n), np.zeros(n, np.int64), np.zeros(n, np.bool_)
    seen = Tally(tally.mean.numpy()) if tally is not None else None
    obs, steps, simulating = _reset(env, seeds, beat), 0, 0.0
    fine = _finite(obs)
    failed[~fine] = True
    running, obs = np.flatnonzero(fine), obs[fine]
    sums = np.zeros(running.size)  # of the rewards of those that run
    while running.size:
        if seen is not None:
            seen.add(obs)
        actions = actor(running, obs)
        if record is not None:
            record.append((running, actions))
        begun = perf_counter()
        obs, reward, terminated, truncated = env.step(running, actions)
        simulating += perf_counter() - begun
        sums += reward
        steps += 1
        beat(running.size)
        over = terminated | truncated if steps != limit else np.ones(running.size, np.bool_)
        if not np.vdot(obs, obs) + np.vdot(reward, reward) + np.vdot(actions, actions) < HUGE**2:
            fine = _finite(reward) & _finite(obs) & _finite(actions)
            failed[running[~fine]] = True
            over |= ~fine
        if np.count_nonzero(over):
            ended, going = running[over], ~over
            returns[ended], lengths[ended] = sums[over], steps
            running, obs, sums = running[going], obs[going], sums[going]
    returns[failed] = np.nan
    moments = seen.moments() if seen is not None else None
    return Episodes(returns, lengths, moments, list(env.errors), simulating)


def _reset(env: VectorEnv, seeds: Sequence[int], beat: Beat) -> Floats:
    """Begin all episodes, (N, O), one after the other: where environments are slow to make, that is progress too."""
    env.errors.clear()
    seen = []
    for i, seed in enumerate(seeds):
        seen.append(env.reset([i], [seed]))
        beat(0)
    return np.concatenate(seen)


def _finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows hold only finite numbers, below `HUGE`, (n,)."""
    finite: NDArray[np.bool_] = (np.abs(values) < HUGE).reshape(len(values), -1).all(axis=1)
    return finite


class Tally:
    """Moments of observations about the policy's frozen mean, summed a block of steps at a time."""

    def __init__(self, mean: Floats) -> None:
        self._mean = mean
        self._count = 0
        self._first, self._second = np.zeros_like(mean), np.zeros_like(mean)
        self._block: list[Floats] = []
        self._numbers = 0

    def add(self, obs: Floats) -> None:
        """Observations (n, O), which must stay as they are."""
        self._block.append(obs)
        self._numbers += self._block[-1].size
        if self._numbers >= TALLY_NUMBERS:
            self._sum()

    def moments(self) -> Moments:
        if self._block:
            self._sum()
        return Moments(self._count, self._first, self._second)

    def _sum(self) -> None:
        centered = np.concatenate(self._block)
        centered -= self._mean
        self._count += len(centered)
        self._first += centered.sum(axis=0)
        self._second += np.square(centered, out=centered).sum(axis=0)
        self._block, self._numbers = [], 0

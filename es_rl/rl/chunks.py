"""Roll out chunks: environments × members → fitness and observation moments.

A `ChunkRunner` is sent to each worker once and keeps its environments and policy there. A `Generation` is sent once a
generation. A `Chunk` is one job. Its result is a pure function of these three, whatever else runs beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from es_rl import envs, policies
from es_rl.envs import EnvSpec, VectorEnv
from es_rl.envs.curriculum import set_difficulty
from es_rl.envs.spaces import shape_of
from es_rl.es.strategy import Generation
from es_rl.rl.actors import Actor, member_actors, numpy_layers, policy_actor
from es_rl.rl.config import Config
from es_rl.rl.episodes import Beat, Episodes, joined, play
from es_rl.rl.rollout.chunk import ATTEMPTS, Chunk, ChunkResult, capacity, chunk_result, episode_seeds, observed_mean
from es_rl.rl.rollout.side_by_side import SideBySide
from es_rl.workers.worker import Take, one_by_one

LOOK_EVERY = 8  # steps between two looks for new chunks; a look is slow


class ChunkRunner:
    """Rolls out chunks of one run in one process; environments and policy are made at the first call."""

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        self._config, self._spec, self._shape = config, spec, shape_of(spec.observation_space)
        self._env: VectorEnv | None = None
        self._policy: nn.Module | None = None
        self._generation: Generation | None = None

    def __call__(self, generation: Generation, chunk: Chunk, beat: Beat) -> ChunkResult:
        """Roll out one chunk by itself."""
        _, policy = self.prepare(generation)
        seeds = episode_seeds(self._config, generation.number, chunk)
        if self._config.serial:
            done = joined([_attempt(run) for run in self._one_by_one(generation, chunk, seeds, beat)])
            return chunk_result(self._config, chunk, done)
        if chunk.kind == "evaluation":
            done = _attempt(lambda: self._play(policy_actor(policy, chunk.count), seeds, beat=beat))
            return chunk_result(self._config, chunk, done)
        mean = observed_mean(policy)
        with member_actors(policy, chunk.items, generation.perturbation, self._config.es.episodes) as actor:
            done = _attempt(lambda: self._play(actor(), seeds, mean=mean, beat=beat, limit=generation.limit))
        return chunk_result(self._config, chunk, done)

    def _one_by_one(
        self, generation: Generation, chunk: Chunk, seeds: list[int], beat: Beat
    ) -> Iterator[Callable[[], Episodes]]:
        """Yield a function for each episode of a chunk, which plays it alone."""
        _, policy = self.prepare(generation)
        if chunk.kind == "evaluation":
            for seed in seeds:
                yield lambda seed=seed: self._play(policy_actor(policy, 1), [seed], beat=beat)  # type: ignore[misc]
            return
        mean, each = observed_mean(policy), self._config.es.episodes
        for i, member in enumerate(chunk.items):
            with member_actors(policy, [member], generation.perturbation) as actor:
                for seed in seeds[i * each : (i + 1) * each]:
                    yield lambda seed=seed: self._play(  # type: ignore[misc]
                        actor(), [seed], mean=mean, beat=beat, limit=generation.limit
                    )

    def stream(self, generation: Generation, workers: int, take: Take, beat: Beat) -> Iterator[tuple[int, ChunkResult]]:
        """Roll out chunks as long as there are any, and yield (index, result): see `es_rl.workers.worker`.

        If NumPy can compute the policy, chunks run side by side, with the same bits as each by itself. Otherwise they
        run one after another.
        """
        env, policy = self.prepare(generation)
        layers = None if self._config.serial else numpy_layers(policy)
        if layers is None:
            yield from one_by_one(self)(generation, workers, take, beat)
            return
        together = SideBySide(self._config, env, self._shape, policy, layers, generation, workers, beat)
        while True:
            together.fill(take)
            if not together.busy:
                return
            for _ in range(LOOK_EVERY):
                yield from together.advance()

    def _play(self, actor: Actor, seeds: list[int], **how: Any) -> Episodes:
        assert self._env is not None
        return play(self._env, actor, seeds, shape=self._shape, **how)

    def prepare(self, generation: Generation) -> tuple[VectorEnv, nn.Module]:
        """Return the environments, and the policy with the generation's weights and statistics."""
        if self._env is None or self._policy is None:
            self._env = make_env(self._config, self._spec)
            self._policy = make_policy(self._config, self._spec)
        if generation is not self._generation:
            self._policy.load_state_dict({k: torch.from_numpy(v) for k, v in generation.model.items()})
            self._generation = generation
        set_difficulty(self._env, generation.difficulty)
        return self._env, self._policy


def _attempt(run: Callable[[], Episodes]) -> Episodes:
    for _ in range(ATTEMPTS):
        done = run()
        if not done.errors:
            break
    return done


def make_env(config: Config, spec: EnvSpec) -> VectorEnv:
    """Make as many simulations as one process may hold. They observe no more than the policy sees."""
    n = 1 if config.serial else sum(capacity(config))
    exact = config.envpool.exact
    return envs.make_vector(spec.id, n, spec.backend, spec.kwargs, config.obs_first, view=spec.view, exact=exact)


def make_policy(config: Config, spec: EnvSpec) -> nn.Module:
    """Make the policy of a configuration for an environment, freshly initialised."""
    return policies.make(config, shape_of(spec.observation_space), spec.action_space)

"""Roll out chunks: environments × members → fitness and observation moments.

A `ChunkRunner` is sent to each worker once and keeps its environments and policy there. A `Generation` is sent once a
generation. A `Chunk` is one job. Its result is a pure function of these three, whatever else runs beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from es_rl import envs, policies
from es_rl.envs import EnvSpec, VectorEnv
from es_rl.envs.curriculum import set_difficulty
from es_rl.envs.spaces import Floats, shape_of
from es_rl.es.chunks import TOGETHER
from es_rl.es.strategy import Generation
from es_rl.observations import ObservationShape
from es_rl.policies.normalizer import Moments, Normalizer
from es_rl.population.members import members_of
from es_rl.rl.actors import Actor, member_actors, numpy_layers, policy_actor
from es_rl.rl.config import Config
from es_rl.rl.episodes import Beat, EpisodeBatch, Episodes, joined, play
from es_rl.rl.numpy_policy import NumpyForward
from es_rl.rng import integer_seed
from es_rl.workers.worker import JobFailure, Take, one_by_one

# Attempts at a chunk whose environments break: only what breaks every time counts as failed.
ATTEMPTS = 2
LOOK_EVERY = 8  # steps between two looks for new chunks; a look is slow


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


class ChunkRunner:
    """Rolls out chunks of one run in one process; environments and policy are made at the first call."""

    def __init__(self, config: Config, env: EnvSpec) -> None:
        self._config, self._spec, self._shape = config, env, shape_of(env.observation_space)
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
        together = _SideBySide(self._config, env, self._shape, policy, layers, generation, workers, beat)
        while True:
            while together.room and together.begin(take):
                pass
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


class _SideBySide:
    """Chunks in progress in one batch, all of members or all of evaluation episodes."""

    def __init__(
        self,
        config: Config,
        env: VectorEnv,
        shape: ObservationShape,
        policy: nn.Module,
        layers: dict[str, nn.Module],
        generation: Generation,
        workers: int,
        beat: Beat,
    ) -> None:
        self._config, self._env, self._shape, self._policy, self._layers = config, env, shape, policy, layers
        self._generation, self._workers, self._beat = generation, workers, beat
        self._playing: EpisodeBatch | None = None  # from the first chunk on
        self._actor: NumpyForward
        self._enough = 0  # running simulations from which on no further chunk begins
        self._again: deque[tuple[int, Chunk]] = deque()  # chunks in which an environment broke

    @property
    def room(self) -> bool:
        """True if one more chunk may begin."""
        return self._playing is None or len(self._playing.running) < self._enough

    @property
    def busy(self) -> bool:
        return self._playing is not None and self._playing.busy

    def begin(self, take: Take) -> bool:
        """Begin one more chunk beside the others. Return False if there is none."""
        if self._again:
            self._begin(*self._again.popleft(), ATTEMPTS)
            return True
        if (taken := take()) is not None:
            self._begin(*taken, 1)
        return taken is not None

    def _begin(self, index: int, chunk: Chunk, attempt: int) -> None:
        generation, episodes = self._generation, chunk.episodes(self._config)
        playing = self._playing or self._open(chunk)
        if chunk.kind == "members":
            self._actor.join(members_of(self._policy, chunk.items, generation.perturbation), episodes)
        playing.begin((index, chunk, attempt), episode_seeds(self._config, generation.number, chunk))

    def advance(self) -> Iterator[tuple[int, ChunkResult]]:
        """Advance by one step. Yield the chunks that ended, except those to be rolled out again."""
        assert self._playing is not None
        for (index, chunk, attempt), done in self._playing.advance():
            if done.errors and attempt < ATTEMPTS:
                self._again.append((index, chunk))
            else:
                yield index, chunk_result(self._config, chunk, done)

    def _open(self, chunk: Chunk) -> EpisodeBatch:
        """Make a batch with places for a fair share of the simulations and for one more chunk."""
        es, members = self._config.es, chunk.kind == "members"
        everything = es.population * es.episodes if members else self._config.eval.episodes
        at_once, more = capacity(self._config)
        self._enough = min(at_once, -(-everything // self._workers))
        places = self._enough + more
        mean, limit = None, None
        self._actor = NumpyForward(self._layers, places if members else 0)
        if members:
            mean, limit = observed_mean(self._policy), self._generation.limit
        self._playing = EpisodeBatch(
            self._env, self._actor, places, shape=self._shape, mean=mean, beat=self._beat, limit=limit
        )
        return self._playing


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


def make_env(config: Config, env: EnvSpec) -> VectorEnv:
    """Make as many simulations as one process may hold. They observe no more than the policy sees."""
    n = 1 if config.serial else sum(capacity(config))
    return envs.make_vector(env.id, n, env.backend, env.kwargs, config.obs_first, view=env.view)


def make_policy(config: Config, env: EnvSpec) -> nn.Module:
    """Make the policy of a configuration for an environment, freshly initialised."""
    return policies.make(config, shape_of(env.observation_space), env.action_space)


def result_of(outcome: ChunkResult | JobFailure, chunk: Chunk, spec: EnvSpec) -> ChunkResult:
    """Return the result of a chunk. If its job failed, all its members count as failed."""
    if isinstance(outcome, ChunkResult):
        return outcome
    nothing = np.full(chunk.count, np.nan)
    measured = np.zeros((chunk.count, len(spec.measures)))
    return ChunkResult(nothing, nothing, nothing, measured, 0, None, [outcome.message])

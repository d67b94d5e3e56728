"""The worker's side of judged steps: play a segment of each simulation, evaluate, train the critic.

Shapes: T steps of a segment, n simulations of a job, O observation, A outputs of the policy.

A job is a pure function of the generation and of itself: it brings the state of its simulations and takes it back. A
simulation does not depend on those beside it, so any division into jobs gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from es_rl import envs
from es_rl.envs import EnvSpec, Savable
from es_rl.envs.curriculum import set_difficulty
from es_rl.envs.measures import sums_of
from es_rl.envs.spaces import Bools, Floats
from es_rl.errors import EnvError
from es_rl.es.strategy import Generation
from es_rl.policies.normalizer import Moments
from es_rl.rl.actors import numpy_layers
from es_rl.rl.chunks import ChunkRunner, make_policy
from es_rl.rl.config import Config
from es_rl.rl.episodes import Beat, finite
from es_rl.rl.numpy_policy import NumpyForward
from es_rl.rl.rollout.chunk import Chunk, observed_mean
from es_rl.rl.segments.critic import CriticFit
from es_rl.rl.segments.state import Simulations
from es_rl.rng import integer_seed, stream
from es_rl.workers.worker import Take

BEGINNINGS = 3  # attempts to begin an episode after another, each from another seed


@dataclass(frozen=True)
class Segment:
    """The job of playing `steps` steps of the simulations from number `first` on; of beginning them if steps is 0."""

    first: int
    count: int
    steps: int = 0
    begun: Simulations | None = None
    std: NDArray[np.float32] | None = None  # (A,) of the noise on the policy's outputs


@dataclass
class Recorded:
    """Played steps. Observations are normalised."""

    x: NDArray[np.float32]  # (T+1, n, O) what the policy met; the last row is what it meets next
    outputs: NDArray[np.float32]  # (T, n, A) of the policy, with noise
    log_likelihood: NDArray[np.float32]  # (T, n) of the outputs, but for a constant
    reward: Floats  # (T, n)
    over: Bools  # (T, n) terminated or cut off
    terminated: Bools  # (T, n)
    cut: NDArray[np.float32]  # (k, O) observations after the steps that were cut off, in the order of `over`

    @classmethod
    def empty(cls, steps: int, n: int, inputs: int, outputs: int) -> Recorded:
        """Return arrays to write steps into."""
        shape = (steps, n)
        return cls(
            np.empty((steps + 1, n, inputs), np.float32), np.empty((*shape, outputs), np.float32),
            np.empty(shape, np.float32), np.empty(shape), np.empty(shape, np.bool_), np.empty(shape, np.bool_),
            np.empty((0, inputs), np.float32),
        )  # fmt: skip


@dataclass
class SegmentResult:
    """The result of a `Segment`."""

    simulations: Simulations
    recorded: Recorded
    moments: Moments | None = None
    finished: list[tuple[float, float]] = field(default_factory=list)  # return and length of episodes that ended
    measured: Floats = field(default_factory=lambda: np.zeros((0, 0)))  # (n, K) sums over the steps
    broken: int = 0  # episodes that ended because a number was not finite
    reason: str = ""  # of the first of them, if the environment says it
    simulating: float = field(default=0.0, compare=False)  # seconds spent in steps of the environments


class SegmentRunner:
    """Runs the jobs of one run in one process; simulations and policy are made at the first call."""

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        self._config, self._spec = config, spec
        self._episodes = ChunkRunner(config, spec)
        self._env: Savable | None = None
        self._policy: Any = None

    def __call__(self, generation: Generation, job: Any, beat: Beat) -> Any:
        """Play a `Segment`, train a critic (`CriticFit`), or play the evaluation episodes of a `Chunk`."""
        match job:
            case Chunk():
                return self._episodes(generation, job, beat)
            case CriticFit():
                return job(self._config.critic, self._config.seed, beat)
        if self._env is None:
            self._env = make_simulations(self._config, self._spec)
            self._policy = make_policy(self._config, self._spec)
        set_difficulty(self._env, generation.difficulty)
        if not job.steps:
            return self._begin(self._env, job)
        self._policy.load_state_dict({k: torch.from_numpy(v) for k, v in generation.model.items()})
        return _Play(self._config, self._env, self._policy, generation.number, job).all(beat)

    def stream(self, generation: Generation, workers: int, take: Take, beat: Beat) -> Iterator[tuple[int, Any]]:
        """Run jobs as long as there are any. Evaluation episodes are played side by side."""
        while (taken := take()) is not None:
            if isinstance(taken[1], Chunk):
                yield from self._episodes.stream(generation, workers, _with(taken, take), beat)
            else:
                yield taken[0], self(generation, taken[1], beat)

    def _begin(self, env: Savable, job: Segment) -> Simulations:
        ids = np.arange(job.count)
        obs = env.reset(ids, [_seed(self._config, 0, job.first + i, 0) for i in range(job.count)])
        if not finite(obs).all():
            raise EnvError(_unsound(env))
        return Simulations(env.save(ids), obs, np.zeros(job.count), np.zeros(job.count))


def _with(taken: tuple[int, Any], take: Take) -> Take:
    """Return a function that gives a job that was taken, and then takes others."""
    first = [taken]
    return lambda: first.pop() if first else take()


def make_simulations(config: Config, spec: EnvSpec) -> Savable:
    """Return the simulations of a process. Only the fast backend can save them: see `es_rl.rl.segments.task`."""
    n = config.credit.simulations
    made = envs.make_vector(spec.id, n, spec.backend, spec.kwargs, config.obs_first)
    assert isinstance(made, Savable)
    return made


def _unsound(env: Savable) -> str:
    """Return why episodes cannot begin."""
    return next(iter(env.errors.values()), "an episode begins with an observation that is not finite")


def _seed(config: Config, generation: int, simulation: int, restart: int) -> int:
    return integer_seed(config.seed, "episode", generation, simulation, restart)


class _Play:
    """The segments of one job while they are played."""

    def __init__(self, config: Config, env: Savable, policy: Any, generation: int, job: Segment) -> None:
        assert job.begun is not None and job.std is not None
        self._config, self._env, self._generation, self._job = config, env, generation, job
        layers = list((numpy_layers(policy) or {}).items())
        self._normalize, self._network, self._act = (
            NumpyForward(dict(part)) for part in (layers[:1], layers[1:-1], layers[-1:])
        )
        self._ids, self._obs = np.arange(job.count), job.begun.obs
        self._noise = np.stack([self._draw(job.first + i, len(job.std)) for i in range(job.count)], axis=1)  # (T, n, A)
        self._restarts = np.zeros(job.count, np.int64)
        self._result = SegmentResult(
            Simulations(job.begun.rows, job.begun.obs, job.begun.returns.copy(), job.begun.lengths.copy()),
            Recorded.empty(job.steps, job.count, policy.normalizer.inputs, len(job.std)),
        )
        self._std = job.std
        self._cut: list[NDArray[np.float32]] = []
        self._mean = observed_mean(policy)
        self._sums = np.zeros((2, *self._obs.shape))
        env.restore(self._ids, job.begun.rows)
        self._measured = -sums_of(env, self._ids)  # what was measured before this segment does not count

    def _draw(self, simulation: int, outputs: int) -> NDArray[np.float32]:
        source = stream(self._config.seed, "action", self._generation, simulation)
        return source.standard_normal((self._job.steps, outputs), dtype=np.float32)

    def all(self, beat: Beat) -> SegmentResult:
        """Play all steps."""
        result, job = self._result, self._job
        for t in range(job.steps):
            self._step(t)
            beat(job.count)
        recorded = result.recorded
        recorded.x[-1] = self._normalize(self._ids, self._obs)
        recorded.cut = np.concatenate([recorded.cut, *self._cut])
        recorded.log_likelihood[:] = -0.5 * np.square(self._noise).sum(2) - np.log(self._std).sum()
        if self._mean is not None:
            result.moments = Moments(job.steps * job.count, *self._sums)
        result.simulations.rows, result.simulations.obs = self._env.save(self._ids), self._obs
        result.measured = self._measured + sums_of(self._env, self._ids)
        return result

    def _step(self, t: int) -> None:
        recorded, ids = self._result.recorded, self._ids
        x = self._normalize(ids, self._obs)
        if self._mean is not None:
            moved = self._obs - self._mean
            self._sums[0] += moved
            self._sums[1] += np.square(moved)
        recorded.x[t] = x  # before the network, whose first layer may work in place
        outputs = self._network(ids, x) + self._std * self._noise[t]
        start = perf_counter()
        obs, reward, terminated, truncated = self._env.step(ids, self._act(ids, outputs.copy()))
        self._result.simulating += perf_counter() - start
        sound = finite(reward) & finite(obs)
        if not sound.all():
            reward, terminated = np.where(sound, reward, 0.0), terminated | ~sound
            self._note_broken(~sound)
        over = terminated | truncated
        recorded.outputs[t], recorded.reward[t] = outputs, reward
        recorded.terminated[t], recorded.over[t] = terminated, over
        self._result.simulations.returns += reward
        self._result.simulations.lengths += 1
        self._obs = obs
        if over.any():
            self._restart(np.flatnonzero(over), obs[over & ~terminated])

    def _restart(self, ended: NDArray[np.int64], cut: Floats) -> None:
        """Note the episodes that ended, and begin others in their places."""
        now = self._result.simulations
        if len(cut):
            self._cut.append(self._normalize(ended, cut))
        self._result.finished += zip(now.returns[ended].tolist(), now.lengths[ended].tolist(), strict=True)
        now.returns[ended] = now.lengths[ended] = 0.0
        self._measured[ended] += sums_of(self._env, ended)
        self._obs = self._obs.copy()
        for _ in range(BEGINNINGS):
            self._restarts[ended] += 1
            numbers = zip(ended.tolist(), self._restarts[ended].tolist(), strict=True)
            seeds = [_seed(self._config, self._generation, self._job.first + i, k) for i, k in numbers]
            self._obs[ended] = self._env.reset(ended, seeds)
            sound = finite(self._obs[ended])
            if sound.all():
                return
            self._note_broken(~sound)
            ended = ended[~sound]
        raise EnvError(_unsound(self._env))

    def _note_broken(self, broken: Bools) -> None:
        self._result.broken += int(broken.sum())
        self._result.reason = self._result.reason or next(iter(self._env.errors.values()), "")
        self._env.errors.clear()

"""Chunks in progress in one batch of simulations, whose policies NumPy computes member by member."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from torch import nn

from es_rl.envs import VectorEnv
from es_rl.es.strategy import Generation
from es_rl.observations import ObservationShape
from es_rl.population.members import members_of
from es_rl.rl.config import Config
from es_rl.rl.episodes import Beat, EpisodeBatch
from es_rl.rl.numpy_policy import NumpyForward
from es_rl.rl.rollout.chunk import ATTEMPTS, Chunk, ChunkResult, capacity, chunk_result, episode_seeds, observed_mean
from es_rl.workers.worker import Take

_Job = tuple[int, Chunk, int]  # a chunk with its index among the jobs, and the number of the attempt at it


class SideBySide:
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
        self._again: deque[_Job] = deque()  # chunks in which an environment broke

    def _room(self, more: int) -> bool:
        """Tell whether one more chunk may begin, beside those that run and `more` simulations that are to begin."""
        return self._playing is None or len(self._playing.running) + more < self._enough

    @property
    def busy(self) -> bool:
        return self._playing is not None and self._playing.busy

    def fill(self, take: Take) -> None:
        """Begin more chunks beside the others while there are any, and room for them.

        If environments are better begun together, wait until half of the room is free, and begin all new ones at once.
        """
        at_once = hasattr(self._env, "together")
        if at_once and self._playing is not None and len(self._playing.running) > self._enough // 2:
            return
        jobs, begun = list[_Job](), 0
        while self._room(begun) and (job := self._next(take)) is not None:
            playing = self._playing or self._open(job[1])
            jobs.append(job)
            begun += job[1].count * job[1].episodes(self._config)
            if not at_once:
                self._begin(playing, jobs)
                jobs, begun = [], 0
        if jobs:
            self._begin(playing, jobs)

    def _next(self, take: Take) -> _Job | None:
        if self._again:
            return self._again.popleft()
        taken = take()
        return None if taken is None else (*taken, 1)

    def _begin(self, playing: EpisodeBatch, jobs: list[_Job]) -> None:
        seeds = [episode_seeds(self._config, self._generation.number, chunk) for _, chunk, _ in jobs]
        places, obs = playing.reset([seed for some in seeds for seed in some])
        first = 0
        for job, some in zip(jobs, seeds, strict=True):
            if (chunk := job[1]).kind == "members":
                members = members_of(self._policy, chunk.items, self._generation.perturbation)
                self._actor.join(members, chunk.episodes(self._config))
            end = first + len(some)
            playing.begin(job, (places[first:end], obs[first:end]))
            first = end

    def advance(self) -> Iterator[tuple[int, ChunkResult]]:
        """Advance by one step. Yield the chunks that ended, except those to be rolled out again."""
        assert self._playing is not None
        for (index, chunk, attempt), done in self._playing.advance():
            if done.errors and attempt < ATTEMPTS:
                self._again.append((index, chunk, attempt + 1))
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

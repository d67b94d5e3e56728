"""Evaluate the members of a generation, and the unperturbed policy, by rollouts on workers.

Another kind of training replaces this part: the loop (`es_rl.run.loop`) knows nothing of environments.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl import envs, es
from es_rl.envs import EnvSpec
from es_rl.envs.measures import statistics
from es_rl.envs.renderer import choose_renderer, display_hint, lacks_renderer
from es_rl.errors import EnvError, TrainingError
from es_rl.es.chunks import divide
from es_rl.es.strategy import ESParams, ESState, Generation, MemberScores
from es_rl.policies import normalizer
from es_rl.rl import difficulty
from es_rl.rl.actors import numpy_layers
from es_rl.rl.central import Central
from es_rl.rl.chunks import ChunkRunner, make_policy
from es_rl.rl.config import Config
from es_rl.rl.rollout.chunk import Chunk, ChunkResult, result_of
from es_rl.rng import integer_seed
from es_rl.workers.interface import Pool
from es_rl.workers.worker import Function, JobFailure

# Evaluation episodes are cut into at most this many chunks, for any number of workers; more if they were too large.
EVALUATION_CHUNKS = 8
SEVERAL = 8  # members: if none of the first ones can be run, single members are not the cause


class RlTask:
    """Evaluates members, and the policy itself, in an environment."""

    def __init__(
        self, config: Config, params: ESParams, spec: EnvSpec, workers: Pool, runner: Function | None = None
    ) -> None:
        """Let `runner` play chunks; default: a `ChunkRunner`."""
        self._config, self._params, self._spec, self._workers = config, params, spec, workers
        self._rollout = runner or ChunkRunner(config, spec)
        self._central = Central(config, spec, workers) if config.inference == "central" else None
        independent = self._central is None and numpy_layers(make_policy(config, spec)) is not None
        self.divisible = independent and not config.es.noise.endswith("orthogonal")  # drawn for a whole chunk
        self._in_pairs = self.divisible or self._central is not None  # a job that could not be done is cut up

    def members(self, state: ESState) -> MemberScores:
        """Return the scores of all members of the coming generation.

        Raises `EnvError` or `TrainingError` as soon as more members failed than `es.max_failed` allows.
        """
        start, busy = time.monotonic(), self._workers.busy
        p, chunks = es.ask(self._params, state)
        limit = es.limit(self._params, state.generation)
        generation = Generation(state.generation, es.arrays(state), p, limit, difficulty.of(state.extra))
        failures = _Failures(self._config, state.generation + 1, chunks[-1].stop)
        results = self._roll_members(generation, self._cut(chunks), failures)
        if more := es.grow(self._params, chunks[-1].stop, sum(result.steps for result in results)):
            failures.population = more[-1].stop
            results += self._roll_members(generation, self._cut(more), failures)
        moments = [result.moments for result in results if result.moments is not None]
        measured = _measures(results, self._spec, self._config.es.episodes)
        processes = max(1, self._workers.count)
        available = max(1e-9, processes * (time.monotonic() - start))  # seconds, of all processes together
        return MemberScores(
            fitness=np.concatenate([result.fitness for result in results]),
            buffers=normalizer.merge(state.buffers, moments),
            steps=sum(result.steps for result in results),
            # Shares of the workers' time: busy with a job, and in steps of the environments.
            metrics=_metrics(results)
            | measured
            | difficulty.metric(state.extra)
            | {
                "time/utilisation": (self._workers.busy - busy) / available if self._workers.count else 1.0,
                "time/simulating": sum(result.simulating for result in results) / available,
            },
            extra=difficulty.after(self._spec.curriculum, state.extra, measured),
        )

    def _cut(self, chunks: list[range]) -> list[range]:
        """Cut the members into jobs for the workers, unless results depend on how they are cut."""
        if not self.divisible:
            return chunks
        return divide(range(chunks[0].start, chunks[-1].stop), self._workers.count, self._params.chunk)

    def _roll_members(self, generation: Generation, parts: list[range], failures: _Failures) -> list[ChunkResult]:
        """Return the results of these members.

        A job that could not be done is cut into pairs, so that no pair fails because of another.
        """
        jobs = [Chunk("members", members.start, len(members)) for members in parts]

        def to_cut(outcome: Any, job: Chunk) -> bool:
            return self._in_pairs and isinstance(outcome, JobFailure) and job.count > 2

        def on_result(index: int, outcome: Any) -> None:
            if not to_cut(outcome, job := jobs[index]):
                failures.count(result_of(outcome, job, self._spec), job)

        results: list[ChunkResult] = []
        for job, outcome in zip(jobs, self._roll(generation, jobs, on_result), strict=True):
            if to_cut(outcome, job):
                pairs = [range(first, first + 2) for first in job.items[::2]]
                results += self._roll_members(generation, pairs, failures)
            else:
                results.append(result_of(outcome, job, self._spec))
        return results

    def evaluate(self, state: ESState) -> dict[str, Any]:
        """Return `eval/*` of the unperturbed policy on fresh seeds. Failed episodes are counted and left out."""
        episodes = self._config.eval.episodes
        size = min(self._params.chunk * self._config.es.episodes, -(-episodes // EVALUATION_CHUNKS))
        jobs = [Chunk("evaluation", i, min(size, episodes - i)) for i in range(0, episodes, size)]
        generation = Generation(state.generation, es.arrays(state), es.perturbation(self._params, state.generation))
        outcomes = self._roll(generation, jobs, lambda index, outcome: None)
        results = [result_of(outcome, job, self._spec) for outcome, job in zip(outcomes, jobs, strict=True)]
        returns = np.concatenate([result.returns for result in results])
        lengths = np.concatenate([result.lengths for result in results])
        sound = np.isfinite(returns)
        return {
            "eval/return_mean": _statistic(np.mean, returns[sound]),
            "eval/return_std": _statistic(np.std, returns[sound]),
            "eval/length_mean": _statistic(np.mean, lengths[sound]),
            "eval/failed": int((~sound).sum()),
        } | _measures(results, self._spec, 1, prefix="eval/")

    def _roll(
        self, generation: Generation, jobs: list[Chunk], on_result: Callable[[int, Any], None]
    ) -> Sequence[ChunkResult | JobFailure]:
        if self._central is not None:
            return self._central.roll(generation, jobs, on_result)
        return self._workers.map(self._rollout, generation, jobs, on_result=on_result)


@dataclass
class _Failures:
    """Counts the failed members of a generation. Ends a run that cannot succeed."""

    config: Config
    generation: int
    population: int
    failed: int = 0
    unrun: int = 0  # of the first few members, those that could not be run at all

    def count(self, result: ChunkResult, chunk: Chunk) -> None:
        """Count those of a chunk. Raise if too many failed, or if the very first members could not be run at all.

        Results come in any order, but whether this raises does not depend on it.
        """
        share, few = self.config.es.max_failed, min(SEVERAL, self.population)
        self.failed += int((~np.isfinite(result.fitness)).sum())
        if self.generation == 1 and result.errors and not result.steps:
            self.unrun += len(range(chunk.first, min(few, chunk.first + chunk.count)))
        if self.failed <= share * self.population and self.unrun < few:
            return
        reason = result.errors[0] if result.errors else result.unsound or "a number that is not finite"
        text = f"{self.failed} of {self.population} members failed in generation {self.generation}: "
        text += f"{reason.rstrip('.')}."
        if self.failed > share * self.population:
            text += f" es.max_failed={share:g} allows {int(share * self.population)}."
        raise EnvError(f"env={self.config.env}: {text}") if result.errors else TrainingError(text)


def probe(workers: Pool, config: Config) -> EnvSpec:
    """Make the environment once, in a worker, since it may hang or crash. Raises `EnvError`.

    Workers do not draw, unless the environment turns out to need it.
    """
    (outcome,) = workers.map(_probe, None, [config])
    if isinstance(outcome, JobFailure) and lacks_renderer(outcome.message) and choose_renderer():
        workers.restart()
        (outcome,) = workers.map(_probe, None, [config])
    if isinstance(outcome, JobFailure):
        hint = display_hint(outcome.message)
        known = outcome.message.startswith(("env=", "backend=", "pixels."))
        raise EnvError((outcome.message if known else f"env={config.env}: {outcome.message}.") + hint)
    assert isinstance(outcome, EnvSpec)
    return outcome


def _probe(context: None, config: Config, beat: Callable[[int], None]) -> EnvSpec:
    return probed(config)


def probed(config: Config) -> EnvSpec:
    """Make the environment once, here. Raises `EnvError`."""
    seed = integer_seed(config.seed, "probe")
    return envs.probe(config.env, config.env_kwargs, seed, config.backend, config.view)


def _metrics(results: Sequence[ChunkResult]) -> dict[str, Any]:
    """Return statistics of the members that did not fail."""
    fitness = np.concatenate([result.fitness for result in results])
    sound = np.isfinite(fitness)
    returns = np.concatenate([result.returns for result in results])[sound]
    lengths = np.concatenate([result.lengths for result in results])[sound]
    return es.fitness_metrics(fitness) | {
        "return/mean": _statistic(np.mean, returns),
        "length/mean": _statistic(np.mean, lengths),
        "members": len(sound),
    }


def _measures(results: Sequence[ChunkResult], spec: EnvSpec, episodes: int, prefix: str = "") -> dict[str, Any]:
    """Return what the environment measured in all that did not fail; `episodes` of each."""
    lengths = np.concatenate([result.lengths for result in results])
    sound = np.isfinite(np.concatenate([result.returns for result in results]))
    sums = np.concatenate([result.measured for result in results])[sound]
    steps = float(lengths[sound].sum() * episodes)
    return statistics(spec.measures, sums, steps=steps, episodes=len(sums) * episodes, prefix=prefix)


def _statistic(function: Callable[[Any], Any], values: NDArray[np.float64]) -> float | None:
    """Return the statistic as a float, or None if there are no values."""
    return float(function(values)) if values.size else None

"""Evaluate members and theta on text, or train by backpropagation for comparison.

Shapes: B sequences of a generation, n members.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from es_rl import es, rewards
from es_rl.errors import ConfigError, EsRlError, TrainingError
from es_rl.es import optim
from es_rl.es.strategy import ESParams, ESState, Generation, MemberScores
from es_rl.population.forward import perturb
from es_rl.rng import integer_seed, stream
from es_rl.run.task import StepResult
from es_rl.text.config import TextConfig
from es_rl.text.corpus import Bytes, Corpus, baselines, read, sequences
from es_rl.text.gpt import Gpt, bits, generate
from es_rl.workers.interface import Pool
from es_rl.workers.machine import available_processors
from es_rl.workers.worker import JobFailure

EVALUATION_ROWS = 16  # sequences in one evaluation job
PROMPT = b"\n"  # samples are generated after this


@dataclass(frozen=True)
class Job:
    """Work for one worker: members, or sequences of an evaluation."""

    kind: str  # "members" or "evaluation"
    items: range  # members, or indices of evaluation sequences


class TextScorer:
    """Scores members on a generation's sequences, and theta on held-out sequences, in one process."""

    def __init__(self, config: TextConfig) -> None:
        self._config = config
        self._corpus: Corpus | None = None
        self._model: nn.Module | None = None
        self._shared: Generation | None = None

    def __call__(self, shared: Generation, job: Job, beat: Callable[[int], None]) -> NDArray[np.float64]:
        if self._corpus is None or self._model is None:
            self._corpus = read(self._config.corpus, self._config.ctx)
            self._model = Gpt(**asdict(self._config.gpt), ctx=self._config.ctx).requires_grad_(False).eval()
        if shared is not self._shared:
            self._model.load_state_dict({name: torch.from_numpy(value) for name, value in shared.model.items()})
            self._shared = shared
        score = self._reward if self._config.reward else self._loss
        if job.kind == "evaluation":
            starts = evaluation_starts(self._config, self._corpus)[job.items.start : job.items.stop]
            return score(self._corpus.held_out, starts, 1, beat)
        starts = training_starts(self._config, self._corpus, shared.number)
        with perturb(self._model, job.items, shared.perturbation):
            scores = score(self._corpus.train, starts, len(job.items), beat)
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # all scores of a member may be NaN
            of_each: NDArray[np.float64] = np.nanmean(scores.reshape(len(job.items), -1), axis=1)
        return of_each

    def _loss(self, text: Bytes, starts: NDArray[np.int64], n: int, beat: Callable[[int], None]) -> NDArray[np.float64]:
        """Return minus the bits per byte of each sequence for each of n members, (n·B,)."""
        assert self._model is not None
        x, y = (torch.from_numpy(part).repeat(n, 1) for part in sequences(text, starts, self._config.ctx))
        with torch.inference_mode():
            losses = bits(self._model(x), y)
        beat(x.numel())
        scores: NDArray[np.float64] = -losses.double().numpy()
        return scores

    def _reward(
        self, text: Bytes, starts: NDArray[np.int64], n: int, beat: Callable[[int], None]
    ) -> NDArray[np.float64]:
        """Return the reward of the text that each member generates greedily after half of each sequence, (n·B,)."""
        assert self._model is not None
        ctx = self._config.ctx
        prompts = torch.from_numpy(sequences(text, starts, ctx)[0][:, : ctx // 2]).repeat(n, 1)
        written = generate(self._model, prompts, ctx - ctx // 2, ctx=ctx, generator=None)
        beat(len(prompts) * ctx)
        said, asked = ([_decoded(row) for row in rows] for rows in (written, prompts))
        reward = rewards.load(self._config.reward)
        try:
            return rewards.score(reward, asked, said, {})
        except EsRlError:
            raise
        except Exception:
            scores, errors = rewards.one_by_one(
                lambda i: float(rewards.score(reward, asked[i : i + 1], said[i : i + 1], {})[0]), len(said), beat
            )
            if len(errors) == len(said):
                raise
            return scores


class TextTask:
    """Evaluates a run's members and theta on a text."""

    def __init__(self, config: TextConfig, corpus: Corpus, workers: Pool) -> None:
        self._config, self._workers = config, workers
        self._params = ESParams.of(config)
        self._judge = TextScorer(config)
        places = evaluation_starts(config, corpus)
        self.rows = len(places)  # sequences in an evaluation
        self.known = baselines(corpus.train, *sequences(corpus.held_out, places, config.ctx))

    def members(self, state: ESState) -> MemberScores:
        """Return the fitness of all members of the next generation. Raises `TrainingError` if too many failed."""
        p, chunks = es.ask(self._params, state)
        shared = Generation(state.generation, es.arrays(state), p)
        outcomes = self._workers.map(self._judge, shared, [Job("members", members) for members in chunks])
        fitness = np.concatenate(
            [np.full(len(c), np.nan) if isinstance(o, JobFailure) else o for c, o in zip(chunks, outcomes, strict=True)]
        )
        reasons = [o.message for o in outcomes if isinstance(o, JobFailure)]
        es.check_failures(fitness, reasons, max_failed=self._config.es.max_failed, generation=state.generation + 1)
        tokens = len(fitness) * self._config.batch * self._config.ctx
        return MemberScores(fitness, dict(state.buffers), tokens, es.fitness_metrics(fitness))

    def evaluate(self, state: ESState) -> dict[str, Any]:
        """Return the metrics of theta on the held-out part: the reward, or bits per byte and baselines; and a sample.

        Raises `TrainingError`.
        """
        shared = Generation(state.generation, es.arrays(state), es.perturbation(self._params, state.generation))
        rows = range(self.rows)
        jobs = [Job("evaluation", rows[i : i + EVALUATION_ROWS]) for i in range(0, len(rows), EVALUATION_ROWS)]
        outcomes = self._workers.map(self._judge, shared, jobs)
        failures = [o.message for o in outcomes if isinstance(o, JobFailure)]
        if failures and (len(failures) == len(jobs) or not self._config.reward):
            raise TrainingError(f"theta could not be evaluated: {failures[0]}.")
        scores = np.concatenate(
            [
                np.full(len(j.items), np.nan) if isinstance(o, JobFailure) else o
                for j, o in zip(jobs, outcomes, strict=True)
            ]
        )
        if self._config.reward:
            sound = scores[np.isfinite(scores)]
            means = {
                "eval/reward_mean": float(sound.mean()) if len(sound) else None,
                "eval/reward_std": float(sound.std()) if len(sound) else None,
            }
        else:
            mean = -float(scores.mean())
            means = {"eval/bits_per_byte": mean if math.isfinite(mean) else None, **self.known}
        return means | ({"eval/sample": self.sample(state)} if self._config.eval.sample else {})

    def sample(self, state: ESState) -> str:
        """Return text that theta generates after a new line, drawn with the run's seed."""
        model = Gpt(**asdict(self._config.gpt), ctx=self._config.ctx).requires_grad_(False).eval()
        model.load_state_dict({**state.theta, **state.buffers})
        generator = torch.Generator().manual_seed(integer_seed(self._config.seed, "sample", state.generation))
        prompt = torch.tensor([list(PROMPT)])
        row = generate(model, prompt, self._config.eval.sample, ctx=self._config.ctx, generator=generator)[0]
        return _decoded(row)


class Backpropagation:
    """Takes one AdamW step instead of a generation, on all processors: the baseline for evolution strategies."""

    def __init__(self, config: TextConfig, corpus: Corpus, model: nn.Module) -> None:
        if config.reward:
            raise ConfigError(
                f"baseline={config.baseline}: a reward has no gradient. Leave reward={config.reward} out."
            )
        self._config, self._corpus, self._model = config, corpus, model
        torch.set_num_threads(available_processors())

    def __call__(self, state: ESState) -> StepResult:
        config = self._config
        starts = training_starts(config, self._corpus, state.generation)
        x, y = (torch.from_numpy(part) for part in sequences(self._corpus.train, starts, config.ctx))
        self._model.load_state_dict({**state.theta, **state.buffers})
        parameters = dict(self._model.requires_grad_(True).named_parameters())
        losses = bits(self._model(x), y)
        gradients = torch.autograd.grad(losses.mean(), list(parameters.values()))
        self._model.requires_grad_(False)
        update = {name: -gradient for name, gradient in zip(parameters, gradients, strict=True)}
        lr = config.optim.lr * config.optim.lr_decay**state.generation
        theta, moments = optim.step(state.theta, update, state.optim, config=config.optim, lr=lr)
        if not all(value.isfinite().all() for value in theta.values()):
            raise TrainingError(f"backpropagation diverged at step {state.generation + 1}: lower optim.lr={lr:g}.")
        fitness = -losses.detach().double().numpy()
        record = es.fitness_metrics(fitness) | {"members/failed": 0}
        after = ESState(state.generation + 1, theta, state.buffers, moments)
        return StepResult(after, x.numel(), record, fitness, flat=False)


def training_starts(config: TextConfig, corpus: Corpus, generation: int) -> NDArray[np.int64]:
    """Return the positions where the sequences of a generation begin."""
    rng = stream(config.seed, "batch", generation)
    return rng.integers(len(corpus.train) - config.ctx, size=config.batch)


def evaluation_starts(config: TextConfig, corpus: Corpus) -> NDArray[np.int64]:
    """Return where the sequences of an evaluation begin: side by side, or spread evenly over the held-out part."""
    room = len(corpus.held_out) - 1
    rows = max(1, min(room, config.eval.bytes) // config.ctx)
    return np.linspace(0, room - config.ctx, rows).astype(np.int64)


def _decoded(row: torch.Tensor) -> str:
    return bytes(row.tolist()).decode(errors="replace")

"""Fine-tune a language model: completions of members (`completer`) → rewards (`reward_worker`) → the next theta.

Shapes: M members, B prompts of a generation.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl import es, rewards
from es_rl.errors import ConfigError, EnvError, TornError, TrainingError, nearest
from es_rl.es.shaping import utilities
from es_rl.es.strategy import ESParams, ESState, MemberScores
from es_rl.llm import prompts as dataset
from es_rl.llm.completer import Completer, Copied, Job, Round, start_weights
from es_rl.llm.in_place import Direction, Theta, ascend
from es_rl.llm.model import Completion
from es_rl.llm.prompts import Dataset, Row
from es_rl.llm.reward_worker import RewardWorker
from es_rl.noise import Perturbation
from es_rl.rng import stream
from es_rl.run.atomic import write_json
from es_rl.run.json_lines import JsonLines, keep_until
from es_rl.run.log import plain
from es_rl.run.task import StepResult
from es_rl.workers.interface import Pool
from es_rl.workers.pool import STARTUP_SECONDS
from es_rl.workers.shared_memory import Memory
from es_rl.workers.worker import JobFailure

EVALUATION_ROWS = 16  # prompts in one evaluation job
COLLAPSED = 3  # generations in a row with most members at the lowest reward, after as many without
SHOWN = 3  # completions per evaluation that TensorBoard shows


class CollapseDetector:
    """Tells when members that had learnt something have fallen to the lowest fitness.

    It knows only the generations since the program was started or resumed. It does not change what is learnt.
    """

    def __init__(self) -> None:
        self.floor = np.inf  # the lowest fitness ever seen
        self._above = self._low = 0  # generations in a row with the median above the floor, and at the floor

    def fell(self, fitness: NDArray[np.float64]) -> bool:
        """Tell whether most members had the lowest fitness for `COLLAPSED` generations, after as many without."""
        sound = fitness[np.isfinite(fitness)]
        self.floor = min(self.floor, float(sound.min()))
        if np.median(sound) > self.floor:
            self._above, self._low = self._above + 1, 0
        else:
            self._low += 1
            self._above = self._above if self._above >= COLLAPSED else 0
        return self._low >= COLLAPSED and self._above >= COLLAPSED


def _check_modules(modules: list[str], theta: Theta) -> None:
    """Raise `ConfigError` for a name that is not part of any parameter's name."""
    known = {part for name in theta for part in name.split(".")}
    for name in modules:
        if name not in known:
            raise ConfigError(
                f"modules={name}: the model has no module of this name with parameters.{nearest(name, known)}"
            )


class LlmTask:
    """Evaluates a run's members and theta by a reward, and updates theta."""

    def __init__(
        self,
        config: Any,
        run: Path,
        data: Dataset,
        theta: Theta,
        memory: Memory,
        rows: int,
        workers: Pool,
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        self._samples: JsonLines | None = None  # from the first evaluation on
        self._config, self._run, self._data, self._theta, self._memory = config, run, data, theta, memory
        self._workers, self._critics = workers, workers.sibling(1, hang_after=STARTUP_SECONDS)
        self._critic = RewardWorker(config.reward)
        self._open_critic()
        _check_modules(config.modules, theta)
        frozen = frozenset(
            name for name in theta if config.modules and not any(part in name.split(".") for part in config.modules)
        )
        self._params = replace(ESParams.of(config), frozen=frozen)
        self._speaker = Completer(
            run / "start", dtype=config.dtype, device=config.device, most=config.max_new_tokens, rows=rows,
            mirrored=config.mirrored, kl=config.eval.kl,
        )  # fmt: skip
        self._guard = CollapseDetector()
        self._start = start_weights(run / "start", theta) if config.optim.anchor else None

    def _open_critic(self) -> None:
        """Import the reward, which may take longer than judging later. Raises `EnvError`."""
        (outcome,) = self._critics.map(self._critic, [], [[]])
        if isinstance(outcome, JobFailure):
            raise EnvError(outcome.message)
        self._critics.hang_after = self._config.reward_seconds

    def perturbation(self, generation: int) -> Perturbation:
        """Return the noise of a generation."""
        return es.perturbation(self._params, generation)

    def hold(self, state: ESState) -> ESState:
        """Copy theta into the shared memory, and return the state with theta there."""
        for name, value in state.theta.items():
            if value.data_ptr() != self._theta[name].data_ptr():
                self._theta[name].copy_(value)
        return replace(state, theta=dict(self._theta))

    def _held(self) -> Memory | Copied:
        """Return what gives theta to workers: the shared memory, or theta itself for those on other machines."""
        if self._workers.shares_memory:
            return self._memory
        return Copied({name: value.numpy() for name, value in self._theta.items()})

    def step(self, state: ESState) -> StepResult:
        """Run one generation. Update theta in place, after everything else that may fail."""
        state, begun = self.hold(state), time.monotonic()
        seen = self.members(state)
        if self._guard.fell(seen.fitness):
            raise TrainingError(
                f"collapsed: in {COLLAPSED} generations most members got the lowest reward ever seen, "
                f"{self._guard.floor:g}. Start again with a lower es.sigma={self._config.es.sigma:g} or optim.lr; "
                f"export=RUN checkpoint=best out=DIRECTORY gives a model to start from."
            )
        evaluated = time.monotonic()
        p = self.perturbation(state.generation)
        weights, flat = self._weights(seen.fitness, p)
        optim = self._config.optim
        norm = 0.0
        if not flat:
            lr = (p.sigma**2 / 2 if optim.lr is None else optim.lr) * optim.lr_decay**state.generation
            try:
                norm = ascend(self._theta, weights, p, lr=lr, anchor=optim.anchor, start=self._start)
            except BaseException as error:
                raise TornError(
                    f"the update of generation {state.generation + 1} broke off ({type(error).__name__}: {error}); "
                    f"resume={self._run} goes on from the last checkpoint."
                ) from error
            if not math.isfinite(norm):
                raise TornError(
                    f"theta is infinite after generation {state.generation + 1}: lr={lr:g} is too much. "
                    f"Start again with a lower optim.lr; export={self._run} out=DIRECTORY gives the last checkpoint's."
                )
        record = seen.metrics | {
            "update/norm": norm,
            "members/failed": int((~np.isfinite(seen.fitness)).sum()),
            "time/members": evaluated - begun,
            "time/update": time.monotonic() - evaluated,
        }
        after = ESState(state.generation + 1, dict(self._theta), state.buffers, {})
        return StepResult(after, seen.steps, record, seen.fitness, flat)

    def _weights(self, fitness: NDArray[np.float64], p: Perturbation) -> tuple[list[Direction], bool]:
        """Return the directions with their weights in the update, and whether there are none."""
        es_config = self._config.es
        pairs = len(fitness) // 2
        used, kept = utilities(fitness, shaping=es_config.shaping, top=es_config.top or pairs)
        if self._config.mirrored:
            each = [(int(i), used[2 * i] - used[2 * i + 1], 2 * len(kept)) for i in kept]
        else:
            each = [(i, u, len(fitness)) for i, u in enumerate(used)]
        moving = [Direction(i, float(u) / (n * p.sigma)) for i, u, n in each if u != 0.0]
        return moving, not moving

    def members(self, state: ESState) -> MemberScores:
        """Evaluate the next generation. Fitness (M,) is the mean reward. Raises `TrainingError`, `EnvError`."""
        p, chunks = es.ask(self._params, state)
        rows = self._batch(state.generation)
        shared = Round(state.generation, self._held(), p, [row["prompt"] for row in rows])
        spoken = self._workers.map(self._speaker, shared, [Job("members", chunk) for chunk in chunks])
        for outcome in spoken:
            if isinstance(outcome, JobFailure):
                raise TrainingError(f"members could not be computed: {outcome.message}.")
        said: list[list[Completion]] = [own for outcome in spoken for own in outcome]
        scores = self._judge(rows, said, state.generation + 1)
        counted = np.isfinite(scores)
        sums = np.where(counted, scores, 0.0).sum(axis=1)
        fitness = np.where(counted.any(axis=1), sums / np.maximum(1, counted.sum(axis=1)), np.nan)
        lengths = [len(completion.tokens) for own in said for completion in own]
        metrics = es.fitness_metrics(fitness) | {"length/mean": float(np.mean(lengths))}
        return MemberScores(fitness, {}, sum(lengths), metrics)

    def _batch(self, generation: int) -> list[Row]:
        """Return the prompts of a generation, the same for all members."""
        train = self._data.train
        size = min(self._config.batch, len(train))
        chosen = stream(self._config.seed, "batch", generation).choice(len(train), size=size, replace=False)
        return [train[int(i)] for i in chosen]

    def _judge(self, rows: list[Row], said: list[list[Completion]], generation: int) -> NDArray[np.float64]:
        """Return the reward of each completion, (members, prompts); NaN where there is none.

        Raises `EnvError` if the reward fails for all of them, or for a share above `es.max_failed`.
        """
        nothing = np.full(len(rows), np.nan)
        most, failed = self._config.es.max_failed * len(said) * len(rows), 0

        def count(_: int, outcome: Any) -> None:
            nonlocal failed
            failed += int((~np.isfinite(nothing if isinstance(outcome, JobFailure) else outcome)).sum())
            if failed > most or failed == len(said) * len(rows):
                why = outcome.message if isinstance(outcome, JobFailure) else "it is None, NaN or infinite"
                raise EnvError(
                    f"reward={self._config.reward}: {failed} of {len(said) * len(rows)} completions of generation "
                    f"{generation} could not be judged: {why}. es.max_failed={self._config.es.max_failed:g}."
                )

        jobs = [[completion.text for completion in own] for own in said]
        outcomes = self._critics.map(self._critic, rows, jobs, on_result=count)
        return np.stack([nothing if isinstance(outcome, JobFailure) else outcome for outcome in outcomes])

    def evaluate(self, state: ESState) -> dict[str, Any]:
        """Return the metrics of theta, and the reward of the starting model, on held-out prompts."""
        state = self.hold(state)
        rows = self._data.held_out[: self._config.eval.prompts]
        said, distances = self._speak("evaluation", state, rows)
        (scores,) = self._judge(rows, [said], state.generation)
        sound = scores[np.isfinite(scores)]
        tokens = np.array([len(completion.tokens) for completion in said])
        found: dict[str, Any] = {
            "eval/reward_mean": float(sound.mean()),
            "eval/reward_std": float(sound.std()),
            "eval/failed": int(len(scores) - len(sound)),
            "eval/length_mean": float(tokens.mean()),
            "baseline/start": self._baseline(state, rows, None if state.generation else scores),
        }
        if self._config.eval.kl:
            found["kl"] = float((np.array(distances) * tokens).sum() / tokens.sum())
        return found | {"eval/sample": self._sample(state.generation, rows, said, scores)}

    def _baseline(self, state: ESState, rows: list[Row], scores: NDArray[np.float64] | None) -> float:
        """Return the mean reward of the starting model on the same prompts, measured once and saved.

        `scores` are those of theta if it is the starting model still.
        """
        kept, asked = self._run / "start" / "reward.json", dataset.digest(rows)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(kept.read_text(encoding="utf-8"))
            if known["prompts"] == asked:
                return float(known["reward"])
        if scores is None:
            said, _ = self._speak("start", state, rows)
            (scores,) = self._judge(rows, [said], 0)
        reward = float(np.nanmean(scores))
        with contextlib.suppress(OSError):  # then it is measured again after a resume
            write_json(kept, {"prompts": asked, "reward": reward})
        return reward

    def _speak(self, kind: str, state: ESState, rows: list[Row]) -> tuple[list[Completion], list[float]]:
        """Return one model's completions of all prompts, and their distances from the starting model if measured."""
        p = self.perturbation(state.generation)
        shared = Round(state.generation, self._held(), p, [row["prompt"] for row in rows])
        places = range(len(rows))
        jobs = [Job(kind, places[i : i + EVALUATION_ROWS]) for i in range(0, len(rows), EVALUATION_ROWS)]
        outcomes = self._workers.map(self._speaker, shared, jobs)
        for outcome in outcomes:
            if isinstance(outcome, JobFailure):
                raise TrainingError(f"theta could not be evaluated: {outcome.message}.")
        said = [completion for own, _ in outcomes for completion in own]
        return said, [d for _, own in outcomes for d in own or []]

    def _sample(self, generation: int, rows: list[Row], said: list[Completion], scores: NDArray[np.float64]) -> str:
        """Write all completions to samples.jsonl, and return the text of the first `SHOWN`."""
        lines = [
            {"generation": generation, "prompt": row["prompt"], "completion": c.text, "reward": plain(float(score))}
            for row, c, score in zip(rows, said, scores, strict=True)
        ]
        if self._samples is None:
            path = self._run / "samples.jsonl"
            with contextlib.suppress(OSError):
                if path.exists():
                    keep_until(path, generation - 1)  # lines from before an interruption are written again
            self._samples = JsonLines(path, self._say)
        self._samples.append(lines)
        return "\n\n".join(f"{rewards.text(line['prompt'])} → {line['completion']}" for line in lines[:SHOWN])

"""Evaluate theta in a run: after some generations, and before the first one."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from es_rl.errors import TrainingError
from es_rl.es.strategy import ESState
from es_rl.run.checkpoint import Progress
from es_rl.run.checkpointer import Checkpointer
from es_rl.run.log import RunLog
from es_rl.run.overrun import GivenUp, Overrun
from es_rl.run.task import Run, Training
from es_rl.run.terms import RunTerms
from es_rl.workers import machine


class Clock:
    """Seconds of training, from before a resume too, and processor seconds since the last call."""

    def __init__(self, before: float) -> None:
        self._began, self._spent = time.monotonic() - before, machine.family_seconds()

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def processor_seconds(self) -> float:
        before, self._spent = self._spent, machine.family_seconds()
        return self._spent - before


def evaluate(
    training: Training, log: RunLog, state: ESState, progress: Progress, terms: RunTerms, clock: Clock
) -> tuple[dict[str, Any], Progress, bool]:
    """Evaluate theta. Return the metrics, the progress with the score, and whether it is the best so far."""
    log.screen.evaluating()
    found = training.task.evaluate(state)
    score, updated = found[terms.score], progress.seconds
    best = terms.better(score, progress.best_score)
    best_score = score if best else progress.best_score
    progress = replace(progress, last_score=score, best_score=best_score, seconds=clock.seconds())
    return found | {terms.best: best_score, "time/evaluate": progress.seconds - updated}, progress, best


def untrained(r: Run, state: ESState, progress: Progress) -> bool:
    """Tell whether the first generation is still to come, and theta is to be evaluated before it."""
    return not state.generation and progress.last_score is None and r.config.eval.every > 0


def begin_curves(r: Run, training: Training, log: RunLog, saver: Checkpointer, overrun: Overrun, clock: Clock) -> bool:
    """Evaluate theta before the first generation: the first point of all curves. Return whether a callback ends it."""
    state, before = saver.state, saver.progress
    overrun.begin(before)
    try:
        found, progress, best = evaluate(training, log, state, before, r.terms, clock)
    except GivenUp as rule:
        raise TrainingError(
            f"{rule} was over for long, and the evaluation before the first generation had not ended. Do its episodes "
            f"ever end? Give env_kwargs.max_episode_steps, or eval.every=0."
        ) from None
    overrun.pause()
    record = {"generation": 0, r.terms.steps: progress.steps, **found, "seconds": progress.seconds}
    record["time/processor_seconds"] = clock.processor_seconds()
    log.generation(record, None, {})
    saver.evaluated(progress, best=best)
    return r.on_generation is not None and r.on_generation(state, progress, record)

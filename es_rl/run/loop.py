"""The loop of a run, shared by every kind of training. Start reading at `run`, `_sitting`, `_train`.

A `Training` provides what is specific: its task, its first state, and what its policy is for. This module handles the
directory, checkpoints, log, screen and stop rules, and knows nothing of what is trained.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from es_rl import es
from es_rl.config import check_saved
from es_rl.errors import CheckpointError, Stopped, TornError, TrainingError
from es_rl.es.strategy import ESParams, ESState
from es_rl.run import WORKERS_LOG, directory
from es_rl.run import checkpoint as checkpoints
from es_rl.run.checkpoint import Progress
from es_rl.run.checkpointer import Checkpointer
from es_rl.run.curves.about import About
from es_rl.run.evaluation import Clock, begin_curves, evaluate, untrained
from es_rl.run.log import RunLog
from es_rl.run.overrun import GivenUp, Overrun
from es_rl.run.resume import changes
from es_rl.run.screen import Screen
from es_rl.run.screen.told import ending, settings
from es_rl.run.signals import stop_requests
from es_rl.run.task import Follower, Run, StepResult, Task, Training
from es_rl.run.terms import RunTerms, StopRules
from es_rl.workers.interface import Pool, counted
from es_rl.workers.opening import open_pool

CALLED_OFF = "a callback asked for it"  # why a run ends
FLAT_WARNING = 3  # warn after this many generations in a row without any difference in fitness


def run(r: Run) -> int:
    """Train in a run directory until a stop rule is met. Return the exit code. Raises `Stopped` and other errors."""
    with (
        directory.locked(r.path),
        stop_requests(patient=r.on_generation is not None) as stop,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(directory.discard_unbegun, r.path)
        check_saved(r.config)
        screen = Screen(r.title, r.stop_rules, r.terms, quiet=r.quiet, shift=r.config.es.reward_shift)
        overrun = Overrun(r.stop_rules, r.terms)
        stack.callback(screen.close)
        screen.status("looking for the cluster" if r.config.cluster.address else f"starting {counted(r.workers)}")

        def check() -> None:
            stop()
            overrun.check()

        def on_steps(steps: int) -> None:
            screen.steps(steps)
            overrun.count(steps)

        pool = open_pool(
            r.config.cluster,
            r.workers,
            r.config.workers,
            log=r.path / WORKERS_LOG,
            hang_after=r.config.hang_after,
            check=check,
            on_event=lambda text: screen.say(f"warning: {text}"),
            on_steps=on_steps,
        )
        stack.callback(pool.close)
        _sitting(r, screen, overrun, stop, pool, stack)
    return 0


def _sitting(
    r: Run,
    screen: Screen,
    overrun: Overrun,
    check: Callable[[], None],
    workers: Pool,
    stack: contextlib.ExitStack,
) -> None:
    """Begin or resume a run; train until it finishes or is stopped."""
    training = r.prepare(workers, screen.say)
    state, progress = training.state, Progress()
    es.check(ESParams.of(r.config), state)
    if r.resumed:
        state, progress = _restore(r, training, screen.say)
    before = _met(r.stop_rules, r.terms, state, progress)  # nothing is left to do then
    saver = Checkpointer(r.path, r.config, training.about, screen.say)
    saver.start(state, progress, saved=r.resumed)
    if not r.resumed:
        saver.save(required=True)  # before config.yaml marks the directory as a run that can be resumed
        directory.describe(r.path, r.config, r.command)
        for line in (*r.origins.notes, *settings(r.config, r.origins, without=r.titled)):
            screen.say(line)
        screen.say(f"All settings are in {r.path / 'config.yaml'}")
    else:
        screen.resume(state.generation, progress.steps, progress.seconds)
        directory.save_config(r.path, r.config)  # resumable keys may have changed
    begun = f" from generation {state.generation}" if state.generation else ""
    screen.say(training.heading + begun)
    about = About(r.path, r.config, r.command, r.terms)
    kept = (-1, -1) if untrained(r, state, progress) else (state.generation, progress.steps)
    log = RunLog(about, screen, generation=kept[0], steps=kept[1], resumed=r.resumed)
    stack.callback(log.close)
    saver.before = log.flush
    follower = training.follow(log) if training.follow is not None else None
    if follower is not None:
        saver.milestones = follower.milestones
        stack.callback(follower.close)
    try:
        reason = _train(r, training, log, saver, follower, overrun, workers, check)
    except Stopped as stop:
        saver.save(required=True)
        raise Stopped(
            f"{stop}: generation {saver.state.generation} is saved; go on with resume={r.path}", stop.exit_code
        ) from None
    except TornError:
        raise  # theta is half moved or infinite: keep the last checkpoint
    except BaseException:
        saver.save()  # finished generations must not be lost
        raise
    saver.save(required=True)
    workers.close()
    remedy = f" was reached. {r.stop_rules.remedy(r.terms, reason)}" if r.resumed and reason == before else ""
    screen.over(f"{reason}{remedy}")
    made = follower.finish(saver, check) if follower is not None else {}
    screen.close()
    for line in ending(r, saver.progress, made, reason):
        screen.say(line)


def _train(
    r: Run,
    training: Training,
    log: RunLog,
    saver: Checkpointer,
    follower: Follower | None,
    overrun: Overrun,
    workers: Pool,
    check: Callable[[], None],
) -> str:
    """Train from the checkpointer's state until a stop rule is met. Return that rule.

    A generation counts once it was told, evaluated, logged and handed to the checkpointer. If it is interrupted before
    that, it runs again, with the same bits. If theta moves in place, it counts once theta has moved, even unevaluated.
    """
    rules, terms = r.stop_rules, r.terms
    step = training.step or partial(_generation, ESParams.of(r.config), training.task)
    clock = Clock(saver.progress.seconds)
    if untrained(r, saver.state, saver.progress) and begin_curves(r, training, log, saver, overrun, clock):
        return CALLED_OFF
    while (reason := _met(rules, terms, saver.state, saver.progress)) is None:
        check()
        log.screen.restart("evaluating members")
        overrun.begin(saver.ahead)
        try:
            done, progress, record = _advance(step, saver, terms, clock)
        except GivenUp as rule:
            return _given_up(str(rule), saver.state.generation)
        overrun.end()
        if training.in_place:
            saver.hold(done.state, progress)
        found, progress, best = _evaluated(r, training, log, done, progress, record, clock)
        record |= {
            **found,
            "seconds": progress.seconds,
            "time/processor_seconds": clock.processor_seconds(),
            **workers.figures(),
        }
        log.generation(record, done.fitness, done.state.theta)
        if progress.flat_generations == FLAT_WARNING:
            log.screen.say(
                f"warning: in {FLAT_WARNING} generations all members had the same fitness, so theta did not move. "
                f"Raise es.sigma, or use a reward that differs between members."
            )
        saver.commit(done.state, progress, best=best)
        if follower is not None:
            follower.poll(saver)
        if r.on_generation is not None and r.on_generation(done.state, progress, record):
            return CALLED_OFF
    return reason


def _given_up(rule: str, generation: int) -> str:
    """Return why a run ends before its generation did. Raises `TrainingError` if it is the first one."""
    why = f"{rule} was over for long, and generation {generation + 1} had not ended"
    if not generation:
        raise TrainingError(
            f"{why}. Do its episodes ever end? Give env_kwargs.max_episode_steps or es.limit, or fewer members."
        )
    return f"{why}: it is left out"


def _advance(
    step: Callable[[ESState], StepResult], saver: Checkpointer, terms: RunTerms, clock: Clock
) -> tuple[StepResult, Progress, dict[str, Any]]:
    """Run one generation. Return its result, the new progress, and its record."""
    before, start = saver.ahead, clock.seconds()
    done = step(saver.state)
    progress = replace(
        before,
        steps=before.steps + done.steps,
        seconds=clock.seconds(),
        flat_generations=before.flat_generations + 1 if done.flat else 0,
    )
    record = {
        "generation": done.state.generation,
        terms.steps: progress.steps,
        **done.record,
        f"time/{terms.unit}_per_second": done.steps / (progress.seconds - start),
    }
    return done, progress, record


def _evaluated(
    r: Run,
    training: Training,
    log: RunLog,
    done: StepResult,
    progress: Progress,
    record: dict[str, Any],
    clock: Clock,
) -> tuple[dict[str, Any], Progress, bool]:
    """Evaluate theta if that is due. Return what `evaluate` returns, or no metrics."""
    every, rules = r.config.eval.every, r.stop_rules
    due = every > 0 and done.state.generation % every == 0
    if not due and _met(rules, r.terms, done.state, progress) is None:
        return {}, progress, False
    try:
        return evaluate(training, log, done.state, progress, r.terms, clock)
    except BaseException:
        if training.in_place:  # theta has moved, so the generation counts
            log.generation(record | {"seconds": progress.seconds}, done.fitness, {})
        raise


def _met(rules: StopRules, terms: RunTerms, state: ESState, progress: Progress) -> str | None:
    """Return the stop rule that is met, or None. No time is over before the first generation."""
    return rules.met(
        terms,
        generation=state.generation,
        steps=progress.steps,
        seconds=progress.seconds if state.generation else 0.0,
        last_score=progress.last_score,
    )


def _generation(params: ESParams, task: Task, state: ESState) -> StepResult:
    """Evaluate the members of one generation and update theta."""
    start = time.monotonic()
    seen = task.members(state)
    evaluated = time.monotonic()
    after, told = es.tell(params, state, seen.fitness, seen.buffers)
    times = {"time/rollout": evaluated - start, "time/update": time.monotonic() - evaluated}
    record = seen.metrics | told.metrics() | times
    return StepResult(replace(after, extra=seen.extra), seen.steps, record, seen.fitness, told.flat)


def _restore(r: Run, training: Training, say: Callable[[str], None]) -> tuple[ESState, Progress]:
    """Return state and progress of the newest sound checkpoint.

    Raises `CheckpointError` if there is none, or if it was trained for something else.
    """
    loaded = checkpoints.load_newest(r.path, lambda text: say(f"warning: {text}"))
    if loaded.about != training.about:
        differing = sorted(k for k in {*loaded.about, *training.about} if loaded.about.get(k) != training.about.get(k))
        raise CheckpointError(f"{loaded.path}: was trained for something else. These differ: {', '.join(differing)}.")
    for text in changes(loaded.keys(type(r.config)), r.config):
        say(text)
    for change in directory.changed_versions(r.path):
        say(f"warning: {change}; results may differ from those of an uninterrupted run")
    state = loaded.state(training.state, None if training.in_place else r.config.optim)
    with directory.reporting(r.path):
        checkpoints.adopt(loaded)
    return state, loaded.progress

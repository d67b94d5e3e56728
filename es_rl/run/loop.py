"""A run, from its directory to its end: what training of every kind shares. Read `run`, `_sitting`, `_train`.

A kind of training is a `Training`: who evaluates members, the first state, and what it is for. It knows nothing of
directories, checkpoints, screens and stops; nothing here knows what is trained.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from es_rl import es
from es_rl.config import to_yaml
from es_rl.errors import CheckpointError, Stopped, TornError
from es_rl.es.strategy import ESParams, ESState
from es_rl.run import checkpoint as checkpoints
from es_rl.run import directory as rundir
from es_rl.run.checkpoint import Checkpointer, Progress
from es_rl.run.log import RunLog
from es_rl.run.screen import Screen, number
from es_rl.run.signals import stop_requests
from es_rl.run.task import Follower, Run, StepResult, Task, Training
from es_rl.run.terms import RunTerms
from es_rl.workers import machine
from es_rl.workers.pool import Workers

FLAT_WARNING = 3  # generations in a row without any difference in fitness


def run(r: Run) -> int:
    """Train in a run directory until a stop rule is met; returns the exit code. Raises `Stopped` and other errors."""
    with rundir.locked(r.path), stop_requests() as check, contextlib.ExitStack() as stack:
        stack.callback(rundir.discard_unbegun, r.path)
        screen = Screen(r.title, r.limits, r.terms)
        stack.callback(screen.close)
        screen.status(f"starting {r.workers} workers")
        pool = Workers(
            r.workers,
            log=r.path / "workers.log",
            hang_after=r.config.hang_after,
            check=check,
            on_event=lambda text: screen.say(f"warning: {text}"),
            on_steps=screen.steps,
        )
        stack.enter_context(pool)
        _sitting(r, screen, check, pool, stack)
    return 0


def _sitting(r: Run, screen: Screen, check: Callable[[], None], workers: Workers, stack: contextlib.ExitStack) -> None:
    """From a run's directory to its end, or to the next stop."""
    prepared = r.prepare(workers, screen.say)
    state, progress = prepared.state, Progress()
    es.check(ESParams.of(r.config), state)
    if r.resumed:
        state, progress = _restore(r.path, prepared, screen.say)
    saver = Checkpointer(r.path, r.config.checkpoint, prepared.about, screen.say)
    saver.start(state, progress, saved=r.resumed)
    text = to_yaml(r.config)
    if not r.resumed:
        saver.save(required=True)  # before the directory says that it is a run: from then on it can be resumed
        rundir.describe(r.path, r.config, r.verb, r.argv)
        screen.say(text)
    else:
        rundir.save_config(r.path, r.config)  # with its newest stop rules
    begun = f" from generation {state.generation}" if state.generation else ""
    screen.say(prepared.heading + begun)
    log = RunLog(r.path, screen, text, r.terms, generation=state.generation, steps=progress.steps, resumed=r.resumed)
    stack.callback(log.close)
    saver.before = log.flush
    follower = prepared.follow(log) if prepared.follow is not None else None
    if follower is not None:
        stack.callback(follower.close)
    try:
        reason = _train(r, prepared, log, saver, follower, check)
    except Stopped as stop:
        saver.save(required=True)
        raise Stopped(
            f"{stop}: generation {saver.state.generation} is saved; go on with resume={r.path}", stop.exit_code
        ) from None
    except TornError:
        raise  # theta is neither here nor there: the last checkpoint stands
    except BaseException:
        saver.save()  # whatever happened, nothing that was finished is lost
        raise
    saver.save(required=True)
    workers.close()
    best = saver.progress.best_score
    screen.say(f"finished: {reason}." + (f" Best {r.terms.score} {number(best)}." if best is not None else ""))
    if follower is not None:
        screen.status("finishing")
        follower.finish(saver, check)
    screen.say(f"The run is in {r.path}")


def _train(
    r: Run, prepared: Training, log: RunLog, saver: Checkpointer, follower: Follower | None, check: Callable[[], None]
) -> str:
    """The loop; returns the stop rule that ended it.

    A generation counts once it was told, evaluated, logged and handed to the saver; one that is interrupted before is
    run again, to the same bits. Where theta is moved in place it counts once it is moved, if need be unevaluated.
    """
    config, terms, state, progress = r.limits, r.terms, saver.state, saver.progress
    step = prepared.step or partial(_generation, ESParams.of(config), prepared.task)
    began, spent = time.monotonic() - progress.seconds, machine.family_seconds()
    while (reason := _stop_reason(config, terms, state.generation, progress)) is None:
        check()
        log.screen.restart("evaluating members")
        start = time.monotonic()
        done = step(state)
        state, updated = done.state, time.monotonic()
        progress = replace(
            progress,
            steps=progress.steps + done.steps,
            seconds=updated - began,
            flat_generations=progress.flat_generations + 1 if done.flat else 0,
        )
        record: dict[str, Any] = {
            "generation": state.generation,
            terms.steps: progress.steps,
            **done.record,
            f"time/{terms.unit}_per_second": done.steps / (updated - start),
        }

        if prepared.in_place:
            saver.hold(state, progress)
        before, best = progress.best_score, False
        due = config.eval.every > 0 and state.generation % config.eval.every == 0
        if due or _stop_reason(config, terms, state.generation, progress) is not None:
            log.screen.status("evaluating")
            try:
                record |= prepared.task.evaluate(state)
            except BaseException:
                if prepared.in_place:
                    log.generation(record | {"seconds": progress.seconds}, done.fitness, {})
                raise
            score = record[terms.score]
            best = terms.better(score, before)
            progress = replace(
                progress,
                last_score=score,
                best_score=score if best else progress.best_score,
                seconds=time.monotonic() - began,
            )
            record |= {terms.best: progress.best_score, "time/evaluate": time.monotonic() - updated}

        now = machine.family_seconds()
        record |= {"seconds": progress.seconds, "time/processor_seconds": now - spent}
        log.generation(record, done.fitness, state.theta)
        spent = now
        if progress.flat_generations == FLAT_WARNING:
            log.screen.say(
                f"warning: in {FLAT_WARNING} generations all members were equally fit, so nothing is learnt. "
                f"Raise es.sigma, or use a reward that tells members apart."
            )
        if saver.commit(state, progress, best=best):
            progress = replace(progress, best_score=before)  # so that the next good one is kept
        if follower is not None:
            follower.poll(saver)
    return reason


def _generation(params: ESParams, task: Task, state: ESState) -> StepResult:
    """Members, their fitness, the update."""
    start = time.monotonic()
    seen = task.members(state)
    evaluated = time.monotonic()
    after, told = es.tell(params, state, seen.fitness, seen.buffers)
    times = {"time/rollout": evaluated - start, "time/update": time.monotonic() - evaluated}
    record = seen.metrics | told.metrics() | times
    return StepResult(after, seen.steps, record, seen.fitness, told.flat)


def _stop_reason(config: Any, terms: RunTerms, generation: int, progress: Progress) -> str | None:
    """The stop rule that is met, if any."""
    if config.generations is not None and generation >= config.generations:
        return f"generations={config.generations}"
    most = getattr(config, terms.steps)
    if most is not None and progress.steps >= most:
        return f"{terms.steps}={most}"
    if config.minutes is not None and progress.seconds >= 60 * config.minutes:
        return f"minutes={config.minutes:g}"
    target = getattr(config, terms.target)
    if target is not None and terms.reached(progress.last_score, target):
        return f"{terms.target}={target:g}"
    return None


def _restore(path: Path, prepared: Training, say: Callable[[str], None]) -> tuple[ESState, Progress]:
    """The newest sound checkpoint. Raises `CheckpointError` if there is none, or it is for something else."""
    loaded = checkpoints.load_newest(path, lambda text: say(f"warning: {text}"))
    if loaded.about != prepared.about:
        differing = sorted(k for k in {*loaded.about, *prepared.about} if loaded.about.get(k) != prepared.about.get(k))
        raise CheckpointError(f"{loaded.path}: was trained for something else; differing: {', '.join(differing)}.")
    for change in rundir.changed_versions(path):
        say(f"warning: {change}; results may differ from those of an uninterrupted run")
    return loaded.state(prepared.state), loaded.progress

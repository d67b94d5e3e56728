"""Train a policy by evolution strategies.

    python -m es_rl.train env=HalfCheetah-v4 minutes=4
    python -m es_rl.train resume=runs/HalfCheetah-v4/… minutes=8

The composition root: the only place that wires the rooms together. Read `main`, `_sitting`, `_train`, in this order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from es_rl import checkpoint as checkpoints
from es_rl import cli, envs, es, evaluator, rundir
from es_rl.central import PROCESSES, choose_device
from es_rl.checkpoint import Progress, Saver
from es_rl.config import Config, help_text, pairs, parse_resume, parse_train, to_yaml
from es_rl.envs import BACKENDS, EnvSpec
from es_rl.errors import CheckpointError, Stopped, lookup
from es_rl.es import ESParams, ESState
from es_rl.evaluator import Evaluator
from es_rl.noise import KINDS
from es_rl.optim import OPTIMIZERS
from es_rl.policies import POLICIES
from es_rl.processes import available_processors, use_one_thread
from es_rl.record import Films
from es_rl.rollout import make_policy
from es_rl.runlog import RunLog, Screen
from es_rl.shaping import SHAPINGS
from es_rl.workers import Workers

USAGE = """python -m es_rl.train env=ID [key=value …]           train a policy
python -m es_rl.train config=FILE [key=value …]      the same, starting from a YAML file of keys
python -m es_rl.train resume=RUN [key=value …]       go on with a run; stop rules may change

Ctrl-C or SIGTERM saves a checkpoint and leaves."""
FLAT_WARNING = 3  # generations in a row without any difference in fitness


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(Config, USAGE))
    resume = pairs(argv).get("resume", "")
    if resume:
        run = Path(resume)
        keys = [argument for argument in argv if not argument.startswith("resume=")]
        config = parse_resume(rundir.saved_config(run), keys, str(run / "config.yaml"))
    else:
        config = parse_train(argv)
    _check_names(config)
    use_one_thread()
    envs.check_id(config.env)
    if not resume:
        run = rundir.create(config)
    with rundir.locked(run), _signals() as check:
        screen = Screen(f"es_rl: {config.env} → {run}", config)
        try:
            return _sitting(config, run, screen, check, argv, resumed=bool(resume))
        finally:
            screen.close()
            rundir.discard_unbegun(run)


def _sitting(
    config: Config,
    run: Path,
    screen: Screen,
    check: Callable[[], None],
    argv: Sequence[str],
    *,
    resumed: bool,
) -> int:
    """From a run's directory to its end, or to the next stop."""
    count = available_processors() if config.workers is None else config.workers
    if config.inference == "central":
        choose_device(config.device)
        count *= PROCESSES
    screen.status(f"starting {count} workers")
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(
            Workers(
                count,
                log=run / "workers.log",
                hang_after=config.hang_after,
                check=check,
                on_event=lambda text: screen.say(f"warning: {text}"),
                on_steps=screen.steps,
            )
        )
        spec = evaluator.probe(workers, config)
        for text in spec.warnings:
            screen.say(f"warning: {text}")
        params = ESParams.of(config)
        state, progress = es.init(make_policy(config, spec)), Progress()
        es.check(params, state)
        if resumed:
            state, progress = _restore(run, spec, state, screen.say)
        saver = Saver(run, config, spec, screen.say)
        saver.start(state, progress, saved=resumed)
        if not resumed:
            saver.save(must=True)  # before the directory says that it is a run: from then on it can be resumed
            rundir.describe(run, config, argv)
            screen.say(to_yaml(config))
        screen.say(_heading(config, state, count))
        log = RunLog(
            run, screen, to_yaml(config), generation=state.generation, env_steps=progress.env_steps, resumed=resumed
        )
        stack.callback(log.close)
        films = Films(run, config, say=screen.say, done=log.animation)
        stack.callback(films.close)
        try:
            reason = _train(config, params, Evaluator(config, params, spec, workers), log, saver, films)
        except Stopped as stop:
            saver.save(must=True)
            raise Stopped(
                f"{stop}: generation {saver.state.generation} is saved; go on with resume={run}",
                stop.exit_code,
            ) from None
        except BaseException:
            saver.save()  # whatever happened, nothing that was finished is lost
            raise
        saver.save(must=True)
        workers.close()
        best = saver.progress.best_return
        screen.say(f"finished: {reason}." + (f" Best eval/return_mean {best:.1f}." if best is not None else ""))
        screen.status("filming")
        films.finish(saver, check)
        screen.say(f"The run is in {run}")
    return 0


def _train(config: Config, params: ESParams, members: Evaluator, log: RunLog, saver: Saver, films: Films) -> str:
    """The loop; returns the stop rule that ended it.

    A generation counts once it was told, evaluated, logged and handed to the saver; one that is interrupted before is
    run again, to the same bits.
    """
    state, progress = saver.state, saver.progress
    began = time.monotonic() - progress.seconds
    while (reason := _stop_reason(config, state.generation, progress)) is None:
        log.screen.restart("rolling out")
        start = time.monotonic()
        seen = members.members(state)
        rolled_out = time.monotonic()
        state, told = es.tell(params, state, seen.fitness, seen.buffers)
        updated = time.monotonic()
        progress = replace(
            progress,
            env_steps=progress.env_steps + seen.steps,
            seconds=updated - began,
            flat_generations=progress.flat_generations + 1 if told.flat else 0,
        )
        record: dict[str, Any] = {
            "generation": state.generation,
            "env_steps": progress.env_steps,
            **seen.metrics,
            "update/norm": told.update_norm,
            "gradient/norm": told.gradient_norm,
            "update/effective_rank": told.effective_rank,
            "gradient/agreement": told.agreement,
            "members/failed": told.failed,
            "time/steps_per_second": seen.steps / (updated - start),
            "time/rollout": rolled_out - start,
            "time/update": updated - rolled_out,
        }

        best = False
        due = config.eval.every > 0 and state.generation % config.eval.every == 0
        if due or _stop_reason(config, state.generation, progress) is not None:
            log.screen.status("evaluating")
            record |= members.policy(state)
            mean = record["eval/return_mean"]
            best = mean is not None and (progress.best_return is None or mean > progress.best_return)
            progress = replace(
                progress,
                last_return=mean,
                best_return=mean if best else progress.best_return,
                seconds=time.monotonic() - began,
            )
            record |= {"eval/return_best": progress.best_return, "time/evaluate": time.monotonic() - updated}

        log.generation(record | {"seconds": progress.seconds}, seen.fitness, state.theta)
        if progress.flat_generations == FLAT_WARNING:
            log.screen.say(
                f"warning: in {FLAT_WARNING} generations all members were equally fit, so nothing is learnt. "
                f"Raise es.sigma, or use a reward that tells members apart."
            )
        saver.commit(state, progress, best=best)
        films.poll(saver)
    return reason


def _check_names(config: Config) -> None:
    """Refuse names that no registry has, before anything is made. Raises `ConfigError`."""
    lookup(POLICIES, config.policy, "policy")
    lookup(BACKENDS | {"auto": None}, config.backend, "backend")
    lookup(KINDS, config.es.noise, "es.noise")
    lookup(SHAPINGS, config.es.shaping, "es.shaping")
    lookup(OPTIMIZERS, config.optim.name, "optim.name")


def _stop_reason(config: Config, generation: int, progress: Progress) -> str | None:
    """The stop rule that is met, if any."""
    if config.generations is not None and generation >= config.generations:
        return f"generations={config.generations}"
    if config.env_steps is not None and progress.env_steps >= config.env_steps:
        return f"env_steps={config.env_steps}"
    if config.minutes is not None and progress.seconds >= 60 * config.minutes:
        return f"minutes={config.minutes:g}"
    last = progress.last_return
    if config.target_return is not None and last is not None and last >= config.target_return:
        return f"target_return={config.target_return:g}"
    return None


def _restore(run: Path, spec: EnvSpec, fresh: ESState, say: Callable[[str], None]) -> tuple[ESState, Progress]:
    """The newest sound checkpoint. Raises `CheckpointError` if there is none, or it is of another environment."""
    loaded = checkpoints.load_newest(run, lambda text: say(f"warning: {text}"))
    if (loaded.observation_space, loaded.action_space) != (spec.observation_space, spec.action_space):
        raise CheckpointError(f"{loaded.path}: was trained on other spaces than those of env={spec.id} now.")
    for change in rundir.changed_versions(run):
        say(f"warning: {change}; results may differ from those of an uninterrupted run")
    return loaded.state(fresh), loaded.progress


def _heading(config: Config, state: ESState, workers: int) -> str:
    """One line of what is about to happen."""
    parameters = sum(value.numel() for value in state.theta.values())
    begun = f" from generation {state.generation}" if state.generation else ""
    return (
        f"{config.policy} policy of {parameters:,} parameters, {config.es.population} members in chunks of "
        f"{config.chunk}, {workers or 'no'} workers{begun}"
    )


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], None]]:
    """A `check` that raises `Stopped` after SIGTERM, SIGHUP or Ctrl-C; a second Ctrl-C leaves at once."""
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        if number == signal.SIGINT and signal.SIGINT in received:
            _leave_at_once()
        received.append(number)

    def check() -> None:
        if received:
            interrupted = received[0] == signal.SIGINT
            raise Stopped(f"stopped by {signal.Signals(received[0]).name}", 130 if interrupted else 75)

    # What was ignored from the start stays ignored: nohup means it.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_at_once() -> NoReturn:
    """The kernel ends the workers, who die with their parent."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # the live panel has hidden the cursor
    os._exit(130)


if __name__ == "__main__":
    cli.run(main)

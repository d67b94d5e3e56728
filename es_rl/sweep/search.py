"""The search: trials at a time, until there are enough, and the report."""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from es_rl import cli
from es_rl.errors import ConfigError, Stopped, TrainingError, missing_extra
from es_rl.run.directory import reporting
from es_rl.run.signals import stop_requests
from es_rl.sweep import contenders, space
from es_rl.sweep.config import SweepConfig
from es_rl.sweep.trial import Outcome, Plan, Running
from es_rl.workers.machine import available_processors

if TYPE_CHECKING:
    import optuna

    from es_rl.sweep.study import Sweep

POLL = 0.5  # seconds between looks at the trainings
FAILURES = 3  # the sweep gives up after this many in a row


def search(config: SweepConfig, keys: Mapping[str, str], argv: Sequence[str]) -> int:
    """Search for settings; `keys` are those of the trainings, `argv` is what was typed. Return the exit code."""
    contender = contenders.make(config.contender, config.env, config.env_steps or 0)
    searched, given = space.parse(keys, contender)
    fixed = contender.fixed([*searched], given)
    if not searched:
        raise ConfigError("nothing to search: give a range or a choice, such as es.sigma=0.01..0.5:log.")
    defaults = contender.defaults(fixed)
    if importlib.util.find_spec("optuna") is None:
        raise missing_extra("sweeps need the package optuna", "sweep")
    from es_rl.sweep import report
    from es_rl.sweep.study import Sweep

    out = Path(config.out or f"runs/sweep/{config.env.replace(':', '-')}")
    with reporting(out, "Choose another place with out=DIRECTORY"):
        out.mkdir(parents=True, exist_ok=True)
    same = {k: v for k, v in asdict(config).items() if k in ("env", "contender", "env_steps", "seeds", "seed")}
    settings = {"": same, "range": space.describe(searched), "fixed": fixed}
    sweep = Sweep(out, searched, settings=settings, defaults=defaults, seed=config.seed)
    plan = Plan(contender, config.env_steps or 0, config.seeds, fixed)
    write = partial(report.write, out, sweep, plan, shlex.join(["python", "-m", "es_rl.sweep", *argv]))
    try:
        _search(sweep, plan, config, out, write)
    finally:
        report.figures(out, sweep)
        write()
    best = "no trial is complete" if sweep.best() is None else f"the best settings are {out / 'best.yaml'}"
    return cli.show(f"The report is {out / 'report.md'}, {best}")


def _search(sweep: Sweep, plan: Plan, config: SweepConfig, out: Path, write: Callable[[], None]) -> None:
    """Run `parallel` trials at a time until there are enough. Raises `Stopped`, `TrainingError`."""
    running: dict[optuna.Trial, Running] = {}
    failures = 0
    with stop_requests() as check, _ending(sweep, running):
        while True:
            check()
            _fill(running, sweep, plan, config, out)
            if not running and not sweep.collect() and sweep.counted() >= config.trials:
                return
            time.sleep(POLL)
            for trial, current in list(running.items()):
                outcome = current.poll()
                if outcome is None:
                    continue
                del running[trial]
                _tell(sweep, trial, current, outcome)
                write()
                _say(sweep, trial, current, outcome, config.trials - sweep.counted() + len(running))
                failures = failures + 1 if outcome.state == "failed" else 0
                if failures == FAILURES:
                    raise TrainingError(f"{failures} trials in a row failed, the last one: {outcome.reason}")


def _fill(running: dict[optuna.Trial, Running], sweep: Sweep, plan: Plan, config: SweepConfig, out: Path) -> None:
    """Start trials until `parallel` of them run or no more are needed."""
    most = config.parallel or available_processors()
    while len(running) < most and (begun := sweep.ask(config.trials)) is not None:
        trial, keys, number = begun
        running[trial] = Running(plan, keys, out / "trials" / f"{number:03}", partial(sweep.hopeless, trial))


@contextlib.contextmanager
def _ending(sweep: Sweep, running: dict[optuna.Trial, Running]) -> Iterator[None]:
    """Stop the running trials when the search ends for any reason, and queue them to be tried again."""
    try:
        yield
    except Stopped as stop:
        raise Stopped(f"{stop}: the same command goes on", stop.exit_code) from None
    finally:
        for current in running.values():
            current.stop()
        while any(not current.over and not current.late for current in running.values()):
            time.sleep(POLL / 5)
        for trial, current in running.items():
            current.kill()
            sweep.again(trial)


def _tell(sweep: Sweep, trial: optuna.Trial, current: Running, outcome: Outcome) -> None:
    value = current.value if outcome.state == "complete" else None
    about = {"values": current.values, "seconds": round(current.seconds, 1), "reason": outcome.reason}
    sweep.tell(trial, outcome.state, value, **about)


def _say(sweep: Sweep, trial: optuna.Trial, current: Running, outcome: Outcome, left: int) -> None:
    """Print one line about a trial that has ended."""
    keys = " ".join(f"{k}={v}" for k, v in trial.user_attrs["keys"].items()) or "the default settings"
    best = sweep.best()
    said = f"{current.value:.4g}" if outcome.state == "complete" else f"{outcome.state}, {outcome.reason}"
    found = f"best {best.value:.4g}" if best is not None else "none complete yet"
    sys.stdout.write(f"trial {trial.number}: {said} ({found}, {left} to go) {keys}\n")
    sys.stdout.flush()

"""Put the comparisons of several tasks on one page, with figures as SVG and PNG and numbers as CSV.

    python -m es_rl.compare.suite runs/compare/Hopper-v5 runs/compare/Ant-v5 out=runs/suite

Each directory is one that `python -m es_rl.compare` has written. The returns of a task are rescaled to scores: the
random policy's median is 0, and the highest median of any contender is 1. Over all tasks together, the page shows the
interquartile mean of the scores and their performance profile (Agarwal et al. 2021, arXiv 2108.13264).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from es_rl import cli
from es_rl.compare.report import suite_page
from es_rl.compare.report.statistics import Array, iqm, normalised, profile, profile_band, stratified_interval
from es_rl.compare.report.summary import LABELS, OURS, RANDOM, Results, beats, summary
from es_rl.config import help_text, pairs, parse
from es_rl.errors import ConfigError, lookup
from es_rl.keys import key
from es_rl.plot.style import files
from es_rl.run.directory import reporting

USAGE = "python -m es_rl.compare.suite DIRECTORY … out=DIRECTORY   several tasks' comparisons on one page"
POINTS = 201  # points of a profile
MARGIN = 1.1  # a profile ends at the highest score times this


@dataclass(frozen=True)
class SuiteConfig:
    out: str = key("", "directory of the page; default: suite, beside the first comparison", path=True)
    contenders: list[str] = key([], "contenders to compare; default: those that ran on more than half of the tasks")


@dataclass(frozen=True)
class Task:
    """One comparison: the summary of each contender that has returns, and the two ends of the scale of scores."""

    env: str
    results: Results
    found: Mapping[str, Mapping[str, Any]]

    @property
    def low(self) -> float:
        """The random policy's median return; NaN if it was not run."""
        return float(self.found[RANDOM]["median"]) if RANDOM in self.found else np.nan

    @property
    def high(self) -> float:
        """The highest median return of any contender."""
        return max((float(row["median"]) for row in self.found.values()), default=np.nan)

    def scores(self, name: str) -> Array:
        """Return a contender's returns (K,) on the task's scale."""
        return normalised(self.found[name]["returns"], self.low, self.high)


@dataclass(frozen=True)
class Aggregate:
    """One contender over all tasks: IQM of the scores with its interval, and its profile (T,) with its band."""

    iqm: float
    interval: tuple[float, float]
    profile: Array
    band: tuple[Array, Array]


@dataclass(frozen=True)
class Suite:
    """Everything that the page shows."""

    tasks: Sequence[Task]
    compared: Sequence[str]  # contenders
    entered: Sequence[Task]  # those in the aggregate
    left_out: Mapping[str, str]  # task → why
    taus: Array  # (T,)
    aggregates: Mapping[str, Aggregate]
    wins: Mapping[str, tuple[list[str], list[str], list[str]]]  # contender → tasks where es_rl wins, loses, is level


def main(argv: Sequence[str]) -> int:
    """Run the verb and return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(SuiteConfig, USAGE))
    folders = [Path(argument) for argument in argv if "=" not in argument]
    config = parse(SuiteConfig, [f"{k}={v}" for k, v in pairs([a for a in argv if "=" in a]).items()])
    for name in config.contenders:
        lookup(LABELS, name, "contenders")
    if not folders:
        raise ConfigError("no comparison is given: give directories that hold a results.json. --help tells more.")
    suite = gather([read(folder) for folder in folders], config.contenders)
    out = Path(config.out) if config.out else folders[0].parent / "suite"
    with reporting(out, "Choose another place with out=DIRECTORY"):
        out.mkdir(parents=True, exist_ok=True)
        drawings = suite_page.draw(suite)
        for name, content in files(drawings).items():
            (out / name).write_bytes(content)
        for name, text in suite_page.tables(suite).items():
            (out / name).write_text(text, encoding="utf-8")
        (out / "suite.html").write_text(suite_page.page(suite, drawings), encoding="utf-8")
    return cli.show(f"The page is {out / 'suite.html'}")


def read(folder: Path) -> Results:
    """Return the results in a comparison's directory. Raises `ConfigError` if there are none."""
    path = folder / "results.json"
    try:
        results: Results = json.loads(path.read_text(encoding="utf-8"))
        if not {"env", "minutes", "labels", "runs"} <= set(results):
            raise ValueError("it lacks env, minutes, labels or runs")
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{path}: not a comparison's results ({reason}). Give directories of es_rl.compare."
        ) from None
    return results


def gather(every: Sequence[Results], wanted: Sequence[str] = ()) -> Suite:
    """Combine several comparisons. Raises `ConfigError` if two are of the same task."""
    tasks = [_task(results) for results in every]
    envs = [task.env for task in tasks]
    if again := [env for env in envs if envs.count(env) > 1]:
        raise ConfigError(f"{again[0]}: {envs.count(again[0])} of the comparisons are of this task. Give one of them.")
    compared = list(wanted) or _common(tasks)
    left_out = {task.env: why for task in tasks if (why := _why_not(task, compared))}
    entered = [task for task in tasks if task.env not in left_out]
    highest = max((float(task.scores(name).max()) for task in entered for name in compared), default=1.0)
    taus = np.linspace(0, MARGIN * max(1.0, highest), POINTS)
    aggregates = {name: _aggregate([task.scores(name) for task in entered], taus) for name in compared if entered}
    everybody = sorted({name for task in tasks for name in task.found}, key=_place)
    wins = {name: _wins(tasks, name) for name in everybody if name != OURS}
    return Suite(tasks, compared, entered, left_out, taus, aggregates, wins)


def _task(results: Results) -> Task:
    found = {name: row for name, row in summary(results).items() if len(row["returns"])}
    return Task(results["env"], results, found)


def _place(name: str) -> tuple[int, str]:
    """Return the sort key of a contender: its place in `LABELS`; unknown ones come last, by name."""
    known = list(LABELS)
    return known.index(name) if name in known else len(known), name


def _common(tasks: Sequence[Task]) -> list[str]:
    """Return the contenders that ran on more than half of the tasks, without the random policy."""
    names = {name for task in tasks for name in task.found if name != RANDOM}
    return sorted((n for n in names if sum(n in task.found for task in tasks) > len(tasks) / 2), key=_place)


def _why_not(task: Task, compared: Sequence[str]) -> str:
    """Return why a task cannot be in the aggregate; empty if it can."""
    lacking = [LABELS.get(name, name) for name in (*compared, RANDOM) if name not in task.found]
    if lacking:
        return f"no return of {' and '.join(lacking)}"
    return "" if task.high > task.low else "no contender is better than the random policy"


def _aggregate(strata: Sequence[Array], taus: Array) -> Aggregate:
    pooled = float(iqm(np.concatenate(strata)))
    return Aggregate(pooled, stratified_interval(strata), profile(strata, taus), profile_band(strata, taus))


def _wins(tasks: Sequence[Task], name: str) -> tuple[list[str], list[str], list[str]]:
    """Return the tasks where es_rl's median is higher than, lower than and equal to a contender's."""
    signs = {t.env: beats(t.found[OURS], t.found[name])[0] for t in tasks if OURS in t.found and name in t.found}
    won, lost, level = ([env for env, sign in signs.items() if sign == s] for s in (1, -1, 0))
    return won, lost, level


if __name__ == "__main__":
    cli.run(main)

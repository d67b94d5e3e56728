"""Run the trainings behind docs/when.md: when evolution is the right tool, and when PPO is.

    python benchmarks/when.py run                                      # everything; run it again to go on after a stop
    python benchmarks/when.py run cases=plain,noise seeds=1 parallel=1
    python benchmarks/when.py show                                     # finished trainings → docs/when.md
    python benchmarks/when.py one case=noise name=es_rl seed=0 out=DIRECTORY      # one training

`run` starts a process for each (case, contender, seed), on its own core. A training ends after `minutes` of processor
time, and writes `OUT/CASE-NAME-SEED/result.json`. `show` collects all of these in benchmarks/when.json, and makes the
page from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from when_cases import CASES, OURS
from when_page import advice, between, measured, table

from es_rl import cli
from es_rl.config import help_text, parse
from es_rl.errors import ConfigError, Stopped, TrainingError, lookup
from es_rl.keys import key
from es_rl.rng import MAX_SEED
from es_rl.run.directory import versions
from es_rl.workers import machine
from es_rl.workers.processes import die_with_parent

ROOT = Path(__file__).parent.parent
USAGE = "python benchmarks/when.py run|show|one [key=value …]"
STOP_SECONDS = 60.0  # time that a stopped training has to end its own child


@dataclass(frozen=True)
class RunConfig:
    cases: list[str] = key([*CASES], ", ".join(CASES))
    minutes: float = key(10.0, "minutes of processor time for each training", above=0)
    seeds: int = key(3, "number of seeds: trainings of each contender", low=1)
    first_seed: int = key(1, "seeds are first_seed, first_seed+1, …", low=0, high=MAX_SEED - 10_000)
    parallel: int = key(2, "number of trainings side by side, each on its own core", low=1)
    out: str = key("runs/when", "directory for all trainings")


@dataclass(frozen=True)
class ShowConfig:
    out: str = key("runs/when", "directory of all trainings")
    page: str = key(str(ROOT / "docs" / "when.md"), "page to write to")
    raw: str = key(str(ROOT / "benchmarks" / "when.json"), "file for all results; earlier results stay in it")


@dataclass(frozen=True)
class OneConfig:
    case: str = key("", ", ".join(CASES))
    name: str = key("", "who trains: es_rl, or the opponent of the case (ppo_fast, recurrent_ppo)")
    seed: int = key(0, "random seed", low=0, high=MAX_SEED)
    minutes: float = key(10.0, "minutes of processor time", above=0)
    out: str = key("", "directory for this training alone")


def run(argv: Sequence[str]) -> int:
    """Run all trainings that have no result yet, `parallel` of them at a time. Raises `TrainingError` if any failed."""
    config = parse(RunConfig, argv)
    cores = sorted(os.sched_getaffinity(0))
    if config.parallel > len(cores):
        raise ConfigError(
            f"parallel={config.parallel}: each training has a core of its own, and there are {len(cores)}."
        )
    signal.signal(signal.SIGTERM, _stop)
    waiting = [argv for argv in pieces(config) if not (Path(argv[-1].partition("=")[2]) / "result.json").exists()]
    free, running, failed = cores[: config.parallel], dict[subprocess.Popen[bytes], tuple[int, str]](), 0
    try:
        while waiting or running:
            while waiting and free:
                core, piece = free.pop(0), waiting.pop(0)
                running[_start(piece, core)] = core, " ".join(piece[:3])
            for process in [process for process in running if process.poll() is not None]:
                core, about = running.pop(process)
                free.append(core)
                failed += process.returncode != 0
                sys.stdout.write(f"{about}: {'failed' if process.returncode else 'done'}, {len(waiting)} wait\n")
                sys.stdout.flush()
            time.sleep(0.1)
    finally:
        _end(running)
    if failed:
        raise TrainingError(f"{failed} trainings failed; the reasons are in {config.out}/*/log.txt. Run it again.")
    return 0


def pieces(config: RunConfig) -> Iterable[list[str]]:
    """Yield the arguments of `one` for each training. Seed by seed, so that whole comparisons are finished early."""
    for seed in range(config.first_seed, config.first_seed + config.seeds):
        for case in [lookup(CASES, name, "cases") for name in config.cases]:
            for name in case.contenders:
                out = Path(config.out) / f"{case.name}-{name}-{seed}"
                yield [f"case={case.name}", f"name={name}", f"seed={seed}", f"minutes={config.minutes:g}", f"out={out}"]


def _start(piece: list[str], core: int) -> subprocess.Popen[bytes]:
    """Start a training on one core. It ends when this process ends."""
    folder, parent = Path(piece[-1].partition("=")[2]), os.getpid()
    shutil.rmtree(folder, ignore_errors=True)  # an unfinished training starts anew
    folder.mkdir(parents=True)

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        die_with_parent(parent, signal.SIGTERM)

    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, __file__, "one", *piece],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=prepare,
        )  # fmt: skip


def _end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Ask all processes to end, and kill those that do not end in time."""
    started = list(processes)
    for process in started:
        process.terminate()
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        process.kill()
        process.wait()


def one(argv: Sequence[str]) -> int:
    """Train one contender once, judge it, and write result.json."""
    config = parse(OneConfig, argv)
    case = lookup(CASES, config.case, "case")
    if config.name not in case.contenders or not config.out:
        raise ConfigError(f"name={config.name} out={config.out}: give {' or '.join(case.contenders)}, and a directory.")
    from when_training import train  # imports torch

    signal.signal(signal.SIGTERM, _stop)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    about = {"case": case.name, "name": config.name, "seed": config.seed, "minutes": config.minutes}
    about |= {"date": time.strftime("%Y-%m-%d"), "machine": machine.description(), "versions": _versions()}
    found = train(case, config.name, config.seed, config.minutes, out)
    temporary = out / ".result.json"
    temporary.write_text(json.dumps(about | found, indent=1) + "\n", encoding="utf-8")
    temporary.replace(out / "result.json")
    return 0


def show(argv: Sequence[str]) -> int:
    """Write all results into one file, and make the page from that file."""
    config = parse(ShowConfig, argv)
    raw, page = Path(config.raw), Path(config.page)
    known = json.loads(raw.read_text(encoding="utf-8")) if raw.exists() else []
    fresh = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(config.out).glob("*/result.json"))]
    results = {(r["case"], r["name"], r["seed"]): r for r in [*known, *fresh]}
    order = [*CASES]
    listed = sorted(results.values(), key=lambda r: (order.index(r["case"]), r["name"] != OURS, r["seed"]))
    raw.write_text("[" + ",".join("\n" + json.dumps(r) for r in listed) + "\n]\n", encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    for part, made in (("advice", advice), ("table", table), ("measured", measured)):
        text = between(text, part, made(listed))
    page.write_text(text, encoding="utf-8")
    return 0


def _versions() -> dict[str, Any]:
    """Return the versions of all libraries that results may depend on, including those of the opponents."""
    found: dict[str, Any] = dict(versions())
    for package in ("stable-baselines3", "sb3-contrib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError as error:
            raise ConfigError(f"{package} is missing. In the checkout: pip install -e '.[baselines]'.") from error
    return found


def _stop(number: int, frame: Any) -> None:
    """Turn SIGTERM into an exception, so that `finally` blocks end the other processes."""
    raise Stopped("stopped by SIGTERM", 75)


ACTIONS: dict[str, tuple[Callable[[Sequence[str]], int], type[Any]]] = {
    "run": (run, RunConfig),
    "show": (show, ShowConfig),
    "one": (one, OneConfig),
}


def main(argv: Sequence[str]) -> int:
    """Run the action that the first word names."""
    if not argv or cli.asks_for_help(argv[:1]):
        return cli.show(USAGE + "\n" + "".join(help_text(kind, f"\n{name}") for name, (_, kind) in ACTIONS.items()))
    action, kind = lookup(ACTIONS, argv[0], "action")
    if cli.asks_for_help(argv[1:]):
        return cli.show(help_text(kind, USAGE))
    return action(argv[1:])


if __name__ == "__main__":
    cli.run(main)

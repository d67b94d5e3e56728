"""Compare evolution strategies with PPO, ARS and the random policy: the same cores, the same minutes, one report.

    python -m es_rl.compare env=Hopper-v4 minutes=5 seeds=3 against=[ppo,ars,random]

The trainings run one after another, each with all processors, in turn: seed 0 of each, then seed 1 of each, … All are
judged alike: the deterministic, unperturbed policy with frozen normalisation, on Gymnasium's own environment with its
true rewards, on the same fresh episodes. What is finished is kept: the same command goes on where it was stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from es_rl import cli, envs, machine, report
from es_rl.baselines import BASELINES, label, write_json
from es_rl.config import Config, parse_train
from es_rl.errors import ConfigError, Stopped, lookup
from es_rl.keys import flatten, help_text, key, leaves, pairs, parse
from es_rl.processes import available_processors, die_with_parent
from es_rl.report import OURS
from es_rl.rng import MAX_SEED
from es_rl.rundir import locked, reporting, versions

USAGE = """python -m es_rl.compare env=ID [key=value …]   train by evolution strategies and by others, and report

Any key of training may be given too, such as es.population=256: it is es_rl's own."""
TAKEN = ("config", "seed", "run", "resume", "generations", "env_steps", "target_return", "video.every")
STOP_SECONDS = 60.0  # that a stopped training has to save


@dataclass(frozen=True)
class CompareConfig:
    env: str = key("", "Gymnasium id, such as Hopper-v4, or module:Id")
    minutes: float = key(5.0, "of each training", above=0)
    seeds: int = key(3, "trainings of each", low=1)
    first_seed: int = key(0, "seeds are first_seed, first_seed+1, …", low=0, high=MAX_SEED - 10_000)
    against: list[str] = key(["ppo", "ars", "random"], "ppo, ars, random")
    episodes: int = key(20, "of each evaluation at the end", low=1)
    film: float = key(8.0, "seconds of the video of each, of the first seed; 0: none", low=0, high=600)
    out: str = key("", "the report's directory; default: runs/compare/ENV")


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(CompareConfig, USAGE))
    config, ours, resolved = _parse(argv)
    out = Path(config.out or f"runs/compare/{config.env.replace(':', '-')}")
    with reporting(out, "Choose another place with out=DIRECTORY"):
        out.mkdir(parents=True, exist_ok=True)
    plan = [(name, config.first_seed + i) for i in range(config.seeds) for name in (OURS, *config.against)]
    with locked(out), _stoppable():
        _keep_settings(out, config, resolved)
        for number, (name, seed) in enumerate(plan, 1):
            folder = out / f"{name}-{seed}"
            if "return_mean" not in _outcome(folder):
                sys.stdout.write(f"{number} of {len(plan)}: {label(name, config.env)}, seed {seed}\n")
                sys.stdout.flush()
                folder.mkdir(exist_ok=True)
                _run(name, seed, folder, config, ours)
            if name == OURS and seed == config.first_seed and config.film and "return_mean" in _outcome(folder):
                _film(folder, config)
            results = _results(out, config, ours, plan)
            write_json(out / "results.json", results)
            report.write(out, results)
            outcome = _outcome(folder)
            said = f"{outcome['return_mean']:.1f}" if "return_mean" in outcome else outcome.get("failed", "not run")
            sys.stdout.write(f"   {label(name, config.env)}, seed {seed}: {said}\n")
    sys.stdout.write(f"The report is {out / 'report.html'}\n")
    return 0


def _parse(argv: Sequence[str]) -> tuple[CompareConfig, list[str], Config]:
    """The comparison's own keys, those of es_rl's training, and what these come to. Raises `ConfigError`."""
    own = dict(leaves(CompareConfig))
    given = pairs(argv)
    config = parse(CompareConfig, [f"{k}={v}" for k, v in given.items() if k in own])
    ours = [f"{k}={v}" for k, v in given.items() if k not in own]
    for name in config.against:
        lookup(BASELINES, name, "against")
    if len(set(config.against)) < len(config.against):
        raise ConfigError(f"against={','.join(config.against)}: each only once.")
    for taken in TAKEN:
        if any(k.startswith(f"{taken}=") for k in ours):
            raise ConfigError(f"{taken}: is the comparison's to set; it compares at equal minutes.")
    resolved = parse_train([f"env={config.env}", *ours] if config.env else ours)
    envs.check_id(config.env)
    return config, ours, resolved


def _keep_settings(out: Path, config: CompareConfig, resolved: Config) -> None:
    """Refuse to mix comparisons of different settings in one directory. Raises `ConfigError`."""
    path = out / "comparison.json"
    # More seeds and other baselines may be added later.
    fixed = {k: v for k, v in asdict(config).items() if k in ("env", "minutes", "episodes")}
    fixed |= flatten(asdict(replace(resolved, minutes=config.minutes)))
    if path.exists() and (before := json.loads(path.read_text())) != fixed:
        changed = ", ".join(f"{k} was {before.get(k)}" for k in {**fixed, **before} if before.get(k) != fixed.get(k))
        raise ConfigError(f"{out}: holds a comparison with other settings ({changed}). Give another out=DIRECTORY.")
    write_json(path, fixed)


def _run(name: str, seed: int, folder: Path, config: CompareConfig, ours: list[str]) -> None:
    """One training and its evaluation, or why it failed, where its result would be."""
    path = folder / "result.json"
    path.unlink(missing_ok=True)
    meter = folder / "processors.json"  # over all sittings of a training that goes on
    goes_on = name == OURS and (folder / "run" / "config.yaml").exists() and meter.exists()
    sums, start = json.loads(meter.read_text()) if goes_on else [0.0, 0.0, 0.0], machine.processor_seconds()
    try:
        failed = (_ours if name == OURS else partial(_theirs, name))(seed, folder, config, ours)
    finally:
        sums = [done + now - then for done, now, then in zip(sums, machine.processor_seconds(), start, strict=True)]
        write_json(meter, sums)
    busy, passed, own = sums
    outcome = _outcome(folder)  # which is there if only the film has failed
    about: dict[str, Any] = {"date": time.strftime("%Y-%m-%d")}
    about |= {"machine": machine.description(), "versions": _versions()}
    if available_processors() == len(os.sched_getaffinity(0)):  # with a quota on more of them, others may use the rest
        about["others"] = max(0.0, busy - own) / passed
    write_json(path, (outcome or {"failed": failed}) | about)


def _ours(seed: int, folder: Path, config: CompareConfig, ours: list[str]) -> str | None:
    run = folder / "run"
    begun = (run / "config.yaml").exists()
    if not begun:  # something was killed before it was a run
        shutil.rmtree(run, ignore_errors=True)
    keys = [f"resume={run}", f"minutes={config.minutes:g}", f"env={config.env}"]
    spent = folder / "cpu_seconds.json"  # over all sittings
    before = json.loads(spent.read_text()) if spent.exists() else 0.0
    start = machine.children_seconds()
    try:
        failed = _call(folder, "es_rl.train", keys if begun else _train_keys(seed, run, config, ours))
    finally:
        write_json(spent, before + machine.children_seconds() - start)
    if failed:
        return failed
    keys = [f"run={run}", f"env={config.env}"]
    answer = folder / "evaluation.json"
    if failed := _call(folder, "es_rl.evaluate", [*keys, f"episodes={config.episodes}", "seed=0"], stdout=answer):
        return failed
    found = json.loads(answer.read_text().splitlines()[-1])
    if found["failed"]:
        return f"{found['failed']} of {config.episodes} episodes failed"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    points = [
        {"seconds": line["seconds"], "env_steps": line["env_steps"], "return": line["eval/return_mean"]}
        for line in lines
        if line.get("eval/return_mean") is not None
    ]
    (folder / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    result = {name: found[name] for name in ("return_mean", "return_std", "length_mean", "generation")}
    result |= {name: lines[-1][name] for name in ("env_steps", "seconds")}
    write_json(folder / "result.json", result | {"cpu_seconds": json.loads(spent.read_text())})
    return None


def _film(folder: Path, config: CompareConfig) -> None:
    """The video of es_rl's policy, if there is none yet."""
    video = folder / "video.mp4"
    if not video.exists():
        keys = [f"run={folder / 'run'}", f"env={config.env}", f"out={video}", f"seconds={config.film:g}"]
        _call(folder, "es_rl.record", keys)


def _theirs(name: str, seed: int, folder: Path, config: CompareConfig, ours: list[str]) -> str | None:
    film = config.film if seed == config.first_seed else 0.0
    return _call(folder, "es_rl.baselines", [*_baseline_keys(name, seed, folder, config, ours), f"film={film:g}"])


def _train_keys(seed: int, run: Path, config: CompareConfig, ours: list[str]) -> list[str]:
    return [f"env={config.env}", f"minutes={config.minutes:g}", f"seed={seed}", f"run={run}", "video.every=-1", *ours]


def _baseline_keys(name: str, seed: int, folder: Path, config: CompareConfig, ours: list[str]) -> list[str]:
    environment = [argument for argument in ours if argument.startswith(("env_kwargs.", "env_kwargs="))]
    keys = [f"name={name}", f"env={config.env}", f"minutes={config.minutes:g}", f"seed={seed}", f"out={folder}"]
    return [*keys, f"episodes={config.episodes}", *environment]


def _call(folder: Path, module: str, keys: list[str], *, stdout: Path | None = None) -> str | None:
    """Run a module with all that it says in the folder's log; its last line if it failed.

    Raises `Stopped` or KeyboardInterrupt after the child has ended: a training saves first.
    """
    log = folder / "log.txt"
    with log.open("ab") as errors, (stdout or log).open("wb" if stdout else "ab") as output:
        dies = partial(die_with_parent, os.getpid(), signal.SIGTERM)
        command = [sys.executable, "-m", module, *keys]
        process = subprocess.Popen(
            command, stdout=output, stderr=errors, stdin=subprocess.DEVNULL, preexec_fn=dies, start_new_session=True
        )  # a session of its own: Ctrl-C comes to it as SIGTERM from here
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()
            process.wait()
            raise
    said = log.read_text(errors="replace").strip().splitlines() or ["nothing was said"]
    return f"{module} ended with exit code {code}: {said[-1]}" if code else None


def _outcome(folder: Path) -> dict[str, Any]:
    """What is known of a training so far."""
    try:
        outcome: dict[str, Any] = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return {}
    return outcome


def _results(out: Path, config: CompareConfig, ours: list[str], plan: list[tuple[str, int]]) -> dict[str, Any]:
    """Everything that the report shows: what is planned, and what earlier calls have done besides."""
    names = (OURS, *BASELINES)
    found = [re.fullmatch(r"(\w+)-(\d+)", path.name) for path in out.iterdir()]
    earlier = [(match[1], int(match[2])) for match in found if match and match[1] in names]
    runs, contenders = [], list(dict.fromkeys([OURS, *config.against, *(name for name, _ in earlier)]))
    for name, seed in sorted({*plan, *earlier}, key=lambda item: (item[1], contenders.index(item[0]))):
        folder = out / f"{name}-{seed}"
        keys = (
            ["es_rl.train", *_train_keys(seed, folder / "run", config, ours)]
            if name == OURS
            else ["es_rl.baselines", *_baseline_keys(name, seed, folder, config, ours)]
        )
        run = {"name": name, "seed": seed, "command": shlex.join(["python", "-m", *keys]), **_outcome(folder)}
        with contextlib.suppress(OSError, ValueError):  # that of a training that was killed may be cut off
            run["curve"] = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
        video = folder / "video.mp4"
        runs.append(run | ({"video": str(video.relative_to(out))} if video.exists() else {}))
    return {
        **asdict(config),
        "labels": {name: label(name, config.env) for name in contenders},
        "command": shlex.join(["python", "-m", "es_rl.compare", *_given(config, ours, runs)]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.description(),
        "versions": _versions(),
        "runs": runs,
    }


def _given(config: CompareConfig, ours: list[str], runs: list[dict[str, Any]]) -> list[str]:
    """A command that makes all of these runs, with every default spelt out."""
    seeds = {run["seed"] for run in runs}
    against = f"against=[{','.join(name for name in BASELINES if any(run['name'] == name for run in runs))}]"
    known = asdict(config) | {"first_seed": min(seeds), "seeds": max(seeds) - min(seeds) + 1}
    return [*(f"{k}={v}" for k, v in known.items() if k not in ("against", "out")), against, *ours]


def _versions() -> dict[str, str]:
    """Versions of what results may depend on, the baselines' libraries among them."""
    found = versions()
    for package in ("stable-baselines3", "sb3-contrib"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM is an exception; Ctrl-C is one already."""

    def stop(number: int, _: Any) -> None:
        raise Stopped("stopped by SIGTERM: the same command goes on", 75)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped("stopped by Ctrl-C: the same command goes on", 130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    cli.run(main)

"""One contender of a comparison: its training and evaluation, in processes of their own, and what came of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from es_rl import machine
from es_rl.baselines import write_json
from es_rl.keys import key
from es_rl.processes import available_processors, die_with_parent
from es_rl.report import OURS
from es_rl.rng import MAX_SEED
from es_rl.rundir import versions

RETURN = "eval/return_mean"
STOP_SECONDS = 60.0  # that a stopped training has to save
PATIENCE = 3600.0  # seconds, beside twice its minutes, after which a training counts as hung


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


def run(name: str, seed: int, folder: Path, config: CompareConfig, ours: list[str]) -> None:
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
    found = outcome(folder)  # which is there if only the film has failed
    about: dict[str, Any] = {"date": time.strftime("%Y-%m-%d")}
    about |= {"machine": machine.description(), "versions": library_versions()}
    if available_processors() == len(os.sched_getaffinity(0)):  # with a quota on more of them, others may use the rest
        about["others"] = max(0.0, busy - own) / passed
    write_json(path, (found or {"failed": failed}) | about)


def _ours(seed: int, folder: Path, config: CompareConfig, ours: list[str]) -> str | None:
    path = folder / "run"
    begun = (path / "config.yaml").exists()
    if not begun:  # something was killed before it was a run
        shutil.rmtree(path, ignore_errors=True)
    keys = [f"resume={path}", f"minutes={config.minutes:g}", f"env={config.env}"]
    spent = folder / "cpu_seconds.json"  # over all sittings
    before = json.loads(spent.read_text()) if spent.exists() else 0.0
    start = machine.children_seconds()
    try:
        failed = _call(folder, config, "es_rl.train", keys if begun else train_keys(seed, path, config, ours))
    finally:
        write_json(spent, before + machine.children_seconds() - start)
    if failed:
        return failed
    keys = [f"run={path}", f"env={config.env}", f"episodes={config.episodes}", "seed=0"]
    answer = folder / "evaluation.json"
    if failed := _call(folder, config, "es_rl.evaluate", keys, stdout=answer):
        return failed
    found = json.loads(answer.read_text().splitlines()[-1])
    if found["failed"]:
        return f"{found['failed']} of {config.episodes} episodes failed"
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    used = np.cumsum([line["time/processor_seconds"] for line in lines])
    points = [
        {"seconds": line["seconds"], "cpu_seconds": cpu, "env_steps": line["env_steps"], "return": line[RETURN]}
        for line, cpu in zip(lines, used.tolist(), strict=True)
        if line.get(RETURN) is not None
    ]
    (folder / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    result = {name: found[name] for name in ("return_mean", "return_std", "length_mean", "generation")}
    result |= {name: lines[-1][name] for name in ("env_steps", "seconds")}
    write_json(folder / "result.json", result | {"cpu_seconds": json.loads(spent.read_text())})
    return None


def film(folder: Path, config: CompareConfig) -> None:
    """The video of es_rl's policy, if there is none yet."""
    video = folder / "video.mp4"
    if not video.exists():
        keys = [f"run={folder / 'run'}", f"env={config.env}", f"out={video}", f"seconds={config.film:g}"]
        _call(folder, config, "es_rl.record", keys)


def _theirs(name: str, seed: int, folder: Path, config: CompareConfig, ours: list[str]) -> str | None:
    seconds = config.film if seed == config.first_seed else 0.0
    keys = [*baseline_keys(name, seed, folder, config, ours), f"film={seconds:g}"]
    return _call(folder, config, "es_rl.baselines", keys)


def train_keys(seed: int, run: Path, config: CompareConfig, ours: list[str]) -> list[str]:
    """Of `python -m es_rl.train`, for one of our trainings."""
    return [f"env={config.env}", f"minutes={config.minutes:g}", f"seed={seed}", f"run={run}", "video.every=-1", *ours]


def baseline_keys(name: str, seed: int, folder: Path, config: CompareConfig, ours: list[str]) -> list[str]:
    """Of `python -m es_rl.baselines`, for one of theirs; of our keys they get those of the environment."""
    environment = [argument for argument in ours if argument.startswith(("env_kwargs.", "env_kwargs="))]
    keys = [f"name={name}", f"env={config.env}", f"minutes={config.minutes:g}", f"seed={seed}", f"out={folder}"]
    return [*keys, f"episodes={config.episodes}", *environment]


def _call(
    folder: Path, config: CompareConfig, module: str, keys: list[str], *, stdout: Path | None = None
) -> str | None:
    """Run a module with all that it says in the folder's log; its last line if it failed, or that it hung.

    Raises `Stopped` or KeyboardInterrupt after the child has ended: a training saves first.
    """
    log, seconds = folder / "log.txt", 120 * config.minutes + PATIENCE
    with log.open("ab") as errors, (stdout or log).open("wb" if stdout else "ab") as output:
        dies = partial(die_with_parent, os.getpid(), signal.SIGTERM)
        command = [sys.executable, "-m", module, *keys]
        process = subprocess.Popen(
            command, stdout=output, stderr=errors, stdin=subprocess.DEVNULL, preexec_fn=dies, start_new_session=True
        )  # a session of its own: Ctrl-C comes to it as SIGTERM from here
        try:
            code = process.wait(seconds)
        except BaseException as error:
            process.terminate()
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
            finally:  # also when another signal comes
                process.kill()
                process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return f"{module} had not ended after {seconds / 60:.0f} minutes"
            raise
    said = log.read_text(errors="replace").strip().splitlines() or ["nothing was said"]
    return f"{module} ended with exit code {code}: {said[-1]}" if code else None


def outcome(folder: Path) -> dict[str, Any]:
    """What is known of a training so far."""
    try:
        found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return {}
    return found


def library_versions() -> dict[str, str]:
    """Versions of what results may depend on, the baselines' libraries among them."""
    found = versions()
    for package in ("stable-baselines3", "sb3-contrib"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found

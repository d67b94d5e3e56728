"""Train and evaluate one contender of a comparison in separate processes, and save the result."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from es_rl.compare import calibration, child
from es_rl.compare.baselines import MANY
from es_rl.compare.config import CompareConfig, resolved
from es_rl.compare.opponents import ppo_fast
from es_rl.compare.opponents.ppo_fast import sees
from es_rl.compare.report.summary import OURS, RANDOM
from es_rl.plugins import code_keys
from es_rl.rl.central import PROCESSES
from es_rl.rl.config import Config
from es_rl.rl.presets import family
from es_rl.rl.rollout.chunk import capacity
from es_rl.run import CONFIG, METRICS
from es_rl.run.atomic import write_json
from es_rl.run.directory import versions
from es_rl.workers import machine
from es_rl.workers.machine import available_processors

RETURN = "eval/return_mean"
NO_VIDEO = "video.txt"  # the reason why there is no video
PATIENCE = 3600.0  # a training counts as hung after twice its minutes plus this many seconds
LATE = 0.02  # if a training ends later than its time by this share of it, the report says so
LIBRARIES = ("stable-baselines3", "sb3-contrib", "evotorch", "ray")


def run(name: str, seed: int, folder: Path, config: CompareConfig, ours: list[str]) -> None:
    """Train and evaluate one contender; write the result, or why it failed, to `result.json`.

    A training that other programs disturbed is repeated once. The less disturbed of the two is kept.
    """
    first = folder.with_name(f"{folder.name}.disturbed")
    if not first.exists():
        _run(name, seed, folder, config, ours)
        if not outcome(folder).get("disturbed") or "return_mean" not in outcome(folder):
            return
        folder.rename(first)
        folder.mkdir()
    _run(name, seed, folder, config, ours)
    before, after = outcome(first), outcome(folder)
    if "return_mean" not in after or after.get("others", 0.0) > before.get("others", 0.0):
        shutil.rmtree(folder)
        first.rename(folder)
    else:
        shutil.rmtree(first)
    write_json(folder / "result.json", outcome(folder) | {"repeated": True})


def _run(name: str, seed: int, folder: Path, config: CompareConfig, ours: list[str]) -> None:
    """Run one training, after the trials that choose the resources of an opponent."""
    if name != OURS:
        keys = opponent_keys(name, seed, config, ours)
        calibration.choose(name, config.env, folder.parent, keys, _given(name, config))
    path = folder / "result.json"
    path.unlink(missing_ok=True)
    meter = folder / "processors.json"  # sums over all parts of a resumed training
    goes_on = name == OURS and (folder / "run" / CONFIG).exists() and meter.exists()
    sums, start = (
        json.loads(meter.read_text(encoding="utf-8")) if goes_on else [0.0, 0.0, 0.0],
        machine.processor_seconds(),
    )
    try:
        failed = (_ours if name == OURS else partial(_theirs, name))(seed, folder, config, ours)
    finally:
        sums = [done + now - then for done, now, then in zip(sums, machine.processor_seconds(), start, strict=True)]
        write_json(meter, sums)
    found = outcome(folder)  # not empty if only the film has failed
    busy, passed, own = sums
    # Servers such as Ray's do not end as our children, so that `own` lacks them.
    own = max(own, found.get("family_seconds", 0.0))
    about: dict[str, Any] = {"date": time.strftime("%Y-%m-%d")}
    about |= {"machine": machine.description(), "versions": library_versions()}
    if available_processors() == len(os.sched_getaffinity(0)):  # with a CPU quota, others may use the rest
        others = max(0.0, busy - own) / passed
        about |= {"others": others, "disturbed": others > config.tolerate and name != RANDOM}
    if tried := calibration.tried(name, folder.parent, _given(name, config)):
        about["calibration"] = tried
    write_json(path, (found or {"failed": failed}) | about)


def _ours(seed: int, folder: Path, config: CompareConfig, ours: list[str]) -> str | None:
    path = folder / "run"
    begun = (path / CONFIG).exists()
    if not begun:  # left by a training that was killed before its run existed
        shutil.rmtree(path, ignore_errors=True)
    code = code_keys(resolved(config, ours), ["policy"])
    keys = [f"resume={path}", f"minutes={config.minutes:g}", f"env={config.env}", *code]
    if failed := _call(folder, config, "es_rl.train", keys if begun else train_keys(seed, path, config, ours)):
        return failed
    # On Gymnasium's environment, as all contenders.
    keys = [f"run={path}", f"env={config.env}", f"episodes={config.episodes}", "seed=0", "backend=gymnasium", *code]
    answer = folder / "evaluation.json"
    if failed := _call(folder, config, "es_rl.evaluate", keys, stdout=answer):
        return failed
    found = json.loads(answer.read_text(encoding="utf-8").splitlines()[-1])
    if found["failed"]:
        return f"{found['failed']} of {config.episodes} episodes failed"
    lines = [json.loads(line) for line in (path / METRICS).read_text(encoding="utf-8").splitlines()]
    used = np.cumsum([line["time/processor_seconds"] for line in lines]).tolist()
    points = [
        {"seconds": line["seconds"], "cpu_seconds": cpu, "env_steps": line["env_steps"], "return": line[RETURN]}
        for line, cpu in zip(lines, used, strict=True)
        if line.get(RETURN) is not None and not line.get("eval/failed")  # as for the others: no mean of a part
    ]
    (folder / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points), encoding="utf-8")
    result = {name: found[name] for name in ("return_mean", "return_std", "length_mean", "generation")}
    result |= {name: lines[-1][name] for name in ("env_steps", "seconds")} | {"cpu_seconds": used[-1]}
    ran_on = resources(resolved(config, ours)) | {"steps_per_second": result["env_steps"] / result["seconds"]}
    late = lines[-1]["seconds"] - lines[-1].get("time/evaluate", 0.0) - 60 * config.minutes
    if late > LATE * 60 * config.minutes:  # a generation is played to its end
        ended = f"ended {late:.0f} s after the time"
        ran_on["note"] = f"{ran_on['note']}; {ended}" if "note" in ran_on else ended
    write_json(folder / "result.json", result | {"resources": ran_on})
    return None


def resources(config: Config) -> dict[str, Any]:
    """Return what es_rl's training runs on; `environments` is how many run side by side at most."""
    workers = available_processors() if config.workers is None else config.workers
    processes = max(1, workers * (PROCESSES if config.inference == "central" else 1))
    environments = min(config.es.population * config.es.episodes, processes * sum(capacity(config)))
    if config.es.segment:
        environments = config.credit.simulations
    noted = {} if config.obs_first is None else {"note": sees(config.obs_first)}
    return {"environments": environments, "processes": processes, "threads": 1, **noted}


def film(folder: Path, config: CompareConfig, ours: list[str]) -> None:
    """Write the video of es_rl's policy, or the reason why there is none. Do nothing if the video exists."""
    video = folder / "video.mp4"
    if not video.exists():
        keys = [f"run={folder / 'run'}", f"env={config.env}", f"out={video}", f"seconds={config.film:g}"]
        keys += code_keys(resolved(config, ours), ["policy"])
        if failed := _call(folder, config, "es_rl.record", keys):
            (folder / NO_VIDEO).write_text(failed, encoding="utf-8")


def _theirs(name: str, seed: int, folder: Path, config: CompareConfig, ours: list[str]) -> str | None:
    seconds = config.film if seed == config.first_seed else 0.0
    keys = [*baseline_keys(name, seed, folder, config, ours), f"film={seconds:g}"]
    return _call(folder, config, "es_rl.compare.baselines", keys)


def train_keys(seed: int, run: Path, config: CompareConfig, ours: list[str]) -> list[str]:
    """Return the keys of `python -m es_rl.train` for one training of es_rl."""
    return [f"env={config.env}", f"minutes={config.minutes:g}", f"seed={seed}", f"run={run}", "video.every=-1", *ours]


def baseline_keys(name: str, seed: int, folder: Path, config: CompareConfig, ours: list[str]) -> list[str]:
    """Return the keys of `python -m es_rl.compare.baselines` for one training of an opponent, resources included."""
    keys = [*opponent_keys(name, seed, config, ours), f"out={folder}", f"episodes={config.episodes}"]
    return [*keys, *calibration.chosen(name, folder.parent, _given(name, config))]


def opponent_keys(name: str, seed: int, config: CompareConfig, ours: list[str]) -> list[str]:
    """Return the keys of an opponent's training, without those of its resources.

    Of es_rl's keys, it gets `env_kwargs`. ppo_fast also gets `obs_first`, unless its own settings choose it.
    """
    environment = [argument for argument in ours if argument.startswith(("env_kwargs.", "env_kwargs="))]
    keys = [f"name={name}", f"env={config.env}", f"minutes={config.minutes:g}", f"seed={seed}", *environment]
    first = resolved(config, ours).obs_first if name == "ppo_fast" and not _chooses_obs_first(config.env) else None
    return keys if first is None else [*keys, f"settings.obs_first={first}"]


def _chooses_obs_first(env: str) -> bool:
    """Tell whether the settings of ppo_fast choose `obs_first` themselves."""
    return "obs_first" in ppo_fast.SETTINGS.get(family(env), {})


def _given(name: str, config: CompareConfig) -> dict[str, int]:
    """Return the resources that the command line sets, as far as a contender can use them."""
    given = {"threads": config.threads, "processes": config.processes}
    given |= {"environments": config.environments} if name in MANY else {}
    return {key: value for key, value in given.items() if value is not None and name not in (OURS, RANDOM)}


def _call(
    folder: Path, config: CompareConfig, module: str, keys: list[str], *, stdout: Path | None = None
) -> str | None:
    return child.call(folder, module, keys, seconds=120 * config.minutes + PATIENCE, stdout=stdout)


def outcome(folder: Path) -> dict[str, Any]:
    """Return the result of a training; empty if there is none yet."""
    try:
        found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def library_versions() -> dict[str, str]:
    """Return the versions of packages that results may depend on, including the opponents' libraries."""
    found = versions()
    for package in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found

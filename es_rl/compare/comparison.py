"""A comparison: the trainings one after another, and the report after each of them."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from es_rl import envs
from es_rl.compare import contender
from es_rl.compare.baselines import BASELINES, check_libraries, check_spaces, label, settings
from es_rl.compare.config import CompareConfig
from es_rl.compare.report import page as report
from es_rl.compare.report.summary import OURS
from es_rl.config import flatten
from es_rl.errors import ConfigError, TrainingError, lookup
from es_rl.rl.config import Config
from es_rl.rl.task import probe
from es_rl.run import WORKERS_LOG
from es_rl.run.atomic import write_json
from es_rl.run.directory import locked, reporting
from es_rl.run.signals import stopped_by_signals
from es_rl.workers import machine
from es_rl.workers.machine import available_processors
from es_rl.workers.pool import Workers


def compare(config: CompareConfig, ours: list[str], resolved: Config) -> int:
    """Compare. `ours` are the keys of es_rl's training, `resolved` is its configuration. Return the exit code."""
    _check(config)
    out = Path(config.out or f"runs/compare/{config.env.replace(':', '-')}")
    with reporting(out, "Choose another place with out=DIRECTORY"):
        out.mkdir(parents=True, exist_ok=True)
    plan = [(name, config.first_seed + i) for i in range(config.seeds) for name in (OURS, *config.against)]
    with locked(out), stopped_by_signals(": the same command goes on"):
        _keep_settings(out, config, resolved)
        if any("return_mean" not in contender.outcome(_folder(out, *training)) for training in plan):
            _check_env(out, config, resolved)
        for number, (name, seed) in enumerate(plan, 1):
            trained = _train(f"{number} of {len(plan)}", name, seed, out, config, ours)
            if trained or number == len(plan):
                results = _results(out, config, ours, plan)
                write_json(out / "results.json", results)
                report.write(out, results)
    sys.stdout.write(f"The report is {out / 'report.html'}\n")
    lost = [f"{name}-{seed}" for name, seed in plan if "return_mean" not in contender.outcome(_folder(out, name, seed))]
    if lost:
        raise TrainingError(f"{', '.join(lost)}: failed; the report says why. The same command tries again.")
    return 0


def _folder(out: Path, name: str, seed: int) -> Path:
    return out / f"{name}-{seed}"


def _train(place: str, name: str, seed: int, out: Path, config: CompareConfig, ours: list[str]) -> bool:
    """Run one training unless it is already done. Tell whether it was run."""
    folder, title = _folder(out, name, seed), f"{label(name, config.env)}, seed {seed}"
    new = "return_mean" not in contender.outcome(folder)
    if new:
        sys.stdout.write(f"{place}: {title}\n")
        sys.stdout.flush()
        folder.mkdir(exist_ok=True)
        contender.run(name, seed, folder, config, ours)
    outcome = contender.outcome(folder)
    if (name, seed) == (OURS, config.first_seed) and config.film and "return_mean" in outcome:
        contender.film(folder, config, ours)
    said = f"{outcome['return_mean']:.1f}" if "return_mean" in outcome else outcome.get("failed", "not run")
    sys.stdout.write(f"   {title}: {said}\n")
    return new


def _check_env(out: Path, config: CompareConfig, resolved: Config) -> None:
    """Make the environment once in a separate process, before any training. Raises `EnvError` if it cannot be used."""
    with Workers(
        1, log=out / WORKERS_LOG, hang_after=resolved.hang_after, check=lambda: None,
        on_event=lambda text: None, on_steps=lambda steps: None,
    ) as workers:  # fmt: skip
        spec = probe(workers, resolved)
    for name in config.against:
        check_spaces(name, config.env, spec.action_space)


def _check(config: CompareConfig) -> None:
    """Raise `ConfigError`, `EnvError` or `ResourceError` for what cannot be compared."""
    for name in config.against:
        lookup(BASELINES, name, "against")
    if len(set(config.against)) < len(config.against):
        raise ConfigError(f"against={','.join(config.against)}: give each only once.")
    check_libraries(config.against)
    envs.check_id(config.env)


def _keep_settings(out: Path, config: CompareConfig, resolved: Config) -> None:
    """Save the settings. Raises `ConfigError` if the directory holds a comparison with other settings."""
    path = out / "comparison.json"
    # More seeds and other baselines may be added later.
    fixed = {k: v for k, v in asdict(config).items() if k in ("env", "minutes", "episodes")}
    fixed |= {k: v for k in ("threads", "environments", "processes") if (v := getattr(config, k)) is not None}
    fixed |= flatten(asdict(replace(resolved, minutes=config.minutes))) | {"processors": available_processors()}
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = before.get("opponents", {})
    opponents = {name: settings(name, config.env) for name in config.against}
    kept: dict[str, Any] = json.loads(json.dumps({**fixed, "opponents": {**known, **opponents}}))
    expected = before | {"opponents": {**kept["opponents"], **known}}  # opponents may be added
    if before and expected != kept:
        old, new = flatten(expected), flatten(kept)
        changed = ", ".join(f"{k} was {old.get(k)}" for k in {**new, **old} if old.get(k) != new.get(k))
        raise ConfigError(f"{out}: holds a comparison with other settings ({changed}). Give another out=DIRECTORY.")
    write_json(path, kept)


def _results(out: Path, config: CompareConfig, ours: list[str], plan: list[tuple[str, int]]) -> dict[str, Any]:
    """Return everything that the report shows: the planned runs, and other runs of earlier calls."""
    names = (OURS, *BASELINES)
    found = [re.fullmatch(r"(\w+)-(\d+)", path.name) for path in out.iterdir()]
    earlier = [(match[1], int(match[2])) for match in found if match and match[1] in names]
    runs, contenders = [], list(dict.fromkeys([OURS, *config.against, *(name for name, _ in earlier)]))
    for name, seed in sorted({*plan, *earlier}, key=lambda item: (item[1], contenders.index(item[0]))):
        folder = _folder(out, name, seed)
        keys = (
            ["es_rl.train", *contender.train_keys(seed, folder / "run", config, ours)]
            if name == OURS
            else ["es_rl.compare.baselines", *contender.baseline_keys(name, seed, folder, config, ours)]
        )
        run = {"name": name, "seed": seed, "command": shlex.join(["python", "-m", *keys]), **contender.outcome(folder)}
        with contextlib.suppress(OSError, ValueError):  # a killed training may leave an incomplete line
            run["curve"] = [
                json.loads(line) for line in (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()
            ]
        video, reason = folder / "video.mp4", folder / contender.NO_VIDEO
        run |= {"video": str(video.relative_to(out))} if video.exists() else {}
        runs.append(
            run | ({"no_video": reason.read_text(encoding="utf-8")} if reason.exists() and not video.exists() else {})
        )
    return {
        **asdict(config),
        "labels": {name: label(name, config.env) for name in contenders},
        "command": shlex.join(["python", "-m", "es_rl.compare", *_given(config, ours, runs)]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.description(),
        "versions": contender.library_versions(),
        "runs": runs,
    }


def _given(config: CompareConfig, ours: list[str], runs: list[dict[str, Any]]) -> list[str]:
    """Return arguments that repeat all of these runs, or at least those of this call, with defaults spelt out."""
    seeds = {run["seed"] for run in runs}
    opponents = ",".join(name for name in BASELINES if any(run["name"] == name for run in runs))
    against = f"against={opponents or '[]'}"
    known, count = asdict(config), max(seeds) - min(seeds) + 1
    known |= {"first_seed": min(seeds), "seeds": count} if count == len(seeds) else {}
    given = {k: v for k, v in known.items() if k not in ("against", "out") and v is not None}
    return [*(f"{k}={v}" for k, v in given.items()), against, *ours]

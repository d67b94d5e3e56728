"""The contenders whose settings can be searched: how keys become a training, and where its learning curve is."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import math
import shutil
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import gymnasium
from omegaconf import OmegaConf

from es_rl.compare.baselines import BASELINES, TABLES, settings
from es_rl.compare.opponents.sb3 import OURS
from es_rl.config import build, flatten, leaves, read_file
from es_rl.envs import BACKENDS
from es_rl.errors import ConfigError, lookup, missing_extra, nearest
from es_rl.es.optim import check_optimizer
from es_rl.es.shaping import SHAPINGS
from es_rl.noise import KINDS
from es_rl.policies import POLICIES
from es_rl.rl.config import CODE, Config, parse_train
from es_rl.rl.presets import preset
from es_rl.rl.segments.config import asks_for_episodes
from es_rl.run import CONFIG, METRICS
from es_rl.run.resume import outward

RETURN = "eval/return_mean"
EVALUATIONS = 20  # of a training; about the smallest number wanted
SHARE = 0.3  # evaluations may add about this share to the steps of a training
TAKEN = (
    "resume", "run", "generations", "minutes", "target_return", "workers", "inference", "device", "eval.every",
    "video.every", "checkpoint.every", "checkpoint.keep",
)  # fmt: skip
REGISTRIES: dict[str, Mapping[str, Any]] = {
    "policy": POLICIES,
    "backend": BACKENDS | {"auto": None},
    "es.noise": KINDS,
    "es.shaping": SHAPINGS,
}
LIBRARIES = {
    "ppo": ("stable_baselines3", "PPO"),
    "ppo_fast": ("stable_baselines3", "PPO"),
    "sac": ("stable_baselines3", "SAC"),
    "ars": ("sb3_contrib", "ARS"),
}
OF_THE_VERB = ("environments", "processes", "threads")  # keys of es_rl.compare.baselines
EPISODES = 10  # of the final evaluation of an opponent, as of every other point of its curve
Curve = list[tuple[int, float]]  # environment steps and return of each evaluation


class Contender(Protocol):
    """A trainer whose settings are searched."""

    def kind(self, name: str) -> str:
        """Return the type of a key: int, float, list, any or other. Raises `ConfigError` for an unknown key."""

    def value(self, name: str, text: str) -> Any:
        """Return a key's value as a training reads it. Raises `ConfigError`."""

    def defaults(self, fixed: Mapping[str, str]) -> dict[str, Any]:
        """Return the values of all keys if only the `fixed` ones are given. Raises `ConfigError`."""

    def fixed(self, searched: Collection[str], given: Mapping[str, str]) -> dict[str, str]:
        """Return the keys that all trials have: those given, and what follows from those searched."""

    def check(self, keys: Mapping[str, str]) -> None:
        """Raise `ConfigError` if keys contradict each other."""

    def command(self, keys: Mapping[str, str], seed: int, folder: Path) -> list[str]:
        """Return the arguments after `python -m` for one training; it continues an interrupted one if it can."""

    def curve(self, folder: Path) -> Curve:
        """Return the learning curve of a training so far."""

    def best(self, keys: Mapping[str, str]) -> dict[str, Any]:
        """Return the settings to save, for use in other trainings."""


class Ours:
    """Evolution strategies: `es_rl.train`."""

    def __init__(self, env: str, env_steps: int) -> None:
        self._env, self._env_steps = env, env_steps
        self._fields = dict(leaves(Config))
        spec = gymnasium.spec(env.rpartition(":")[2])
        self._longest = spec.max_episode_steps or 1000

    def kind(self, name: str) -> str:
        if name in TAKEN:
            raise ConfigError(f"{name}: is set by the sweep. Leave it out.")
        if name.startswith("cluster."):
            raise ConfigError(f"{name}: is set by the sweep, whose trials have a processor each. Leave it out.")
        if name.startswith(("env_kwargs.", "policy_kwargs.")):
            return "any"
        if name not in (*self._fields, "config"):
            parse_train([f"env={self._env}", f"{name}=0"])  # raises, with a hint at similar keys
        return "other" if name == "config" else _kind(str(self._fields[name].type))

    def value(self, name: str, text: str) -> Any:
        if name == "config":
            return read_file(Path(text), Config)
        config = build(Config, [(preset(self._env), ""), ({name: text}, "")])
        if name == "optim.name":
            check_optimizer(text, name)
        elif name in REGISTRIES and not (name in CODE and ":" in text):  # a network of the user's is in no registry
            lookup(REGISTRIES[name], text, name)
        return flatten(dataclasses.asdict(config)).get(name)

    def defaults(self, fixed: Mapping[str, str]) -> dict[str, Any]:
        config = parse_train([f"env={self._env}", *(f"{k}={v}" for k, v in fixed.items())])
        return flatten(dataclasses.asdict(config))

    def fixed(self, searched: Collection[str], given: Mapping[str, str]) -> dict[str, str]:
        known = {**dict.fromkeys(searched, "searched"), **given}
        whole = "es.segment" not in known and asks_for_episodes(known)
        return {**given, "es.segment": "0"} if whole else dict(given)

    def check(self, keys: Mapping[str, str]) -> None:
        self.defaults(keys)

    def command(self, keys: Mapping[str, str], seed: int, folder: Path) -> list[str]:
        run = folder / "run"
        if (run / CONFIG).exists():
            again = [f"{k}={v}" for k, v in keys.items() if outward(k) or (k in CODE and ":" in v)]
            return ["es_rl.train", f"resume={run}", f"env={self._env}", *again]
        shutil.rmtree(run, ignore_errors=True)  # left by a training that was killed before its run existed
        own = [f"env={self._env}", f"env_steps={self._env_steps}", f"seed={seed}", f"run={run}", "workers=0"]
        own += ["video.every=-1", f"eval.every={self.every(self.defaults(keys))}", "checkpoint.keep=1"]
        return ["es_rl.train", *own, *(f"{k}={v}" for k, v in keys.items())]

    def every(self, keys: Mapping[str, Any]) -> int:
        """Return the generations between evaluations, such that the curve has enough points at little cost."""
        longest = min(self._longest, keys["es.limit"] or self._longest)
        evaluation = keys["eval.episodes"] * longest  # steps, at most
        steps: int = keys["es.population"] * keys["es.episodes"] * longest  # of a generation, at most
        if keys["es.segment"]:
            steps = keys["es.segment"] * keys["credit.simulations"]
        points: int = self._env_steps // (EVALUATIONS * steps)
        cheap: int = math.ceil(evaluation / (SHARE * steps))
        return max(points, cheap)

    def curve(self, folder: Path) -> Curve:
        rows = [row for row in _lines(folder / "run" / METRICS) if RETURN in row]
        return [(row["env_steps"], _finite(row[RETURN])) for row in rows]

    def best(self, keys: Mapping[str, str]) -> dict[str, Any]:
        file = read_file(Path(keys["config"]), Config) if "config" in keys else {}
        return {"env": self._env, **file, **{k: _plain(v) for k, v in keys.items() if k != "config"}}


class Theirs:
    """An opponent of `es_rl.compare`, by its name there. Its keys are its settings and some keys of its verb."""

    def __init__(self, name: str, env: str, env_steps: int) -> None:
        self._name, self._env, self._env_steps = name, env, env_steps
        self._table = settings(name, env)
        self._defaults: dict[str, Any] = {**dict.fromkeys(OF_THE_VERB), **_arguments(name), **self._table}
        self._examples: dict[str, list[Any]] = {}  # values that each setting has, by default or in its table
        for example in (self._defaults, *map(flatten, TABLES.get(name, {}).values())):
            for key, value in example.items():
                self._examples.setdefault(key, []).append(value)

    def kind(self, name: str) -> str:
        if name in OF_THE_VERB or name == "obs_first":  # the default, null, does not tell the type
            return "int"
        if name.startswith("env_kwargs."):
            return "any"
        if name not in self._examples:
            known = ", ".join(sorted(self._examples))
            raise ConfigError(f"{name}: no setting of {self._name}.{nearest(name, self._examples)} Known: {known}.")
        kinds = {_kind(type(value).__name__) for value in self._examples[name] if value is not None}
        return "float" if kinds == {"int", "float"} else kinds.pop() if len(kinds) == 1 else "any"

    def value(self, name: str, text: str) -> Any:
        value, kind = _plain(text), self.kind(name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if kind in ("int", "float") and value is not None and not (number and (kind == "float" or value == int(value))):
            raise ConfigError(f"{name}={text}: must be {'a whole number' if kind == 'int' else 'a number'}.")
        return value

    def defaults(self, fixed: Mapping[str, str]) -> dict[str, Any]:
        return self._defaults | {k: _plain(v) for k, v in fixed.items()}

    def fixed(self, searched: Collection[str], given: Mapping[str, str]) -> dict[str, str]:
        return dict(given)

    def check(self, keys: Mapping[str, str]) -> None:
        """Accept everything: the training itself refuses keys that contradict each other."""

    def command(self, keys: Mapping[str, str], seed: int, folder: Path) -> list[str]:
        for name in ("curve.jsonl", "result.json"):
            (folder / name).unlink(missing_ok=True)
        own = [f"name={self._name}", f"env={self._env}", f"env_steps={self._env_steps}", f"seed={seed}"]
        of_verb = (*OF_THE_VERB, "env_kwargs")
        given = [
            f"{k}={v}" if k.partition(".")[0] in of_verb else f"settings.{k}={v}" for k, v in self._whole(keys).items()
        ]
        return ["es_rl.compare.baselines", *own, f"out={folder}", f"episodes={EPISODES}", *given]

    def _whole(self, keys: Mapping[str, str]) -> dict[str, str]:
        """Add the table's other settings in the groups of these keys: a group inside a group is replaced as a whole."""
        groups = {k.partition(".")[0] for k in keys if "." in k}
        beside = {k: json.dumps(v) for k, v in self._table.items() if "." in k and k.partition(".")[0] in groups}
        return {**beside, **keys}

    def curve(self, folder: Path) -> Curve:
        curve = [(row["env_steps"], _finite(row["return"])) for row in _lines(folder / "curve.jsonl")]
        if (folder / "result.json").exists():
            last = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            curve.append((last["env_steps"], last["return_mean"]))
        return curve

    def best(self, keys: Mapping[str, str]) -> dict[str, Any]:
        return self._table | {k: _plain(v) for k, v in keys.items()}


def make(name: str, env: str, env_steps: int) -> Contender:
    """Return the contender of this name. Raises `ConfigError`."""
    if name != "es":
        lookup({"es": None, **BASELINES}, name, "contender")
    return Ours(env, env_steps) if name == "es" else Theirs(name, env, env_steps)


def _arguments(name: str) -> dict[str, Any]:
    """Return the settings that a library's algorithm takes, with their defaults. Raises `ResourceError`."""
    if name not in LIBRARIES:
        return {}
    module, algorithm = LIBRARIES[name]
    try:
        made = getattr(importlib.import_module(module), algorithm)
    except ImportError as error:
        raise missing_extra(f"contender={name}: {error}", "baselines") from error
    taken = inspect.signature(made).parameters.values()
    return {p.name: p.default for p in taken if p.name not in OURS and p.default is not p.empty}


def _finite(value: float | None) -> float:
    """Turn null, which is written for a return that is not finite, into NaN."""
    return math.nan if value is None else value


def _kind(annotation: str) -> str:
    """Return the type of a key, as of `Contender.kind`, by its annotation."""
    plain = annotation.removesuffix(" | None")
    if plain in ("int", "float"):
        return plain
    return "list" if plain.startswith("list") else "other"


def _plain(text: str) -> Any:
    """Parse a value as YAML, as the command line does."""
    return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index, call-overload]


def _lines(path: Path) -> typing.Iterator[dict[str, Any]]:
    """Yield the objects in the complete lines of a JSON lines file, if it exists."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)

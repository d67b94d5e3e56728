"""EnvPool's environments: their names, options, spaces and limits, and pools of them.

Its numbers say less than Gymnasium's in two places. Where C++ has no bound, its spaces have the smallest positive and
the largest number of their type: such a bound is none here. A limit of steps may be missing, or be 2**31 − 1.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from es_rl.envs.gymnasium_backend import DEFAULT_TIME_LIMIT, OFF, describe
from es_rl.envs.spaces import Space, refusal
from es_rl.errors import FOREIGN, EnvError, ResourceError, missing_extra, nearest

OLDEST = (1, 2, 5)  # the first version that takes a seed for each environment, and of which this was tested
ENDLESS = 2**31 - 1  # a limit that means none
# Options that a run must not set: what es_rl sets itself, and what names files or a program. A run may be a stranger's.
OURS = {"num_envs", "batch_size", "num_threads", "max_num_players", "thread_affinity_offset", "seed", "env_seed",
        "gym_reset_return_info"}  # fmt: skip
FILES = {"base_path", "vzd_path", "cfg_path", "wad_path", "iwad_path", "game_args", "lmp_save_dir", "xml_file"}
# In ViZDoom, any number but 0 presses a button. A policy can only choose among combinations of buttons.
BY_FAMILY = {"envpool.vizdoom": {"use_combined_action": True}}
# Frames a second of simulated time, before `frame_skip`.
FRAMES = {"envpool.atari": 60.0, "envpool.vizdoom": 35.0, "envpool.procgen": 15.0}
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "a dictionary"}


def library() -> Any:
    """Return the package. Raises `ResourceError` if it is missing or too old."""
    try:
        package = importlib.import_module("envpool")
    except ImportError as error:
        raise missing_extra("backend=envpool: needs the package envpool", "envpool") from error
    found = str(package.__version__)
    if tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise missing_extra(f"backend=envpool: needs envpool {oldest} or newer, and {found} is installed", "envpool")
    return package


def check_id(id: str) -> None:
    """Raise `EnvError` if EnvPool has no such environment."""
    known = library().list_all_envs()
    if id not in known:
        raise EnvError(f"env={id}: EnvPool has no such environment.{nearest(id, known)} An id is one of EnvPool's.")


def has(id: str) -> bool:
    """Tell whether EnvPool is installed, and has an environment."""
    try:
        return id in library().list_all_envs()
    except ResourceError:
        return False


class Task:
    """An environment of EnvPool, with its options."""

    def __init__(self, id: str, env_kwargs: Mapping[str, Any]) -> None:
        """Raise `EnvError` for an unknown id or option, or what no single policy can act in."""
        check_id(id)
        self.id, self._package = id, library()
        self.family = self._family()
        standard = self._spec({})
        defaults = standard.config._asdict()
        given = {name: _option(id, name, value, defaults) for name, value in env_kwargs.items()}
        self._options = {**_known(BY_FAMILY.get(self.family, {}), defaults), **given}
        limit = self._options.get("max_episode_steps", "as it is")
        if limit in OFF:
            self._options["max_episode_steps"] = ENDLESS
        self.spec = self._spec(self._options) if self._options else standard
        self.config: dict[str, Any] = self.spec.config._asdict()
        if (players := self.config.get("max_num_players", 1)) > 1:
            raise EnvError(f"env={id}: is for {players} players, and one policy is trained here. Choose another id.")
        with (
            warnings.catch_warnings()
        ):  # Gymnasium tells of bounds that lose digits, about which nobody can do anything
            warnings.simplefilter("ignore")
            self.observation_space, self.action_space = (
                clean(space) for space in (self.spec.observation_space, self.spec.action_space)
            )
        if text := refusal(self.observation_space, self.action_space):
            raise EnvError(f"env={id}: {text}.")

    @property
    def limit(self) -> int | None:
        """Steps after which its episodes end at the latest; None if it does not say so."""
        found = int(self.config.get("max_episode_steps", ENDLESS))
        if found == 0:  # MiniGrid's way to say that the size of the grid decides
            return DEFAULT_TIME_LIMIT
        return None if found >= ENDLESS else found

    @property
    def rate(self) -> float | None:
        """Steps per second of simulated time, if they are known."""
        if self.config.get("ctrl_dt"):
            return 1 / float(self.config["ctrl_dt"])
        frames = FRAMES.get(self.family)
        return None if frames is None else frames / max(1, int(self.config.get("frame_skip", 1)))

    def pool(self, seeds: Sequence[int], **more: Any) -> Any:
        """Return a pool with one simulation for each seed, which one thread steps."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = self._package.make_gymnasium(
                self.id, num_envs=len(seeds), num_threads=1, env_seed=[*map(int, seeds)], **self._options, **more
            )
            _ = made.observation_space, made.action_space  # it keeps them: Gymnasium tells of them here, and only here
        return made

    def actions(self, rows: Any) -> Any:
        """Return rows of a policy's numbers, (n, A) or (n,), as the pool's actions."""
        space = self.action_space
        values = np.asarray(rows)
        kind = np.dtype(space.dtype)
        if kind.kind in "iu" and values.dtype.kind == "f":
            values = np.rint(values)
        return np.ascontiguousarray(values.astype(kind).reshape(len(values), *(space.shape or ())))

    def _family(self) -> str:
        """Return the module of an environment, such as envpool.atari: it groups those of one kind."""
        registry = getattr(getattr(self._package, "registration", None), "registry", None)
        entry = getattr(registry, "specs", {}).get(self.id)
        return str(entry[0]) if entry else ""

    def _spec(self, options: Mapping[str, Any]) -> Any:
        try:
            return self._package.make_spec(self.id, **options)
        except FOREIGN as error:
            given = "".join(f" env_kwargs.{name}={value}" for name, value in options.items())
            raise EnvError(f"env={self.id}{given}: cannot be made: {describe(error)}") from error


def _known(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in defaults}


def _option(id: str, name: str, value: Any, defaults: Mapping[str, Any]) -> Any:
    """Return the value of an option in its type. Raises `EnvError` for an unknown one, or a wrong type."""
    given = f"env={id}: env_kwargs.{name}={value}"
    if name in OURS:
        raise EnvError(f"{given}: es_rl sets it itself. Leave it out.")
    if name in FILES:
        raise EnvError(f"{given}: names files or a program, which no run may do. Leave it out.")
    open_names = sorted(defaults.keys() - OURS - FILES)
    if name not in defaults:
        raise EnvError(f"{given}: has no such option.{nearest(name, open_names)} It has: {', '.join(open_names)}.")
    default = defaults[name]
    if isinstance(default, (tuple, list)) and isinstance(value, (tuple, list)):
        return type(default)(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if name == "max_episode_steps" and value is None:
        return value
    if type(default) is not type(value):
        kind = KINDS.get(type(default), "a list")
        raise EnvError(f"{given}: must be {kind}, such as {default!r}.")
    return value


def clean(space: Any) -> Space:
    """Return a space with bounds that mean none replaced by infinite ones, and with nothing but Gymnasium's types."""
    if isinstance(space, (dict, spaces.Dict)):
        return spaces.Dict([(name, clean(part)) for name, part in space.items()])
    if not isinstance(space, spaces.Box) or np.dtype(space.dtype).kind != "f":
        same: Space = space
        return same
    kind = np.finfo(space.dtype)
    low, high = np.array(space.low), np.array(space.high)
    none = (low == kind.tiny) & (high == kind.max)
    low[none | (low <= kind.min)], high[high >= kind.max] = -np.inf, np.inf
    return spaces.Box(low, high, tuple(space.shape), kind.dtype.type)

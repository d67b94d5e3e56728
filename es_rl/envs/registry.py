"""Gymnasium's registry: which ids there are, which other one was meant, and which package may have it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from es_rl import plugins
from es_rl.envs import pools
from es_rl.envs.gymnasium_backend import describe
from es_rl.envs.pools import tasks
from es_rl.errors import FOREIGN, EnvError, nearest, text_of

# Packages that register ids when they are imported, by what their ids begin with.
PACKAGES = {
    "ALE/": "ale_py", "dm_control/": "shimmy", "MiniGrid": "minigrid", "BabyAI": "minigrid",
    "Fetch": "gymnasium_robotics", "HandManipulate": "gymnasium_robotics", "HandReach": "gymnasium_robotics",
    "Adroit": "gymnasium_robotics", "Franka": "gymnasium_robotics", "PointMaze": "gymnasium_robotics",
    "AntMaze": "gymnasium_robotics", "Panda": "panda_gym", "highway": "highway_env", "Meta-World": "metaworld",
    "Safety": "safety_gymnasium",
}  # fmt: skip


class Registered:
    """Makes an environment that was registered with a class or a function, also in processes without its id."""

    def __init__(self, spec: EnvSpec) -> None:
        self._spec, self.max_episode_steps = spec, spec.max_episode_steps
        entry: Any = spec.entry_point
        if callable(getattr(entry, "simulations", None)):
            self.simulations = partial(entry.simulations, **spec.kwargs)

    def __call__(self, **kwargs: Any) -> gymnasium.Env[Any, Any]:
        return gymnasium.make(self._spec, disable_env_checker=True, **kwargs)


def given(env: str | Callable[..., Any]) -> str:
    """Return the name of an environment that was given from Python: an id, or the name with a function that makes it.

    So too for an id that was registered here with a class or a function: other processes do not know it.
    """
    if not isinstance(env, str):
        return plugins.Given(env)
    spec = gymnasium.registry.get(env)
    if spec is None or isinstance(spec.entry_point, str):
        return env
    return plugins.Given(Registered(spec), env)


def simulations_of(id: str) -> Callable[..., Any] | None:
    """Return what makes simulations of an id that are stepped together, if its class says how; None otherwise.

    Imports the module of `module:Id`. The class has a class method `simulations(n, obs_first, **settings)`, which gets
    the arguments with which the id was registered too.
    """
    if isinstance(id, plugins.Given):
        found = getattr(id.object, "simulations", None)
        return found if callable(found) else None
    module, _, name = id.rpartition(":")
    if module:
        _import(module, id)
    spec = gymnasium.registry.get(name)
    entry: Any = None if spec is None else spec.entry_point
    if isinstance(entry, str) and entry.startswith("es_rl."):
        entry = gymnasium.envs.registration.load_env_creator(entry)
    found = getattr(entry, "simulations", None)
    return partial(found, **spec.kwargs) if spec and callable(found) else None


def check_id(id: str, backend: str = "auto") -> None:
    """Raise `EnvError` if an environment is not registered. Imports the module of `module:Id`, but makes nothing.

    With EnvPool as the backend, it must be one of EnvPool's.
    """
    if backend == pools.NAME:
        tasks.check_id(id)
        return
    if isinstance(id, plugins.Given):
        if not callable(id.object):
            kind = type(id.object).__name__
            hint = " Give the function that makes it: lambda: gymnasium.make(…)." if hasattr(id.object, "step") else ""
            raise EnvError(f"env={id}: must be an id, or a function that makes a gymnasium.Env, and is a {kind}.{hint}")
        return
    module, _, name = id.rpartition(":")
    if module:
        _import(module, id)
    try:
        gymnasium.spec(name)
    except gymnasium.error.Error as error:
        same_name = versions_of(name)
        hint = f" Did you mean {' or '.join(same_name)}?" if same_name else _other_package(name, module)
        hint = " EnvPool has it: add backend=envpool." if tasks.has(id) else hint or nearest(name, gymnasium.registry)
        raise EnvError(f"env={id}: no such environment.{hint} An id is one of Gymnasium's, or module:Id.") from error


def _other_package(name: str, module: str) -> str:
    """Return a hint at the package that may have an id, or an empty string."""
    package = next((package for start, package in PACKAGES.items() if name.startswith(start)), "")
    return f" If it is of the package {package}, give env={package}:{name}." if package and package != module else ""


def _import(module: str, id: str) -> None:
    try:
        plugins.load(module)
    except FOREIGN as error:
        text = describe(error)
        raise EnvError(f"env={id}: the module {module} cannot be imported: {text}") from error


def versions_of(name: str) -> list[str]:
    """Return the registered ids of other versions of `name` whose code can be loaded."""
    stem = name.rpartition("-v")[0] or name
    found = []
    for other, spec in sorted(gymnasium.registry.items()):
        if other.rpartition("-v")[0] == stem and other != name and isinstance(spec.entry_point, str):
            try:
                creator = gymnasium.envs.registration.load_env_creator(spec.entry_point)
            except Exception:  # noqa: BLE001 - whatever hinders it, it is no help to the user
                continue
            old = any("mujocopy" in base.__name__.lower() for base in getattr(creator, "__mro__", ()))
            if not old or find_spec("mujoco_py") is not None:
                found.append(other)
    return found


def messages_of(caught: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """Return the texts of warnings as Gymnasium and others give them, without repetitions."""
    texts = [str(w.message).replace("\033[33m", "").replace("\033[0m", "") for w in caught]
    return tuple(dict.fromkeys(text.removeprefix("WARN: ") for text in texts))


def not_made(id: str, env_kwargs: Mapping[str, Any], error: BaseException) -> EnvError:
    """Return what is told of an environment that cannot be made, with other versions of it that can."""
    name = id.rpartition(":")[2]
    others = versions_of(name) if isinstance(error, (ImportError, gymnasium.error.Error)) else []
    hint = f" Versions that can be made: {', '.join(others)}." if others else ""
    if isinstance(error, TypeError) and "unexpected keyword" in text_of(error):
        hint = f" Its arguments are {', '.join(_arguments(id))}."
    given = ", ".join(f"env_kwargs.{k}={v}" for k, v in env_kwargs.items())
    said = describe(error).partition(" was raised from the environment creator")[0]  # what follows is said here too
    said += "." if hint and not said.endswith(".") else ""
    return EnvError(f"env={id} {given}: cannot be made: {said}{hint}".replace(" :", ":"))


def _arguments(id: str) -> list[str]:
    """Return the names of the arguments that make an environment."""
    source: Any = id.object if isinstance(id, plugins.Given) else gymnasium.spec(id.rpartition(":")[2]).entry_point
    creator = gymnasium.envs.registration.load_env_creator(source) if isinstance(source, str) else source
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [
        p.name for p in inspect.signature(creator).parameters.values() if p.kind in named and p.name != "render_mode"
    ]

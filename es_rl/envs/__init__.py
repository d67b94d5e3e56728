"""Environments: the `VectorEnv` interface, the registry of backends, and the functions that make environments.

A `VectorEnv` is n simulations of one environment. Any subset of them can be reset or stepped, so finished simulations
cost nothing. If a simulation breaks (it raises, or returns something of the wrong shape), the call does not raise:
the reward and observation of that simulation are NaN, it is terminated, and `errors` says what happened.

    env = es_rl.envs.make("HalfCheetah-v5", 8)
    obs = env.reset(range(8), seeds=range(8))                            # (8, O), as Gymnasium's reset(seed=…)
    obs, reward, terminated, truncated = env.step([0, 3], actions)       # arrays over the two ids

The fast backend also serves other libraries, as vector environments that restart finished episodes themselves:

    es_rl.envs.make_vec("HalfCheetah-v5", 64)                     # for Gymnasium; or with Gymnasium's own function:
    gymnasium.make_vec("es_rl/HalfCheetah-v5", num_envs=64)       # after `import es_rl.envs`
    es_rl.envs.sb3("HalfCheetah-v5", 64)                          # for Stable-Baselines3
"""

from __future__ import annotations

if __name__ == "envs":
    raise ImportError("the package is es_rl.envs; the top-level folder envs is only a link for readers")

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

import gymnasium
from gymnasium import spaces

from es_rl.envs import gymnasium_backend, mujoco_tasks, pools, worlds
from es_rl.envs.backends import BACKENDS as BACKENDS
from es_rl.envs.backends import Savable as Savable
from es_rl.envs.backends import VectorEnv as VectorEnv
from es_rl.envs.curriculum import Curriculum, curriculum_of
from es_rl.envs.measures import names_of
from es_rl.envs.mujoco_tasks import PREFIX, TASKS
from es_rl.envs.pixels import PLAIN, View
from es_rl.envs.registry import check_id as check_id
from es_rl.envs.registry import messages_of, not_made, simulations_of
from es_rl.envs.spaces import row_of, usable
from es_rl.envs.toys import point_mass, recall, spot
from es_rl.errors import FOREIGN, ConfigError, EnvError, EsRlError, lookup

OUTDATED = r" \w+-v4 is out of date"  # in a warning of Gymnasium
_MUJOCO = "pip install 'mujoco>=3.17,!=4.0.0'"

mujoco_tasks.register()
point_mass.register()
recall.register()
spot.register()
worlds.register()


@dataclass(frozen=True)
class EnvSpec:
    """Facts about an environment that are known once it has been made."""

    id: str
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    kwargs: dict[str, Any] = field(default_factory=dict)
    backend: str = "auto"
    warnings: tuple[str, ...] = ()  # messages of the warnings while it was made, without repetitions
    savable: bool = False  # whether its simulations are `Savable`
    measures: tuple[str, ...] = ()  # names of what is measured besides rewards
    curriculum: Curriculum | None = None  # by which its episodes grow harder
    view: View = PLAIN  # of its frames and images


def make(id: str, n: int, /, backend: str = "auto", *, obs_first: int | None = None, **env_kwargs: Any) -> VectorEnv:
    """Return n simulations of the environment `id` (`module:Id` imports the module first).

    `backend` is `auto` (the fastest available) or a name in `BACKENDS`. `obs_first` keeps only this many numbers of an
    observation, the first ones; the others may not be computed at all. Raises `EnvError`, `ConfigError`.
    """
    with _making(id):
        return make_vector(id, n, backend, env_kwargs, obs_first)


def make_vector(
    id: str,
    n: int,
    backend: str,
    env_kwargs: Mapping[str, Any],
    obs_first: int | None = None,
    *,
    threads: int = 1,
    endless: bool = False,
    view: View = PLAIN,
    exact: bool = True,
) -> VectorEnv:
    """Do the same as `make`, for environment arguments of any name. Only the fast backend uses `threads`.

    Episodes of an environment without a time limit are cut off all the same, unless they may be `endless`. A backend
    gets a `view` only if it is not the plain one. `exact` is EnvPool's: see `es_rl.envs.pools.vector`.
    """
    name = _serving(id, backend, view)
    more: dict[str, Any] = ({"endless": True} if endless else {}) | ({"view": view} if view.keys else {})
    if threads > 1 and name == "batch":
        more["threads"] = threads
    if not exact and name == pools.NAME:
        more["exact"] = False
    return lookup(BACKENDS, name, "backend")(id, n, env_kwargs, obs_first, **more)


def make_vec(
    id: str,
    num_envs: int = 1,
    *,
    threads: int = 1,
    autoreset_mode: gymnasium.vector.AutoresetMode | str = gymnasium.vector.AutoresetMode.NEXT_STEP,
    render_mode: str | None = None,
    **env_kwargs: Any,
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Return a `gymnasium.vector.VectorEnv` on the fast backend, equal to Gymnasium's `SyncVectorEnv` to the last bit.

    For the same seeds and actions, observations, rewards, ends, restarts and final observations are equal. Actions are
    converted to the action space's type, float32. The numbers that Gymnasium's tasks put into `info` are left out.
    `threads` threads step the physics. `autoreset_mode` is `NextStep`, `SameStep` or `Disabled`. A simulation that
    diverges terminates with reward 0 and `info["diverged"]`; MuJoCo would reset it in the middle of the episode. For an
    id without a fast environment, return Gymnasium's `SyncVectorEnv`. Raises `EnvError`, `ConfigError`.
    """
    modes = {mode.value: mode for mode in gymnasium.vector.AutoresetMode}
    mode = lookup(modes, str(getattr(autoreset_mode, "value", autoreset_mode)), "autoreset_mode")
    check_id(id)
    backend = choose_backend(id)
    _check_counts(id, num_envs, threads, backend)
    with _making(id):
        if backend == "batch":
            from es_rl.envs.gymnasium_vector import FastVectorEnv

            return FastVectorEnv(
                id, num_envs, env_kwargs, threads=threads, autoreset_mode=mode, render_mode=render_mode
            )
        make_each = partial(gymnasium_backend.make_one, id, env_kwargs, render_mode=render_mode)
        return gymnasium.vector.SyncVectorEnv([make_each] * num_envs, autoreset_mode=mode)


def sb3(
    id: str,
    num_envs: int = 1,
    *,
    threads: int = 1,
    backend: str = "auto",
    obs_first: int | None = None,
    render_mode: str | None = None,
    **env_kwargs: Any,
) -> Any:
    """Return a Stable-Baselines3 `VecEnv` on the fast backend, equal to its `DummyVecEnv` to the last bit.

    Actions are converted to the action space's type, float32. Episode statistics are in `info["episode"]`, as with
    `Monitor`. `obs_first` keeps only this many numbers of an observation, the first ones. For an id without a fast
    environment, and without `obs_first`, return a `DummyVecEnv` of monitored environments. Needs the extra `baselines`.
    Raises `EnvError`, `ConfigError`, ImportError.
    """
    from es_rl.envs.sb3_vector import FastVecEnv, dummy

    check_id(id)
    name = choose_backend(id, backend)
    _check_counts(id, num_envs, threads, name)
    with _making(id):
        if name == "gymnasium" and obs_first is None:
            return dummy(id, num_envs, env_kwargs, render_mode)
        return FastVecEnv(
            id, num_envs, env_kwargs, backend=name, threads=threads, obs_first=obs_first, render_mode=render_mode
        )


def _check_counts(id: str, num_envs: int, threads: int, backend: str) -> None:
    if num_envs < 1 or threads < 1:
        raise ConfigError(f"num_envs={num_envs}, threads={threads}: both must be at least 1.")
    if backend == pools.NAME:
        raise ConfigError("backend=envpool: has vector environments of its own, envpool.make_gymnasium. Use these.")
    if threads > 1 and backend != "batch":
        raise ConfigError(f"threads={threads}: only fast environments have threads, and {id} is none. Leave it out.")


@contextmanager
def _making(id: str) -> Iterator[None]:
    """Turn any error of an environment's constructor into an `EnvError` of one line. v4 serves on purpose: no word."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", rf".*{OUTDATED}", DeprecationWarning)
            yield
    except EsRlError:
        raise
    except FOREIGN as error:
        raise EnvError(f"env={id}: cannot be made: {gymnasium_backend.describe(error)}") from error


def choose_backend(id: str, backend: str = "auto") -> str:
    """Return the name of the backend that serves an environment.

    Raises `EnvError` if the requested backend cannot serve it, or if MuJoCo's version computes wrong physics.
    """
    fast = id.removeprefix(PREFIX) in TASKS or simulations_of(id) is not None
    found = version("mujoco") if fast else ""
    if found.startswith("4.0.0"):
        raise EnvError(f"env={id}: mujoco {found} computes wrong accelerations. Install another: {_MUJOCO}.")
    if backend not in ("auto", "batch"):
        return backend
    if not fast:
        if backend == "batch":
            raise EnvError(f"backend=batch: {id} has no fast environment; these have: {', '.join(TASKS)}.")
        return "gymnasium"
    if tuple(int(part) for part in found.split(".")[:2]) >= (3, 17):
        return "batch"
    if backend == "batch":
        raise EnvError(f"backend=batch: needs a newer mujoco than {found}. Install one: {_MUJOCO}.")
    warnings.warn(f"mujoco {found} has no mujoco.batch, so {id} is simulated slowly. Install {_MUJOCO}", stacklevel=2)
    return "gymnasium"


def _serving(id: str, backend: str, view: View) -> str:
    """Return the name of the backend that serves an environment with a view, which the fast one does not know."""
    name = choose_backend(id, backend)
    if name != "batch" or not view.keys:
        return name
    if backend == "batch":
        raise EnvError(f"backend=batch: knows no {view.keys[0].partition('=')[0]}. Give backend=gymnasium.")
    return "gymnasium"


def probe(id: str, env_kwargs: Mapping[str, Any], seed: int, backend: str = "auto", view: View = PLAIN) -> EnvSpec:
    """Make the environment, reset it, step it once and return its facts. Raises `EnvError` if it is unusable."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            backend = _serving(id, backend, view)
            env = pools.make_single(id, env_kwargs, backend, view=view)
        except EnvError:
            raise
        except FOREIGN as error:
            raise not_made(id, env_kwargs, error) from error
    gymnasium_backend.close(env)
    said = messages_of(caught)
    if gymnasium_backend.time_limit(env) is None:
        longest = gymnasium_backend.DEFAULT_TIME_LIMIT
        said += (f"{id} has no time limit: its episodes are cut off after {longest:,} steps, so that they end",)
    gymnasium_backend.check_spaces(env.observation_space, env.action_space, id)
    seen, left_out = usable(env.observation_space)
    assert seen is not None
    if left_out:
        said += (f"left out of the observations, since they have no fixed size: {', '.join(left_out)}",)
    try:
        vector = make_vector(id, 1, backend, env_kwargs, view=view)
        env.action_space.seed(seed)
        vector.reset([0], [seed])
    except EsRlError:
        raise
    except FOREIGN as error:
        raise not_made(id, env_kwargs, error) from error
    spec = EnvSpec(
        id, seen, env.action_space, dict(env_kwargs), backend, said, isinstance(vector, Savable),
        names_of(vector), curriculum_of(vector), view,
    )  # fmt: skip
    if not vector.errors:
        vector.step([0], row_of(spec.action_space, spec.action_space.sample())[None])
    vector.close()
    if vector.errors:
        raise EnvError(f"env={id}: {vector.errors[0]}")
    return spec

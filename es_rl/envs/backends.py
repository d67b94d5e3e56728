"""What serves an environment: the `VectorEnv` interface, and the registry of backends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import gymnasium
from numpy.typing import NDArray

from es_rl.envs import gymnasium_backend, pools
from es_rl.envs.registry import simulations_of
from es_rl.envs.spaces import Bools, Floats, Ids, Seeds
from es_rl.errors import EnvError
from es_rl.plugins import Given


class VectorEnv(Protocol):
    """n simulations of one environment.

    Observations are flattened to vectors of O numbers (or fewer: `obs_first`). Those with images are rows of bytes, see
    `es_rl.observations`; below, (n, O) then stands for n rows of them.

    With an attribute `together`, one `reset` should begin so many episodes, not one.
    """

    errors: dict[int, str]  # by simulation: what broke, in one line; the reader clears it

    def reset(self, ids: Ids, seeds: Seeds) -> Floats:
        """Start episodes and return observations (len(ids), O). A generator given as a seed continues its sequence."""

    def step(self, ids: Ids, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools]:
        """Step the simulations `ids`; return observations (n, O), and rewards, terminated and truncated, each (n,).

        Actions are rows of numbers, see `es_rl.envs.spaces`: (n, A), or (n,) integers if they are Discrete.
        """

    def close(self) -> None:
        """Release the resources of the simulations."""


@runtime_checkable
class Savable(VectorEnv, Protocol):
    """A `VectorEnv` whose simulations can be saved in the middle of an episode and go on elsewhere, bit for bit."""

    def save(self, ids: Ids) -> Floats:
        """Return all that the coming steps of these simulations depend on, a row (n, S) each."""

    def restore(self, ids: Ids, rows: Floats) -> None:
        """Put these simulations where the rows (n, S) of `save` left theirs. Raises ValueError for other rows."""


def _batch(id: str, n: int, env_kwargs: Mapping[str, Any], obs_first: int | None, **more: Any) -> VectorEnv:
    if (simulations := simulations_of(id)) is not None:
        source = id.object if isinstance(id, Given) else gymnasium.spec(id.rpartition(":")[2])
        known = getattr(source, "max_episode_steps", None)
        given = dict(env_kwargs)
        limit, endless = given.pop("max_episode_steps", known), more.pop("endless", False)
        if limit in gymnasium_backend.OFF:
            limit = sys.maxsize if endless else gymnasium_backend.DEFAULT_TIME_LIMIT
        if "task" in given:
            raise EnvError(f"env={id}: env_kwargs.task is what the id stands for. Leave it out.")
        made: VectorEnv = simulations(n=n, obs_first=obs_first, limit=limit, **given, **more)
        return made
    from es_rl.envs.mujoco_backend import MujocoVector  # imports mujoco, which not every environment needs

    return MujocoVector(id, n, env_kwargs, obs_first, **more)


BACKENDS: dict[str, Callable[..., VectorEnv]] = {
    "batch": _batch,
    "gymnasium": gymnasium_backend.GymnasiumVector,
    pools.NAME: pools.make_vector,
}

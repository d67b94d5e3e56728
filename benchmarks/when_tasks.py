"""HalfCheetah-v4 made harder in one way each: the tasks on which `benchmarks/when.py` compares es_rl with PPO.

    python benchmarks/when_tasks.py env=es_rl/LateReward-v0 backend=variants workers=0 minutes=1

trains as `python -m es_rl.train` does, with these tasks known.

    es_rl/LateReward-v0    the sum of an episode's rewards is paid at its last step, and nothing before
    es_rl/NoisyReward-v0   a random number as large as the reward is added to each reward
    es_rl/ShortSteps-v0    four times as many steps, each a fourth as long, a fourth of the reward for each

They are served by the backend `variants`, which importing this module adds, so `workers=0` is needed. Gymnasium knows
the ids for their spaces only.
"""

from __future__ import annotations

import re
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import gymnasium.envs.mujoco
import numpy as np
from numpy.typing import NDArray

from es_rl import envs
from es_rl.envs import VectorEnv
from es_rl.envs.spaces import Bools, Floats, Ids, Ints, Seeds
from es_rl.errors import EnvError
from es_rl.rng import MAX_SEED, PURPOSES, stream

PLAIN = "HalfCheetah-v4"
BACKEND = "variants"
# Standard deviation of the noise on each reward: the root mean square of the reward of one step under the trained
# policy in videos/policies/halfcheetah, of which almost all is its mean.
REWARD_NOISE = 4.8
FINER = 4  # steps of ShortSteps in place of one
NOISE_BLOCK = 50  # steps whose noise is drawn at once

PURPOSES["reward_noise"] = 1001  # far from the library's own codes


class Payment(Protocol):
    """What the policy is paid in place of the task's own reward."""

    def begin(self, ids: Ints, seeds: Seeds) -> None:
        """Prepare for episodes that begin."""

    def pay(self, ids: Ints, obs: Floats, reward: Floats, over: Bools) -> Floats:
        """Return the rewards (n,) of one step, which led to `obs` and may have ended episodes."""


class Paid:
    """A vector environment whose rewards are another payment."""

    def __init__(self, env: VectorEnv, payment: Payment) -> None:
        self._env, self._payment = env, payment
        self.errors = env.errors

    def reset(self, ids: Ids, seeds: Seeds) -> Floats:
        """Start episodes."""
        self._payment.begin(np.asarray(ids, np.int64), seeds)  # before a generator in place of a seed goes on
        return self._env.reset(ids, seeds)

    def step(self, ids: Ids, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools]:
        """Step the simulations `ids`."""
        obs, reward, terminated, truncated = self._env.step(ids, actions)
        paid = self._payment.pay(np.asarray(ids, np.int64), obs, reward, terminated | truncated)
        return obs, paid, terminated, truncated

    def close(self) -> None:
        """Release what the simulations hold."""
        self._env.close()


class AtTheEnd:
    """The sum of all rewards at the last step, nothing before."""

    def __init__(self, n: int) -> None:
        self._sums = np.zeros(n)

    def begin(self, ids: Ints, seeds: Seeds) -> None:
        """Begin at zero."""
        self._sums[ids] = 0.0

    def pay(self, ids: Ints, obs: Floats, reward: Floats, over: Bools) -> Floats:
        """Save up, and pay where episodes are over."""
        self._sums[ids] += reward
        return np.where(over, self._sums[ids], 0.0)


class WithNoise:
    """The reward and Gaussian noise, a pure function of the episode's seed, the step and what has happened.

    What has happened counts, because both members of a pair play from the same seed: noise of the seed alone would be
    the same for both and vanish from their difference, which no noise of a real sensor does.
    """

    def __init__(self, n: int) -> None:
        self._seeds, self._steps, self._drawn = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros((n, NOISE_BLOCK))

    def begin(self, ids: Ints, seeds: Seeds) -> None:
        """Note the seeds; of a generator, where it stands."""
        self._seeds[ids] = [
            zlib.crc32(str(seed.bit_generator.state).encode()) if isinstance(seed, np.random.Generator) else int(seed)
            for seed in seeds
        ]
        self._steps[ids] = 0

    def pay(self, ids: Ints, obs: Floats, reward: Floats, over: Bools) -> Floats:
        """Add the noise of the step; every `NOISE_BLOCK` steps, that of as many more is drawn."""
        at = self._steps[ids] % NOISE_BLOCK
        for row in np.flatnonzero(at == 0):
            i, happened = ids[row], zlib.crc32(np.ascontiguousarray(obs[row]).tobytes())
            noise = stream(int(self._seeds[i]) % MAX_SEED, "reward_noise", int(self._steps[i]), happened)
            self._drawn[i] = noise.standard_normal(NOISE_BLOCK)
        self._steps[ids] += 1
        paid: Floats = reward + REWARD_NOISE * self._drawn[ids, at]
        return paid


class Share:
    """A constant share of the reward."""

    def __init__(self, share: float) -> None:
        self._share = share

    def begin(self, ids: Ints, seeds: Seeds) -> None:
        """Nothing is kept of an episode."""

    def pay(self, ids: Ints, obs: Floats, reward: Floats, over: Bools) -> Floats:
        """Return the share."""
        return reward * self._share


def late_reward(n: int, env_kwargs: Mapping[str, Any], obs_first: int | None) -> VectorEnv:
    """Return n simulations that pay at the end."""
    return Paid(envs.make_vector(PLAIN, n, "batch", env_kwargs, obs_first), AtTheEnd(n))


def noisy_reward(n: int, env_kwargs: Mapping[str, Any], obs_first: int | None) -> VectorEnv:
    """Return n simulations with noise on the reward."""
    return Paid(envs.make_vector(PLAIN, n, "batch", env_kwargs, obs_first), WithNoise(n))


def short_steps(n: int, env_kwargs: Mapping[str, Any], obs_first: int | None, *, finer: int = FINER) -> VectorEnv:
    """Return n simulations of the same body and the same seconds in `finer` times as many steps.

    MuJoCo's own timestep is divided, so that a step of the policy is still as many of these. The speed is paid in full
    at each step, so the share of a step is 1/`finer`: a return means what it means on the plain task. This is v5 of the
    task, which differs from v4 in its arguments only: it takes a file and a number of substeps.
    """
    plain = gymnasium.make(PLAIN)
    spec, frame_skip = plain.spec, plain.unwrapped.frame_skip  # type: ignore[attr-defined]
    assert spec is not None and spec.max_episode_steps is not None
    limit = spec.max_episode_steps * finer
    plain.close()
    with finer_model(finer) as path:  # read when the first simulation is made, which is at once
        kwargs = {"max_episode_steps": limit, **env_kwargs, "xml_file": str(path), "frame_skip": frame_skip}
        env = envs.make_vector("HalfCheetah-v5", n, "batch", kwargs, obs_first)
    return Paid(env, Share(1 / finer))


@contextmanager
def finer_model(finer: int) -> Iterator[Path]:
    """Write Gymnasium's half cheetah with its timestep divided, to a file that is there until the block ends."""
    source = Path(gymnasium.envs.mujoco.__file__).parent / "assets" / "half_cheetah.xml"
    found = re.search(r'timestep="([0-9.]+)"', text := source.read_text())
    if found is None:
        raise EnvError(f"{source}: no timestep is written there, so it cannot be divided. Install gymnasium 1.x.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / source.name
        path.write_text(text.replace(found.group(), f'timestep="{float(found.group(1)) / finer!r}"'))
        yield path


VARIANTS: dict[str, Callable[[int, Mapping[str, Any], int | None], VectorEnv]] = {
    "es_rl/LateReward-v0": late_reward,
    "es_rl/NoisyReward-v0": noisy_reward,
    "es_rl/ShortSteps-v0": short_steps,
}


class OnlySpaces(gymnasium.Env[Any, Any]):
    """What Gymnasium knows of a variant: its spaces. It cannot be played there."""

    def __init__(self, render_mode: str | None = None, **env_kwargs: Any) -> None:
        self.render_mode = render_mode
        env = gymnasium.make(PLAIN, **env_kwargs)
        self.observation_space, self.action_space = env.observation_space, env.action_space
        env.close()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Refuse. Raises `EnvError`."""
        raise EnvError(f"backend=gymnasium: a variant of {PLAIN} is not played there. Give backend={BACKEND}.")


def _make(env: str, n: int, env_kwargs: Mapping[str, Any], obs_first: int | None = None) -> VectorEnv:
    name = env.rpartition(":")[2]
    if name not in VARIANTS:
        raise EnvError(f"backend={BACKEND}: {env} is no variant; these are: {', '.join(VARIANTS)}.")
    return VARIANTS[name](n, env_kwargs, obs_first)


envs.BACKENDS[BACKEND] = _make
for _id in VARIANTS:
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=OnlySpaces)

if __name__ == "__main__":
    from es_rl import cli, train

    cli.run(train.main, sys.argv[1:])

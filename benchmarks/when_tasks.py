"""Variants of HalfCheetah-v4, each harder in one way: the tasks on which `benchmarks/when.py` compares es_rl with PPO.

    python benchmarks/when_tasks.py env=es_rl/LateReward-v0 backend=variants workers=0 minutes=1

This command trains as `python -m es_rl.train` does, and knows these tasks:

    es_rl/LateReward-v0    pays the sum of an episode's rewards at its last step, and 0 before
    es_rl/NoisyReward-v0   adds a random number as large as the reward to each reward
    es_rl/ShortSteps-v0    has four times as many steps, each a fourth as long, with a fourth of the reward

They need the backend `variants`. Importing this module adds it, in this process only, so `workers=0` is needed.
Gymnasium knows the ids, but only their spaces.
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
from es_rl.envs import Savable, VectorEnv
from es_rl.envs.spaces import Bools, Floats, Ids, Ints, Seeds
from es_rl.errors import EnvError
from es_rl.rng import MAX_SEED, PURPOSES, stream

PLAIN = "HalfCheetah-v4"
BACKEND = "variants"
# Standard deviation of the noise on each reward. It is the root mean square of the reward of a step with the trained
# policy in videos/policies/halfcheetah, which is almost equal to the mean reward.
REWARD_NOISE = 4.8
FINER = 4  # ShortSteps has this many steps for each step of the plain task
NOISE_BLOCK = 50  # draw the noise of this many steps at once

PURPOSES["reward_noise"] = 1001  # a code far from those of the library


class Payment(Protocol):
    """A rule that replaces the task's own reward."""

    def state(self) -> NDArray[Any]:
        """Return the array (n, K) that holds what a rule remembers of each simulation. It may be written to."""

    def begin(self, ids: Ints, seeds: Seeds) -> None:
        """Prepare for new episodes of the simulations `ids`."""

    def pay(self, ids: Ints, obs: Floats, reward: Floats, over: Bools) -> Floats:
        """Return the rewards (n,) of one step. It led to `obs` and ended the episodes marked in `over`."""


class Paid:
    """A vector environment whose rewards are replaced by a `Payment`."""

    def __init__(self, env: Savable, payment: Payment) -> None:
        self._env, self._payment = env, payment
        self.errors = env.errors

    def reset(self, ids: Ids, seeds: Seeds) -> Floats:
        """Start episodes."""
        self._payment.begin(np.asarray(ids, np.int64), seeds)  # first: the reset draws from a seed that is a generator
        return self._env.reset(ids, seeds)

    def step(self, ids: Ids, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools]:
        """Step the simulations `ids`."""
        obs, reward, terminated, truncated = self._env.step(ids, actions)
        paid = self._payment.pay(np.asarray(ids, np.int64), obs, reward, terminated | truncated)
        return obs, paid, terminated, truncated

    def save(self, ids: Ids) -> Floats:
        """Return the states of the simulations and what the rule remembers of them, a row each."""
        return np.concatenate([self._env.save(ids), self._payment.state()[np.asarray(ids)]], axis=1)

    def restore(self, ids: Ids, rows: Floats) -> None:
        """Put the simulations where the rows of `save` left theirs."""
        state = self._payment.state()
        self._env.restore(ids, rows[:, : rows.shape[1] - state.shape[1]])
        state[np.asarray(ids)] = rows[:, rows.shape[1] - state.shape[1] :]

    def close(self) -> None:
        """Close the simulations."""
        self._env.close()


class AtTheEnd:
    """The sum of all rewards at the last step of an episode, 0 before."""

    def __init__(self, n: int) -> None:
        self._sums = np.zeros((n, 1))

    def state(self) -> NDArray[Any]:
        """Return the sums (n, 1)."""
        return self._sums

    def begin(self, ids: Ints, seeds: Seeds) -> None:
        """Set the sums to zero."""
        self._sums[ids] = 0.0

    def pay(self, ids: Ints, obs: Floats, reward: Floats, over: Bools) -> Floats:
        """Add up the rewards. Return the sums where episodes are over, 0 elsewhere."""
        self._sums[ids, 0] += reward
        return np.where(over, self._sums[ids, 0], 0.0)


class WithNoise:
    """The reward plus Gaussian noise: a pure function of the episode's seed, the step and the observations.

    The observations count because both members of a pair play from the same seed. If the noise depended on the seed
    alone, both would get the same noise, and it would cancel in their difference. Real sensor noise does not cancel.
    """

    def __init__(self, n: int) -> None:
        self._state = np.zeros((n, 2 + NOISE_BLOCK))
        # views: the seed of the episode, the steps in it, and the noise of the present block of steps
        self._seeds, self._steps, self._drawn = self._state[:, 0], self._state[:, 1], self._state[:, 2:]

    def state(self) -> NDArray[Any]:
        """Return seeds, steps and drawn noise (n, 2 + NOISE_BLOCK)."""
        return self._state

    def begin(self, ids: Ints, seeds: Seeds) -> None:
        """Store the seeds; for a generator, a checksum of its state."""
        self._seeds[ids] = [
            zlib.crc32(str(seed.bit_generator.state).encode()) if isinstance(seed, np.random.Generator) else int(seed)
            for seed in seeds
        ]
        self._steps[ids] = 0

    def pay(self, ids: Ints, obs: Floats, reward: Floats, over: Bools) -> Floats:
        """Add the noise of the step. Every `NOISE_BLOCK` steps, draw the noise of the next `NOISE_BLOCK` steps."""
        at = self._steps[ids].astype(np.int64) % NOISE_BLOCK
        for row in np.flatnonzero(at == 0):
            i, happened = ids[row], zlib.crc32(np.ascontiguousarray(obs[row]).tobytes())
            noise = stream(int(self._seeds[i]) % MAX_SEED, "reward_noise", int(self._steps[i]), happened)
            self._drawn[i] = noise.standard_normal(NOISE_BLOCK)
        self._steps[ids] += 1
        paid: Floats = reward + REWARD_NOISE * self._drawn[ids, at]
        return paid


class Share:
    """A constant share of the reward."""

    def __init__(self, n: int, share: float) -> None:
        self._share, self._nothing = share, np.zeros((n, 0))

    def state(self) -> NDArray[Any]:
        """Return an array without columns."""
        return self._nothing

    def begin(self, ids: Ints, seeds: Seeds) -> None:
        """Do nothing: episodes have no state here."""

    def pay(self, ids: Ints, obs: Floats, reward: Floats, over: Bools) -> Floats:
        """Return the share of each reward."""
        return reward * self._share


def _savable(name: str, n: int, env_kwargs: Mapping[str, Any], obs_first: int | None) -> Savable:
    env = envs.make_vector(name, n, "batch", env_kwargs, obs_first)
    assert isinstance(env, Savable)
    return env


def late_reward(n: int, env_kwargs: Mapping[str, Any], obs_first: int | None) -> VectorEnv:
    """Return n simulations that pay at the end of an episode."""
    return Paid(_savable(PLAIN, n, env_kwargs, obs_first), AtTheEnd(n))


def noisy_reward(n: int, env_kwargs: Mapping[str, Any], obs_first: int | None) -> VectorEnv:
    """Return n simulations with noise on the reward."""
    return Paid(_savable(PLAIN, n, env_kwargs, obs_first), WithNoise(n))


def short_steps(n: int, env_kwargs: Mapping[str, Any], obs_first: int | None, *, finer: int = FINER) -> VectorEnv:
    """Return n simulations of the same body for the same seconds, in `finer` times as many steps.

    MuJoCo's own timestep is divided by `finer`; a step of the policy still has the same number of timesteps. The task
    pays for the speed at each step, so each step pays only 1/`finer` of it. Returns can then be compared with those of
    the plain task. This is v5 of the task, because it takes a model file and a number of timesteps per step. It differs
    from v4 in its arguments only.
    """
    plain = gymnasium.make(PLAIN)
    spec, frame_skip = plain.spec, plain.unwrapped.frame_skip  # type: ignore[attr-defined]
    assert spec is not None and spec.max_episode_steps is not None
    limit = spec.max_episode_steps * finer
    plain.close()
    with finer_model(finer) as path:  # make_vector reads the file at once
        kwargs = {"max_episode_steps": limit, **env_kwargs, "xml_file": str(path), "frame_skip": frame_skip}
        env = _savable("HalfCheetah-v5", n, kwargs, obs_first)
    return Paid(env, Share(n, 1 / finer))


@contextmanager
def finer_model(finer: int) -> Iterator[Path]:
    """Write Gymnasium's half cheetah with its timestep divided by `finer`. Yield the file; delete it at the end."""
    source = Path(gymnasium.envs.mujoco.__file__).parent / "assets" / "half_cheetah.xml"
    found = re.search(r'timestep="([0-9.]+)"', text := source.read_text(encoding="utf-8"))
    if found is None:
        raise EnvError(f"{source}: no timestep is written there, so it cannot be divided. Install gymnasium 1.x.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / source.name
        path.write_text(text.replace(found.group(), f'timestep="{float(found.group(1)) / finer!r}"'), encoding="utf-8")
        yield path


VARIANTS: dict[str, Callable[[int, Mapping[str, Any], int | None], VectorEnv]] = {
    "es_rl/LateReward-v0": late_reward,
    "es_rl/NoisyReward-v0": noisy_reward,
    "es_rl/ShortSteps-v0": short_steps,
}


class OnlySpaces(gymnasium.Env[Any, Any]):
    """An environment with the spaces of a variant, for Gymnasium. It cannot be played."""

    def __init__(self, render_mode: str | None = None, **env_kwargs: Any) -> None:
        self.render_mode = render_mode
        env = gymnasium.make(PLAIN, **env_kwargs)
        self.observation_space, self.action_space = env.observation_space, env.action_space
        env.close()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Refuse to play. Raises `EnvError`."""
        raise EnvError(f"backend=gymnasium: a variant of {PLAIN} is not played there. Give backend={BACKEND}.")


def _make(env: str, n: int, env_kwargs: Mapping[str, Any], obs_first: int | None = None, **_: Any) -> VectorEnv:
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

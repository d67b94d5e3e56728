"""EvoTorch's PGPE with ClipUp (Toklu, Liskowski and Srivastava 2020, arXiv 2008.02387) on its `GymNE`.

The settings are those of EvoTorch's own example for that paper, which has Walker2d and Humanoid. Other tasks get those
of Walker2d; tasks without a reward for staying alive do not get its correction of this reward.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from es_rl.compare.opponents.clock import Act, BaselineConfig, Clock, Policy, make_env, settings_of
from es_rl.workers.cluster.connection import on_loopback, protect
from es_rl.workers.guard import guarded

DEFAULTS: dict[str, Any] = {
    "network": "Linear(obs_length, act_length)",
    "observation_normalization": True,
    "decrease_rewards_by": 0.0,
    "popsize": 100,
    "popsize_max": 800,
    "num_interactions": 75_000,  # the population grows until a generation has made this many steps
    "max_speed": 0.015,
    "momentum": 0.9,
    "center_learning_rate": 0.75 * 0.015,
    "radius_init": 15 * 0.015,
    "stdev_learning_rate": 0.1,
    "stdev_max_change": 0.2,
}
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: DEFAULTS | {"decrease_rewards_by": 1.0} for name in ("Walker2d", "Hopper", "Ant")},
    "Humanoid": DEFAULTS
    | {"decrease_rewards_by": 5.0, "popsize": 200, "popsize_max": 3200, "num_interactions": 150_000},
}
OF_PROBLEM = ("network", "observation_normalization", "decrease_rewards_by")
OF_OPTIMIZER = ("max_speed", "momentum")
STORE_BYTES = 100_000_000  # size of Ray's shared memory for messages


def evotorch(config: BaselineConfig, clock: Clock) -> Act:
    """Train by policy gradients with parameter-based exploration. `processes` Ray actors evaluate; one needs no Ray."""
    settings = DEFAULTS | settings_of(SETTINGS, config, DEFAULTS)
    actors = config.processes or 1
    clock.uses(environments=actors, processes=actors)
    with _ray(actors):
        import torch
        from evotorch.algorithms import PGPE
        from evotorch.neuroevolution import GymNE

        logging.getLogger("evotorch").setLevel(logging.ERROR)
        several = {"num_actors": actors, "num_subbatches": 4 * actors} if actors > 1 else {}
        torch.manual_seed(config.seed)  # `GymNE(seed=…)` breaks its actors (EvoTorch 0.6.1)
        problem = GymNE(partial(_seeded, config), **{name: settings.pop(name) for name in OF_PROBLEM}, **several)
        optimizer = {name: settings.pop(name) for name in OF_OPTIMIZER}
        searcher = PGPE(problem, optimizer="clipup", optimizer_config=optimizer, **settings)
        try:
            return _train(problem, searcher, clock)
        finally:
            if actors > 1:
                problem.kill_actors()


def _train(problem: Any, searcher: Any, clock: Clock) -> Act:
    """Train generation by generation; return the centre of the search distribution as the policy."""
    clock.updates, clock.steps_of_an_update = 0, None
    act = _policy(problem, searcher)
    while clock.goes_on(int(problem.interaction_count), act):
        searcher.step()
        clock.updates += 1
        act = _policy(problem, searcher)
    return act


def _policy(problem: Any, searcher: Any) -> Policy:
    """Return the centre as a policy, with the current observation statistics, frozen."""
    import torch

    network = problem.make_net(searcher.status["center"])
    space = problem.get_env().action_space
    mean, deviation = _moments(problem)

    def batch(obs: Any) -> Any:
        scaled = (np.asarray(obs, np.float32) - mean) / deviation
        with torch.no_grad():
            out = network(torch.as_tensor(scaled, dtype=torch.float32)).numpy()
        if isinstance(space, spaces.Discrete):
            return out.argmax(-1)
        return np.clip(out, space.low, space.high)

    return Policy(batch)


def _moments(problem: Any) -> tuple[Any, Any]:
    """Return mean and standard deviation of the observations so far; 0 and 1 if unknown or not used."""
    if problem.observation_normalization:
        stats = problem.get_observation_stats()
        if stats.count > 1:
            return np.array(stats.mean), np.array(stats.stdev)
    return 0.0, 1.0


class _FirstSeed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that seeds its first episode; the others follow from it."""

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int) -> None:
        super().__init__(env)
        self._seed: int | None = seed

    def reset(self, **options: Any) -> Any:
        seed, self._seed = self._seed, None
        return self.env.reset(**({"seed": seed} | options))


def _seeded(config: BaselineConfig) -> gymnasium.Env[Any, Any]:
    """Return the environment of this process, with the seed that EvoTorch has given to torch here."""
    import torch

    return _FirstSeed(make_env(config), torch.initial_seed() % 2**31)


@contextmanager
def _ray(actors: int) -> Iterator[None]:
    """Run Ray for this many actors during the block, and leave nothing behind. One actor needs no Ray."""
    if actors == 1:
        yield
        return
    import ray

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    protect()
    folder, before = tempfile.mkdtemp(prefix="ray-"), signal.getsignal(signal.SIGTERM)
    with guarded(folder), on_loopback():
        ray.init(
            num_cpus=actors,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=STORE_BYTES,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        )
        signal.signal(signal.SIGTERM, before)  # Ray has replaced the handler
        try:
            yield
        finally:
            ray.shutdown()

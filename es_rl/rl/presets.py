"""Settings known to work, by environment, for any of its versions. Keys on the command line override them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _ars(pairs: int, top: int | None, sigma: float, alpha: float, shift: float, **more: Any) -> dict[str, Any]:
    """Return the settings of ARS V2-t (Mania et al. 2018, table 9).

    With lr = 2·alpha·sigma our update equals theirs: both divide by the number of directions and the standard deviation
    of fitness, ours by 2·sigma too.
    """
    return {
        "policy": "linear",
        "es.population": 2 * pairs,
        "es.top": top,
        "es.sigma": sigma,
        "es.shaping": "zscore",
        "es.reward_shift": shift,
        "optim.name": "sgd",
        "optim.momentum": 0.0,
        "optim.lr": 2 * alpha * sigma,
        **more,
    }


def _adam(population: int, sigma: float, lr: float, **more: Any) -> dict[str, Any]:
    """Return settings, by default Adam on centred ranks as in OpenAI-ES (Salimans et al. 2017): docs/tried.md."""
    return {
        "policy": "linear",
        "es.population": population,
        "es.sigma": sigma,
        "es.shaping": "centered_ranks",
        "optim.name": "adam",
        "optim.lr": lr,
        **more,
    }


PRESETS: dict[str, dict[str, Any]] = {
    # The settings of the paper. Hopper's 16 members keep few workers busy; a larger population, with a larger lr, would
    # keep more busy.
    "Hopper": _ars(8, 4, 0.025, 0.01, 1.0),
    # The step size decays: with the paper's constant one, theta moves in and out of a good gait.
    "HalfCheetah": _ars(32, 4, 0.03, 0.02, 0.0, **{"optim.lr_decay": 0.99}),
    "Walker2d": _ars(40, 30, 0.025, 0.03, 1.0),
    # Short episodes first: a generation of whole ones takes 120,000 steps, and the first ones teach little.
    "Ant": _ars(60, 20, 0.025, 0.015, 1.0, **{"es.limit": 100}),
    # ARS on positions and velocities only: not slower than on all 376 numbers, most of which are inertias and forces.
    # sigma and alpha change an action as much as the paper's values for Humanoid do. They differ because the paper does
    # not scale actions by their range of 0.4, and uses all 376 numbers.
    "Humanoid": _ars(128, None, 0.05, 0.1, 5.0, obs_first=45, obs_clip=5.0),
    # The same with fewer members, since every episode runs to its full length: 256 members would take 256,000 steps.
    "HumanoidStandup": _ars(32, None, 0.05, 0.1, 0.0, obs_first=45, obs_clip=5.0),
    # Found by search, on seed 1000 and few others (docs/tried.md). With small perturbations Swimmer stays in a gait
    # with a return_ of 45.
    "Swimmer": _adam(32, 0.5, 0.2, obs_norm=False),
    "InvertedDoublePendulum": _adam(256, 0.05, 0.01, **{"es.shaping": "zscore"}),
    "InvertedPendulum": _adam(32, 0.1, 0.05),
    "Reacher": _adam(64, 0.05, 0.02),
    "CartPole": _adam(32, 0.1, 0.05),
    "Acrobot": _adam(32, 0.5, 0.2),
    "Pendulum": _adam(64, 0.3, 0.15, policy="mlp"),
    "MountainCarContinuous": _adam(32, 0.5, 0.2),
    "MountainCar": _adam(64, 1.0, 0.3),
}


def preset(env: str) -> Mapping[str, Any]:
    """Return the preset of an environment id such as `Humanoid-v4`, or an empty mapping."""
    return PRESETS.get(family(env), {})


def family(env: str) -> str:
    """Return an environment's name without module, namespace and version: `Hopper` of `my_module:es_rl/Hopper-v5`."""
    return env.rpartition(":")[2].rpartition("/")[2].rpartition("-v")[0]

"""Settings that are known to work, by environment, whatever its version; keys on the command line win over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _ars(pairs: int, top: int | None, sigma: float, alpha: float, shift: float, **more: Any) -> dict[str, Any]:
    """ARS V2-t (Mania et al. 2018, table 9): its update is ours with lr = 2·alpha·sigma.

    For theirs divides by the number of directions and the standard deviation of fitness only.
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
    """Adam on centred ranks if not told otherwise, as OpenAI-ES (Salimans et al. 2017); see scripts/search.md."""
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
    # The settings of the paper. Hopper's sixteen members keep few workers busy; a larger population would keep more,
    # with a larger lr.
    "Hopper": _ars(8, 4, 0.025, 0.01, 1.0),
    # With ever smaller steps: those of the paper go on running about a good gait, in and out of it.
    "HalfCheetah": _ars(32, 4, 0.03, 0.02, 0.0, **{"optim.lr_decay": 0.99}),
    "Walker2d": _ars(40, 30, 0.025, 0.03, 1.0),
    # Short episodes first: a generation of whole ones takes 120,000 steps, and the first ones teach little.
    "Ant": _ars(60, 20, 0.025, 0.015, 1.0, **{"es.limit": 100}),
    # ARS on positions and velocities only: not slower than on all 376 numbers, of which most are inertias and forces.
    # In the units of the paper, where actions are not scaled by their range of 0.4 and observations are 376 numbers,
    # sigma and alpha are those of its Humanoid, in what they do to an action.
    "Humanoid": _ars(128, None, 0.05, 0.1, 5.0, obs_first=45, obs_clip=5.0),
    # The same with fewer members, as all its episodes are whole ones: a generation of 256 takes 256,000 steps.
    "HumanoidStandup": _ars(32, None, 0.05, 0.1, 0.0, obs_first=45, obs_clip=5.0),
    # Found by search, on seed 1000 and few others (scripts/search.md). Small perturbations leave Swimmer in a gait that
    # returns 45.
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
    """The preset of an environment id such as `Humanoid-v4`, or nothing."""
    return PRESETS.get(family(env), {})


def family(env: str) -> str:
    """An environment's name without module, namespace and version: `Hopper` of `my_module:es_rl/Hopper-v5`."""
    return env.rpartition(":")[2].rpartition("/")[2].rpartition("-v")[0]

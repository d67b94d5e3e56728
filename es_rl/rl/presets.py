"""Settings known to work, by environment, for any of its versions. Keys on the command line override them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from es_rl.envs.mujoco_tasks import PREFIX, TASKS
from es_rl.envs.worlds import WORLDS
from es_rl.rl.segments.config import asks_for_episodes


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


def _sgd(population: int, sigma: float, lr: float, **more: Any) -> dict[str, Any]:
    """Return settings of a small network that takes plain steps on z-scores, as ARS does."""
    return {
        "policy": "mlp",
        "mlp.hidden": [32, 32],
        "es.population": population,
        "es.sigma": sigma,
        "es.shaping": "zscore",
        "optim.name": "sgd",
        "optim.momentum": 0.0,
        "optim.lr": lr,
        **more,
    }


PRESETS: dict[str, dict[str, Any]] = {
    # The seven robots: the best of 24 trials each, for few environment steps (benchmarks/search_results.md). Of Hopper,
    # these are the settings of the paper. Populations of 8 and 16 keep few workers busy.
    "InvertedDoublePendulum": _adam(32, 0.07213, 0.01141, **{"es.shaping": "zscore"}),
    "Swimmer": _adam(8, 0.2142, 0.09979, **{"es.shaping": "zscore"}),
    "HalfCheetah": _sgd(16, 0.01443, 0.0008997, **{"es.limit": 200, "optim.lr_decay": 0.99}),
    "Hopper": _ars(8, 4, 0.025, 0.01, 1.0),
    "Walker2d": _sgd(80, 0.05225, 0.005669, **{"es.top": 8}),
    # An alive bonus of 1 is left out. Short episodes first: a generation of whole ones teaches little at first.
    "Ant": _sgd(32, 0.01851, 0.0006813, **{"es.limit": 200, "es.reward_shift": 1.0}),
    "Humanoid": _sgd(128, 0.06527, 0.01334, obs_clip=5.0),
    # ARS on positions and velocities only, the first 45 numbers. 256 members would take 256,000 steps a generation,
    # since every episode runs to its full length.
    "HumanoidStandup": _ars(32, None, 0.05, 0.1, 0.0, obs_first=45, obs_clip=5.0),
    # Found by hand, on seed 1000 and few others (docs/tried.md).
    "InvertedPendulum": _adam(32, 0.1, 0.05),
    "Reacher": _adam(64, 0.05, 0.02),
    "CartPole": _adam(32, 0.1, 0.05),
    "Acrobot": _adam(32, 0.5, 0.2),
    "Pendulum": _adam(64, 0.3, 0.15, policy="mlp"),
    "MountainCarContinuous": _adam(32, 0.5, 0.2),
    "MountainCar": _adam(64, 1.0, 0.3),
}


def _judged(**more: Any) -> dict[str, Any]:
    """Return settings for judged steps."""
    return {
        "policy": "mlp",
        "mlp.squash": "clip",
        "es.segment": 64,
        "es.sigma": 0.004,
        "optim.lr": 6e-4,
        "optim.eps": 1e-5,
        "eval.every": 50,
        **more,
    }


# Members are judged on recorded steps. Of the four robots of MuJoCo the best of some twenty trials each. The lr of
# Humanoid is a third of the one found. With the found one theta soon stands still, and trials of 300,000 steps were too
# short to show it (docs/tried.md).
WIDE: dict[str, Any] = {"mlp.hidden": [128, 128]}
JUDGED: dict[str, dict[str, Any]] = {
    "HalfCheetah": _judged(
        **WIDE, **{"optim.lr": 0.001234, "credit.batch": 512, "credit.clip": 0.3, "critic.gae": 0.9}
    ),
    "Walker2d": _judged(
        **{"optim.lr": 0.0004424, "credit.simulations": 32, "critic.discount": 0.995, "critic.gae": 0.9}
    ),
    "Ant": _judged(
        **{"optim.lr": 0.001806, "credit.batch": 1024, "credit.clip": 0.3},
        **{"critic.discount": 0.995, "critic.gae": 0.9},
    ),
    "Humanoid": _judged(
        **WIDE,
        **{"optim.lr": 0.0003, "credit.simulations": 32, "credit.batch": 1024, "credit.epochs": 8},
        **{"critic.discount": 0.98, "critic.gae": 0.9},
    ),
    # Found by hand: short segments of many simulations, much exploration, and smaller steps towards the end.
    "Quadruped": _judged(
        **WIDE,
        **{"es.segment": 24, "optim.lr": 0.001, "credit.simulations": 256, "credit.batch": 1024, "credit.explore": 0.8},
        **{"critic.batch": 1024, "critic.discount": 0.98, "optim.lr_decay": 0.998},
    ),
}
JUDGED["QuadrupedTerrain"] = JUDGED["Quadruped"]
# With less exploration: the first settings that were tried.
JUDGED["Arm"] = JUDGED["Ball"] = _judged(
    **WIDE,
    **{"es.segment": 24, "optim.lr": 0.001, "credit.simulations": 256, "credit.batch": 1024, "credit.explore": 0.5},
    **{"critic.batch": 1024, "critic.discount": 0.97},
)
JUDGED["Biped"] = JUDGED["Arm"] | {"critic.discount": 0.99, "optim.lr_decay": 0.994}
# Where judged steps learn more than whole episodes in the same environment steps (benchmarks/search_results.md,
# docs/tried.md). Of own robots, nothing else was tried.
BY_STEPS = ("HalfCheetah", "Walker2d", "Ant", "Humanoid", "Quadruped", "QuadrupedTerrain", "Arm", "Ball", "Biped")


# Keys that are about the task, or about how its members are judged. All other keys of a preset were searched for its
# policy.
OF_THE_TASK = (
    "obs_first", "obs_clip", "es.limit", "es.reward_shift", "es.segment", "eval.every", "credit.simulations",
    "critic.discount", "critic.gae", "critic.batch",
)  # fmt: skip
OF_THE_POLICY = ("policy", "linear.", "mlp.", "transformer.")


def fitting(env: str, given: Mapping[str, object]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the preset of an environment as far as it fits the given keys, and what is left out of it.

    If they ask for another policy than the preset's own, what was searched for that one does not hold: the defaults do,
    or those of judged steps. Keys of the other policy are not counted as left out, nor are keys that are given.
    """
    known = preset(env, given)
    if "policy" not in known or str(given.get("policy", known["policy"])) == known["policy"]:
        return known, {}
    common = _judged() if "es.segment" in known else {}
    fits = {
        name: value if name in OF_THE_TASK else common[name]
        for name, value in known.items()
        if (name in OF_THE_TASK or name in common) and not name.startswith(OF_THE_POLICY)
    }
    left = {
        name: value
        for name, value in known.items()
        if not name.startswith(OF_THE_POLICY) and name not in given and (name not in fits or fits[name] != value)
    }
    return fits, left


def preset(env: str, given: Mapping[str, object] | None = None) -> Mapping[str, Any]:
    """Return the preset of an environment id such as `Humanoid-v4`, or an empty mapping.

    `given` holds the keys of the command line and of a file. `es.segment` among them says how members are judged, and
    so do keys that only members with whole episodes have. Otherwise the task decides, if it is one of the fast ones.
    """
    given = given or {}
    name, segment = family(env), given.get("es.segment")
    fast = env.removeprefix(PREFIX) in TASKS or env in WORLDS
    by_steps = fast and name in BY_STEPS and not asks_for_episodes(given)
    if segment is not None:
        by_steps = str(segment).strip("0") != ""
    return JUDGED.get(name, _judged()) if by_steps else PRESETS.get(name, {})


def family(env: str) -> str:
    """Return an environment's name without module, namespace and version: `Hopper` of `my_module:es_rl/Hopper-v5`."""
    return env.rpartition(":")[2].rpartition("/")[2].rpartition("-v")[0]

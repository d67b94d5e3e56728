"""Worlds of es_rl's quadrupeds in which `robot_learning.py` trains and judges them. Each is registered under an id."""

import dataclasses

from es_rl.envs import robot
from es_rl.envs.worlds import quadruped, quadruped_terrain

JUDGED = ("geom_friction", "body_mass")  # fields of the model


def varied(part):
    """Return the task on flat ground, friction and masses from a part of their ranges: a function of (low, high)."""

    def within(vary):
        low, high = part(vary.low, vary.high)
        return dataclasses.replace(vary, low=low, high=high) if vary.field in JUDGED else vary

    return quadruped.task(varies=[within(vary) for vary in quadruped.task().varies])


def terrain(*, blind, **changes):
    """Return the task on uneven ground, with changes; `blind`: the robot does not see it."""
    observations = dict(quadruped_terrain.task().observations)
    if blind:
        del observations["ground"]
    return quadruped_terrain.task(observations=observations, **changes)


# Patches that are not those of the training, and of all levels. Slopes and stairs do not depend on a seed.
UNSEEN = {"ground": robot.Ground(kinds=("waves", "blocks"), seed=1), "curriculum": None}
# The name of the robot in each id is that of its preset.
WORLDS = {
    "middle/Quadruped-v0": varied(lambda low, high: ((low + high) / 2, (low + high) / 2)),
    "lowest/Quadruped-v0": varied(lambda low, high: (low, low + (high - low) / 4)),
    "highest/Quadruped-v0": varied(lambda low, high: (high - (high - low) / 4, high)),
    "fixed/Quadruped-v0": quadruped.task(varies=[]),
    "blind/QuadrupedTerrain-v0": terrain(blind=True),
    "fixed/QuadrupedTerrain-v0": terrain(blind=False, varies=[]),
    "fixed_blind/QuadrupedTerrain-v0": terrain(blind=True, varies=[]),
    "unseen/QuadrupedTerrain-v0": terrain(blind=False, **UNSEEN),
    "unseen_blind/QuadrupedTerrain-v0": terrain(blind=True, **UNSEEN),
}
for name, task in WORLDS.items():
    robot.register(name, task)

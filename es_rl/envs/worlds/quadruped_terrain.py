"""es_rl/QuadrupedTerrain-v0: the quadruped follows its command over slopes, stairs, waves and blocks that it sees."""

from __future__ import annotations

from es_rl.envs import robot
from es_rl.envs.robot import terms
from es_rl.envs.worlds import quadruped

AHEAD, BESIDE = (-0.3, -0.1, 0.1, 0.3, 0.5, 0.7), (-0.25, 0.0, 0.25)  # metres from the trunk


def task(**changes: object) -> robot.Task:
    """Return the declaration, with some of its fields changed."""
    flat = quadruped.task()
    seen = robot.Observe(terms.ground(AHEAD, BESIDE), noise=0.02, scale=3.0, clip=3.0)
    declared: dict[str, object] = {
        "ground": robot.Ground(),
        "observations": {**flat.observations, "ground": seen},
        "command": robot.Command({"forward": (-0.3, 1.0), "sideways": (-0.2, 0.2), "turn": (-0.8, 0.8)}),
        "metrics": {**flat.metrics, "went": terms.goes_along([0, 1], terms.velocity, [0, 1], least=0.3)},
        "curriculum": robot.Curriculum("went", wanted=0.6),
    }
    return quadruped.task(**(declared | changes))

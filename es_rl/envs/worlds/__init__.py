"""The project's own robots: models and tasks written here, declared with `es_rl.envs.robot`.

They are registered without importing MuJoCo. To add one, write a module with a function `task`, and add one line here.
"""

from __future__ import annotations

import gymnasium

WORLDS = {
    "es_rl/Quadruped-v0": "quadruped",
    "es_rl/QuadrupedTerrain-v0": "quadruped_terrain",
    "es_rl/Arm-v0": "arm",
    "es_rl/Ball-v0": "ball",
    "es_rl/Biped-v0": "biped",
}
STEPS = 1000  # of an episode


def register() -> None:
    """Register the ids with Gymnasium."""
    for name, module in WORLDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name, "es_rl.envs.robot.env:RobotEnv", max_episode_steps=STEPS,
                kwargs={"task": module},
            )  # fmt: skip

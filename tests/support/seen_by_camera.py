"""Save two pictures of a robot on a grey floor: where it begins, and moved by a hundred metres.

The model must be as before.
"""

import sys

import gymnasium
import mujoco
import numpy as np

import es_rl.envs
from es_rl.envs.camera import Camera
from es_rl.envs.renderer import QUALITIES

name, quality, out = sys.argv[1:]
assert es_rl.envs  # registers ids
env = gymnasium.make(name).unwrapped
env.reset(seed=0)
env.model.geom_matid[env.model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE)] = -1  # without tiles, which would move
data = env.scene()[0] if hasattr(env, "scene") else env.data


def settings():
    model = env.model
    return (
        *model.geom_size.ravel(),
        model.vis.quality.shadowsize,
        model.vis.quality.offsamples,
        model.vis.global_.offwidth,
    )


before = settings()
camera = Camera(env.model, QUALITIES[quality])
here = camera.picture(data)
data.qpos[0] += 100.0
mujoco.mj_forward(env.model, data)
there = camera.picture(data)
assert settings() == before
camera.close()
np.save(out, [here, there])

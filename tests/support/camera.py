"""An environment that observes pictures of a MuJoCo scene; `env=camera:Camera-v0`."""

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

SCENE = """<mujoco><worldbody><light pos="0 0 3"/><geom type="plane" size="3 3 .1" rgba=".2 .6 .2 1"/>
<body pos="0 0 .5"><joint type="slide" axis="1 0 0"/><geom type="sphere" size=".3" rgba="1 0 0 1"/></body></worldbody></mujoco>"""


class Camera(gymnasium.Env):
    observation_space = spaces.Box(0, 255, (12, 16, 3), np.uint8)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string(SCENE)
        self.data = mujoco.MjData(self.model)
        self.renderer = mujoco.Renderer(self.model, 12, 16)

    def look(self):
        mujoco.mj_forward(self.model, self.data)
        self.renderer.update_scene(self.data)
        return self.renderer.render()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.t = 0
        return self.look(), {}

    def step(self, action):
        self.t += 1
        self.data.qpos[0] += 0.1 * float(action[0])
        return self.look(), -abs(float(self.data.qpos[0])), self.t >= 5, False, {}

    def close(self):
        self.renderer.close()


gymnasium.register("Camera-v0", entry_point=Camera, max_episode_steps=5)

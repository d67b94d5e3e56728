"""An environment whose simulation diverges, of a class that imports MuJoCo late; `env=diverging:Diverging-v0`."""

import gymnasium
import numpy as np
from gymnasium import spaces

SCENE = """<mujoco><worldbody><body><joint name="x" type="slide"/><geom size=".1" mass="1e-9"/></body></worldbody>
<actuator><motor joint="x" gear="1e12"/></actuator></mujoco>"""


class Diverging(gymnasium.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self):
        import mujoco

        self.mujoco, self.model = mujoco, mujoco.MjModel.from_xml_string(SCENE)
        self.data = mujoco.MjData(self.model)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.mujoco.mj_resetData(self.model, self.data)
        return self.data.qpos.copy(), {}

    def step(self, action):
        self.data.ctrl[:] = 1e12
        self.mujoco.mj_step(self.model, self.data)
        return self.data.qpos.copy(), 0.0, False, False, {}


gymnasium.register("Diverging-v0", entry_point=Diverging, max_episode_steps=5)

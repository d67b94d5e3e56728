"""The physics of a declared robot alone: `Batch.step`, with the same actions and the same varied models."""

import numpy as np
from mujoco.batch import Batch


class RobotPhysics:
    """Steps the physics of the simulations of a `RobotVector`, and nothing else. `begin` copies their states."""

    def __init__(self, simulations):
        self._simulations, n = simulations, len(simulations._everyone)
        self._batch = Batch(simulations.model, n, 1, persistent=True)
        self._fields = {name: self._batch.expand(name) for name in simulations._episodes.fields}
        self._ctrl = self._batch.bind("ctrl")

    def begin(self):
        self._batch.state[:] = self._simulations._batch.state
        for name, values in self._fields.items():
            values[:] = self._simulations._episodes.fields[name]
        if self._simulations._episodes.derives:
            self._batch.set_const()

    def step(self, ids, actions):
        self._ctrl[ids] = self._simulations.rest + self._simulations.scale * np.clip(actions, -1.0, 1.0)
        self._batch.step(ids, self._simulations._skip)

"""The episodes of N simulations: what each draws from its seed, and where it begins.

Shapes: N simulations, T steps of an episode, C numbers of a command.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from gymnasium.utils import seeding
from mujoco.batch import Batch
from numpy.typing import NDArray

from es_rl.envs.robot import episode
from es_rl.envs.robot.episode import Varied, model_field
from es_rl.envs.robot.ground import Terrain
from es_rl.envs.robot.task import Task
from es_rl.envs.spaces import Floats, Ints
from es_rl.errors import EnvError

_CONSTS = frozenset(mujoco.MjModel._setconst_inputs)  # what depends on them must be computed again


class Episodes:
    """Draws the worlds of episodes into a batch, and holds their commands and pushes.

    Without `randomise`, the model is nominal and there are no pushes. Starts and commands are drawn all the same.
    Raises `EnvError` for a field of the model that cannot vary.
    """

    def __init__(
        self, task: Task, model: mujoco.MjModel, batch: Batch, n: int, terrain: Terrain | None, *, randomise: bool
    ) -> None:
        self._task, self._model, self._batch, self._terrain = task, model, batch, terrain
        self._randomise = randomise
        self.steps = task.steps  # T
        self._varied = [Varied.of(vary, model) for vary in task.varies] if randomise else []
        names = [part.field for varied in self._varied for part in varied.parts]
        self.fields = {name: self._expand(name) for name in dict.fromkeys(names)}  # (N, …) each
        self._defaults = {name: model_field(model, name) for name in self.fields}
        self.derives = any(name.startswith("opt.") or name in _CONSTS for name in self.fields)
        self.seed = np.zeros(n, np.int64)
        self.difficulty = np.ones(n)  # of the patches of the ground on which an episode may begin, 0 to 1
        self.commands = np.zeros((n, self.steps + 1, len(task.command.ranges) if task.command else 0))  # (N, T+1, C)
        self.pushes = np.zeros((n, self.steps, 2))  # (N, T, 2)

    def draw(self, chosen: Ints) -> list[tuple[Floats, Floats]]:
        """Draw the worlds of these episodes from their seeds. Return qpos and qvel at their start."""
        task, starts = self._task, []
        for i in chosen:
            source, values = episode.world(int(self.seed[i])), dict[str, Floats]()
            for varied in self._varied:
                drawn = varied.draw(source)
                for part in varied.parts:
                    name = part.field
                    self.fields[name][i] = part.changed(values.get(name, self._defaults[name]), varied.vary.how, drawn)
                    values[name] = self.fields[name][i]
            starts.append(episode.begin(task.start, self._model, source, self._terrain, float(self.difficulty[i])))
            self.commands[i] = episode.commands(task.command, self.steps, task.step_seconds, source)
            if self._randomise and task.push is not None:
                self.pushes[i] = episode.pushes(task.push, self.steps, task.step_seconds, source)
        if self.derives:
            self._batch.set_const(chosen)
        return starts

    def command(self, chosen: Ints, now: Ints) -> Floats:
        """Return the commands (n, C) of simulations after `now` (n,) steps; after T steps, they begin again."""
        told: Floats = self.commands[chosen, np.where(now > 0, (now - 1) % self.steps + 1, 0)]
        return told

    def _expand(self, name: str) -> NDArray[Any]:
        try:
            expanded: NDArray[Any] = self._batch.expand(name)
        except ValueError as error:
            raise EnvError(f"{name}: cannot differ between simulations: {error}.") from error
        return expanded


def world_number(seed: int | np.random.Generator) -> int:
    """Return the number of the world that a seed, or a generator that continues, stands for, as Gymnasium resets do."""
    source = seed if isinstance(seed, np.random.Generator) else seeding.np_random(int(seed))[0]
    return int(source.integers(2**31))

"""Simulations of a declared task, all stepped at once: a `VectorEnv` on `mujoco.batch.Batch`.

Shapes: N simulations, n of them at hand, A actions, K numbers of an observation that have noise.

Models may differ between simulations, so a simulation keeps its place in the batch. Sensors and other derived fields
are those of the state after the step: a persistent batch goes on from there, so this costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError
from numpy.typing import NDArray

from es_rl.envs.robot import episode
from es_rl.envs.robot.declaration import check_model, check_task, substeps
from es_rl.envs.robot.episode import NOISE_STEPS
from es_rl.envs.robot.episodes import Episodes, world_number
from es_rl.envs.robot.ground import Terrain
from es_rl.envs.robot.observe import Observer
from es_rl.envs.robot.task import Task, Term
from es_rl.envs.robot.world import Fields, World, called, find, is_free, load
from es_rl.envs.spaces import Bools, Floats, Ids, Ints, Seeds
from es_rl.errors import EnvError, lookup, text_of

# MuJoCo resets a simulation mid-episode when it counts one of these warnings; the task would reward the jump.
_BAD = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
_STAGE = mujoco.mjtStage.mjSTAGE_VEL  # what terms need after a step: positions and velocities, not forces


class RobotVector:
    """N simulations of a task.

    Without `randomise`, the model is nominal, observations have no noise, and there is no push. Starts and commands are
    drawn all the same. Raises `EnvError` for a model or a term that cannot be used.
    """

    def __init__(
        self,
        task: Task,
        n: int,
        obs_first: int | None = None,
        *,
        randomise: bool = True,
        limit: int | None = None,
        threads: int = 1,
    ) -> None:
        self.errors: dict[int, str] = {}
        check_task(task)
        self._terrain = None if task.ground is None else Terrain(task.ground)
        self.task, self.model = task, load(task.model, self._terrain)
        check_model(task, self.model)
        self._skip, self._free = substeps(task, self.model), is_free(self.model)
        self._batch = Batch(self.model, n, threads, persistent=True)
        # (N, kinds) counters, a live view. A divergence sets them to one, whatever they were: they are kept at zero.
        self._bad, self._everyone = self._batch.warning[:, _BAD, 1], np.arange(n)
        self._fields, self._facts = Fields(self._batch.bind), dict[Any, Any]()
        self._episodes = Episodes(task, self.model, self._batch, n, self._terrain, randomise=randomise)
        self._limit, self._obs_first = limit or self._episodes.steps, obs_first
        self.curriculum, self.difficulty = task.curriculum, 1.0  # of the episodes that begin from now on
        about, actions = task.actions.about, self.model.nu
        self.rest = np.zeros(actions) if about is None else self.model.key_ctrl[find(self.model, "key", about)].copy()
        self.scale = np.broadcast_to(np.asarray(task.actions.scale, np.float64), (actions,))
        self._elapsed = np.zeros(n, np.int64)
        self._actions = np.zeros((n, task.actions.delay + 2, actions))  # the latest ones, the oldest first
        self._observer = Observer(task.observations, n, randomise=randomise)
        kinds = {"reward": task.rewards, "ends": task.ends, "metric": task.metrics}
        self.measures = tuple(f"{kind}/{name}" for kind, terms in kinds.items() for name in terms)
        self._measured = np.zeros((n, len(self.measures)))  # sums over the steps of the episode so far
        self._check_terms()

    @property
    def size(self) -> int:
        """Numbers of a whole observation."""
        return self._observer.size

    @property
    def widths(self) -> dict[str, int]:
        """Numbers of each term of an observation, by name."""
        return self._observer.widths

    def reset(self, ids: Ids, seeds: Seeds) -> Floats:
        order = np.argsort(ids)
        chosen = np.asarray(ids, np.int64)[order]
        given = list(seeds)
        self._episodes.seed[chosen] = [world_number(given[i]) for i in order]
        self._episodes.difficulty[chosen] = self.difficulty
        self._elapsed[chosen] = 0  # first: it says which noise is drawn
        self._batch.reset(chosen, stage=mujoco.mjtStage.mjSTAGE_NONE)
        for i, (qpos, qvel) in zip(chosen, self._draw(chosen), strict=True):
            self._fields["qpos"][i] = episode.posed(self.task.start, self.model, int(self._episodes.seed[i]), qpos)
            self._fields["qvel"][i] = qvel
        self._fields["ctrl"][chosen] = self.rest  # what the action 0 does: sensors do not begin with a blow
        broken = self._forward(chosen)
        self._bad[chosen] = 0
        self._actions[chosen] = self._measured[chosen] = 0.0
        obs = self._observer.begin(self._world(chosen), chosen)
        obs[np.isin(chosen, broken)] = np.nan
        return self._seen(obs)[np.argsort(order)]

    def step(self, ids: Ids, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools]:
        order = np.argsort(ids)
        chosen = np.asarray(ids, np.int64)[order]
        raised = self._advance(chosen, np.asarray(actions, np.float64)[order])
        w = self._world(chosen)
        reward, terminated = self._judge(w, chosen)
        broken = self._bad[chosen].any(axis=1)
        broken |= np.isin(chosen, raised) if len(raised) else False
        reward[broken] = np.nan
        terminated |= ~np.isfinite(reward)
        if self._observer.noisy and len(new := chosen[self._elapsed[chosen] % NOISE_STEPS == 0]):
            self._draw_noise(new)
        obs = self._observer.after(w, chosen, self._elapsed[chosen] % NOISE_STEPS)
        if not np.isfinite(obs).all():
            self._blame(w, chosen, np.asarray(~np.isfinite(obs).all(axis=1)))
        self._bad[chosen] = 0
        back = np.argsort(order)
        return self._seen(obs)[back], reward[back], terminated[back], (self._elapsed[chosen] >= self._limit)[back]

    def save(self, ids: Ids) -> Floats:
        """Return all that the coming steps of these simulations depend on, a row (n, S) each."""
        chosen = np.asarray(ids, np.int64)
        episodes, actions = self._episodes, self._actions[chosen].reshape(len(chosen), self._actions[0].size)
        counts = np.stack([episodes.seed[chosen], self._elapsed[chosen]], axis=1)
        parts = [self._batch.state[chosen], counts, actions, self._measured[chosen]]
        if self._terrain is not None:
            parts.append(episodes.difficulty[chosen, None])
        return np.concatenate([*parts, self._observer.save(chosen)], axis=1)

    def restore(self, ids: Ids, rows: Floats) -> None:
        """Put these simulations where the rows (n, S) of `save` left theirs. Raises ValueError for other rows."""
        order = np.argsort(ids)
        chosen, rows = np.asarray(ids, np.int64)[order], rows[order]
        sizes = [self._batch.state.shape[1], 1, 1, self._actions[0].size, len(self.measures)]
        sizes.append(0 if self._terrain is None else 1)
        if rows.shape[1] < sum(sizes):
            raise ValueError(f"rows of {rows.shape[1]} numbers in place of at least {sum(sizes)}")
        state, seed, elapsed, actions, measured, difficulty, seen = np.split(rows, np.cumsum(sizes), axis=1)
        self._episodes.seed[chosen], self._elapsed[chosen] = seed[:, 0], elapsed[:, 0]
        if self._terrain is not None:
            self._episodes.difficulty[chosen] = difficulty[:, 0]
        self._actions[chosen] = actions.reshape(len(chosen), *self._actions.shape[1:])
        self._measured[chosen] = measured
        self._observer.restore(chosen, seen)
        self._draw(chosen)
        self._batch.state[chosen] = state
        self._bad[chosen] = 0

    def measured(self, ids: Ids) -> Floats:
        """Return the sums of weighted rewards, ends and metrics over the steps of the present episodes, (n, K)."""
        return self._measured[np.asarray(ids, np.int64)]

    def state(self, i: int) -> Floats:
        """Return the full physics state of a simulation (mjSTATE_INTEGRATION)."""
        state: Floats = self._batch.state[i].copy()
        return state

    def data(self, i: int, data: mujoco.MjData) -> None:
        """Copy a simulation to an `MjData`, to draw it."""
        self._batch.get_data(i, data)

    def command(self, i: int) -> dict[str, float]:
        """Return what a simulation is told now, by name."""
        names = list(self.task.command.ranges) if self.task.command else []
        now = self._episodes.command(self._everyone[i : i + 1], self._elapsed[i : i + 1])[0]
        return dict(zip(names, now.tolist(), strict=True))

    def steer(self, i: int, command: Mapping[str, float]) -> None:
        """Tell a simulation these numbers, by name, until its episode ends; `save` leaves them out.

        Raises `ConfigError` for another name.
        """
        ranges = self.task.command.ranges if self.task.command else {}
        for name, value in command.items():
            lookup(ranges, name, "command")
            self._episodes.commands[i, :, list(ranges).index(name)] = value

    def push(self, i: int, change: Floats) -> None:
        """Add to the first velocities of a simulation; of a free root, these are x and y, in metres per second."""
        self._fields["qvel"][i, : len(change)] += change

    def mark(self, i: int) -> Floats | None:
        """Return the place (3,) that pictures of a simulation mark now; None if the task marks none."""
        if self.task.mark is None:
            return None
        place: Floats = self.task.mark(self._world(self._everyone[i : i + 1]))[0]
        return place

    def close(self) -> None:
        vars(self).pop("_batch", None)

    def __reduce__(self) -> NoReturn:
        raise TypeError("simulations can be neither copied nor pickled: make new ones with the same arguments")

    def _forward(self, chosen: Ints) -> Sequence[int]:
        """Compute the fields at the start of episodes. Return the simulations in which MuJoCo raised an error."""
        try:
            self._batch.forward(chosen)
        except SimulationError as error:
            broken: list[int] = error.ids.tolist()
            self.errors |= dict.fromkeys(broken, f"an episode cannot begin: {text_of(error)}")
            return broken
        return ()

    def _draw(self, chosen: Ints) -> list[tuple[Floats, Floats]]:
        """Draw the worlds of these episodes from their seeds. Return qpos and qvel at their start."""
        starts = self._episodes.draw(chosen)
        if self._observer.noisy:
            self._draw_noise(chosen)
        return starts

    def _draw_noise(self, chosen: Ints) -> None:
        blocks = self._elapsed[chosen] // NOISE_STEPS
        for i, block in zip(chosen, blocks.tolist(), strict=True):
            self._observer.noise[i] = episode.noise(int(self._episodes.seed[i]), block, self._observer.sizes)

    def _advance(self, chosen: Ints, actions: Floats) -> Any:
        """Step the physics. Return the simulations in which MuJoCo raised an error."""
        now = self._elapsed[chosen] % self._episodes.steps  # after its seconds, an episode has the same pushes again
        queue = self._actions[chosen]
        queue[:, :-1], queue[:, -1] = queue[:, 1:], actions
        self._actions[chosen] = queue
        self._fields["ctrl"][chosen] = self.rest + self.scale * np.clip(queue[:, 1], -1.0, 1.0)
        if (change := self._episodes.pushes[chosen, now]).any():
            self._fields["qvel"][chosen, :2] += change
        self._elapsed[chosen] += 1
        try:
            self._batch.step(chosen, self._skip, _STAGE)
        except SimulationError as error:
            return error.ids
        return ()

    def _judge(self, w: World, chosen: Ints) -> tuple[Floats, Bools]:
        """Return the rewards (n,), and which episodes terminate, (n,); measure all terms."""
        total, over, dt = np.zeros(len(chosen)), np.zeros(len(chosen), np.bool_), self.task.step_seconds
        found: list[NDArray[Any]] = []
        for weight, term in self.task.rewards.values():
            value = term(w)
            total += weight * dt * value
            found.append(weight * value)
        for term in self.task.ends.values():
            found.append(ended := np.asarray(term(w), np.bool_))
            over |= ended
        found += [term(w) for term in self.task.metrics.values()]
        measured = np.stack(found, axis=1)
        self._measured[chosen] += np.where(np.isfinite(measured), measured, 0.0)
        if not np.isfinite(total).all():
            self._blame(w, chosen, ~np.isfinite(total))
        return total, over

    def _blame(self, w: World, chosen: Ints, rows: Bools) -> None:
        """Say which term is not finite in these rows, unless the physics is the cause."""
        sound = ~self._bad[chosen].any(axis=1)
        for row in np.flatnonzero(rows & sound).tolist():
            rewards = (name for name, (_, term) in self.task.rewards.items() if not np.isfinite(term(w)[row]))
            if name := next(rewards, ""):
                self.errors[int(chosen[row])] = f"the reward {name} is {self.task.rewards[name][1](w)[row]}"
            elif name := self._observer.unsound(w, row):
                self.errors[int(chosen[row])] = f"the observation {name} is not finite"

    def _world(self, chosen: Ints) -> World:
        everyone = len(chosen) == len(self._everyone)
        now = self._elapsed[chosen]
        return World(
            self._fields, slice(None) if everyone else chosen, self._facts,
            model=self.model, free=self._free, dt=self.task.step_seconds, time=now * self.task.step_seconds,
            action=self._actions[chosen, -1], last_action=self._actions[chosen, -2],
            command=self._episodes.command(chosen, now), terrain=self._terrain,
        )  # fmt: skip

    def _seen(self, obs: Floats) -> Floats:
        return obs if self._obs_first is None else obs[:, : self._obs_first]

    def _check_terms(self) -> None:
        """Compute every term once, which binds what it reads. Raises `EnvError` for one of the wrong shape."""
        n = len(self._everyone)
        self._draw(self._everyone)
        for _ in range(2):  # what is bound late holds zeros until the next call
            self._batch.forward()
            w = self._world(self._everyone)
            self._observer.check(w, n)
            terms: dict[str, Term] = {f"the reward {k}": term for k, (_, term) in self.task.rewards.items()}
            terms |= {f"the end {k}": term for k, term in self.task.ends.items()}
            terms |= {f"the metric {k}": term for k, term in self.task.metrics.items()}
            for name, term in terms.items():
                if (shape := np.shape(found := called(name, term, w))) != (n,):
                    raise EnvError(f"{name} has the shape {shape} for {n} simulations, and must have ({n},).")
                if name.startswith("the end ") and found.dtype != np.bool_:
                    raise EnvError(f"{name} is {found.dtype}, and must be true or false. Compare it.")
            if self.task.mark is not None and (shape := called("the mark", self.task.mark, w).shape) != (n, 3):
                raise EnvError(f"the mark has the shape {shape} for {n} simulations, and must have ({n}, 3).")
        self._bad[:] = 0

"""A policy that acts in real time, and does what the keys ask for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np

from es_rl import plugins
from es_rl.envs.gymnasium_backend import describe
from es_rl.errors import FOREIGN, CheckpointError, EnvError
from es_rl.play.body import Body
from es_rl.play.steering import Steering, Wish, next_due, pressed, status
from es_rl.play.windows import Window
from es_rl.rl.agent import Agent
from es_rl.rng import integer_seed, stream

PUSH = 1.0  # metres per second
FRAME = 1 / 60  # seconds between two pictures, at least


class Player:
    """Plays one episode after another. `load` returns the agent of another checkpoint, `say` tells the user a line."""

    def __init__(
        self,
        agent: Agent,
        env: gymnasium.Env[Any, Any],
        body: Body | None,
        *,
        load: Callable[[str], Agent],
        say: Callable[[str], None],
        seed: int,
    ) -> None:
        self.agent, self.steering = agent, Steering({} if body is None else dict(body.ranges))
        self._env, self._body, self._load, self._say, self._seed = env, body, load, say, seed
        self._directions = stream(seed, "play", 1)
        self._obs: Any = None
        self._episode = 0
        self._restart()

    def hear(self, key: str) -> None:
        """Do what a key asks for. A checkpoint that cannot be loaded is told, and the policy stays as it is."""
        self.steering, wish = pressed(self.steering, key, self._told())
        self._steer()
        if wish.push:
            self._push()
        if wish.checkpoint:
            self._change_policy(wish)
        if wish.restart:
            self._restart()

    def step(self) -> None:
        """Act once. When an episode has ended, begin the next one."""
        action = self.agent(self._obs)
        with self._theirs("step"):
            self._obs, _, terminated, truncated, _ = self._env.step(action)
        if terminated or truncated:
            self._restart()

    def status(self) -> str:
        """Return what the window shows as text, in one line."""
        return status(self.steering, self._told(), self.agent.generation)

    def _restart(self) -> None:
        with self._theirs("reset"):
            self._obs, _ = self._env.reset(seed=integer_seed(self._seed, "play", 0, self._episode))
        self.agent.reset()
        self._episode += 1
        self._steer()

    def _told(self) -> dict[str, float]:
        return {} if self._body is None else self._body.command()

    def _steer(self) -> None:
        if self._body is not None and self.steering.command is not None:
            self._body.steer(self.steering.command)

    def _push(self) -> None:
        """Push a free root in a random horizontal direction, and any other robot along its first joint."""
        if self._body is not None:
            angle = self._directions.uniform(0.0, 2 * np.pi)
            free = self._body.model.jnt_type[:1].tolist() == [0]  # mjJNT_FREE
            sideways = np.array([np.cos(angle), np.sin(angle)])
            self._body.push(PUSH * (sideways if free else np.sign(sideways[:1])))

    def _change_policy(self, wish: Wish) -> None:
        try:
            self.agent = self._load(wish.checkpoint)
        except (CheckpointError, EnvError) as error:
            self._say(str(error))
        else:
            self._say(f"checkpoint of generation {self.agent.generation}")

    @contextmanager
    def _theirs(self, where: str) -> Iterator[None]:
        """Call the environment; turn its errors into an `EnvError`."""
        try:
            with plugins.their_settings():
                yield
        except FOREIGN as error:
            spec = self._env.spec
            raise EnvError(f"env={spec.id if spec else ''}: its {where} raised {describe(error)}.") from error


def play(player: Player, window: Window, *, rate: float, check: Callable[[], None]) -> None:
    """Let a policy act in real time, `rate` steps a second, until its window is closed. `check` may raise to leave."""
    due = shown = time.monotonic()
    while window.is_open():
        check()
        for key in window.pressed():
            player.hear(key)
        now, paused = time.monotonic(), player.steering.paused
        if not paused and now >= due:
            player.step()
            due = next_due(due, now, 1 / (rate * player.steering.speed))
        if now - shown >= FRAME:
            window.show(player.status())
            shown = now
        time.sleep(FRAME if paused else min(max(due - time.monotonic(), 0.0), FRAME))

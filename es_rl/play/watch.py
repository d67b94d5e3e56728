"""Open the window of a run's policy, and let it act there until the window is closed."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium

from es_rl import envs, plugins
from es_rl.envs import gymnasium_backend
from es_rl.envs.pools import make_single
from es_rl.envs.spaces import usable
from es_rl.errors import FOREIGN, EnvError, EsRlError
from es_rl.play.body import Body, body_of
from es_rl.play.player import Player, play
from es_rl.play.steering import explained
from es_rl.play.windows import HumanWindow, MujocoWindow, Window, check_display
from es_rl.rl import agent as agents
from es_rl.rl.config import Config, PlayConfig
from es_rl.rl.films.film import frame_rate
from es_rl.run.signals import stop_requests
from es_rl.workers.machine import use_one_thread

DEAF = "This window hears no keys. Press Ctrl-C to leave."


def watch(config: PlayConfig) -> None:
    """Show a run's policy in a window. Raises `EnvError`, or `ResourceError` if there is no screen."""
    config = agents.located(config)
    agent, env_id = agents.trusted(config)
    os.environ["MUJOCO_GL"] = "glfw"  # what draws without a screen cannot draw in a window
    use_one_thread()
    envs.check_id(env_id, agent.config.backend)
    remedy = f"Film the policy instead: python -m es_rl.record run={config.run}."
    with stop_requests() as check, _opened(env_id, agent.config, remedy) as (env, body):
        agents.check_spaces(agent, env_id, usable(env.observation_space)[0], env.action_space)
        load = partial(agents.load, config.run, policy=config.policy)
        player = Player(agent, env, body, load=load, say=_say, seed=config.seed)
        window: Window = HumanWindow() if body is None else MujocoWindow(body)
        try:
            _say(_introduction(player, env_id, window, pushes=body is not None))
            play(player, window, rate=frame_rate(env.metadata.get("render_fps")), check=check)
        finally:
            window.close()


@contextmanager
def _opened(env_id: str, config: Config, remedy: str) -> Iterator[tuple[gymnasium.Env[Any, Any], Body | None]]:
    """Make the environment, and close it at the end. If it is none of MuJoCo, it draws its own window.

    Raises `EnvError` if it cannot, `ResourceError` if there is no screen.
    """
    try:
        make = partial(make_single, env_id, config.env_kwargs, config.backend, view=config.view)
        env = make()
        body = body_of(env)
        if body is None:
            gymnasium_backend.close(env)
        check_display(remedy, opengl=body is not None)
        if body is None:
            with warnings.catch_warnings():  # Gymnasium says that it shows the pictures of what has no window
                warnings.simplefilter("ignore")
                env = make(render_mode="human")
                with plugins.their_settings():
                    env.reset()  # which opens the window
    except EsRlError:
        raise
    except FOREIGN as error:
        text = gymnasium_backend.describe(error).rstrip(".")
        raise EnvError(f"env={env_id}: cannot be shown in a window: {text}. {remedy}") from error
    try:
        yield env, body
    finally:
        gymnasium_backend.close(env)


def _introduction(player: Player, env_id: str, window: Window, *, pushes: bool) -> str:
    first = f"{env_id}, checkpoint of generation {player.agent.generation}"
    if not window.hears:
        return f"{first}\n{DEAF}"
    return f"{first}\n{explained(player.steering.ranges, pushes=pushes)}\nClose the window or press Ctrl-C to leave."


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

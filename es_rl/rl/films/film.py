"""Film a policy in its environment. No screen is needed."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import gymnasium
import numpy as np

from es_rl import plugins
from es_rl.envs.gymnasium_backend import describe, flag, number
from es_rl.envs.pixels import PLAIN, View
from es_rl.envs.pools import make_single
from es_rl.envs.renderer import choose_quality, choose_renderer
from es_rl.errors import FOREIGN, EnvError
from es_rl.rl.films.caption import captioned, scaled
from es_rl.rl.films.picture import Frame, Pictures
from es_rl.rng import integer_seed

MAX_FPS = 30  # frames per second of a film at most; at higher rates frames are left out
HINT = ". MuJoCo needs EGL or OSMesa: on Debian, apt-get install libegl1 libgl1-mesa-dri, or libosmesa6."
# Arguments of Gymnasium's tasks that say how they draw themselves.
THEIR_VIEW = {"width", "height", "camera_id", "camera_name", "default_camera_config"}
# Modules that draw MuJoCo's scenes, or load what draws them.
DRAWING = ("gymnasium.envs.mujoco.mujoco_rendering", "es_rl.envs.camera", "es_rl.envs.renderer", "mujoco.egl",
           "mujoco.osmesa", "mujoco.glfw", "mujoco.gl_context", "mujoco.renderer", "OpenGL")  # fmt: skip


@dataclass(frozen=True)
class Take:
    """What to film: a policy, an environment, and for how long. Episodes follow one another."""

    act: Callable[[Any], Any]  # such as an agent: maps one observation to one action
    reset: Callable[[], None]  # makes `act` forget the previous episode
    env: str
    env_kwargs: Mapping[str, Any]
    seconds: float  # of simulated time
    seed: int
    quality: str = "auto"  # of MuJoCo's pictures, see `es_rl.envs.renderer`
    width: int | None = None  # of the pictures at most, in pixels
    backend: str = "auto"  # EnvPool draws its environments itself
    caption: str | None = None  # pictures tell it after the time and the return of the episode; None: no text
    view: View = PLAIN  # what is done with frames and images before `act` sees them


@dataclass(frozen=True)
class Film:
    """Frames, which are drawn as they are taken, their number, and their rate per second."""

    frames: Iterator[Frame]
    count: int
    fps: float


@contextlib.contextmanager
def filming(take: Take) -> Iterator[Film]:
    """Film a policy. Raises `EnvError` if the environment cannot be drawn, here and while frames are taken."""
    choose_renderer()
    with contextlib.ExitStack() as stack:
        with _refused(take.env):
            made = make_single(take.env, take.env_kwargs, take.backend, view=take.view, render_mode="rgb_array")
            env = stack.enter_context(contextlib.closing(made))
            draw = _drawing(env, take, stack)
        rate = frame_rate(env.metadata.get("render_fps"))
        every = max(1, int(np.ceil(rate / MAX_FPS)))
        fps = rate / every
        frames = _frames(take, env, draw, every, rate)
        length = max(1, round(take.seconds * fps))
        yield Film(islice(frames, length), length, fps)


def _frames(take: Take, env: Any, draw: Callable[[bool], Any], every: int, rate: float) -> Iterator[Frame]:
    """Yield a frame at every so many steps of one episode after another, without end."""
    pictures = Pictures()
    for episode in count():
        with _refused(take.env):
            obs, _ = _theirs(env.reset, seed=integer_seed(take.seed, "record", episode))
        take.reset()
        return_, done = 0.0, False
        for step in count():
            if done:
                break
            if step % every == 0:
                with _refused(take.env):
                    frame = scaled(pictures.frame(draw(step == 0)), take.width)
                yield frame if take.caption is None else captioned(frame, step / rate, return_, take.caption)
            with _refused(take.env):
                obs, reward, terminated, truncated, _ = _theirs(env.step, take.act(obs))
                return_, done = return_ + number(reward), flag(terminated) or flag(truncated)


@contextlib.contextmanager
def _refused(env_id: str) -> Iterator[None]:
    """Raise `EnvError` for an error of the environment, or of a driver."""
    try:
        yield
    except FOREIGN as error:
        sys.unraisablehook = lambda _: None  # silence Gymnasium's half-made viewer when it is deleted
        hint = HINT if _drawn_by_mujoco(error) else ""
        text = str(error) if isinstance(error, EnvError) else describe(error)
        raise EnvError(f"env={env_id}: cannot be filmed: {text}{hint}") from error


def _drawing(env: Any, take: Take, stack: contextlib.ExitStack) -> Callable[[bool], Any]:
    """Return the function that draws an environment: our own camera for MuJoCo, unless somebody else draws it.

    It is told whether a picture is the first one of an episode.
    """
    base = env.unwrapped
    ours = hasattr(base, "mujoco_renderer") or _is_robot(base)
    if not ours or _draws_itself(env) or THEIR_VIEW & set(take.env_kwargs):
        return lambda cut: _theirs(env.render)
    from es_rl.envs.camera import Camera

    config = getattr(getattr(base, "mujoco_renderer", None), "default_cam_config", None)
    camera = Camera(base.model, choose_quality(take.quality), config)
    stack.callback(camera.close)
    return lambda cut: camera.picture(*(base.scene() if _is_robot(base) else (base.data,)), cut=cut)


def _is_robot(base: Any) -> bool:
    """Tell whether an environment is a declared robot, without an import for one that is not."""
    module = sys.modules.get("es_rl.envs.robot.env")
    return module is not None and isinstance(base, module.RobotEnv)


def _draws_itself(env: Any) -> bool:
    """Tell whether somebody else's code takes part in an environment's pictures."""
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    return not all(type(layer).render.__module__.startswith(("gymnasium.", "es_rl.")) for layer in layers)


def _theirs(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with plugins.their_settings():
        return call(*args, **kwargs)


def frame_rate(told: Any) -> float:
    """Return the steps per second of simulated time from an environment's `render_fps`, whatever it holds."""
    with contextlib.suppress(TypeError, ValueError):
        if 0.1 <= float(told) <= 1e6:
            return float(told)
    return float(MAX_FPS)


def _drawn_by_mujoco(error: BaseException) -> bool:
    """Tell whether an error comes from the code that draws MuJoCo's scenes: MuJoCo's own, or Gymnasium's."""
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.startswith(DRAWING) for name in modules)

"""Film a policy in its environment, and write mp4 and GIF files. No screen is needed."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image

from es_rl import plugins
from es_rl.envs.gymnasium_backend import describe, make_one
from es_rl.envs.renderer import choose_renderer
from es_rl.errors import FOREIGN, EnvError
from es_rl.rl.picture import Frame, Pictures
from es_rl.rng import integer_seed
from es_rl.run.directory import reporting

GIF_WIDTH, GIF_FPS, GIF_SECONDS = 240, 12, 6  # pixels, frames per second, seconds
MAX_FPS = 30  # frames per second of a film at most; at higher rates frames are left out
HINT = ". MuJoCo needs EGL or OSMesa: on Debian, apt-get install libegl1 libgl1-mesa-dri, or libosmesa6."
# Modules that draw MuJoCo's scenes, or load what draws them.
DRAWING = ("gymnasium.envs.mujoco.mujoco_rendering", "mujoco.egl", "mujoco.osmesa", "mujoco.glfw", "mujoco.gl_context",
           "mujoco.renderer", "OpenGL")  # fmt: skip
MAX_BYTES = 8_000_000  # size of an mp4 at most: chats accept 10 MB


def film(
    act: Callable[[Any], Any],
    reset: Callable[[], None],
    env_id: str,
    env_kwargs: Mapping[str, Any],
    *,
    seconds: float,
    seed: int,
) -> tuple[list[Frame], float]:
    """Return frames of `seconds` of simulated time, and their rate per second. Episodes follow one another.

    `act`, such as an agent, maps one observation to one action; `reset` makes it forget the previous episode.
    Raises `EnvError` if the environment cannot be rendered.
    """
    choose_renderer()
    try:
        with contextlib.closing(make_one(env_id, env_kwargs, render_mode="rgb_array")) as env:
            _follow(env)
            rate = _rate(env.metadata.get("render_fps"))
            every = max(1, int(np.ceil(rate / MAX_FPS)))
            fps = rate / every
            frames = list(_frames(act, reset, env, every, max(1, round(seconds * fps)), seed))
    except FOREIGN as error:  # of the environment, or of a driver
        sys.unraisablehook = lambda _: None  # silence Gymnasium's half-made viewer when it is deleted
        hint = HINT if _drawn_by_mujoco(error) else ""
        text = str(error) if isinstance(error, EnvError) else describe(error)
        raise EnvError(f"env={env_id}: cannot be filmed: {text}{hint}") from error
    return frames, fps


def _rate(told: Any) -> float:
    """Return the steps per second of simulated time from an environment's `render_fps`, whatever it holds."""
    with contextlib.suppress(TypeError, ValueError):
        if 0.1 <= float(told) <= 1e6:
            return float(told)
    return float(MAX_FPS)


def _drawn_by_mujoco(error: BaseException) -> bool:
    """Tell whether an error comes from the code that draws MuJoCo's scenes: MuJoCo's own, or Gymnasium's."""
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.startswith(DRAWING) for name in modules)


def write_mp4(path: Path, frames: Sequence[Frame], fps: float) -> None:
    """Write H.264 in mp4, small enough for a chat and playable everywhere. The file appears only when complete."""
    height, width = (side - side % 2 for side in frames[0].shape[:2])  # H.264 needs even sides
    bits = int(MAX_BYTES * 8 * 0.9 / max(1.0, len(frames) / fps))  # per second
    options = ["-crf", "26", "-maxrate", str(bits), "-bufsize", str(bits), "-movflags", "+faststart"]
    temporary = path.with_suffix(f".writing-{os.getpid()}.mp4")
    with reporting(path, "Choose another place with out=FILE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = imageio_ffmpeg.write_frames(
            f"file:{temporary.resolve()}", (width, height), fps=fps, codec="libx264", quality=None, bitrate=None,
            macro_block_size=2, pix_fmt_out="yuv420p", output_params=options, ffmpeg_log_level="error",
        )  # fmt: skip
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame[:height, :width]))
        writer.close()
        temporary.replace(path)


def write_gif(path: Path, frames: Sequence[Frame], fps: float) -> None:
    """Write the first `GIF_SECONDS` as a small GIF with a low frame rate."""
    step = max(1, round(fps / GIF_FPS))
    chosen = frames[: max(1, int(GIF_SECONDS * fps)) : step]
    height, width = chosen[0].shape[:2]
    size = (GIF_WIDTH, round(GIF_WIDTH * height / width))
    images = [Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS) for frame in chosen]
    palette = images[0].quantize(128)
    paletted = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    with reporting(path, "Choose another place with gif=FILE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        paletted[0].save(
            path,
            format="GIF",
            save_all=True,
            append_images=paletted[1:],
            duration=round(1000 * step / fps),
            loop=0,
            optimize=True,
        )


def _frames(
    act: Callable[[Any], Any], reset: Callable[[], None], env: Any, every: int, count: int, seed: int
) -> Iterator[Frame]:
    episode, pictures = 0, Pictures()
    while count > 0:
        with plugins.their_settings():
            obs, _ = env.reset(seed=integer_seed(seed, "record", episode))
        reset()
        step, done = 0, False
        while not done and count > 0:
            if step % every == 0:
                count -= 1
                with plugins.their_settings():
                    rendered = env.render()
                yield pictures.frame(rendered)
            action = act(obs)
            with plugins.their_settings():
                obs, _, terminated, truncated, _ = env.step(action)
            step, done = step + 1, terminated or truncated
        episode += 1


def _follow(env: Any) -> None:
    """Let the camera of a MuJoCo task follow its robot: Gymnasium leaves it where the robot starts."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is None:
        return
    import mujoco

    camera = mujoco.mj_name2id(env.unwrapped.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    if camera >= 0:
        renderer.camera_id = camera

"""The renderer that MuJoCo draws with, for films and for observations that are pictures, and its quality."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

# What the errors of libraries that open windows say where there is no screen.
NO_SCREEN = ("NoSuchDisplay", "No available video device", "DISPLAY", "X11", "GLFW")
SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software")  # renderers without a GPU


@dataclass(frozen=True)
class Quality:
    """How pictures are drawn."""

    width: int  # of a picture, in pixels
    height: int
    larger: float = 1.0  # pictures are drawn larger by this factor, then scaled down, which smooths edges
    samples: int = 0  # of multisampling
    shadows: int = 1024  # side of the shadow map, in pixels
    reflections: bool = False


QUALITIES = {
    "fast": Quality(480, 480, larger=4 / 3),
    "high": Quality(1280, 720, samples=4, shadows=4096, reflections=True),
}


def choose_renderer() -> bool:
    """Set MUJOCO_GL, unless it is set, to EGL or else OSMesa, if they can draw. Tell whether it was set.

    MuJoCo reads it when it is imported: call this before a module of environments is imported, which may do so.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # for environments drawn by pygame
    if "MUJOCO_GL" in os.environ:
        return False
    code = "import mujoco; mujoco.GLContext(64, 64).make_current()"
    for name in ("egl", "osmesa"):
        trial = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"MUJOCO_GL": name},
            capture_output=True,
            check=False,
        )
        if trial.returncode == 0:
            os.environ["MUJOCO_GL"] = name
            return True
    return False


def lacks_renderer(message: str) -> bool:
    """Tell from an environment's error whether it could not draw."""
    return any(word in message for word in ("MUJOCO_GL", "GLContext", "OpenGL", "gladLoadGL", "render backend"))


def display_hint(message: str) -> str:
    """Return a remedy if an environment's error says that it found no screen to draw on, or an empty text."""
    if not any(word in message for word in NO_SCREEN):
        return ""
    return " It draws on a screen, and found none: give it one, such as by xvfb-run, or set PYGLET_HEADLESS=1."


def shows_pictures(space: spaces.Space[Any]) -> bool:
    """Tell whether observations hold a picture, so that the environment may have to draw."""
    if isinstance(space, spaces.Dict):
        return any(map(shows_pictures, space.values()))
    if isinstance(space, spaces.Tuple):
        return any(map(shows_pictures, space))
    return isinstance(space, spaces.Box) and len(space.shape) > 1 and space.dtype == np.uint8


def choose_quality(name: str) -> Quality:
    """Return a quality by its name; `auto` is `fast` on a renderer without a GPU, else `high`."""
    if name != "auto":
        return QUALITIES[name]
    return QUALITIES["fast" if draws_in_software() else "high"]


def draws_in_software() -> bool:
    """Tell whether MuJoCo draws without a GPU here."""
    import mujoco
    from OpenGL import GL

    context = mujoco.GLContext(16, 16)
    try:
        context.make_current()
        name = bytes(GL.glGetString(GL.GL_RENDERER) or b"").decode(errors="replace").lower()
    finally:
        context.free()
    return any(word in name for word in SOFTWARE)

"""The renderer that MuJoCo draws with, for films and for environments whose observations are pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
from gymnasium import spaces


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


def shows_pictures(space: spaces.Space[Any]) -> bool:
    """Tell whether observations hold a picture, so that the environment may have to draw."""
    if isinstance(space, spaces.Dict):
        return any(map(shows_pictures, space.values()))
    if isinstance(space, spaces.Tuple):
        return any(map(shows_pictures, space))
    return isinstance(space, spaces.Box) and len(space.shape) > 1 and space.dtype == np.uint8

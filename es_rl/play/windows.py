"""Windows: MuJoCo's viewer, and whatever an environment draws by itself."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from es_rl.errors import ResourceError
from es_rl.play.body import Body
from es_rl.play.steering import ALWAYS, COMMANDING, PAIRS, PUSHING

LABEL = 103  # mjGEOM_LABEL: a text, and nothing else
INK = np.array([1.0, 1.0, 1.0, 1.0], np.float32)
MOST = 99  # characters of a label
ASIDE = 0.35  # of the camera's distance: how far left of the robot its label begins
PATIENCE = 5.0  # seconds for the viewer's thread to end
# GLFW's codes of the keys that have a meaning here. Letters and signs have the code of their character.
CODES = {
    262: "right", 263: "left", 264: "down", 265: "up", 266: "page up", 267: "page down", 268: "home", 269: "end",
    257: "return", 259: "backspace", 32: "space", 335: "return", **{320 + digit: str(digit) for digit in range(10)},
}  # fmt: skip
SIGNS = {key for keys, _ in (*COMMANDING, *PUSHING, *ALWAYS) for key in keys.split()} | {k for p in PAIRS for k in p}
CODES |= {ord(sign.upper()): sign for sign in {*SIGNS, *"0123456789"} if len(sign) == 1}


class Window(Protocol):
    """A window in which a policy is watched."""

    @property
    def hears(self) -> bool:
        """Whether keys that are pressed in it are heard."""

    def is_open(self) -> bool:
        """Tell whether it has not been closed."""

    def pressed(self) -> list[str]:
        """Return the names of the keys pressed since the last call."""

    def show(self, status: str) -> None:
        """Show the present state of the simulation, and a line of text."""

    def close(self) -> None:
        """Close it."""


class MujocoWindow:
    """MuJoCo's viewer, with a copy of the simulation: what its menus reset or set does not disturb the policy."""

    hears = True

    def __init__(self, body: Body) -> None:
        import mujoco.viewer

        self._body, self._data = body, mujoco.MjData(body.model)
        body.copy_to(self._data)
        self._codes: SimpleQueue[int] = SimpleQueue()
        before = set(threading.enumerate())
        try:
            self._viewer = mujoco.viewer.launch_passive(
                body.model, self._data, key_callback=self._codes.put, show_left_ui=False, show_right_ui=False
            )
        except RuntimeError as error:  # on macOS, whose windows belong to the main thread
            raise ResourceError(f"{error} Run mjpython -m es_rl.play, or film the policy with es_rl.record.") from error
        self._threads = set(threading.enumerate()) - before
        self._size = self._aim()
        self._options = self._shown()

    def is_open(self) -> bool:
        return bool(self._viewer.is_running())

    def pressed(self) -> list[str]:
        # The viewer has meanings of its own for most letters and digits, such as to hide a group of geoms: what a key
        # of ours has switched is switched back. Keys arrive while the viewer holds its lock.
        with self._viewer.lock():
            found = [CODES[code] for _ in range(self._codes.qsize()) if (code := self._codes.get()) in CODES]
            if found:
                self._viewer.opt.flags[:], self._viewer.opt.geomgroup[:] = self._options
            self._options = self._shown()
        return found

    def show(self, status: str) -> None:
        import mujoco

        from es_rl.envs.camera import centre_and_radius

        self._body.copy_to(self._data)
        marks = self._body.marks(self._data)
        place, _ = centre_and_radius(self._body.model, self._data)
        with self._viewer.lock():
            scene, camera = self._viewer.user_scn, self._viewer.cam
            seen = np.radians(camera.azimuth)
            left = camera.distance * ASIDE * np.array([-np.sin(seen), np.cos(seen), 0.0])
            above = place + left + np.array([0.0, 0.0, self._size])
            # The text is a label above the robot: the viewer's `set_texts` waits for the next picture with Python's
            # lock held, and for ever if a key or the closing of the window comes before it.
            mujoco.mjv_initGeom(scene.geoms[0], LABEL, np.zeros(3), above, np.eye(3).ravel(), INK)
            scene.geoms[0].label = status[:MOST].encode("ascii", "replace").decode()
            for geom, mark in zip(scene.geoms[1:], marks, strict=False):
                mark.put_into(geom)
            scene.ngeom = min(1 + len(marks), scene.maxgeom)
        self._viewer.sync()

    def close(self) -> None:
        self._viewer.close()
        for thread in self._threads:  # else the process would end while the viewer still draws, and crash
            thread.join(PATIENCE)

    def _shown(self) -> tuple[Any, Any]:
        return self._viewer.opt.flags.copy(), self._viewer.opt.geomgroup.copy()

    def _aim(self) -> float:
        """Let the camera follow the first body. Return the radius of a ball that holds it and its parts."""
        import mujoco

        from es_rl.envs.camera import DISTANCE, centre_and_radius, viewpoint

        place, size = centre_and_radius(self._body.model, self._data)
        with self._viewer.lock():
            camera = self._viewer.cam
            if self._body.model.nbody > 1:
                camera.type, camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, 1
            camera.lookat[:], camera.distance = place, DISTANCE * size
            camera.azimuth, camera.elevation = viewpoint(self._body.model)
        return size


class HumanWindow:
    """The window that an environment draws by itself. Keys and its closing are heard if pygame draws it."""

    def __init__(self) -> None:
        self._open = True

    @property
    def hears(self) -> bool:
        return self._pygame() is not None

    def is_open(self) -> bool:
        return self._open

    def pressed(self) -> list[str]:
        if (pygame := self._pygame()) is None:
            return []
        events = pygame.event.get()  # all of them: what is left, such as moves of the mouse, would fill the queue
        self._open = all(event.type != pygame.QUIT for event in events)
        names = [pygame.key.name(event.key) for event in events if event.type == pygame.KEYDOWN]
        return ["return" if name == "enter" else name.strip("[]") for name in names]  # those of the number pad

    def show(self, status: str) -> None:
        pass

    def close(self) -> None:
        self._open = False

    def _pygame(self) -> Any:
        """Return pygame if it has opened a window."""
        pygame = sys.modules.get("pygame")
        return pygame if pygame is not None and pygame.display.get_init() else None


def check_display(remedy: str, *, opengl: bool) -> None:
    """Raise `ResourceError` if no window can be opened, or none that OpenGL can draw in if it is needed.

    Without this, MuJoCo's viewer would wait for a window for ever.
    """
    import glfw

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = bool(glfw.init()) and (not opengl or _draws(glfw))
        reason = glfw.get_error()[1] or b"unknown"
    if not opened:
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        display = os.environ.get("DISPLAY", "")
        raise ResourceError(f"DISPLAY={display}: a window needs a screen, and cannot be opened ({text}). {remedy}")


def _draws(glfw: Any) -> bool:
    """Tell whether OpenGL can draw in a window."""
    glfw.window_hint(glfw.VISIBLE, glfw.FALSE)
    window = glfw.create_window(16, 16, "", None, None)
    if window:
        glfw.destroy_window(window)
    glfw.default_window_hints()
    return bool(window)

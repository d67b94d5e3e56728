"""A camera for films of MuJoCo's scenes: the robot is large and in the frame, and the ground does not end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from es_rl.envs.renderer import Quality
from es_rl.envs.spaces import Floats

FREE_VIEW, SIDE_VIEW, TOP_VIEW = (130.0, -18.0), (90.0, -8.0), (90.0, -65.0)  # azimuth and elevation, in degrees
SMOOTH = 0.1  # share of a change of height that the camera takes over in a picture
DISTANCE = 3.2  # of the camera from the robot, by the robot's radius
_KIND = mujoco.mjtJoint
FREE, SLIDE, HINGE = (int(kind) for kind in (_KIND.mjJNT_FREE, _KIND.mjJNT_SLIDE, _KIND.mjJNT_HINGE))


@dataclass(frozen=True)
class Mark:
    """Something that is drawn besides the scene, such as an arrow."""

    type: int  # of `mujoco.mjtGeom`
    pos: Floats  # (3,)
    size: Floats  # (3,)
    mat: Floats  # (9,) its axes
    rgba: Floats  # (4,)

    def put_into(self, geom: mujoco.MjvGeom) -> None:
        """Let an element of a scene show it."""
        mujoco.mjv_initGeom(geom, self.type, self.size, self.pos, self.mat, self.rgba.astype(np.float32))


class Camera:
    """Draws the simulations of a model. It follows a robot that can leave its place, and its light does so too.

    `view` may set `azimuth`, `elevation`, `distance` and `lookat` of the camera, for a robot that stays where it is.
    """

    def __init__(self, model: mujoco.MjModel, quality: Quality, view: Mapping[str, Any] | None = None) -> None:
        self._model, self._quality = model, quality
        self._follows = follows(model)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        self._camera.azimuth, self._camera.elevation = viewpoint(model)
        self._view = {} if self._follows or view is None else dict(view)
        self._camera.distance = DISTANCE * _radius_at_rest(model)
        with _drawn_with(model, quality) as (width, height):
            self._renderer = mujoco.Renderer(model, height, width)

    def picture(self, data: mujoco.MjData, marks: Sequence[Mark] = (), *, cut: bool = True) -> NDArray[np.uint8]:
        """Return a picture (height, width, 3) of a simulation whose positions are computed.

        With `cut`, it does not depend on the picture before; without, a robot that bounces does so in the picture.
        """
        self._aim(data, cut=cut)
        # The ground is laid about the place that the camera had: without this, that of the picture before.
        mujoco.mjv_updateCamera(self._model, data, self._camera, self._renderer.scene)
        with _without_end(self._model) if self._follows else contextlib.nullcontext():
            self._renderer.update_scene(data, self._camera)
        scene = self._renderer.scene
        scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = self._quality.reflections
        self._move_lights(scene)
        for mark in marks[: scene.maxgeom - scene.ngeom]:
            mark.put_into(scene.geoms[scene.ngeom])
            scene.ngeom += 1
        return _scaled(self._renderer.render(), self._quality)

    def close(self) -> None:
        self._renderer.close()

    def _aim(self, data: mujoco.MjData, *, cut: bool) -> None:
        place, _ = centre_and_radius(self._model, data)
        if cut:
            self._camera.lookat[:] = place
            for name, value in self._view.items():
                if name == "lookat":
                    self._camera.lookat[:] = value
                elif name in ("azimuth", "elevation", "distance"):
                    setattr(self._camera, name, value)
        elif self._follows:
            self._camera.lookat[:2] = place[:2]
            self._camera.lookat[2] += SMOOTH * (place[2] - self._camera.lookat[2])

    def _move_lights(self, scene: mujoco.MjvScene) -> None:
        """Take along the lights that stay in their place: else the robot walks out of their shadows."""
        if not self._follows:
            return
        moved = np.append(self._camera.lookat[:2] - self._model.body_pos[1, :2], 0.0)
        fixed = [i for i in range(self._model.nlight) if self._model.light_bodyid[i] == 0]
        places = self._model.light_pos[fixed].astype(np.float32)
        for light in scene.lights[: scene.nlight]:
            if not light.headlight and (np.abs(places - light.pos).max(axis=1, initial=0.0) < 1e-6).any():
                light.pos[:] += moved


def _radius_at_rest(model: mujoco.MjModel) -> float:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return centre_and_radius(model, data)[1]


def follows(model: mujoco.MjModel) -> bool:
    """Tell whether the robot can leave its place: its root is free, or slides."""
    root = model.jnt_type[model.jnt_bodyid == 1]
    return len(root) > 0 and root[0] in (FREE, SLIDE)


def viewpoint(model: mujoco.MjModel) -> tuple[float, float]:
    """Return the azimuth and the elevation from which a robot is seen well, in degrees.

    A planar robot, which has no free joint, is seen along the axis about which its parts turn.
    """
    axes = model.jnt_axis[model.jnt_type == HINGE]
    if not follows(model) or model.jnt_type[0] == FREE or not len(axes):
        return FREE_VIEW
    return TOP_VIEW if abs(axes[0, 2]) > 0.7 else SIDE_VIEW


def centre_and_radius(model: mujoco.MjModel, data: mujoco.MjData) -> tuple[Floats, float]:
    """Return the centre of mass of the first body with its parts, and the radius of a ball there that holds them."""
    if model.nbody < 2:
        return np.zeros(3), 1.0
    parts = np.flatnonzero(model.body_rootid[model.geom_bodyid] == 1)
    centre: Floats = data.subtree_com[1].copy()
    far = np.linalg.norm(data.geom_xpos[parts] - centre, axis=1) + model.geom_rbound[parts]
    return centre, float(far.max(initial=0.1))


@contextlib.contextmanager
def _drawn_with(model: mujoco.MjModel, quality: Quality) -> Iterator[tuple[int, int]]:
    """Set the model's quality of drawing for as long as a renderer is made. Return its width and height."""
    size = round(quality.width * quality.larger), round(quality.height * quality.larger)
    settings, frame = model.vis.quality, model.vis.global_
    before = settings.offsamples, settings.shadowsize, frame.offwidth, frame.offheight
    settings.offsamples, settings.shadowsize = quality.samples, quality.shadows
    frame.offwidth, frame.offheight = size
    try:
        yield size
    finally:
        settings.offsamples, settings.shadowsize, frame.offwidth, frame.offheight = before


@contextlib.contextmanager
def _without_end(model: mujoco.MjModel) -> Iterator[None]:
    """Let the ground have no end for as long as a scene is made: planes of size 0 are drawn so."""
    planes = np.flatnonzero((model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE) & (model.geom_bodyid == 0))
    before = model.geom_size[planes].copy()
    model.geom_size[planes, :2] = 0.0
    try:
        yield
    finally:
        model.geom_size[planes] = before


def _scaled(pixels: NDArray[np.uint8], quality: Quality) -> NDArray[np.uint8]:
    if pixels.shape[:2] == (quality.height, quality.width):
        return pixels.copy()
    image = Image.fromarray(pixels).resize((quality.width, quality.height), Image.Resampling.BOX)
    return np.asarray(image)

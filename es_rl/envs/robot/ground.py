"""Uneven ground: one height field of many patches, so that all simulations share a model.

Shapes: c heights along a side of a patch; n simulations, K points of each.

The patches of one kind lie in a row along y, from flat to difficult. Each has a flat place in its middle, where
episodes begin. Slopes and stairs lead down from it. Around all patches the model's own floor goes on.
"""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np
from numpy.typing import NDArray

from es_rl.envs.robot.task import Ground
from es_rl.envs.spaces import Floats
from es_rl.errors import ConfigError, lookup
from es_rl.rng import stream

NAME = "es_rl/ground"  # of the height field and its geom; the robot's model may have a "ground" of its own
PLATFORM = 0.6  # half the side of the flat place in the middle of a patch, in metres
BLOCK = 0.5  # side of a block, in metres
TREAD = 0.35  # depth of a stair, in metres
WAVE = 2.0  # length of a wave, in metres
STEEPEST, STAIR, WAVE_HEIGHT, BLOCK_HEIGHT = 0.45, 0.14, 0.18, 0.12  # at difficulty 1: a tangent, and metres
ABOVE = 0.002  # metres of the field above the floor, so that only one of them is touched

# Heights (c, c) of a patch in metres, from places x and y (c, c) about its middle, the difficulty and a stream.
Shape = Callable[[Floats, Floats, float, np.random.Generator], Floats]


def _flat(x: Floats, y: Floats, difficulty: float, source: np.random.Generator) -> Floats:
    return np.zeros_like(x)


def _slope(x: Floats, y: Floats, difficulty: float, source: np.random.Generator) -> Floats:
    return STEEPEST * difficulty * _inwards(x, y)


def _stairs(x: Floats, y: Floats, difficulty: float, source: np.random.Generator) -> Floats:
    return STAIR * difficulty * np.ceil(_inwards(x, y) / TREAD - 1e-9)


def _inwards(x: Floats, y: Floats) -> Floats:
    """Return how far the places are from the edge of the patch, in metres; the platform is as far as its own edge."""
    inwards: Floats = x.max() - np.maximum(np.maximum(np.abs(x), np.abs(y)), PLATFORM)
    return inwards


def _waves(x: Floats, y: Floats, difficulty: float, source: np.random.Generator) -> Floats:
    phase = source.uniform(0, 2 * np.pi, 2)
    heights: Floats = np.sin(2 * np.pi * x / WAVE + phase[0]) + np.sin(2 * np.pi * y / WAVE + phase[1])
    return WAVE_HEIGHT * difficulty * (heights + 2) / 4


def _blocks(x: Floats, y: Floats, difficulty: float, source: np.random.Generator) -> Floats:
    side = int(np.ceil(np.ptp(x) / BLOCK)) + 1
    drawn = source.uniform(0, BLOCK_HEIGHT * difficulty, (side, side))
    row, column = (((place - place.min()) / BLOCK).astype(np.int64) for place in (y, x))
    heights: Floats = drawn[row, column]
    return heights


SHAPES: dict[str, Shape] = {"flat": _flat, "slope": _slope, "stairs": _stairs, "waves": _waves, "blocks": _blocks}


class Terrain:
    """The heights of a `Ground`, and where its patches lie."""

    def __init__(self, ground: Ground) -> None:
        """Raise `ConfigError` for a kind of patch that there is not."""
        if isinstance(ground.kinds, str):
            raise ConfigError(f"ground: kinds={ground.kinds!r} must be a list, such as [{ground.kinds!r}].")
        shapes = [lookup(SHAPES, kind, "ground") for kind in ground.kinds]
        if ground.levels < 1 or not ground.cell > 0 or not shapes:
            raise ConfigError(
                f"ground: levels={ground.levels} must be a whole number above 0, cell={ground.cell:g} above 0, and "
                f"there must be a kind."
            )
        across = round(ground.side / ground.cell)  # cells of a patch
        side = across * ground.cell
        if across < 8 or side <= 2 * PLATFORM:
            raise ConfigError(
                f"ground: side={ground.side:g} must be above {2 * PLATFORM:g} m, the flat middle of a patch, and at "
                f"least 8 cells of {ground.cell:g} m."
            )
        self.cell = ground.cell
        rows, columns = ground.levels * across + 1, len(shapes) * across + 1  # along y, along x
        heights = np.zeros((rows, columns))
        place = (np.arange(across + 1) - across / 2) * ground.cell
        x, y = np.meshgrid(place, place)
        middle = np.maximum(np.abs(x), np.abs(y)) <= PLATFORM + 1e-9
        self.places = np.zeros((len(shapes), ground.levels, 3))  # (kinds, levels, 3) where episodes begin
        for i, shape in enumerate(shapes):
            for level in range(ground.levels):
                difficulty = level / max(1, ground.levels - 1)
                patch = shape(x, y, difficulty, stream(ground.seed, "robot", 2, i, level))
                patch[middle] = high = float(patch[middle].max())
                patch[0] = patch[-1] = patch[:, 0] = patch[:, -1] = 0.0  # neighbours meet at the height of the floor
                heights[level * across :, i * across :][: across + 1, : across + 1] = np.maximum(
                    patch, heights[level * across :, i * across :][: across + 1, : across + 1]
                )
                self.places[i, level] = (i + 0.5) * side, (level + 0.5) * side, high + ABOVE
        self.half = np.array([columns - 1, rows - 1]) * ground.cell / 2  # half the sides of the field, x and y
        self.places[..., :2] -= self.half
        self.top = max(float(heights.max()), 1e-3)
        self._shares: NDArray[np.float32] = (heights / self.top).astype(np.float32)
        self.heights: Floats = self._shares.astype(np.float64) * self.top

    def build_into(self, spec: mujoco.MjSpec) -> None:
        """Add the field to a model, with the contacts and the look of its first plane."""
        rows, columns = self._shares.shape
        spec.add_hfield(
            name=NAME, nrow=rows, ncol=columns, size=[*self.half, self.top, 0.1], userdata=self._shares.ravel().tolist()
        )
        geom = spec.worldbody.add_geom(
            name=NAME, type=mujoco.mjtGeom.mjGEOM_HFIELD, hfieldname=NAME, pos=[0.0, 0.0, ABOVE]
        )
        floor = next((other for other in spec.worldbody.geoms if other.type == mujoco.mjtGeom.mjGEOM_PLANE), None)
        if floor is not None:
            for name in ("contype", "conaffinity", "condim", "friction", "material", "rgba", "solref", "solimp"):
                setattr(geom, name, getattr(floor, name))

    def height(self, x: Floats, y: Floats) -> Floats:
        """Return the height of the ground at these places, of any shape: what a ray from above hits first."""
        column, row = (x + self.half[0]) / self.cell, (y + self.half[1]) / self.cell
        last_row, last_column = np.array(self.heights.shape) - 1
        inside = (column >= 0) & (column <= last_column) & (row >= 0) & (row <= last_row)
        i = np.clip(row, 0, last_row - 1).astype(np.int64)
        j = np.clip(column, 0, last_column - 1).astype(np.int64)
        u, v = column - j, row - i
        near, far = self.heights[i, j], self.heights[i + 1, j + 1]
        right, left = self.heights[i, j + 1], self.heights[i + 1, j]
        # MuJoCo cuts each cell into two triangles along the diagonal from its lowest to its highest x and y.
        height = near + np.where(u >= v, (right - near) * u + (far - right) * v, (left - near) * v + (far - left) * u)
        return np.where(inside, height + ABOVE, 0.0)

"""What terms see: all simulations at hand, and the names in the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from es_rl.envs.robot.ground import Terrain
from es_rl.envs.spaces import Floats, Ints
from es_rl.errors import EnvError, nearest

OBJECTS = {
    "body": mujoco.mjtObj.mjOBJ_BODY, "geom": mujoco.mjtObj.mjOBJ_GEOM, "site": mujoco.mjtObj.mjOBJ_SITE,
    "joint": mujoco.mjtObj.mjOBJ_JOINT, "sensor": mujoco.mjtObj.mjOBJ_SENSOR, "key": mujoco.mjtObj.mjOBJ_KEY,
    "actuator": mujoco.mjtObj.mjOBJ_ACTUATOR, "tendon": mujoco.mjtObj.mjOBJ_TENDON,
}  # fmt: skip


def load(model: str | Path | mujoco.MjModel, terrain: Terrain | None = None) -> mujoco.MjModel:
    """Return a model from a file, from MJCF text, or as it is, with a terrain if there is one.

    Raises `EnvError` with MuJoCo's own words.
    """
    if isinstance(model, mujoco.MjModel):
        if terrain is not None:
            raise EnvError("ground: cannot be added to an MjModel. Give model= the file, or its text.")
        return model
    text = str(model)
    try:
        inline = text.lstrip().startswith("<")
        if terrain is None:
            return mujoco.MjModel.from_xml_string(text) if inline else mujoco.MjModel.from_xml_path(text)
        spec = mujoco.MjSpec.from_string(text) if inline else mujoco.MjSpec.from_file(text)
        terrain.build_into(spec)
        return spec.compile()
    except ValueError as error:
        raise EnvError(f"the robot's model: {' '.join(str(error).split())}") from error


def names(model: mujoco.MjModel, kind: str) -> list[str]:
    """Return the names of all bodies, geoms, … of a model, in their order; empty for one without."""
    count = int(getattr(model, {"joint": "njnt", "actuator": "nu"}.get(kind, f"n{kind}")))
    return [mujoco.mj_id2name(model, OBJECTS[kind], i) or "" for i in range(count)]


def find(model: mujoco.MjModel, kind: str, name: str) -> int:
    """Return the number of a body, geom, … by its name. Raises `EnvError` with the nearest names."""
    number = mujoco.mj_name2id(model, OBJECTS[kind], name)
    if number < 0:
        known = [other for other in names(model, kind) if other]
        raise EnvError(f"{kind} {name}: the model has none of this name.{nearest(name, known)}")
    return int(number)


def joints_called(model: mujoco.MjModel, pattern: str) -> Floats:
    """Return 1 for each number of qpos whose joint's name fits the pattern, else 0. Raises `EnvError` if none fits."""
    matching = [fnmatchcase(name, pattern) for name in names(model, "joint")]
    if not any(matching):
        raise EnvError(f"joints {pattern}: the model has none of this name.{nearest(pattern, names(model, 'joint'))}")
    sizes = np.diff(np.append(model.jnt_qposadr, model.nq))
    return np.repeat(np.asarray(matching, np.float64), sizes)


def is_free(model: mujoco.MjModel) -> bool:
    """Tell whether the first joint of a model is free: its root can go anywhere."""
    return bool(model.njnt and model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE)


class World:
    """n simulations after a step. Fields of MjData are attributes, (n, …), such as `w.qpos` and `w.xpos`.

    The arrays are copies or views of live state, and cannot be written to.
    """

    model: mujoco.MjModel
    free: bool  # the first joint is free: a root
    dt: float  # seconds of a step
    time: Floats  # (n,) seconds since the episode began
    action: Floats  # (n, A) the latest actions, as the policy gave them
    last_action: Floats  # (n, A) those before
    command: Floats  # (n, C)
    terrain: Terrain | None

    def __init__(
        self, fields: Mapping[str, NDArray[Any]], ids: Ints | slice, facts: dict[Any, Any], **known: Any
    ) -> None:
        self._fields, self._ids, self._facts = fields, ids, facts
        for value in known.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        vars(self).update(known)

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        value = self._fields[name][self._ids]
        value.flags.writeable = False  # it may be a view of live state
        vars(self)[name] = value
        return value

    def once(self, name: str, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return what several terms need of this step, computed by the first one. Nobody can write to it."""
        if name not in (known := vars(self)):
            known[name] = compute()
            known[name].flags.writeable = False
        found: NDArray[Any] = known[name]
        return found

    def fact(self, key: Any, compute: Callable[[], Any]) -> Any:
        """Return something about the model that does not change, such as the place of a name; computed only once."""
        if key not in self._facts:
            self._facts[key] = compute()
        return self._facts[key]

    def sensor(self, name: str) -> Floats:
        """Return the values of a sensor of the model, (n, k). Raises `EnvError` for an unknown name."""
        number = self._number("sensor", name)
        start, size = int(self.model.sensor_adr[number]), int(self.model.sensor_dim[number])
        return self.sensordata[:, start : start + size]

    def body(self, name: str) -> int:
        """Return the number of a body, to index `xpos` and others. Raises `EnvError` for an unknown name."""
        return self._number("body", name)

    def geom(self, name: str) -> int:
        """Return the number of a geom. Raises `EnvError` for an unknown name."""
        return self._number("geom", name)

    def site(self, name: str) -> int:
        """Return the number of a site. Raises `EnvError` for an unknown name."""
        return self._number("site", name)

    def _number(self, kind: str, name: str) -> int:
        number: int = self.fact((kind, name), lambda: find(self.model, kind, name))
        return number


def called(name: str, term: Any, w: World) -> NDArray[Any]:
    """Return the array of a term. Raises `EnvError` with its name if it raises, or returns something else."""
    try:
        found = term(w)
    except EnvError:
        raise
    except Exception as error:
        raise EnvError(f"{name} raised {type(error).__name__}: {error}.") from error
    if not isinstance(found, np.ndarray):
        raise EnvError(f"{name} returns a {type(found).__name__}, and must return an array, a row for each simulation.")
    return found


class Fields(dict[str, Any]):
    """Arrays of MjData's fields for all simulations, bound when they are first asked for."""

    def __init__(self, bind: Any) -> None:
        super().__init__()
        self._bind = bind

    def __missing__(self, name: str) -> NDArray[Any]:
        try:
            value: NDArray[Any] = self._bind(name)
        except (AttributeError, KeyError, ValueError, TypeError) as error:
            raise EnvError(f"{name}: MjData has no such field for all simulations ({error}).") from error
        self[name] = value
        return value


def heading(quaternion: Floats) -> Floats:
    """Return the angles about the vertical, in radians, of frames that quaternions (…, 4) describe."""
    w, x, y, z = np.moveaxis(quaternion, -1, 0)
    angle: Floats = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return angle


def rotate_back(quaternion: Floats, vector: Floats) -> Floats:
    """Return vectors (n, 3) of the world in the frames that quaternions (n, 4) describe."""
    w, x, y, z = quaternion.T
    a, b, c = vector.T
    p, q, r = 2 * (y * c - z * b), 2 * (z * a - x * c), 2 * (x * b - y * a)  # np.cross takes five times as long
    turned = np.empty((len(quaternion), 3))
    turned[:, 0] = a - w * p + (y * r - z * q)
    turned[:, 1] = b - w * q + (z * p - x * r)
    turned[:, 2] = c - w * r + (x * q - y * p)
    return turned

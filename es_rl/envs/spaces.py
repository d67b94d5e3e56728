"""Convert Gymnasium spaces to vectors of numbers, and to JSON, so that a policy can be used without its environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Space = spaces.Space[Any]
# Arguments and results of a `VectorEnv`.
Ids = Sequence[int] | NDArray[np.int64]
Seeds = Sequence[int | np.random.Generator]  # one per episode; a generator continues its sequence
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def usable(space: Space) -> tuple[Space | None, list[str]]:
    """Return the part of a space that has a fixed size, or None, and the names of the parts that are left out."""
    if isinstance(space, spaces.Dict):
        found = {name: usable(part) for name, part in space.items()}
        left_out = [".".join(filter(None, (name, inner))) for name, (_, names) in found.items() for inner in names]
        kept = {name: part for name, (part, _) in found.items() if part is not None}
        return (spaces.Dict(list(kept.items())) if left_out else space) if kept else None, left_out
    if isinstance(space, spaces.Tuple):
        return (None, [""]) if any(usable(part)[1] for part in space) else (space, [])
    fixed = isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete))
    return (space, []) if fixed else (None, [""])


def size(space: Space, first: int | None = None) -> int:
    """Return how many numbers a flattened observation has, at most `first`. Parts without a fixed size are left out.

    Raises TypeError for a space without any part of a fixed size, such as Text or Graph.
    """
    numbers = Flattener(space).size
    return numbers if first is None else min(first, numbers)


class Flattener:
    """Flattens observations of a space to vectors, as `gymnasium.spaces.flatten` does; discrete ones become one-hot.

    The parts of a Dict or a Tuple are found once, because this runs at every step.
    """

    def __init__(self, space: Space) -> None:
        known, _ = usable(space)
        if known is None:
            raise TypeError(
                "is not supported; Box, Discrete, MultiBinary, MultiDiscrete, and Dict or Tuple of these are"
            )
        self._leaves: list[tuple[tuple[Any, ...], Space, int, int]] = []  # path, space, first and last place
        self.size = 0
        self._find(known, ())
        self._vector = known if isinstance(known, spaces.Box) else None

    def _find(self, space: Space, path: tuple[Any, ...]) -> None:
        if isinstance(space, (spaces.Dict, spaces.Tuple)):
            parts = space.items() if isinstance(space, spaces.Dict) else enumerate(space)
            for name, part in parts:
                self._find(part, (*path, name))
            return
        end = self.size + spaces.flatdim(space)
        self._leaves.append((path, space, self.size, end))
        self.size = end

    def __call__(self, obs: Any) -> NDArray[np.float64]:
        """Return a vector. Raises ValueError for a part of a wrong shape, KeyError for one that is missing."""
        if self._vector is not None:  # the usual case
            return _of_shape(np.asarray(obs, np.float64), self._vector.shape, ()).flatten()  # a copy
        vector = np.zeros(self.size)
        for path, space, first, end in self._leaves:
            part = obs
            for name in path:
                part = part[name]
            row = vector[first:end]
            if isinstance(space, spaces.Discrete):
                if not 0 <= (value := int(part) - int(space.start)) < space.n or part != int(part):
                    raise ValueError(f"the observation has {part}, which is not in {space}")
                row[value] = 1.0
            elif isinstance(space, spaces.MultiDiscrete):
                values = _of_shape(np.asarray(part), space.shape, path)
                if not (
                    (values >= space.start) & (values < space.start + space.nvec) & (values == np.rint(values))
                ).all():
                    raise ValueError(f"the observation has {part}, which is not in {space}")
                row[:] = np.asarray(spaces.flatten(space, values.astype(space.dtype)))
            else:
                values = _of_shape(np.asarray(part, None if path else np.float64), space.shape, path)
                if values.dtype.kind == "c":
                    raise ValueError(f"the observation has complex numbers, which are not in {space}")
                rounds = (
                    path and np.dtype(space.dtype).kind == "f"
                )  # whole numbers are not cast: they might wrap around
                row[:] = (values.astype(space.dtype, copy=False) if rounds else values).reshape(-1)
        return vector


def _of_shape(values: NDArray[Any], shape: tuple[int, ...] | None, path: tuple[Any, ...]) -> NDArray[Any]:
    """Return the values of a part if they have this shape. Raises ValueError."""
    if values.shape != shape:
        what = f"the observation's part {'.'.join(map(str, path))}" if path else "the observation"
        raise ValueError(f"{what} has shape {values.shape}, but its space has {shape}")
    return values


def flatten(space: Space, obs: Any) -> NDArray[np.float64]:
    """Flatten one observation to a vector. Raises ValueError for a wrong shape."""
    return Flattener(space)(obs)


def to_action(space: Space, action: Any) -> Any:
    """Convert the output of a policy, (A,) numbers or an integer, to an action of the space, of its type."""
    if isinstance(space, spaces.Box):
        kind = space.dtype.kind
        numbers = np.rint(action) if kind in "iu" else np.asarray(action) >= 0.5 if kind == "b" else action
        return np.asarray(numbers, dtype=space.dtype).reshape(space.shape)
    assert isinstance(space, spaces.Discrete)
    return space.dtype.type(action)


def to_json(space: Space) -> dict[str, Any]:
    """Convert a space to JSON values. Raises TypeError for spaces that `size` refuses."""
    match space:
        case spaces.Box():
            low, high = space.low.reshape(-1), space.high.reshape(-1)
            return {
                "kind": "Box",
                "shape": list(space.shape),
                "dtype": str(space.dtype),
                # JSON has no infinity
                "low": [None if v == -np.inf else v for v in low.tolist()],
                "high": [None if v == np.inf else v for v in high.tolist()],
            }
        case spaces.Discrete():
            return {"kind": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
        case spaces.MultiBinary():
            return {"kind": "MultiBinary", "n": np.asarray(space.n).tolist()}
        case spaces.MultiDiscrete():
            return {
                "kind": "MultiDiscrete",
                "nvec": np.asarray(space.nvec).tolist(),
                "start": np.asarray(space.start).tolist(),
                "dtype": str(space.dtype),
            }
        case spaces.Dict():
            return {"kind": "Dict", "spaces": [[name, to_json(part)] for name, part in space.items()]}
        case spaces.Tuple():
            return {"kind": "Tuple", "spaces": [to_json(part) for part in space]}
    raise TypeError(f"{space}: not supported")


def from_json(value: dict[str, Any]) -> Space:
    """Convert the output of `to_json` back to a space. Raises KeyError, TypeError or ValueError for anything else."""
    match value["kind"]:
        case "Box":
            shape, dtype = tuple(value["shape"]), np.dtype(value["dtype"])
            low = np.array([-np.inf if v is None else v for v in value["low"]], dtype).reshape(shape)
            high = np.array([np.inf if v is None else v for v in value["high"]], dtype).reshape(shape)
            return spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            return spaces.Discrete(value["n"], start=value["start"], dtype=np.dtype(value["dtype"]).type)
        case "MultiBinary":
            return spaces.MultiBinary(value["n"])
        case "MultiDiscrete":
            return spaces.MultiDiscrete(value["nvec"], np.dtype(value["dtype"]).type, start=value["start"])
        case "Dict":
            return spaces.Dict([(name, from_json(part)) for name, part in value["spaces"]])
        case "Tuple":
            return spaces.Tuple([from_json(part) for part in value["spaces"]])
    raise ValueError(f"{value['kind']}: not a kind of space")

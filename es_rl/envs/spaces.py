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


def size(space: Space, first: int | None = None) -> int:
    """Return how many numbers a flattened observation has, at most `first`.

    Raises TypeError for a space without a fixed size, such as Text or Graph.
    """
    if not _supported(space):
        raise TypeError("is not supported; Box, Discrete, MultiBinary, MultiDiscrete, and Dict or Tuple of these are")
    numbers = spaces.flatdim(space)
    return numbers if first is None else min(first, numbers)


def flatten(space: Space, obs: Any) -> NDArray[np.float64]:
    """Flatten one observation to a vector; discrete ones become one-hot. Raises ValueError for a wrong shape."""
    if isinstance(space, spaces.Box):
        array = np.asarray(obs, dtype=np.float64)
        if array.shape != space.shape:
            raise ValueError(f"the observation has shape {array.shape}, but its space has {space.shape}")
        return array.reshape(-1)
    vector = np.asarray(spaces.flatten(space, obs), dtype=np.float64)
    if len(vector) != size(space):
        raise ValueError(f"the observation has {len(vector)} numbers, but its space has {size(space)}")
    return vector


def _supported(space: Space) -> bool:
    if isinstance(space, spaces.Dict):
        return all(_supported(part) for part in space.values())
    if isinstance(space, spaces.Tuple):
        return all(_supported(part) for part in space)
    return isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete))


def to_action(space: Space, action: Any) -> Any:
    """Convert the output of a policy, (A,) numbers or an integer, to an action of the space."""
    if isinstance(space, spaces.Box):
        numbers = np.rint(action) if np.issubdtype(space.dtype, np.integer) else action
        return np.asarray(numbers, dtype=space.dtype).reshape(space.shape)
    return int(action)


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

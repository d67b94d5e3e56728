"""Convert spaces to JSON and back, so that a policy can be used without its environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from es_rl.envs.spaces.parts import Space


def to_json(space: Space) -> dict[str, Any]:
    """Convert a space to JSON values. Raises TypeError for spaces that `size` refuses."""
    match space:
        case spaces.Box():
            low, high = (bound.reshape(-1).tolist() for bound in (space.low, space.high))
            return {
                "kind": "Box",
                "shape": list(space.shape),
                "dtype": str(space.dtype),
                # JSON has no infinity
                "low": [None if v == -np.inf else _plain(v) for v in low],
                "high": [None if v == np.inf else _plain(v) for v in high],
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


def _plain(bound: Any) -> Any:
    """Return a bound as a number of Python's: NumPy leaves those of `longdouble` as they are."""
    return float(bound) if isinstance(bound, np.floating) else bound


def from_json(value: dict[str, Any]) -> Space:
    """Convert the output of `to_json` back to a space. Raises KeyError, TypeError or ValueError for anything else."""
    match value["kind"]:
        case "Box":
            shape, dtype = tuple(value["shape"]), np.dtype(value["dtype"])
            low = np.array([-np.inf if v is None else v for v in value["low"]], dtype).reshape(shape)
            high = np.array([np.inf if v is None else v for v in value["high"]], dtype).reshape(shape)
            return spaces.Box(low, high, shape, dtype)  # its type alone has no order of bytes
        case "Discrete":
            return spaces.Discrete(value["n"], start=value["start"], dtype=np.dtype(value["dtype"]))
        case "MultiBinary":
            return spaces.MultiBinary(value["n"])
        case "MultiDiscrete":
            return spaces.MultiDiscrete(value["nvec"], np.dtype(value["dtype"]), start=value["start"])
        case "Dict":
            return spaces.Dict([(name, from_json(part)) for name, part in value["spaces"]])
        case "Tuple":
            return spaces.Tuple([from_json(part) for part in value["spaces"]])
    raise ValueError(f"{value['kind']}: not a kind of space")

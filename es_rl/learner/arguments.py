"""Keys as arguments of Python: nested or dotted names, values of Python's or NumPy's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from es_rl.config import flatten, open_keys
from es_rl.rl.config import Config


def flat(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys by dotted names, with plain values: lists for tuples, numbers of Python for those of NumPy."""
    return {name: _plain(value) for name, value in flatten(keys, whole=open_keys(Config)).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def arguments(values: Sequence[Any], keys: Mapping[str, Any]) -> str:
    """Return arguments as Python code, to be read by people."""
    named = [f"{name}={value!r}" for name, value in keys.items() if "." not in name]
    dotted = {name: value for name, value in keys.items() if "." in name}
    return ", ".join([*(repr(str(value)) for value in values), *named, *([f"**{dotted}"] if dotted else [])])

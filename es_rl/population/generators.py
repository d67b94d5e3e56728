"""The global random number generators, from which a module may draw."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def states() -> tuple[Any, ...]:
    """Return the states of the global random number generators."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 - a module may use it


def restore(before: tuple[Any, ...]) -> None:
    """Set the states that `states` returned."""
    torch.set_rng_state(before[0])
    random.setstate(before[1])
    np.random.set_state(before[2])  # noqa: NPY002

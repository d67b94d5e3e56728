"""The difficulty of episodes in the state of a run, where an environment has a curriculum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from es_rl.envs.curriculum import Curriculum

NAME = "curriculum/difficulty"  # of the tensor, and of the metric


def begun(curriculum: Curriculum | None) -> dict[str, Tensor]:
    """Return what the state holds before the first generation: the easiest episodes; nothing without a curriculum."""
    return {} if curriculum is None else _tensor(0.0)


def of(extra: Mapping[str, Tensor]) -> float | None:
    """Return the difficulty that a state holds, from 0 to 1."""
    return min(1.0, max(0.0, float(extra[NAME]))) if NAME in extra else None


def after(curriculum: Curriculum | None, extra: Mapping[str, Tensor], record: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what the state holds after a generation with these metrics."""
    before = of(extra)
    return {} if curriculum is None or before is None else _tensor(curriculum.after(before, record))


def metric(extra: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the difficulty for the log."""
    found = of(extra)
    return {} if found is None else {NAME: found}


def _tensor(value: float) -> dict[str, Tensor]:
    return {NAME: torch.tensor(value, dtype=torch.float64)}

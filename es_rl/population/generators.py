"""What a forward may change besides its result: the global random number generators, and the module's buffers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn


def states() -> tuple[Any, ...]:
    """Return the states of the global random number generators."""
    gpus = []
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # a CPU worker must not begin to use a GPU
        gpus = torch.cuda.get_rng_state_all()
    return torch.get_rng_state(), random.getstate(), np.random.get_state(), gpus  # noqa: NPY002 - a module may use it


def restore(before: tuple[Any, ...]) -> None:
    """Set the states that `states` returned."""
    torch.set_rng_state(before[0])
    random.setstate(before[1])
    np.random.set_state(before[2])  # noqa: NPY002
    if before[3]:
        torch.cuda.set_rng_state_all(before[3])


def buffers(module: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the buffers of a module with their values, such as the running estimates of a spectral norm."""
    return [(buffer, buffer.clone()) for buffer in module.buffers()]


def restore_buffers(before: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Set the values that `buffers` returned."""
    for buffer, value in before:
        if not torch.equal(buffer, value):
            buffer.copy_(value)

"""Compare what a file does with what its policy does.

Shapes: n episodes that still run, of N; A numbers of an action; K outputs of the network.

The episodes are played side by side, the longest first, so that those that still run are the first n rows, and a file
is run with many numbers of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from es_rl.envs.spaces import Bools, Floats, leaves
from es_rl.errors import TrainingError
from es_rl.export.formats import Player
from es_rl.export.stepped import Memory
from es_rl.policies.action import UNBOUNDED

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Verified:
    """How a file compares with its policy. Differences are relative for numbers above 1, see `scales`."""

    observations: int
    action_difference: float
    state_difference: float | None  # None: the file shows no memory
    ties: int  # choices that differ because the best two outputs are equal but for rounding


def compared(policy: nn.Module, memory: Memory, player: Player, episodes: Sequence[Floats], scale: Floats) -> Verified:
    """Let a file and its policy act on recorded observations, (T, O) of each episode, and compare them.

    `scale` (A,) is the size of an action's numbers, those of choices 0. The rest of an episode after a tie is left out
    if the policy remembers what it chose. Raises `TrainingError` if they differ by more than `TOLERANCE`.
    """
    episodes = sorted(episodes, key=len, reverse=True)
    lengths = np.array([len(episode) for episode in episodes])
    outputs, state = _Outputs(policy), None
    alike = np.ones(len(episodes), np.bool_)
    seen, ties, worst, worst_state = 0, 0, 0.0, None
    for t in range(lengths[0]):
        n = int(np.count_nonzero(lengths > t))
        obs = np.stack([episode[t] for episode in episodes[:n]])
        state = tree_map(lambda part, n=n: part[:n] if isinstance(part, Tensor) and part.ndim else part, state)
        with torch.inference_mode():
            expected, state = policy(torch.from_numpy(obs), state)
        found, wanted = (np.asarray(a).reshape(n, -1) for a in (player.step(obs), expected.numpy()))
        odd = (scale == 0) & (found != wanted)  # (n, A) other choices
        tied = np.array([outputs.tied(row, found[row]) for row in range(n)]) if odd.any() else odd
        difference = np.where(odd, ~tied * np.abs(wanted - found), _difference(found, wanted, scale))
        ties += int(np.count_nonzero((odd & tied)[alike[:n]]))
        worst, seen = max(worst, _largest(difference[alike[:n]])), seen + int(np.count_nonzero(alike[:n]))
        if memory.meanings:
            alike[:n] &= ~(odd & tied).any(axis=1)
        for given, ours in zip(player.state(), memory.flat(state) if player.state() else (), strict=True):
            apart = _difference(given, ours.numpy(), np.ones(1))[alike[:n]]
            worst_state = max(worst_state or 0.0, _largest(apart))
    outputs.close()
    result = Verified(seen, worst, worst_state, ties)
    _refuse_differing(result)
    return result


def scales(space: spaces.Space[Any]) -> Floats:
    """Return the size of each number of an action, (A,): 1, or half of its range if that is more. 0: a choice."""
    found = []
    for _, part in leaves(space):
        numbers = int(np.prod(part.shape or ()))
        if isinstance(part, spaces.Box):
            with np.errstate(over="ignore", invalid="ignore"):
                reach = (part.high.astype(np.float64) / 2 - part.low.astype(np.float64) / 2).reshape(-1)
            found.append(np.where(reach < UNBOUNDED, np.maximum(reach, 1.0), 1.0))
        else:
            found.append(np.zeros(numbers))
    return np.concatenate(found)


class _Outputs:
    """What the network gave to the policy's head in the latest step."""

    def __init__(self, policy: nn.Module) -> None:
        self._head: Any = getattr(policy, "head", None)
        self._latest: Tensor | None = None
        self._hook = self._head.register_forward_pre_hook(self._keep) if isinstance(self._head, nn.Module) else None

    def tied(self, row: int, found: NDArray[Any]) -> Bools:
        """Tell for each number (A,) of an action whether a change of one output, as small as rounding, leads to it."""
        if self._hook is None or self._latest is None:
            return np.zeros(len(found), np.bool_)
        y = self._latest[row]  # (K,)
        nudges = TOLERANCE * torch.clamp(y.abs(), min=1.0) * torch.eye(len(y))
        with torch.inference_mode():
            near = self._head.forward(torch.cat([y + nudges, y - nudges])).numpy().reshape(2 * len(y), -1)  # (2K, A)
        reached: Bools = (near == found).any(axis=0)
        return reached

    def close(self) -> None:
        if self._hook is not None:
            self._hook.remove()

    def _keep(self, head: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._latest = args[0]


def _difference(found: NDArray[Any], wanted: NDArray[Any], scale: Floats) -> Floats:
    """Return |found − wanted|, relative to the largest of 1, |wanted| and the scale."""
    wanted = wanted.astype(np.float64)
    difference: Floats = np.abs(found - wanted) / np.maximum(np.maximum(np.abs(wanted), 1.0), scale)
    difference[(found == wanted) | (np.isnan(found) & np.isnan(wanted))] = 0.0  # infinite ones too
    return np.where(np.isnan(difference), np.inf, difference)


def _largest(values: Floats) -> float:
    return float(values.max(initial=0.0))


def _refuse_differing(verified: Verified) -> None:
    for what, value in (("action", verified.action_difference), ("state", verified.state_difference)):
        if value is not None and value > TOLERANCE:
            raise TrainingError(
                f"the exported file differs from the policy by {value:.3g} in its {what}, and may by {TOLERANCE:g}. "
                f"Nothing was written. Try another format."
            )

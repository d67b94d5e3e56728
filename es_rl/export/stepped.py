"""A policy as a function of tensors alone: observation and memory in, action and memory out.

Shapes: n rows, one episode each; O observation, A action; H heads, C context, d = width/H of a transformer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_unflatten

from es_rl.errors import EnvError
from es_rl.observations import ObservationShape
from es_rl.policies.rounding import RoundedLinear, rounded
from es_rl.policies.transformer import TransformerPolicy

Tensors = tuple[Tensor, ...]
TRACED = 2  # rows with which a policy is tried and traced: shapes of one row would be taken for constants


class Memory(Protocol):
    """What a policy remembers of an episode, as a flat list of tensors whose first dimension is that of the rows."""

    @property
    def meanings(self) -> Sequence[str]:
        """What each tensor is."""

    def initial(self, n: int) -> Tensors:
        """Return the memory of n episodes that begin."""

    def step(self, policy: nn.Module, observation: Tensor, state: Tensors) -> tuple[Tensor, Tensors]:
        """Return the policy's action, and the memory after it. The arguments are not changed."""

    def flat(self, state: Any) -> Tensors:
        """Return in this form what the policy itself remembers after at least one step."""


class Stepped(nn.Module):
    """A copy of a policy with its weights as they are used: forward(observation, *state) → (action, *next state)."""

    def __init__(self, policy: nn.Module, seen: int | ObservationShape) -> None:
        """Raise `EnvError` for a policy whose memory is not made of tensors with one row for each episode."""
        super().__init__()
        self.policy = with_rounded_weights(policy)
        self.seen = ObservationShape(seen) if isinstance(seen, int) else seen
        self.memory = memory_of(policy, self.seen)

    def forward(self, observation: Tensor, *state: Tensor) -> Tensors:
        action, after = self.memory.step(self.policy, observation, state)
        return action, *after

    def examples(self, n: int = TRACED) -> Tensors:
        """Return arguments of `forward` for n rows."""
        return empty(self.seen, n), *self.memory.initial(n)


def empty(seen: ObservationShape, n: int) -> Tensor:
    """Return n observations of zeros."""
    return torch.from_numpy(np.zeros((n, *seen.row), seen.dtype))


def with_rounded_weights(policy: nn.Module) -> nn.Module:
    """Return a copy of a policy in which layers that round their weights are plain ones with the rounded weights."""
    result = copy.deepcopy(policy)
    for name, layer in list(result.named_modules()):
        if isinstance(layer, RoundedLinear):
            plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
            values = {key: value.detach() for key, value in layer.named_parameters()}
            plain.load_state_dict(values | {"weight": rounded(values["weight"], layer.kind)})
            result.set_submodule(name, plain)
    return result.requires_grad_(False).eval()


def memory_of(policy: nn.Module, seen: ObservationShape) -> Memory:
    """Return the memory of a policy for observations of this shape. Raises `EnvError`."""
    if type(policy) is TransformerPolicy:
        return Window(policy)
    with torch.inference_mode():
        _, state = policy(empty(seen, TRACED), None)
    return Tree(state, type(policy).__name__)


class Tree:
    """The memory of any policy: the tensors in what it returns as its state. A policy without memory returns None.

    It begins with zeros. The check of the file would find a policy that begins otherwise.
    """

    def __init__(self, state: Any, name: str) -> None:
        leaves, self._form = tree_flatten(state)
        if self._form.num_leaves == 1 and leaves[0] is None:
            leaves = []
        for leaf in leaves:
            if not isinstance(leaf, Tensor) or leaf.ndim == 0 or len(leaf) != TRACED:
                what = f"a tensor of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else repr(leaf)
                raise EnvError(
                    f"policy {name}: its state holds {what}, which has no row for each episode. Let its state be "
                    f"tensors whose first dimension is the episodes."
                )
        self._like = [(leaf.shape[1:], leaf.dtype) for leaf in leaves]
        self.meanings = ["what the policy returned as its state"] * len(leaves)

    def initial(self, n: int) -> Tensors:
        return tuple(torch.zeros(n, *shape, dtype=dtype) for shape, dtype in self._like)

    def step(self, policy: nn.Module, observation: Tensor, state: Tensors) -> tuple[Tensor, Tensors]:
        copies = [part.clone() for part in state]  # the policy may write into its state
        action, after = policy(observation, tree_unflatten(copies, self._form) if copies else None)
        return action, self.flat(after)

    def flat(self, state: Any) -> Tensors:
        return tuple(tree_flatten(state)[0]) if self._like else ()


class Window:
    """The memory of the transformer, the oldest step first.

    The policy keeps the latest C steps in a ring, and a number of steps that all rows share. Here each row has its own,
    so that its episode can begin at any time, and the memory moves by one place at each step.
    """

    def __init__(self, policy: TransformerPolicy) -> None:
        self._context, self._like = policy._context, policy._memory
        self._outputs, self._layers = policy.head.outputs, len(policy.blocks)
        each = [
            f"{what} of layer {i}, the latest step last" for i in range(self._layers) for what in ("keys", "values")
        ]
        self.meanings = [f"steps so far, at most {self._context}", "the previous output, as the policy sees it", *each]

    def initial(self, n: int) -> Tensors:
        memory = (torch.zeros(n, *self._like) for _ in range(2 * self._layers))
        return torch.zeros(n, dtype=torch.int64), torch.zeros(n, self._outputs), *memory

    def step(self, policy: nn.Module, observation: Tensor, state: Tensors) -> tuple[Tensor, Tensors]:
        (steps, said, *memory), c = state, self._context
        # The step 2C − 1 writes into the last place of a full ring, whose places are then in the order of time.
        latest = 2 * c - 1
        moved = tuple(torch.cat([part[:, :, 1:], part[:, :, :1]], dim=2) for part in memory)
        written = torch.arange(c - 1, -1, -1, device=steps.device) <= steps[:, None]  # (n, C)
        penalty = policy.get_buffer("penalty")[latest].masked_fill(~written[:, None, None], -torch.inf)  # (n, H, 1, C)
        buffers = {"penalty": penalty.expand(2 * c, *penalty.shape)}
        action, (_, moved, said) = functional_call(policy, buffers, (observation, (latest, moved, said)))
        return action, ((steps + 1).clamp(max=c), said, *moved)

    def flat(self, state: Any) -> Tensors:
        steps, memory, said = state
        counted = torch.full((len(said),), min(steps, self._context))
        return counted, said, *(part.roll(-(steps % self._context), dims=2) for part in memory)

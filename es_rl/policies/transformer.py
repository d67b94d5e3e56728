"""The transformer policy: causal attention over the last `context` steps, one token per step.

Shapes: n simulations, H heads, d = width/H, C context, L layers, O observation.

A token is the observation and the policy's previous output. Blocks are pre-norm (Xiong et al. 2020, arXiv 2002.04745).
They have no biases or gains, because low-rank noise is made for matrices. Positions are encoded by ALiBi, a penalty on
each head's scores that is linear in the distance (Press et al. 2022, arXiv 2108.12409); it has no last position.
`state` keeps the keys and values of the last C steps in a ring that is written in place, so a step costs one token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from es_rl.policies.action import ActionHead
from es_rl.policies.config import TransformerConfig

# Steps so far; keys and values of each layer (n, H, C, d); the previous output (n, outputs).
State = tuple[int, tuple[Tensor, ...], Tensor]
OUTPUT_GAIN = 0.01  # of the initial output weights


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._width, self._split = (width,), (-1, 3, heads, 1, width // heads)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.wide = nn.Linear(width, 4 * width, bias=False)
        self.narrow = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, slot: int, penalty: Tensor) -> Tensor:
        """Return (n, width) from x (n, width), keys and values (n, H, C, d), and penalty (1, H, 1, C)."""
        q, k, v = self.qkv(F.layer_norm(x, self._width)).reshape(self._split).unbind(1)  # (n, H, 1, d) each
        keys[:, :, slot : slot + 1] = k
        values[:, :, slot : slot + 1] = v
        seen = F.scaled_dot_product_attention(q, keys, values, attn_mask=penalty).reshape(-1, *self._width)
        x = x + self.mix(seen)
        y: Tensor = self.narrow(F.relu(self.wide(F.layer_norm(x, self._width))))
        return x + y


class TransformerPolicy(nn.Module):
    """Embedding, blocks, output layer and action head."""

    penalty: Tensor

    def __init__(
        self, inputs: int, normalizer: nn.Module, head: ActionHead, *, width: int, layers: int, heads: int, context: int
    ) -> None:
        super().__init__()
        self._width, self._context = (width,), context
        self._memory = (heads, context, width // heads)
        self.normalizer = normalizer
        self.embed = nn.Linear(inputs + head.outputs, width, bias=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.out = nn.Linear(width, head.outputs, bias=False)
        self.head = head
        self.register_buffer("penalty", _penalties(heads, context), persistent=False)

    def forward(self, obs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return actions for observations (n, O), and the new state. None starts n episodes. `state` is overwritten."""
        x = self.normalizer(obs)
        if state is None:
            memory = tuple(x.new_zeros(len(x), *self._memory) for _ in range(2 * len(self.blocks)))
            state = 0, memory, x.new_zeros(len(x), self.head.outputs)
        step, memory, said = state
        x = self.embed(torch.cat([x, said], dim=-1))
        slot = step % self._context
        penalty = self.penalty[step if step < self._context else self._context + slot]
        for i, block in enumerate(self.blocks):
            x = block(x, memory[2 * i], memory[2 * i + 1], slot, penalty)
        y = self.out(F.layer_norm(x, self._width))
        return self.head(y), (step + 1, memory, self.head.said(y))


def _penalties(heads: int, context: int) -> Tensor:
    """Return the penalties of the ring's slots, (2C, 1, H, 1, C): C entries while the ring fills, then one per slot."""
    step = torch.arange(2 * context)[:, None]
    distance = (step - torch.arange(context)) % context  # steps since the slot was written
    slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)
    written = torch.where(distance <= step, -distance.float(), -torch.inf)  # (2C, C)
    return (slopes[:, None] * written[:, None])[:, None, :, None]


def build(config: TransformerConfig, inputs: int, normalizer: nn.Module, head: ActionHead) -> nn.Module:
    """Return the transformer; its first actions are near the middle of the action space."""
    policy = TransformerPolicy(
        inputs, normalizer, head, width=config.width, layers=config.layers, heads=config.heads, context=config.context
    )
    for name, value in policy.named_parameters():
        residual = name.endswith(("mix.weight", "narrow.weight"))
        nn.init.normal_(value, std=value.shape[1] ** -0.5 / ((2 * config.layers) ** 0.5 if residual else 1.0))
    nn.init.orthogonal_(policy.out.weight, OUTPUT_GAIN)
    return policy

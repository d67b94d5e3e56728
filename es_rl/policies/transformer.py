"""The transformer policy: causal attention over the last `context` steps, one token a step.

Shapes: n simulations, H heads, d = width/H, C context, L layers, O observation.

A token is the observation with what the policy said before. Blocks are pre-norm (Xiong et al. 2020, arXiv 2002.04745),
without biases or gains, since matrices are what low-rank noise is made for. Places are told by ALiBi, a penalty on each
head's scores that is linear in the distance (Press et al. 2022, arXiv 2108.12409), which knows no last step. Keys and
values of the last C steps stay in `state`, a ring that is written in place, so that a step costs one token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from es_rl.keys import key
from es_rl.policies.action import ActionHead


@dataclass(frozen=True)
class TransformerConfig:
    width: int = key(64, "numbers of a token; a multiple of heads", low=1)
    layers: int = key(2, "blocks of attention and perceptron", low=1)
    heads: int = key(4, "of each attention", low=1)
    context: int = key(16, "newest steps that each layer attends to", low=1)
    squash: str = key("tanh", "how outputs are brought to the action space", choices=("clip", "tanh"))


# Steps so far; each layer's keys and values (n, H, C, d); what was said last (n, outputs).
State = tuple[int, tuple[Tensor, ...], Tensor]
OUTPUT_GAIN = 0.01


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
        """x (n, width), keys and values (n, H, C, d), penalty (1, H, 1, C) → (n, width)."""
        q, k, v = self.qkv(F.layer_norm(x, self._width)).reshape(self._split).unbind(1)  # (n, H, 1, d) each
        keys[:, :, slot : slot + 1] = k
        values[:, :, slot : slot + 1] = v
        seen = F.scaled_dot_product_attention(q, keys, values, attn_mask=penalty).reshape(-1, *self._width)
        x = x + self.mix(seen)
        y: Tensor = self.narrow(F.relu(self.wide(F.layer_norm(x, self._width))))
        return x + y


class TransformerPolicy(nn.Module):
    """Embedding, blocks, output, action head."""

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
        """Observations (n, O) → actions; without a state all n episodes begin. The state given is used up."""
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
        said = F.one_hot(y.argmax(-1), self.head.outputs).to(y.dtype) if self.head.discrete else torch.tanh(y)
        return self.head(y), (step + 1, memory, said)


def _penalties(heads: int, context: int) -> Tensor:
    """What is added to the scores of each slot of the ring, (2C, 1, H, 1, C): while it fills, then slot by slot."""
    step = torch.arange(2 * context)[:, None]
    distance = (step - torch.arange(context)) % context  # how long ago the slot was written
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

"""The transformer policy: causal attention over the last `context` steps, one token a step.

Shapes: n simulations, H heads, d = width/H, C context, L layers, O observation.

A token is the observation with what the policy said before. Blocks are pre-norm (Xiong et al. 2020, arXiv 2002.04745),
without biases or gains, since matrices are what low-rank noise is made for. Places are told by ALiBi, a penalty on each
head's scores that is linear in the distance (Press et al. 2022, arXiv 2108.12409), which knows no last step. Keys and values
of the last C steps stay in `state`, a ring that is written in place, so that a step costs one token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from es_rl.config import Config
from es_rl.policies.action import ActionHead

# Steps so far, keys and values (n, L, 2, H, C, d), what was said last (n, outputs).
State = tuple[int, Tensor, Tensor]
OUTPUT_GAIN = 0.01


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.wide = nn.Linear(width, 4 * width, bias=False)
        self.narrow = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, memory: Tensor, slot: int, penalty: Tensor) -> Tensor:
        """x (n, width), memory (n, 2, H, C, d), penalty (1, H, 1, C) → (n, width)."""
        n, width = x.shape
        qkv = self.qkv(F.layer_norm(x, (width,))).reshape(n, 3, self._heads, -1)  # (n, 3, H, d)
        memory[:, :, :, slot] = qkv[:, 1:]
        seen = F.scaled_dot_product_attention(qkv[:, 0, :, None], memory[:, 0], memory[:, 1], attn_mask=penalty)
        x = x + self.mix(seen.reshape(n, width))
        y: Tensor = self.narrow(F.relu(self.wide(F.layer_norm(x, (width,)))))
        return x + y


class TransformerPolicy(nn.Module):
    """Embedding, blocks, output, action head."""

    slopes: Tensor

    def __init__(
        self, inputs: int, normalizer: nn.Module, head: ActionHead, *, width: int, layers: int, heads: int, context: int
    ) -> None:
        super().__init__()
        self._shape = (layers, 2, heads, context, width // heads)
        self.normalizer = normalizer
        self.embed = nn.Linear(inputs + head.outputs, width, bias=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.out = nn.Linear(width, head.outputs, bias=False)
        self.head = head
        slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)
        self.register_buffer("slopes", slopes[None, :, None, None], persistent=False)  # (1, H, 1, 1)

    def forward(self, obs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Observations (n, O) → actions; without a state all n episodes begin. The state given is used up."""
        x = self.normalizer(obs)
        if state is None:
            state = 0, x.new_zeros(len(x), *self._shape), x.new_zeros(len(x), self.head.outputs)
        step, memory, said = state
        x = self.embed(torch.cat([x, said], dim=-1))
        context = self._shape[3]
        distance = (step - torch.arange(context, device=x.device)) % context  # of each slot of the ring: how long ago
        penalty = torch.where(distance <= step, -self.slopes * distance, -torch.inf)  # (1, H, 1, C)
        for i, block in enumerate(self.blocks):
            x = block(x, memory[:, i], step % context, penalty)
        y = self.out(F.layer_norm(x, x.shape[-1:]))
        said = F.one_hot(y.argmax(-1), self.head.outputs).to(y.dtype) if self.head.discrete else torch.tanh(y)
        return self.head(y), (step + 1, memory, said)


def build(config: Config, inputs: int, normalizer: nn.Module, head: ActionHead) -> nn.Module:
    """The transformer of `config.transformer`; the first actions are near the middle of the action space."""
    c = config.transformer
    policy = TransformerPolicy(
        inputs, normalizer, head, width=c.width, layers=c.layers, heads=c.heads, context=c.context
    )
    for name, value in policy.named_parameters():
        residual = name.endswith(("mix.weight", "narrow.weight"))
        nn.init.normal_(value, std=value.shape[1] ** -0.5 / ((2 * c.layers) ** 0.5 if residual else 1.0))
    nn.init.orthogonal_(policy.out.weight, OUTPUT_GAIN)
    return policy

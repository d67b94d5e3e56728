"""A byte-level GPT: 256 tokens, learned positions, pre-norm blocks, output weights tied to the embedding.

Shapes: n sequences of T bytes, T ≤ `ctx`; d = width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BYTES = 256
INIT_STD = 0.02  # standard deviation of initial matrices (Radford et al. 2019, GPT-2)


class Block(nn.Module):
    """A block: x + attention(norm(x)), then x + mlp(norm(x)) (Xiong et al. 2020, arXiv 2002.04745)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._split = (3, heads, width // heads)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, T, d) to (n, T, d)."""
        split = (*x.shape[:2], *self._split)
        q, k, v = self.qkv(self.norm1(x)).reshape(split).permute(2, 0, 3, 1, 4)  # (n, H, T, d/H) each
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(seen.transpose(1, 2).flatten(2))
        y: Tensor = self.narrow(F.gelu(self.wide(self.norm2(x))))
        return x + y


class Gpt(nn.Module):
    """Maps bytes to the logits of the byte after each."""

    def __init__(self, *, layers: int, heads: int, width: int, ctx: int) -> None:
        super().__init__()
        self.ctx = ctx
        self.embed = nn.Embedding(BYTES, width)
        self.place = nn.Embedding(ctx, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for name, value in self.named_parameters():
            if value.ndim > 1:
                # Scaled so that the 2·layers residual branches together start as small as a single one (GPT-2).
                branch = name.endswith(("mix.weight", "narrow.weight"))
                nn.init.normal_(value, std=INIT_STD / (2 * layers) ** 0.5 if branch else INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(value)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, T), integers, to logits (n, T, 256)."""
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        return F.linear(self.norm(self.blocks(x)), self.embed.weight)


def bits(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the bits per byte of each sequence: (n, T, 256), (n, T) → (n,)."""
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").reshape(targets.shape)
    return nats.mean(dim=1) / math.log(2)


@torch.no_grad()
def generate(model: nn.Module, prompts: Tensor, count: int, *, ctx: int, generator: torch.Generator | None) -> Tensor:
    """Return `count` bytes after each prompt: (n, T ≥ 1) → (n, count).

    Bytes are drawn with the generator; without one, the likeliest is taken.
    """
    text = prompts
    for _ in range(count):
        logits = model(text[:, -ctx:])[:, -1]  # (n, 256)
        if generator is None:
            new = logits.argmax(dim=-1, keepdim=True)
        else:
            new = torch.multinomial(torch.softmax(logits, dim=-1), 1, generator=generator)
        text = torch.cat([text, new], dim=1)
    return text[:, prompts.shape[1] :]

"""Mixtures of experts of Hugging Face, written so that they work for many members at once.

Their own forward picks the rows of each expert, rows of different members together. Here every expert computes all
rows, and rows that did not choose it get the weight zero: the same result, at the cost of all experts.

Shapes: B tokens, H hidden numbers, E experts, I numbers inside an expert, K experts of a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def is_experts(layer: nn.Module) -> bool:
    """Tell whether a layer is a collection of gated experts without biases: gate_up (E, 2I, H) and down (E, H, I)."""
    own = dict(layer.named_parameters(recurse=False))
    if not type(layer).__name__.endswith("Experts") or own.keys() != {"gate_up_proj", "down_proj"}:
        return False
    up, down = own["gate_up_proj"].shape, own["down_proj"].shape
    return len(up) == len(down) == 3 and callable(getattr(layer, "act_fn", None)) and up[1:] == (2 * down[2], down[1])


def experts(layer: Any) -> Callable[..., Tensor]:
    """Return a forward for such a layer."""

    def forward(hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        total = torch.zeros_like(hidden_states)  # (B, H)
        for e in range(len(layer.down_proj)):
            gate, up = F.linear(hidden_states, layer.gate_up_proj[e]).chunk(2, dim=-1)  # (B, I) each
            share = (top_k_weights * (top_k_index == e)).sum(-1, keepdim=True)  # (B, 1)
            total = total + share.to(total.dtype) * F.linear(layer.act_fn(gate) * up, layer.down_proj[e])
        return total

    return forward

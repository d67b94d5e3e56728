"""nn.MultiheadAttention written as linear maps and scaled dot products, which work for many members at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from es_rl.population.interception import NoRuleError


def attention(layer: Any) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Return a forward for the layer. It raises `NoRuleError` for options it cannot compute for all members at once."""

    def forward(
        query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None, need_weights: bool = True,
        attn_mask: Tensor | None = None, average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        if layer.training and layer.dropout:
            raise NoRuleError("has an attention with dropout")
        if layer.bias_k is not None or layer.add_zero_attn or not layer._qkv_same_embed_dim or query.ndim != 3:
            raise NoRuleError("has an attention with bias_k, zero attention, kdim or vdim, or without a batch")
        if not layer.batch_first:
            same = query is key and key is value
            query, key, value = (
                [query.transpose(0, 1)] * 3 if same else [x.transpose(0, 1) for x in (query, key, value)]
            )
        weight, bias, width = layer.in_proj_weight, layer.in_proj_bias, layer.embed_dim
        if query is key and key is value:
            parts = list(F.linear(query, weight, bias).chunk(3, dim=-1))
        else:
            own = [slice(i * width, (i + 1) * width) for i in range(3)]
            parts = [
                F.linear(x, weight[i], None if bias is None else bias[i])
                for x, i in zip((query, key, value), own, strict=True)
            ]
        heads = layer.num_heads
        q, k, v = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in parts)  # (rows, heads, T, d)
        mask = None if attn_mask is None else _additive(attn_mask, heads, q)
        if key_padding_mask is not None:
            mask = _additive(key_padding_mask[:, None, None], heads, q) + (0.0 if mask is None else mask)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        weights = (scores if mask is None else scores + mask).softmax(-1)
        y = F.linear((weights @ v).transpose(1, 2).flatten(2), layer.out_proj.weight, layer.out_proj.bias)
        seen = weights.mean(1) if average_attn_weights else weights
        return (y if layer.batch_first else y.transpose(0, 1)), (seen if need_weights else None)

    return forward


def _additive(mask: Tensor, heads: int, q: Tensor) -> Tensor:
    """Return a mask to add to scores (rows, heads, T, S), given a boolean one (True: not seen) or one of numbers."""
    if mask.ndim == 3:  # (rows·heads, T, S)
        mask = mask.reshape(-1, heads, *mask.shape[1:])
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, -torch.inf) if mask.dtype == torch.bool else mask

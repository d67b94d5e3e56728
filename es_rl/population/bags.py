"""The rule of F.embedding_bag: the sum, the mean or the maximum of the embeddings of each bag of tokens.

Shapes: N members, k bags per member, V tokens of the vocabulary, d numbers of an embedding, R rank.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from es_rl.population.interception import Interception, NoRuleError
from es_rl.population.members import LowRank
from es_rl.population.precision import exactly


def embedding_bag(
    m: Interception, input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None,
    norm_type: float = 2, scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
    per_sample_weights: Tensor | None = None, include_last_offset: bool = False, padding_idx: int | None = None,
) -> Tensor:  # fmt: skip
    """Compute bags (N·k, L), or a sequence of tokens with offsets (N·k,), for each member: (N·k, d)."""
    w = m.members(weight)
    m.refuse(per_sample_weights)
    if w is None or max_norm is not None:
        raise NoRuleError("sums embeddings with max_norm, or with weights that are parameters")
    bags = len(input) if offsets is None else len(offsets) - include_last_offset
    if not m.is_rows(bags) or (input.ndim == 2 and not m.is_batch(input)):
        raise NoRuleError("has bags that are not a number for each member")
    if padding_idx is not None and padding_idx < 0:
        padding_idx += len(weight)
    member = torch.arange(bags, device=input.device) // (bags // m.n)
    if offsets is None:
        member = member[:, None]
    else:  # of each token: that of the last bag that begins at it or before it
        tokens = torch.arange(len(input), device=input.device)
        member = member[torch.searchsorted(offsets[:bags].contiguous(), tokens.to(offsets.dtype), right=True) - 1]
    own = input + member * len(weight)  # in the concatenated tables
    if padding_idx is not None:
        own = torch.where(input == padding_idx, padding_idx, own)

    summed = partial(
        F.embedding_bag, offsets=offsets, mode=mode, per_sample_weights=per_sample_weights,
        include_last_offset=include_last_offset, padding_idx=padding_idx,
    )  # fmt: skip
    if not isinstance(w, LowRank) or mode == "max":
        table = w.explicit() if isinstance(w, LowRank) else w  # (N, V, d)
        return m.follow(input, summed(own, table.flatten(0, 1)))
    y, a = summed(input, w.theta), summed(own, w.a.flatten(0, 1))  # (N·k, d), (N·k, R)
    with exactly(y):
        whole = torch.baddbmm(y.reshape(m.n, -1, y.shape[1]), a.reshape(m.n, -1, a.shape[1]), w.b.transpose(1, 2))
    return m.follow(input, whole.flatten(0, 1))

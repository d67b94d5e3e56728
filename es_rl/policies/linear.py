"""The linear policy, initially zero (Mania et al. 2018, section 3): action = squash(W·normalised(obs) + b)."""

from __future__ import annotations

from torch import nn

from es_rl.policies.action import ActionHead
from es_rl.policies.config import LinearConfig
from es_rl.policies.feedforward import Feedforward
from es_rl.policies.rounding import linear


def build(config: LinearConfig, inputs: int, normalizer: nn.Module, head: ActionHead) -> nn.Module:
    """Return the policy: one matrix and a bias, both zero."""
    layer = linear(inputs, head.outputs, config.weights)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return Feedforward(normalizer, head, layer=layer)

"""The linear policy, zero at the start (Mania et al. 2018, section 3): action = squash(W·normalised(obs) + b)."""

from __future__ import annotations

from torch import nn

from es_rl.config import Config
from es_rl.policies.action import ActionHead
from es_rl.policies.feedforward import Feedforward
from es_rl.policies.rounding import linear


def build(config: Config, inputs: int, normalizer: nn.Module, head: ActionHead) -> nn.Module:
    """One matrix and a bias."""
    layer = linear(inputs, head.outputs, config.linear.weights)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return Feedforward(normalizer, head, layer=layer)

"""The linear policy, zero at the start (Mania et al. 2018, section 3): action = squash(W·normalised(obs) + b)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from es_rl.keys import key
from es_rl.policies.action import ActionHead
from es_rl.policies.feedforward import Feedforward
from es_rl.policies.rounding import WEIGHTS, linear


@dataclass(frozen=True)
class LinearConfig:
    squash: str = key("clip", "how outputs are brought to the action space", choices=("clip", "tanh"))
    weights: str = key("float", "matrices as they are, or rounded in every pass forward", choices=WEIGHTS)


def build(config: LinearConfig, inputs: int, normalizer: nn.Module, head: ActionHead) -> nn.Module:
    """One matrix and a bias."""
    layer = linear(inputs, head.outputs, config.weights)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return Feedforward(normalizer, head, layer=layer)

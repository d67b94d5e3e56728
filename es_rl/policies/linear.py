"""The linear policy, initially zero (Mania et al. 2018, section 3): action = squash(W·normalised(obs) + b)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from es_rl.keys import key
from es_rl.policies.action import ActionHead
from es_rl.policies.feedforward import Feedforward
from es_rl.policies.rounding import WEIGHTS, linear


@dataclass(frozen=True)
class LinearConfig:
    squash: str = key("clip", "map outputs to the action space by clipping or tanh", choices=("clip", "tanh"))
    weights: str = key("float", "round weight matrices in every forward pass (float: do not round)", choices=WEIGHTS)


def build(config: LinearConfig, inputs: int, normalizer: nn.Module, head: ActionHead) -> nn.Module:
    """Return the policy: one matrix and a bias, both zero."""
    layer = linear(inputs, head.outputs, config.weights)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return Feedforward(normalizer, head, layer=layer)

"""The multilayer perceptron: hidden layers of any widths, optional layer norm, a small start of the output layer."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from es_rl.config import Config
from es_rl.policies.action import ActionHead
from es_rl.policies.feedforward import Feedforward
from es_rl.policies.rounding import linear

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}
# The first actions are then near the middle of the action space, whatever the observation.
OUTPUT_GAIN = 0.01


def build(config: Config, inputs: int, normalizer: nn.Module, head: ActionHead) -> nn.Module:
    """The perceptron of `config.mlp`."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise([inputs, *config.mlp.hidden]):
        layers.append(_linear(width_in, width_out, 1.0, config.mlp.weights))
        if config.mlp.layer_norm:
            layers.append(nn.LayerNorm(width_out))
        layers.append(ACTIVATIONS[config.mlp.activation]())
    layers.append(_linear([inputs, *config.mlp.hidden][-1], head.outputs, OUTPUT_GAIN, config.mlp.weights))
    return Feedforward(normalizer, head, network=nn.Sequential(*layers))


def _linear(inputs: int, outputs: int, gain: float, weights: str) -> nn.Linear:
    layer = linear(inputs, outputs, weights)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer

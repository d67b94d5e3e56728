"""The multilayer perceptron: hidden layers of any widths, optional layer norm, small initial output weights."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from es_rl.policies.action import ActionHead
from es_rl.policies.config import MlpConfig
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
# Gain of the initial output weights. Small: the first actions are near the middle of the action space.
OUTPUT_GAIN = 0.01


def build(config: MlpConfig, inputs: int, normalizer: nn.Module, head: ActionHead) -> nn.Module:
    """Return the perceptron."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise([inputs, *config.hidden]):
        layers.append(_linear(width_in, width_out, 1.0, config.weights))
        if config.layer_norm:
            layers.append(nn.LayerNorm(width_out))
        layers.append(ACTIVATIONS[config.activation]())
    layers.append(_linear([inputs, *config.hidden][-1], head.outputs, OUTPUT_GAIN, config.weights))
    return Feedforward(normalizer, head, network=nn.Sequential(*layers))


def _linear(inputs: int, outputs: int, gain: float, weights: str) -> nn.Linear:
    layer = linear(inputs, outputs, weights)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer

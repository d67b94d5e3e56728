"""The keys of each policy, a group for each, named as the policy is. They are read without torch."""

from __future__ import annotations

from dataclasses import dataclass

from es_rl.keys import key

WEIGHTS = ("float", "int8", "ternary")  # kinds of weight matrices; float: not rounded


@dataclass(frozen=True)
class LinearConfig:
    squash: str = key("clip", "map outputs to the action space by clipping or tanh", choices=("clip", "tanh"))
    weights: str = key("float", "round weight matrices in every forward pass (float: do not round)", choices=WEIGHTS)


@dataclass(frozen=True)
class MlpConfig:
    hidden: list[int] = key([64, 64], "widths of the hidden layers", low=1)
    activation: str = key("tanh", "activation function", choices=("tanh", "relu", "elu", "gelu", "silu", "leaky_relu"))
    layer_norm: bool = key(False, "apply layer norm before each activation")
    squash: str = key("tanh", "map outputs to the action space by clipping or tanh", choices=("clip", "tanh"))
    weights: str = key("float", "round weight matrices in every forward pass (float: do not round)", choices=WEIGHTS)


@dataclass(frozen=True)
class CnnConfig:
    channels: list[int] = key([16, 32], "filters of each convolution", low=1)
    kernels: list[int] = key([8, 4], "sides of the filters of each convolution, in pixels", low=1)
    strides: list[int] = key([4, 2], "pixels from one place of a filter to the next, of each convolution", low=1)
    width: int = key(128, "width of the hidden layer after the convolutions", low=1)
    squash: str = key("tanh", "map outputs to the action space by clipping or tanh", choices=("clip", "tanh"))


@dataclass(frozen=True)
class GruConfig:
    width: int = key(64, "numbers that it remembers", low=1)
    squash: str = key("tanh", "map outputs to the action space by clipping or tanh", choices=("clip", "tanh"))


@dataclass(frozen=True)
class LstmConfig:
    width: int = key(64, "numbers that it shows of its memory, and numbers that it keeps", low=1)
    squash: str = key("tanh", "map outputs to the action space by clipping or tanh", choices=("clip", "tanh"))


@dataclass(frozen=True)
class TransformerConfig:
    width: int = key(64, "width of a token; a multiple of heads", low=1)
    layers: int = key(2, "number of blocks, each with attention and a perceptron", low=1)
    heads: int = key(4, "attention heads per layer", low=1)
    context: int = key(16, "number of latest steps that each layer attends to", low=1)
    squash: str = key("tanh", "map outputs to the action space by clipping or tanh", choices=("clip", "tanh"))

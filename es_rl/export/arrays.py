"""A policy as named arrays for NumPy, and the kinds of layers in it. `reader.py` computes it from them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from es_rl.envs.spaces import one_line
from es_rl.errors import EnvError
from es_rl.policies.action import ActionHead
from es_rl.policies.normalizer import Normalizer, Unnormalized
from es_rl.policies.pixels import Pixels
from es_rl.policies.transformer import TransformerPolicy
from es_rl.rl.numpy_policy import chain

Arrays = dict[str, Any]
# Layers by the names that the reader knows.
NAMES: dict[type[nn.Module], str] = {
    nn.GRUCell: "gru",
    nn.LSTMCell: "lstm",
    nn.Linear: "linear",
    nn.LayerNorm: "norm",
    nn.Tanh: "tanh",
    nn.ReLU: "relu",
    nn.ELU: "elu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.LeakyReLU: "leaky_relu",
}
REMEDY = "Give format=onnx or format=torch."


def arrays_of(policy: nn.Module, action_space: spaces.Space[Any]) -> Arrays:
    """Return what the reader computes the policy from, its weights already rounded. Raises `EnvError` if it cannot."""
    if not isinstance(action_space, (spaces.Box, spaces.Discrete)):
        raise EnvError(f"format=numpy: its reader knows no actions of {one_line(action_space)}. {REMEDY}")
    first: nn.Module
    last: nn.Module
    if type(policy) is TransformerPolicy:
        found = _transformer(policy)
        first, last = policy.normalizer, policy.head
    else:
        layers = list((chain(policy) or {}).values())
        if not layers or any(type(layer) not in NAMES for layer in layers[1:-1]):
            raise EnvError(f"format=numpy: its reader cannot compute the policy {type(policy).__name__}. {REMEDY}")
        first, last = layers[0], layers[-1]
        found = _chain(layers[1:-1])
    if isinstance(first, Pixels):
        raise EnvError(f"format=numpy: its reader sees no images. {REMEDY}")
    assert isinstance(last, ActionHead)
    return found | _normalizer(first) | _head(last)


def packed(arrays: Arrays) -> bytes:
    """Return arrays as the contents of an npz file, without pickle."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _chain(layers: list[nn.Module]) -> Arrays:
    found: Arrays = {"memory": np.array([0, 0]), "layers": np.array([NAMES[type(layer)] for layer in layers])}
    for i, layer in enumerate(layers):
        found |= {f"{i}.{name}": _copy(value) for name, value in layer.named_parameters()}
        if isinstance(layer, (nn.Linear, nn.LayerNorm)) and layer.bias is None:
            found[f"{i}.bias"] = np.zeros(len(layer.weight), np.float32)
    return found


def _transformer(policy: TransformerPolicy) -> Arrays:
    heads, context, _ = policy._memory
    found: Arrays = {"memory": np.array([len(policy.blocks), context]), "slopes": _slopes(policy, heads, context)}
    found |= {"embed": _copy(policy.embed.weight), "out": _copy(policy.out.weight)}
    for i, block in enumerate(policy.blocks):
        found |= {f"{i}.{name.removesuffix('.weight')}": _copy(value) for name, value in block.named_parameters()}
    return found


def _slopes(policy: TransformerPolicy, heads: int, context: int) -> NDArray[np.float32]:
    """Return the penalty of each head for one step of distance, (H,)."""
    if context == 1:
        return np.zeros(heads, np.float32)
    # The step 2C − 1 of a full ring: the last place but one is one step old.
    slopes: NDArray[np.float32] = -_copy(policy.penalty[2 * context - 1, 0, :, 0, context - 2])
    return slopes


def _normalizer(layer: nn.Module) -> Arrays:
    if isinstance(layer, Normalizer):
        return {"scale": _copy(layer.scale), "shift": _copy(layer.shift), "clip": np.float64(layer.clip)}
    assert isinstance(layer, Unnormalized)
    return {"scale": np.ones(layer.inputs), "shift": np.zeros(layer.inputs), "clip": np.float64(np.inf)}


def _head(head: ActionHead) -> Arrays:
    found: Arrays = {"outputs": np.int64(head.outputs)}
    if head.discrete:
        return found | {"squash": np.array("largest"), "start": np.int64(head.start)}
    numbers = {name: _copy(getattr(head, name)) for name in ("low", "high", "center", "reach", "bounded")}
    return found | {"squash": np.array(head.squash)} | numbers


def _copy(value: Any) -> NDArray[Any]:
    array: NDArray[Any] = value.detach().cpu().numpy().copy()
    return array

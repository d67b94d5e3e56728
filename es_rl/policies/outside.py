"""A policy from outside the package: a function that makes its network, named `module:function` or given from Python.

    def network(observation_space, action_space, **policy_kwargs) → nn.Module

    forward(obs) → outputs                        obs (n, O) → (n, outputs)
    forward(obs, state) → (outputs, state)        with a memory; state None begins n episodes

`observation_space` is that of what the network sees: a Box of O numbers, flattened and normalised. If observations are
one image, it is a Box (C, H, W) from 0 to 1, with the channels of stacked images side by side. The action head makes
actions of its outputs. A state is None, a tensor whose first axis is n, or a tuple, list or dict of such.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from es_rl import plugins
from es_rl.errors import FOREIGN, EnvError, nearest, text_of
from es_rl.observations import ObservationShape
from es_rl.policies.action import ActionHead
from es_rl.policies.feedforward import Feedforward
from es_rl.policies.normalizer import Normalizer

SQUASH = "tanh"  # of the action head
ROWS = 3  # of the observations on which a network is tried


class WithMemory(nn.Module):
    """normalizer → network, which has a memory → head."""

    def __init__(self, normalizer: nn.Module, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.normalizer, self.network, self.head = normalizer, network, head

    def forward(self, obs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        outputs, state = self.network(self.normalizer(obs), state)
        return self.head(outputs), state


def find(name: str) -> Callable[..., Any]:
    """Return the function that `module:function` names, or the object that was given. Raises `EnvError`."""
    if isinstance(name, plugins.Given):
        found = name.object
    else:
        module, _, function = name.rpartition(":")
        try:
            loaded = plugins.load(module)
        except FOREIGN as error:
            reason = f"{type(error).__name__}: {text_of(error)}"
            raise EnvError(f"policy={name}: the module {module} cannot be imported: {reason}.") from error
        found = getattr(loaded, function, None)
        if found is None:
            raise EnvError(f"policy={name}: {module} has no {function}.{nearest(function, vars(loaded))}")
    if isinstance(found, nn.Module):
        raise EnvError(
            f"policy={name}: must be a function that makes a network, and is one. Give "
            f"lambda observation_space, action_space: …, which makes it."
        )
    if not callable(found):
        raise EnvError(f"policy={name}: must be a function that returns a torch.nn.Module, and is a {_kind(found)}.")
    made: Callable[..., Any] = found
    return made


def build(
    name: str,
    kwargs: Mapping[str, Any],
    shape: ObservationShape,
    normalizer: nn.Module,
    action_space: spaces.Space[Any],
) -> nn.Module:
    """Return the policy around the network that the named function makes. Raises `EnvError` if it is unusable."""
    head, make = ActionHead(action_space, SQUASH), find(name)
    clip = normalizer.clip if isinstance(normalizer, Normalizer) else np.inf
    seen = spaces.Box(-clip, clip, (shape.size,), np.float32)
    if shape.alone:
        seen = spaces.Box(0.0, 1.0, shape.images[0].planes, np.float32)
    try:
        made = make(seen, action_space, **kwargs)
    except FOREIGN as error:
        said = text_of(error) or type(error).__name__
        raise EnvError(
            f"policy={name}: cannot make a network: {said}. It was called with (observation_space, action_space)."
        ) from error
    try:
        if not isinstance(made, nn.Module):
            raise TypeError(f"it returned a {_kind(made)}, and must return a torch.nn.Module")
        network = copy.deepcopy(made)  # the function may return the same one again
        remembers = "state" in inspect.signature(network.forward).parameters
        policy = WithMemory(normalizer, network, head) if remembers else Feedforward(normalizer, head, network=network)
        _check(network, seen.shape, head.outputs, remembers=remembers)
    except FOREIGN as error:
        raise EnvError(f"policy={name}: cannot be used: {text_of(error) or type(error).__name__}.") from error
    _freeze(network)
    return policy


def _check(network: nn.Module, inputs: tuple[int, ...], outputs: int, *, remembers: bool) -> None:
    """Run a network once, which also gives lazy layers their shapes. Raises TypeError for what is not of its kind."""
    for name, value in network.named_parameters():
        if value.dtype != torch.float32 or value.device.type != "cpu":
            raise TypeError(f"its {name} is {value.dtype} on {value.device}, and must be float32 on the CPU")
    if not any(value.requires_grad for value in network.parameters()):
        raise TypeError("it has no parameter that requires_grad, so nothing could be trained")
    every = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    if tied := sorted(every - {name for name, _ in network.named_parameters()}):
        raise TypeError(f"its {tied[0]} is a parameter that has another name too. Use the layer twice instead")
    obs = torch.zeros(ROWS, *inputs)
    with torch.no_grad():
        if not remembers:
            found = network.eval()(obs)
        else:
            found, state = _remembering(network.eval()(obs, None))
            found, _ = _remembering(network(obs, state))
    if not isinstance(found, Tensor) or found.shape != (ROWS, outputs):
        shape = tuple(found.shape) if isinstance(found, Tensor) else _kind(found)
        raise TypeError(
            f"for observations {tuple(obs.shape)}, its forward must return outputs ({ROWS}, {outputs}), and returned "
            f"{shape}"
        )


def _remembering(returned: Any) -> tuple[Any, Any]:
    """Return the outputs and the state of a network with a memory. Raises TypeError for a state without rows."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError("its forward(obs, state) must return (outputs, state)")
    for part in tree_leaves(returned[1]):
        if not isinstance(part, Tensor) or part.ndim == 0 or len(part) != ROWS:
            shape = f"a tensor {tuple(part.shape)}" if isinstance(part, Tensor) else repr(part)
            raise TypeError(
                f"its state holds {shape}, and must hold tensors with a row for each of the {ROWS} observations, on "
                f"their first axis. torch's recurrent layers have it on the second: use transpose(0, 1)"
            )
    return returned


def _freeze(network: nn.Module) -> None:
    """Make buffers of the parameters that do not require a gradient: they are saved, and not trained."""
    for module in network.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if not value.requires_grad:
                delattr(module, name)
                module.register_buffer(name, value.detach())


def _kind(value: Any) -> str:
    return type(value).__name__

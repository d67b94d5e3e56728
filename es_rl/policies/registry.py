"""The policies by name, and the function that makes the configured one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import nn

from es_rl.errors import ConfigError, lookup
from es_rl.observations import ObservationShape
from es_rl.policies import cnn, linear, mlp, outside, recurrent, transformer
from es_rl.policies.action import ActionHead
from es_rl.policies.normalizer import Normalizer, Unnormalized
from es_rl.policies.pixels import Pixels
from es_rl.rng import integer_seed

POLICIES: dict[str, Callable[[Any, int, nn.Module, ActionHead], nn.Module]] = {
    "linear": linear.build,
    "mlp": mlp.build,
    "cnn": cnn.build,
    "gru": recurrent.build_gru,
    "lstm": recurrent.build_lstm,
    "transformer": transformer.build,
}


class PolicyConfig(Protocol):
    """The keys that a policy is made from, besides the group with its name."""

    @property
    def policy(self) -> str: ...
    @property
    def policy_kwargs(self) -> Mapping[str, Any]: ...
    @property
    def seed(self) -> int: ...
    @property
    def obs_norm(self) -> bool: ...
    @property
    def obs_first(self) -> int | None: ...
    @property
    def obs_clip(self) -> float: ...


MOST = 10_000_000  # parameters of a policy for images: each member has as many


def make(config: PolicyConfig, observations: int | ObservationShape, action_space: spaces.Space[Any]) -> nn.Module:
    """Return the configured policy for observations of this shape, or of so many numbers, initialised from the seed.

    Raises `ConfigError` for an unknown name, and `EnvError` for a policy from outside that cannot be used.
    """
    check(config)
    shape = ObservationShape(observations) if isinstance(observations, int) else observations
    shape = shape.limited(config.obs_first)
    _refuse_large(config, shape, action_space)
    with torch.random.fork_rng(devices=[]):  # torch's initialisers draw from its global generator
        torch.manual_seed(integer_seed(config.seed, "policy"))
        normalizer = _normalizer(config, shape)
        if ":" in config.policy:
            policy = outside.build(config.policy, config.policy_kwargs, shape, normalizer, action_space)
        else:
            group = getattr(config, config.policy)
            policy = POLICIES[config.policy](group, shape.size, normalizer, ActionHead(action_space, group.squash))
    return policy.requires_grad_(False).eval()


def _normalizer(config: PolicyConfig, shape: ObservationShape) -> nn.Module:
    """Return the first part of a policy, which tells a `build` function of images too: see `Pixels.shape`."""
    if shape.images:
        as_image = shape.alone and ":" in config.policy
        return Pixels(shape, config.obs_clip, normalize=config.obs_norm, as_image=as_image)
    return Normalizer(shape.numbers, config.obs_clip) if config.obs_norm else Unnormalized(shape.numbers)


def flattens(config: PolicyConfig, shape: ObservationShape) -> bool:
    """Tell whether a policy sees the numbers of images side by side, as if they had no place."""
    return bool(shape.images) and config.policy != "cnn" and ":" not in config.policy


def _refuse_large(config: PolicyConfig, shape: ObservationShape, action_space: spaces.Space[Any]) -> None:
    """Raise `ConfigError` for images that would give a policy too many parameters."""
    if config.policy == "cnn" and shape.images:
        width: int = config.cnn.width  # type: ignore[attr-defined]
        if (count := width * widest(config, shape)) > MOST:
            raise ConfigError(
                f"policy=cnn: its hidden layer would have {count:,} parameters for these images, and {MOST:,} are the "
                f"most. Give pixels.size, such as pixels.size=60,80, or larger cnn.strides."
            )
    if not flattens(config, shape):
        return
    few, more = (
        sum(parameter.numel() for parameter in make(config, inputs, action_space).parameters()) for inputs in (1, 2)
    )
    count = few + (more - few) * (shape.size - 1)
    if count > MOST:
        raise ConfigError(
            f"policy={config.policy}: would see {shape.size:,} numbers of an image side by side and have {count:,} "
            f"parameters, and {MOST:,} are the most. Give policy=cnn, or smaller images by pixels.size."
        )


def widest(config: PolicyConfig, shape: ObservationShape) -> int:
    """Return how many numbers the first layer that sees a whole observation takes, before any memory is taken."""
    if config.policy == "cnn":
        return cnn.features(config.cnn, shape)  # type: ignore[attr-defined]
    return shape.limited(config.obs_first).size


def check(config: PolicyConfig) -> None:
    """Raise `ConfigError` for a name that is neither in the registry nor `module:function`, or arguments for none."""
    if config.policy == "MlpPolicy":
        raise ConfigError("policy=MlpPolicy: here it is mlp, or linear.")
    if ":" in config.policy:
        return
    lookup(POLICIES, config.policy, "policy")
    if config.policy_kwargs:
        given, own = next(iter(config.policy_kwargs)), dataclasses.fields(getattr(config, config.policy))
        raise ConfigError(
            f"policy_kwargs.{given}: goes to a function that makes a network of yours, and policy={config.policy} is "
            f"none. Its keys are {', '.join(f'{config.policy}.{each.name}' for each in own)}."
        )

"""The policies by name, and the function that makes the configured one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import nn

from es_rl.errors import ConfigError, lookup
from es_rl.policies import linear, mlp, outside, recurrent, transformer
from es_rl.policies.action import ActionHead
from es_rl.policies.normalizer import Normalizer, Unnormalized
from es_rl.rng import integer_seed

POLICIES: dict[str, Callable[[Any, int, nn.Module, ActionHead], nn.Module]] = {
    "linear": linear.build,
    "mlp": mlp.build,
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


def make(config: PolicyConfig, inputs: int, action_space: spaces.Space[Any]) -> nn.Module:
    """Return the configured policy for observations of `inputs` numbers, initialised from the seed.

    Raises `ConfigError` for an unknown name, and `EnvError` for a policy from outside that cannot be used.
    """
    check_name(config.policy)
    with torch.random.fork_rng(devices=[]):  # torch's initialisers draw from its global generator
        torch.manual_seed(integer_seed(config.seed, "policy"))
        inputs = min(inputs, config.obs_first or inputs)
        normalizer = Normalizer(inputs, config.obs_clip) if config.obs_norm else Unnormalized(inputs)
        if ":" in config.policy:
            policy = outside.build(config.policy, config.policy_kwargs, inputs, normalizer, action_space)
        else:
            group = getattr(config, config.policy)
            policy = POLICIES[config.policy](group, inputs, normalizer, ActionHead(action_space, group.squash))
    return policy.requires_grad_(False).eval()


def check_name(name: str) -> None:
    """Raise `ConfigError` for a name that is neither in the registry nor `module:function`."""
    if name == "MlpPolicy":
        raise ConfigError(f"policy={name}: here it is mlp, or linear.")
    if ":" not in name:
        lookup(POLICIES, name, "policy")

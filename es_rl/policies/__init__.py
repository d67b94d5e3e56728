"""Policies: the seam and the registry.

A policy is a plain nn.Module, written for one batch of observations and ignorant of populations:

    forward(obs, state=None) → (action, state)      obs (n, O) → actions (n, A), or (n,) integers if discrete

It ends in an `ActionHead`, and begins with what it is given to look through: a `Normalizer`, whose buffers travel in
every checkpoint, or nothing (`Unnormalized`), under the name `normalizer`. A policy = one file with a `build` function,
with its group of keys, one line in `POLICIES`, one in the `Config` of `es_rl.rl`.
"""

from __future__ import annotations

if __name__ == "policies":
    raise ImportError("the package is es_rl.policies; the top-level folder policies is only a link for readers")

from collections.abc import Callable
from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import nn

from es_rl.errors import lookup
from es_rl.policies import linear, mlp, transformer
from es_rl.policies.action import ActionHead
from es_rl.policies.normalizer import Normalizer, Unnormalized
from es_rl.rng import integer_seed

POLICIES: dict[str, Callable[[Any, int, nn.Module, ActionHead], nn.Module]] = {
    "linear": linear.build,
    "mlp": mlp.build,
    "transformer": transformer.build,
}


class PolicyConfig(Protocol):
    """The keys of a policy, besides the group that bears its name."""

    @property
    def policy(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def obs_norm(self) -> bool: ...
    @property
    def obs_first(self) -> int | None: ...
    @property
    def obs_clip(self) -> float: ...


def make(config: PolicyConfig, inputs: int, action_space: spaces.Space[Any]) -> nn.Module:
    """The policy that the configuration names, for observations of `inputs` numbers, initialised from its seed.

    Raises `ConfigError` for an unknown name.
    """
    build = lookup(POLICIES, config.policy, "policy")
    group = getattr(config, config.policy)
    with torch.random.fork_rng(devices=[]):  # torch's initialisers draw from its global generator
        torch.manual_seed(integer_seed(config.seed, "policy"))
        inputs = min(inputs, config.obs_first or inputs)
        normalizer = Normalizer(inputs, config.obs_clip) if config.obs_norm else Unnormalized(inputs)
        policy = build(group, inputs, normalizer, ActionHead(action_space, group.squash))
    return policy.requires_grad_(False).eval()

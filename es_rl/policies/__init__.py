"""Policies: their interface and the registry.

A policy is a plain nn.Module for one batch of observations. It knows nothing of populations:

    forward(obs, state=None) → (action, state)      obs (n, O) → actions (n, A), or (n,) integers if discrete

Its first part is the given `normalizer` (under this name): a `Normalizer`, whose buffers are in every checkpoint,
`Unnormalized`, or, of observations with images, `Pixels`, which tells their shape to a `build` function. Its last part
is an `ActionHead`. To add a policy, write its group of keys in `config.py` and a file with a `build` function, and add
one line to `POLICIES` in `registry.py` and one to the `Config` of `es_rl.rl`. Policies from outside the package are
described in `es_rl.policies.outside`.
"""

from __future__ import annotations

if __name__ == "policies":
    raise ImportError("the package is es_rl.policies; the top-level folder policies is only a link for readers")

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from es_rl.policies.registry import POLICIES, PolicyConfig, check, flattens, make, widest

__all__ = ["POLICIES", "PolicyConfig", "check", "flattens", "make", "widest"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'es_rl.policies' has no attribute {name!r}")
    return getattr(importlib.import_module("es_rl.policies.registry"), name)  # with torch, which the keys do not need

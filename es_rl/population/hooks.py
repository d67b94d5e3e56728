"""Hooks that compute a weight from parameters before each call, such as those of `torch.nn.utils.weight_norm`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_COMPUTING = (WeightNorm, SpectralNorm, BasePruningMethod)


def with_weights(module: nn.Module) -> Callable[..., Any]:
    """Return the module's forward, preceded by its own hooks that compute a weight.

    A call of the module runs its hooks before its forward, with theta's parameters. Run here, they see each member's.
    """
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _COMPUTING)]
    if not hooks:
        return module.forward
    forward = module.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        for hook in hooks:
            hook(module, args)
        return forward(*args, **kwargs)

    functools.update_wrapper(run, forward)
    return run

"""The base of feedforward policies: layers one after the other, without memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn


class Feedforward(nn.Sequential):
    """normalizer → network → head. `es_rl.rl.actors` may compute its layers outside torch."""

    def __init__(self, normalizer: nn.Module, head: nn.Module, **network: nn.Module) -> None:
        """Join the parts. Those of `network` run in the order given, under the names given."""
        super().__init__(OrderedDict(normalizer=normalizer, **network, head=head))

    def forward(self, obs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        action: Tensor = super().forward(obs)  # type: ignore[no-untyped-call]
        return action, state

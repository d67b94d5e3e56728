"""What the feedforward policies are made of: layers one after the other, and no memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn


class Feedforward(nn.Sequential):
    """normalizer → network → head. In rollouts its layers may be computed outside torch: see `es_rl.rl.actors`."""

    def __init__(self, normalizer: nn.Module, head: nn.Module, **network: nn.Module) -> None:
        """The parts of the `network` are run in the order, and known by the names, in which they are given."""
        super().__init__(OrderedDict(normalizer=normalizer, **network, head=head))

    def forward(self, obs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        action: Tensor = super().forward(obs)  # type: ignore[no-untyped-call]
        return action, state

"""The linear policy, zero at the start (Mania et al. 2018, section 3): action = squash(W·normalised(obs) + b)."""

from __future__ import annotations

from torch import Tensor, nn

from es_rl.config import Config
from es_rl.policies.action import ActionHead
from es_rl.policies.normalizer import Normalizer


class LinearPolicy(nn.Module):
    """One matrix and a bias."""

    def __init__(self, inputs: int, normalizer: Normalizer | None, head: ActionHead) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.layer = nn.Linear(inputs, head.outputs)
        self.head = head
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, obs: Tensor, state: None = None) -> tuple[Tensor, None]:
        x = obs.float() if self.normalizer is None else self.normalizer(obs)
        return self.head(self.layer(x)), state


def build(config: Config, inputs: int, normalizer: Normalizer | None, head: ActionHead) -> nn.Module:
    """The linear policy; `config.linear` is used by the head alone."""
    return LinearPolicy(inputs, normalizer, head)

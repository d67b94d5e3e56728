"""Recurrent policies: one GRU or LSTM cell, which remembers the episode in numbers of its own, and an output layer.

Shapes: n simulations, O observation, H hidden numbers.

    gru     Cho et al. 2014 (arXiv 1406.1078), with the reset gate behind the product, as torch has it
    lstm    Hochreiter & Schmidhuber 1997, with forget gates (Gers et al. 2000)

The equations stand in `es_rl.population.layers.recurrent`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from es_rl.policies.action import ActionHead
from es_rl.policies.config import GruConfig, LstmConfig

OUTPUT_GAIN = 0.01  # of the initial output weights: the first actions are near the middle of the action space
# Initial bias of the gate that keeps the memory (Jozefowicz et al. 2015, section 2.1): at first it fades slowly.
KEEP = 1.0
GRU_KEEPS, LSTM_KEEPS = 1, 1  # places of that gate: reset, update, new; input, forget, new, output

State = Tensor | tuple[Tensor, Tensor]  # h (n, H) of a GRU; h and c (n, H) of an LSTM


class RecurrentPolicy(nn.Module):
    """normalizer → cell → out → head. `es_rl.rl.actors` may compute its layers outside torch."""

    def __init__(self, normalizer: nn.Module, head: ActionHead, cell: nn.GRUCell | nn.LSTMCell) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.cell = cell
        self.out = nn.Linear(cell.hidden_size, head.outputs)
        self.head = head

    def forward(self, obs: Tensor, state: Any = None) -> tuple[Tensor, State]:
        """Return actions for observations (n, O), and the new state. None starts n episodes."""
        state = self.cell(self.normalizer(obs), state)
        y = self.out(state[0] if isinstance(state, tuple) else state)
        return self.head(y), state


def build_gru(config: GruConfig, inputs: int, normalizer: nn.Module, head: ActionHead) -> nn.Module:
    """Return the policy with a GRU."""
    return _initialised(RecurrentPolicy(normalizer, head, nn.GRUCell(inputs, config.width)), GRU_KEEPS)


def build_lstm(config: LstmConfig, inputs: int, normalizer: nn.Module, head: ActionHead) -> nn.Module:
    """Return the policy with an LSTM."""
    return _initialised(RecurrentPolicy(normalizer, head, nn.LSTMCell(inputs, config.width)), LSTM_KEEPS)


def _initialised(policy: RecurrentPolicy, keeps: int) -> nn.Module:
    """Set the first weights: orthogonal for each gate, and biases of zero but for the gate number `keeps`."""
    cell, width = policy.cell, policy.cell.hidden_size
    for matrix in (cell.weight_ih, cell.weight_hh):
        for first in range(0, len(matrix), width):
            nn.init.orthogonal_(matrix.data[first : first + width])
    for bias in (cell.bias_ih, cell.bias_hh, policy.out.bias):
        nn.init.zeros_(bias)
    nn.init.constant_(cell.bias_ih.data[keeps * width : (keeps + 1) * width], KEEP)
    nn.init.orthogonal_(policy.out.weight, OUTPUT_GAIN)
    return policy

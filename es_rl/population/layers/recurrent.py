"""Recurrent layers of torch written as linear maps, which work for many members at once.

Shapes: B rows, T steps, H hidden numbers, L layers times directions.

    RNN     h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or with relu
    GRU     r, z = σ(…); n = tanh(W_in x + b_in + r·(W_hn h + b_hn)); h' = (1 − z)·n + z·h
    LSTM    i, f, o = σ(…); g = tanh(…); c' = f·c + i·g; h' = o·tanh(c')
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from es_rl.population.interception import NoRuleError

State = tuple[Tensor, ...]  # (h,), or (h, c) of an LSTM; each (B, H)
Step = Callable[[Tensor, Tensor, State], State]  # gates of the input and of h, (B, G·H) each, and the old state


def _rnn(activation: Callable[[Tensor], Tensor]) -> Step:
    return lambda x, h, state: (activation(x + h),)


def _gru(x: Tensor, h: Tensor, state: State) -> State:
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), h.chunk(3, -1)
    z = (xz + hz).sigmoid()
    n = (xn + (xr + hr).sigmoid() * hn).tanh()
    return ((1 - z) * n + z * state[0],)


def _lstm(x: Tensor, h: Tensor, state: State) -> State:
    i, f, g, o = (x + h).chunk(4, -1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _step(layer: Any) -> Step:
    if isinstance(layer, (nn.GRU, nn.GRUCell)):
        return _gru
    if isinstance(layer, (nn.LSTM, nn.LSTMCell)):
        return _lstm
    return _rnn(torch.relu if layer.nonlinearity == "relu" else torch.tanh)


def recurrent(layer: Any) -> Callable[..., Any]:
    """Return a forward for an RNN, a GRU or an LSTM. It raises `NoRuleError` for options that it cannot compute."""
    step, many = _step(layer), isinstance(layer, nn.LSTM)

    def forward(input: Any, hx: Any = None) -> tuple[Tensor, Any]:
        if not isinstance(input, Tensor) or input.ndim != 3:
            raise NoRuleError("has a recurrent layer with packed sequences, or without a batch")
        if (layer.training and layer.dropout) or getattr(layer, "proj_size", 0):
            raise NoRuleError("has a recurrent layer with dropout or projections")
        x = input if layer.batch_first else input.transpose(0, 1)  # (B, T, …)
        given = None if hx is None else (hx if many else (hx,))  # each (L, B, H)
        ends: list[State] = []
        for level in range(layer.num_layers):
            outputs = []
            for reverse in (False, True)[: 2 if layer.bidirectional else 1]:
                names = [f"{kind}_l{level}{'_reverse' if reverse else ''}" for kind in NAMES]
                found: list[Any] = [getattr(layer, name, None) for name in names]  # it may have no biases
                w_ih, w_hh, b_ih, b_hh = found
                gates = F.linear(x, w_ih, b_ih)  # (B, T, G·H)
                state = _zeros(x, layer.hidden_size, 2 if many else 1)
                if given:  # added to zeros of the batch, since it may be a constant
                    state = tuple(zero + part[len(ends)] for zero, part in zip(state, given, strict=True))
                seen = []
                for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
                    state = step(gates[:, t], F.linear(state[0], w_hh, b_hh), state)
                    seen.append(state[0])
                outputs.append(torch.stack(seen[::-1] if reverse else seen, 1))
                ends.append(state)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        last = tuple(torch.stack(parts) for parts in zip(*ends, strict=True))  # each (L, B, H)
        return (x if layer.batch_first else x.transpose(0, 1)), (last if many else last[0])

    return forward


def cell(layer: Any) -> Callable[..., Any]:
    """Return a forward for an RNNCell, a GRUCell or an LSTMCell."""
    step, many = _step(layer), isinstance(layer, nn.LSTMCell)

    def forward(input: Tensor, hx: Any = None) -> Any:
        if input.ndim != 2:
            raise NoRuleError("has a recurrent cell without a batch")
        old = _zeros(input, layer.hidden_size, 2 if many else 1)
        if hx is not None:
            old = tuple(zero + part for zero, part in zip(old, hx if many else (hx,), strict=True))
        gates = F.linear(input, layer.weight_ih, layer.bias_ih)
        state = step(gates, F.linear(old[0], layer.weight_hh, layer.bias_hh), old)
        return state if many else state[0]

    return forward


NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _zeros(x: Tensor, width: int, count: int) -> State:
    """Return states of zeros (B, H), computed from the batch, so that they are one."""
    first = x[:, 0] if x.ndim == 3 else x
    return tuple(torch.zeros_like(first[:, :1]).expand(-1, width) for _ in range(count))

"""Layers that torch computes by one function, written in functions that can be computed for many members."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from es_rl.population.layers.attention import attention
from es_rl.population.layers.experts import experts, is_experts
from es_rl.population.layers.recurrent import cell, recurrent

REWRITTEN: dict[type[nn.Module], Callable[[Any], Callable[..., Any]]] = {
    nn.MultiheadAttention: attention,
    **dict.fromkeys((nn.RNN, nn.GRU, nn.LSTM), recurrent),
    **dict.fromkeys((nn.RNNCell, nn.GRUCell, nn.LSTMCell), cell),
}


def rewritten_in(module: nn.Module) -> list[nn.Module]:
    """Return the layers of `REWRITTEN` whose forward is torch's."""
    parts = [part for part in module.modules() if type(part) in REWRITTEN or is_experts(part)]
    return [part for part in parts if "forward" not in vars(part)]


@contextmanager
def rewritten(parts: Sequence[nn.Module], module: nn.Module, own: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Write these layers anew inside the block. Yield the forward of `module`, which is `own` unless it is one."""
    forwards = {part: (REWRITTEN.get(type(part)) or experts)(part) for part in parts}
    with ExitStack() as stack:
        for part, forward in forwards.items():
            if part is not module:
                stack.enter_context(standing_in(part, forward))
        yield forwards.get(module, own)


@contextmanager
def standing_in(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace the module's forward inside the block; restore it afterwards."""
    own = vars(module)
    before = own.get("forward")  # set on the instance, if the user did so
    own["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del own["forward"]
        else:
            own["forward"] = before

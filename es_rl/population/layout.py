"""Where the rows are in the arguments of a module: the first dimension of each, but for some layers of torch.

    a layer with batch_first=False       (T, rows, …)
    the state of a recurrent layer       (layers, rows, H)
    bags of tokens with their offsets    the rows are the bags: see `nn.EmbeddingBag`

Shapes: k rows of a member.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_flatten, tree_map

from es_rl.errors import EnvError
from es_rl.population.rows import growing, rows_of

ENCODERS = (nn.TransformerEncoder, nn.TransformerEncoderLayer)
TRANSFORMERS = (*ENCODERS, nn.TransformerDecoder, nn.TransformerDecoderLayer, nn.Transformer)
SEQUENTIAL = (*TRANSFORMERS, nn.MultiheadAttention, nn.RNN, nn.GRU, nn.LSTM)
Arguments = tuple[Any, Any]  # args, kwargs


@dataclass(frozen=True)
class Share:
    """The rows of `count` members, from the member `first` on, of all `rows` of `n` members."""

    first: int
    rows: int
    n: int
    count: int = 1

    def of(self, x: Tensor, dim: int) -> Tensor:
        """Return their part of x, which has rows, or a multiple of them, in this dimension."""
        k = x.shape[dim] // self.n
        return x.narrow(dim, self.first * k, self.count * k)

    def of_rows(self, x: Any) -> Any:
        """Return their part of x if its first dimension is the rows, else x."""
        return self.of(x, 0) if isinstance(x, Tensor) and x.ndim and len(x) == self.rows else x

    def like(self, one: Tensor, x: Tensor) -> Tensor:
        """Return their part of x, whose rows are in the dimension in which it is longer than `one`, of one member."""
        dim = growing(one, x, self.n)
        return x if dim is None else self.of(x, dim)


class Layout:
    """Tells how many rows the arguments of a module have, and takes those of some members."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._module, self._signature = module, inspect.signature(forward)
        self._sequential = type(module) in SEQUENTIAL
        self._batch_first = all(getattr(part, "batch_first", True) for part in module.modules())
        self.turns = type(module) in TRANSFORMERS and not self._batch_first  # see `rows_first`
        self._states = {
            (part.num_layers * (1 + part.bidirectional), width)
            for part in module.modules()
            if isinstance(part, nn.RNNBase)
            for width in (part.hidden_size, part.proj_size)
        }
        bags = [part for part in module.modules() if isinstance(part, nn.EmbeddingBag)]
        self._has_bags, self._last_offset = bool(bags), any(part.include_last_offset for part in bags)

    def rows(self, args: Any, kwargs: Any) -> int:
        """Return the number of rows. Raises `EnvError` if there are none."""
        if self._sequential:
            x = next((x for x in (*args, *kwargs.values()) if isinstance(x, (Tensor, PackedSequence))), None)
            if not isinstance(x, Tensor) or x.ndim != 3:
                raise EnvError(
                    f"{type(self._module).__name__} computes members for a batch of sequences only: give it a tensor "
                    f"with three dimensions, neither one sequence nor packed ones."
                )
            return x.shape[0 if self._batch_first else 1]
        if (offsets := self._offsets(args, kwargs)) is not None:
            return len(offsets) - self._last_offset
        return rows_of((args, kwargs))

    def of_members(self, share: Share, args: Any, kwargs: Any) -> Arguments:
        """Return the arguments of some members. What has no rows is returned unchanged."""
        if self._sequential:
            return self._by_name(partial(self._of_sequences, share), args, kwargs)
        if (offsets := self._offsets(args, kwargs)) is not None:
            return self._of_bags(share, offsets, args, kwargs)
        if not self._states:
            return tree_map(share.of_rows, args), tree_map(share.of_rows, kwargs)
        first = next(x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor) and x.ndim)

        def own(x: Any) -> Any:
            state = x is not first and isinstance(x, Tensor) and x.ndim == 3 and x.shape[1] == share.rows
            return share.of(x, 1) if state and (x.shape[0], x.shape[2]) in self._states else share.of_rows(x)

        return tree_map(own, args), tree_map(own, kwargs)

    @contextmanager
    def rows_first(self, args: Any, kwargs: Any) -> Iterator[Arguments]:
        """Let a transformer of torch take rows as the first dimension inside the block; yield such arguments."""
        parts: list[Any] = [part for part in self._module.modules() if getattr(part, "batch_first", True) is False]
        try:
            for part in parts:
                part.batch_first = True
            yield self._by_name(lambda name, x: x if name.endswith("mask") else turned(x), args, kwargs)
        finally:
            for part in parts:
                part.batch_first = False

    def _by_name(self, change: Callable[[str, Any], Any], args: Any, kwargs: Any) -> Arguments:
        """Return the arguments, changed by a function of their name and their value."""
        bound = self._signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            bound.arguments[name] = tree_map(partial(change, name), value)
        return bound.args, bound.kwargs

    def _of_sequences(self, share: Share, name: str, x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim < 2:
            return x
        if name.endswith("mask"):  # one for all rows, or one for each row and head
            return share.of(x, 0) if x.ndim == 3 or name.endswith("key_padding_mask") else x
        return share.of(x, 0 if self._batch_first and name != "hx" else 1)

    def _offsets(self, args: Any, kwargs: Any) -> Tensor | None:
        """Return where bags begin in a sequence of tokens, if the module has bags and its first tensors are such."""
        if not self._has_bags:
            return None
        found = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)][:2]
        if len(found) < 2 or any(x.ndim != 1 or x.is_floating_point() or not len(x) for x in found):
            return None
        tokens, offsets = found
        rising = bool((offsets.diff() >= 0).all())
        return offsets if rising and int(offsets[0]) == 0 and int(offsets[-1]) <= len(tokens) else None

    def _of_bags(self, share: Share, offsets: Tensor, args: Any, kwargs: Any) -> Arguments:
        """Return the bags of some members: their tokens, weights of tokens, and offsets."""
        total = next(len(x) for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor))
        k = share.rows // share.n
        first, last = share.first * k, (share.first + share.count) * k
        begin, end = int(offsets[first]), int(offsets[last]) if last < len(offsets) else total

        def own(x: Any) -> Any:
            if x is offsets:
                return x[first : last + self._last_offset] - begin
            return x[begin:end] if isinstance(x, Tensor) and x.ndim == 1 and len(x) == total else share.of_rows(x)

        return tree_map(own, args), tree_map(own, kwargs)


def turned(x: Any) -> Any:
    """Exchange the first two dimensions, rows and time, of a tensor with three."""
    return x.transpose(0, 1) if isinstance(x, Tensor) and x.ndim == 3 else x

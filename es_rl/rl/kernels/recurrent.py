"""Recurrent cells in NumPy: the equations stand in `es_rl.population.layers.recurrent`.

Shapes: n running simulations, H hidden numbers.

What a simulation remembers is a row of its own, so no bit of it depends on other rows. To add a kind of cell, write one
function and one line in `CELLS`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from es_rl.rl.compaction import Compaction
from es_rl.rl.kernels.action import Array, Kernel
from es_rl.rl.kernels.weights import Weights, affine


class Memory:
    """Arrays with one row for each running simulation. A row that is asked for the first time is zero."""

    def __init__(self, count: int, width: int) -> None:
        """Keep `count` arrays of `width` numbers a row."""
        self._arrays = [np.zeros((0, width), np.float32) for _ in range(count)]
        self._rows = 0  # known rows

    def first(self, n: int) -> list[Array]:
        """Return the first n rows, to read and to write. Rows behind those known are of episodes that begin now."""
        if n > self._rows:
            if n > len(self._arrays[0]):
                more = ((0, 2 * n - len(self._arrays[0])), (0, 0))
                self._arrays = [np.pad(array, more) for array in self._arrays]
            for array in self._arrays:
                array[self._rows : n] = 0.0
            self._rows = n
        return [array[:n] for array in self._arrays]

    def drop(self, gaps: Compaction) -> None:
        """Remove the rows of finished simulations, of which some may never have been asked for."""
        if gaps.fillers.size:
            self.first(int(gaps.fillers[-1]) + 1)
            for array in self._arrays:
                gaps.apply(array)
        self._rows = min(self._rows, gaps.left)


def _gru(w: Weights, memory: Memory) -> Kernel:
    of_input, of_state = affine(w["weight_ih"], w.get("bias_ih")), affine(w["weight_hh"], w.get("bias_hh"))

    def kernel(x: Array) -> Array:
        (h,) = memory.first(len(x))
        ours, theirs, width = of_input(x), of_state(h), h.shape[1]
        gates, new = ours[:, : 2 * width], theirs[:, 2 * width :]
        gates += theirs[:, : 2 * width]
        _sigmoid(gates)
        new *= gates[:, :width]
        new += ours[:, 2 * width :]
        new = np.tanh(new)
        h -= new
        h *= gates[:, width:]
        h += new
        return h.copy()  # the next layer may overwrite it

    return kernel


def _lstm(w: Weights, memory: Memory) -> Kernel:
    of_input, of_state = affine(w["weight_ih"], w.get("bias_ih")), affine(w["weight_hh"], w.get("bias_hh"))

    def kernel(x: Array) -> Array:
        h, c = memory.first(len(x))
        gates, width = of_input(x), h.shape[1]
        gates += of_state(h)
        new = np.tanh(gates[:, 2 * width : 3 * width])
        enter, keep, show = (_sigmoid(gates[:, i * width : (i + 1) * width]) for i in (0, 1, 3))
        c *= keep
        new *= enter
        c += new
        np.tanh(c, out=h)
        h *= show
        return h.copy()  # the next layer may overwrite it

    return kernel


def _sigmoid(x: Array) -> Array:
    """Compute 1/(1 + exp(−x)) in place, written with tanh so that it does not overflow."""
    x *= _HALF
    np.tanh(x, out=x)
    x += _ONE
    x *= _HALF
    return x


_HALF, _ONE = np.float32(0.5), np.float32(1.0)
# For each kind of cell: the arrays that it remembers, and (weights of its rows, memory) → kernel.
CELLS: dict[type[nn.Module], tuple[int, Callable[[Weights, Memory], Kernel]]] = {
    nn.GRUCell: (1, _gru),
    nn.LSTMCell: (2, _lstm),
}

"""Perturbations of a set of parameters, drawn again from their streams wherever they are needed. Pure functions.

Shapes: P pairs, D parameters in all. Member 2i is theta + sigma*epsilon_i, member 2i+1 is theta − sigma*epsilon_i.

    dense       epsilon ~ N(0, I)                                         (Salimans et al. 2017, algorithm 1)
    orthogonal  the epsilons of one block of pairs orthogonal to one another, their lengths kept as drawn
                (Choromanski et al. 2018, arXiv 1804.02395, section 3: Gaussian orthogonal directions)

Each parameter of each pair has a stream of its own, so no array of P×D numbers is kept (orthogonal: those of a block).
All sums are elementwise or NumPy's own loops, never BLAS: the bits do not depend on the number of threads.

A kind is a function that yields directions and one line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from es_rl.errors import lookup
from es_rl.rng import stream

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[int, ...]]  # of the parameters, by name, in the order of the module
Directions = dict[str, NDArray[np.float32]]  # one epsilon, by parameter name
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Perturbation:
    """Which noise a generation uses. A member is fully named by (Perturbation, index)."""

    kind: str = "dense"  # a name of KINDS
    sigma: float = 0.05  # standard deviation of each parameter's perturbation, > 0
    seed: int = 0
    generation: int = 0
    block: int = 8  # pairs made orthogonal to one another; one chunk, so that a chunk draws its noise alone


def dense(shapes: Shapes, pair: int, p: Perturbation) -> Directions:
    """The epsilon of one pair: independent standard normal numbers."""
    return {
        name: stream(p.seed, "noise", p.generation, pair, index).standard_normal(shape, dtype=np.float32)
        for index, (name, shape) in enumerate(shapes.items())
    }


def directions(shapes: Shapes, pairs: Sequence[int], p: Perturbation) -> Iterator[Directions]:
    """The epsilon of each of the pairs, in order; one at a time, so that memory does not grow with their number."""
    return lookup(KINDS, p.kind, "es.noise")(shapes, pairs, p)


def estimate(shapes: Shapes, pairs: Sequence[int], differences: Array, p: Perturbation) -> Directions:
    """The ascent direction 1/(2 P sigma) Σ_pairs (u⁺ − u⁻) epsilon, by parameter name.

    `differences` (P,) are u⁺ − u⁻ of the `pairs` (P,), P being the pairs that count. An unbiased estimate of the
    gradient of the expected utility under the perturbation (Salimans et al. 2017, equation 1, antithetic).
    """
    total = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    used = [(pair, weight) for pair, weight in zip(pairs, differences, strict=True) if weight != 0.0]
    for (_, weight), epsilon in zip(used, directions(shapes, [pair for pair, _ in used], p), strict=True):
        scale = np.float32(weight / (2 * len(pairs) * p.sigma))
        for name, value in epsilon.items():
            value *= scale
            total[name] += value
    return total


def member_weights(module: torch.nn.Module, member: int, p: Perturbation) -> dict[str, torch.Tensor]:
    """The parameters of one member, explicitly: for oracles and for looking at, not for speed."""
    import torch

    parameters = dict(module.named_parameters())
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    (epsilon,) = directions(shapes, [member // 2], p)
    step = p.sigma if member % 2 == 0 else -p.sigma
    return {name: value.detach() + step * torch.from_numpy(epsilon[name]) for name, value in parameters.items()}


def _dense_directions(shapes: Shapes, pairs: Sequence[int], p: Perturbation) -> Iterator[Directions]:
    return (dense(shapes, pair, p) for pair in pairs)


def _orthogonal_directions(shapes: Shapes, pairs: Sequence[int], p: Perturbation) -> Iterator[Directions]:
    """Blocks are drawn whole, each only once if `pairs` ascend: a direction depends on those before it in its block."""
    block, rows = -1, np.empty((0, 0), np.float32)
    for pair in pairs:
        if pair // p.block != block:
            block = pair // p.block
            drawn = [_flat(dense(shapes, i, p)) for i in range(block * p.block, (block + 1) * p.block)]
            rows = orthogonalize(np.stack(drawn))
        yield _named(rows[pair % p.block], shapes)


def orthogonalize(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (n, D) of the same lengths, mutually orthogonal within each run of D rows (no more can be in D dimensions).

    Gram-Schmidt in float64, each row swept twice ("twice is enough": Giraud et al. 2005), which leaves each row's
    direction uniform and independent of its length.
    """
    n, size = rows.shape  # (n, D)
    result = rows.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", result, result))
    for i in range(n):
        before = result[i - i % size : i]  # unit vectors
        for _ in range(2):
            result[i] -= np.einsum("ij,i->j", before, np.einsum("ij,j->i", before, result[i]))
        result[i] /= np.sqrt(np.einsum("j,j->", result[i], result[i]))
    scaled: NDArray[np.float32] = (result * lengths[:, None]).astype(np.float32)
    return scaled


def _flat(epsilon: Directions) -> NDArray[np.float32]:
    return np.concatenate([value.reshape(-1) for value in epsilon.values()])


def _named(row: NDArray[np.float32], shapes: Shapes) -> Directions:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1]
    return {n: part.reshape(s).copy() for (n, s), part in zip(shapes.items(), np.split(row, ends), strict=True)}


KINDS: dict[str, Callable[[Shapes, Sequence[int], Perturbation], Iterator[Directions]]] = {
    "dense": _dense_directions,
    "orthogonal": _orthogonal_directions,
}

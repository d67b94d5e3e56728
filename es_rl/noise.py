"""Perturbations of a set of parameters, drawn again from their random streams wherever needed. Pure functions.

Shapes: P pairs, D parameters in all, R rank; a matrix is (m, n). Member 2i is theta + sigma*epsilon_i, member 2i+1 is
theta − sigma*epsilon_i.

    dense               epsilon ~ N(0, I)                                  (Salimans et al. 2017, algorithm 1)
    orthogonal          the epsilons of one block of pairs are made orthogonal to one another and keep their lengths
                        (Choromanski et al. 2018, arXiv 1804.02395, section 3: Gaussian orthogonal directions)
    lowrank             epsilon = A Bᵀ/√R for a matrix, with A (m, R) and B (n, R) standard normal; each element has
                        standard deviation 1 at every rank; dense for a vector   (EGGROLL: Sarkar et al. 2025,
                        arXiv 2511.16652)
    lowrank_orthogonal  as lowrank; in one block of pairs the columns of all A are orthogonal, and those of all B

Each parameter of each pair has its own stream, so no array of P×D numbers is kept (orthogonal: only that of one block).

To add a kind, write a function that yields directions and add one line to `KINDS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl.errors import ConfigError, lookup
from es_rl.rng import stream

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[int, ...]]  # shapes of the parameters, by name, in the order of the module
Array = NDArray[np.float64]
Dense = NDArray[np.float32]

# `estimate` multiplies the factors of this many pairs at a time, so that memory does not grow with the population.
PAIRS_AT_ONCE = 256


class Factors(NamedTuple):
    """The direction a bᵀ of a matrix (m, n); a includes the factor 1/√R."""

    a: Dense  # (m, R)
    b: Dense  # (n, R)


Directions = dict[str, Dense | Factors]  # one epsilon, by parameter name, without frozen parameters


@dataclass(frozen=True)
class Perturbation:
    """The noise of a generation. (Perturbation, index) fully identifies a member."""

    kind: str = "dense"  # a name of KINDS
    sigma: float = 0.05  # standard deviation of each element's perturbation, > 0
    seed: int = 0
    generation: int = 0  # names the streams; equal in generations that share their noise (es.noise_reuse)
    block: int = 8  # pairs made orthogonal to one another: one chunk, so that a chunk needs no noise of others
    rank: int = 1  # rank of a low-rank epsilon
    freeze_vectors: bool = False  # do not perturb biases and gains
    frozen: frozenset[str] = frozenset()  # names of further parameters that are not perturbed


def directions(shapes: Shapes, pairs: Sequence[int], p: Perturbation) -> Iterator[Directions]:
    """Yield the epsilon of each pair, in order, one at a time, so that memory does not grow with the number of pairs.

    Raises `ConfigError` for a rank that a matrix cannot have.
    """
    check_rank(shapes, p)
    return lookup(KINDS, p.kind, "es.noise")(shapes, pairs, p)


def moves(name: str, shape: tuple[int, ...], p: Perturbation) -> bool:
    """Tell whether a parameter of this name and shape is perturbed."""
    return name not in p.frozen and (len(shape) > 1 or not p.freeze_vectors)


def matrix(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the size (m, n) of a parameter as a matrix, or None for a vector.

    All dimensions but the first are flattened. Leading dimensions of size one are ignored. A single row or column is
    a vector.
    """
    while shape and shape[0] == 1:
        shape = shape[1:]
    rest = math.prod(shape[1:])
    return (shape[0], rest) if len(shape) > 1 and rest > 1 else None


def check_rank(shapes: Shapes, p: Perturbation) -> None:
    """Raise `ConfigError` for a rank that a perturbed matrix cannot have."""
    if not p.kind.startswith("lowrank"):
        return
    for name, shape in shapes.items():
        size = matrix(shape) if moves(name, shape, p) else None
        if p.rank < 1 or (size is not None and p.rank > min(size)):
            raise ConfigError(
                f"es.rank={p.rank}: must lie between 1 and the smaller side of every matrix, and {name} is "
                f"{' × '.join(map(str, shape))}. Choose a smaller rank, or es.noise=dense."
            )


def estimate(shapes: Shapes, pairs: Sequence[int], differences: Array, p: Perturbation) -> dict[str, Dense]:
    """Return the ascent direction 1/(2 P sigma) Σ_pairs (u⁺ − u⁻) epsilon, by parameter name, without frozen ones.

    `differences` (P,) are u⁺ − u⁻ of `pairs` (P,), the pairs that count. With fixed utilities, all pairs and dense
    noise, this is an unbiased estimate of the gradient of the expected utility under the perturbation (Salimans et al.
    2017, equation 1, antithetic). Low-rank noise is not Gaussian. With it, the estimate is exact for fitness up to
    second order and has an error of O(1/rank) beyond; the sum over pairs is one matrix product (Sarkar et al. 2025).
    """
    total = {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if moves(name, shape, p)}
    waiting: dict[str, list[Factors]] = {name: [] for name in total}
    used = [(pair, weight) for pair, weight in zip(pairs, differences, strict=True) if weight != 0.0]
    for (_, weight), epsilon in zip(used, directions(shapes, [pair for pair, _ in used], p), strict=True):
        scale = np.float32(weight / (2 * len(pairs) * p.sigma))
        for name, value in epsilon.items():
            if isinstance(value, Factors):
                waiting[name].append(Factors(value.a * scale, value.b))
                if len(waiting[name]) == PAIRS_AT_ONCE:
                    _add_products(total[name], waiting[name])
            else:
                value *= scale
                total[name] += value
    for name, factors in waiting.items():
        _add_products(total[name], factors)
    return total


def explicit(direction: Dense | Factors, shape: tuple[int, ...]) -> Dense:
    """Return a direction as an array of the parameter's shape."""
    if isinstance(direction, Factors):
        return (direction.a @ direction.b.T).reshape(shape)
    return direction


def member_weights(module: torch.nn.Module, member: int, p: Perturbation) -> dict[str, torch.Tensor]:
    """Return all parameters of one member, as a reference or for a fitness that takes one member at a time.

    Each has the type of the module's own.
    """
    import torch

    parameters = {name: value.detach() for name, value in module.named_parameters()}
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    (epsilon,) = directions(shapes, [member // 2], p)
    step = p.sigma if member % 2 == 0 else -p.sigma
    moved = {
        name: step * torch.from_numpy(explicit(value, shapes[name])).to(parameters[name].device)
        for name, value in epsilon.items()
    }
    return {
        name: (value + moved[name]).to(value.dtype) if name in moved else value.clone()
        for name, value in parameters.items()
    }


def _add_products(total: Dense, factors: list[Factors]) -> None:
    """Add Σ a bᵀ to `total` and empty the list."""
    if factors:
        a, b = (np.concatenate(side, axis=1) for side in zip(*factors, strict=True))  # (m, P·R), (n, P·R)
        total += (a @ b.T).reshape(total.shape)
        factors.clear()


def _dense(shapes: Shapes, pair: int, p: Perturbation) -> Directions:
    """Draw a direction of independent standard normal numbers."""
    return {
        name: _normal(p, pair, index, shape)
        for index, (name, shape) in enumerate(shapes.items())
        if moves(name, shape, p)
    }


def _lowrank(shapes: Shapes, pair: int, p: Perturbation) -> Directions:
    """Draw a direction of independent standard normal factors; vectors are dense."""
    return {
        name: factors(p, pair, index, shape)
        for index, (name, shape) in enumerate(shapes.items())
        if moves(name, shape, p)
    }


def factors(p: Perturbation, pair: int, index: int, shape: tuple[int, ...]) -> Dense | Factors:
    """Draw the low-rank direction of the `index`-th parameter of the module; a vector's is dense."""
    if (size := matrix(shape)) is None:
        return _normal(p, pair, index, shape)
    m, n = size
    drawn = _normal(p, pair, index, (m + n, p.rank))
    return Factors(drawn[:m] * np.float32(p.rank**-0.5), drawn[m:])


def _normal(p: Perturbation, pair: int, index: int, shape: tuple[int, ...]) -> Dense:
    return parameter_stream(p, pair, index).standard_normal(shape, dtype=np.float32)


def parameter_stream(p: Perturbation, pair: int, index: int) -> np.random.Generator:
    """Return the stream of a pair's noise for the `index`-th parameter."""
    return stream(p.seed, "noise", p.generation, pair, index)


def _independent(draw: Callable[[Shapes, int, Perturbation], Directions]) -> Any:
    return lambda shapes, pairs, p: (draw(shapes, pair, p) for pair in pairs)


def _in_blocks(orthogonal: Callable[[list[Directions]], list[Directions]], draw: Any) -> Any:
    """Return a kind that draws whole blocks, as a direction depends on those before it in its block.

    If `pairs` ascend, each block is drawn only once.
    """

    def kind(shapes: Shapes, pairs: Sequence[int], p: Perturbation) -> Iterator[Directions]:
        block, drawn = -1, list[Directions]()
        for pair in pairs:
            if pair // p.block != block:
                block = pair // p.block
                drawn = orthogonal([draw(shapes, i, p) for i in range(block * p.block, (block + 1) * p.block)])
            yield {
                name: value if isinstance(value, Factors) else value.copy()
                for name, value in drawn[pair % p.block].items()
            }

    return kind


def _orthogonal_whole(drawn: list[Directions]) -> list[Directions]:
    """Make directions orthogonal to one another, each seen as one vector of all its parameters."""
    if not drawn[0]:
        return drawn  # every parameter is frozen
    flat = [np.concatenate([np.reshape(value, -1) for value in directions.values()]) for directions in drawn]
    rows = orthogonalize(np.stack(flat))
    shapes = {name: np.shape(value) for name, value in drawn[0].items()}
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
    return [
        {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), np.split(row, ends), strict=True)}
        for row in rows
    ]


def _orthogonal_factors(drawn: list[Directions]) -> list[Directions]:
    """Make the columns of all a of a matrix orthogonal to one another, and those of all b."""
    result = [dict(directions) for directions in drawn]
    for name, value in drawn[0].items():
        if isinstance(value, Factors):
            a, b = (_orthogonal_columns([d[name][side] for d in drawn]) for side in (0, 1))
            for i, directions in enumerate(result):
                directions[name] = Factors(a[i], b[i])
    return result


def _orthogonal_columns(sides: list[Dense]) -> list[Dense]:
    """Make the columns of all arrays (m, R) orthogonal to one another."""
    columns = orthogonalize(np.concatenate([side.T for side in sides]))
    return [np.ascontiguousarray(part.T) for part in np.split(columns, len(sides))]


def orthogonalize(rows: Dense) -> Dense:
    """Make rows (n, D) orthogonal to one another within each group of D rows (the most possible); keep their lengths.

    Gram-Schmidt in float64 with two sweeps per row ("twice is enough": Giraud et al. 2005). Each row's direction stays
    uniform and independent of its length.
    """
    n, size = rows.shape  # (n, D)
    result = rows.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", result, result))
    for i in range(n):
        before = result[i - i % size : i]  # unit vectors
        for _ in range(2):
            result[i] -= np.einsum("ij,i->j", before, np.einsum("ij,j->i", before, result[i]))
        result[i] /= np.sqrt(np.einsum("j,j->", result[i], result[i]))
    scaled: Dense = (result * lengths[:, None]).astype(np.float32)
    return scaled


KINDS: dict[str, Callable[[Shapes, Sequence[int], Perturbation], Iterator[Directions]]] = {
    "dense": _independent(_dense),
    "orthogonal": _in_blocks(_orthogonal_whole, _dense),
    "lowrank": _independent(_lowrank),
    "lowrank_orthogonal": _in_blocks(_orthogonal_factors, _lowrank),
}

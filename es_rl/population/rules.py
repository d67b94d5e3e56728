"""Rules that compute torch functions for many members at once, for functions that `interception` hands over.

Shapes: N members, k rows per member, R rank; a matrix is (m, n). A batch has N·k rows; the rows of one member are
contiguous.

With low-rank noise the members share the product with theta, and a bᵀ is never formed: x Wᵀ + (x b) aᵀ (EGGROLL:
Sarkar et al. 2025, arXiv 2511.16652). The matrix of each member is formed only where it is not a factor of a product,
for example where it is added.

To add a rule, write a function of the interception and the arguments of torch's function, and add one line to `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from es_rl.population.bags import embedding_bag
from es_rl.population.elementwise import ELEMENTWISE, IN_PLACE, elementwise, in_place, of_two, on_channels, stack
from es_rl.population.interception import Interception, NoRuleError, Rule
from es_rl.population.layers.convolution import convolution
from es_rl.population.members import LowRank, Members
from es_rl.population.precision import as_autocast, exactly, of_type


def _product(m: Interception, x: Tensor, w: Members, bias: Tensor | None = None) -> Tensor:
    """Return x (N·k, …, n) times each member's own w (m, n), transposed, plus its bias (N, m): (N·k, …, m)."""
    if not m.is_batch(x) or x.ndim < 2 or not x.shape[-1]:
        raise NoRuleError("multiplies rows that are not a number for each member")
    if isinstance(w, LowRank):
        return _low_rank_product(m.n, x, w, bias)
    rows, own = x.reshape(m.n, -1, x.shape[-1]), w.transpose(1, 2)  # (N, K, n), (N, n, m)
    y = torch.bmm(rows, own) if bias is None else torch.baddbmm(bias[:, None], rows, own)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _low_rank_product(members: int, x: Tensor, w: LowRank, bias: Tensor | None) -> Tensor:
    """Compute each member's own part, then add the shared product in place, so that neither is copied."""
    theta, a, b = w
    if torch.is_autocast_enabled(x.device.type):
        x, theta, a, b, bias = as_autocast(x, theta, a, b, bias)
    n = b.shape[1]
    t, a = _inner(x.reshape(members, -1, n), b), a.transpose(1, 2)  # (N, K, R), (N, R, m)
    y = _outer(t, a) if bias is None else _outer(t, a, bias[:, None])
    y = y.reshape(-1, y.shape[-1]).addmm_(x.reshape(-1, n), theta.T)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _inner(rows: Tensor, b: Tensor) -> Tensor:
    """Return rows (N, K, n) times b (N, n, R): (N, K, R).

    If b is one column, torch's matrix product takes several times as long on a CPU as multiplying and summing. On a
    GPU that would need another array as large as the rows, so it is done for single rows only.
    """
    if b.shape[2] == 1 and (rows.shape[1] == 1 or rows.is_cpu):
        column: Tensor = torch.linalg.vecdot(rows, b.transpose(1, 2))
        return column.unsqueeze(2)
    return torch.bmm(rows, b)


def _outer(t: Tensor, a: Tensor, start: Tensor | None = None) -> Tensor:
    """Return start + t (N, K, R) times a (N, R, m): (N, K, m). At rank one, the product is a multiple of a."""
    if t.shape[2] == 1:
        return t * a if start is None else torch.addcmul(start, t, a)
    return torch.bmm(t, a) if start is None else torch.baddbmm(start, t, a)


def _linear(m: Interception, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    m.refuse(input)
    w, b = m.members(weight), m.members(bias)
    if w is None:
        return _shifted(m, m.follow(input, F.linear(input, weight)), bias)
    if isinstance(b, Tensor):
        return _product(m, input, w, b)
    return _shifted(m, m.mark(_product(m, input, w)), bias)


def _shifted(m: Interception, y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else of_type(y, elementwise(m, torch.add, y, bias))


def _matmul(m: Interception, input: Tensor, other: Tensor) -> Any:
    w = m.members(other)
    if m.members(input) is not None or w is None or other.ndim != 2:  # from the left, with a vector or with many
        return m.alone(torch.matmul, (input, other), {})
    return _product(m, input, w.transpose() if isinstance(w, LowRank) else w.transpose(1, 2))


def _addmm(m: Interception, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    m.refuse(mat1)
    if beta != 1 or alpha != 1:
        raise NoRuleError("scales a product within addmm")
    y: Tensor = _matmul(m, mat1, mat2) if m.members(mat2) is not None else mat1 @ mat2
    return _shifted(m, m.follow(mat1, y), input)


def _embedding(
    m: Interception,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    w = m.members(weight)
    if w is None or max_norm is not None:
        raise NoRuleError("looks up an embedding with max_norm")
    # A constant as long as the rows is taken for one of each row, such as the kinds of tokens of BERT. By chance it may
    # be another one: what was guessed is checked.
    everywhere = m.n > 1 and input.ndim > 1 and not m.is_batch(input) and m.is_rows(len(input))
    m.guessed |= everywhere
    if not m.is_batch(input) and not everywhere:  # for instance positions, which are the same for all rows
        index = input.flatten()
        own = w.rows(index) if isinstance(w, LowRank) else w.index_select(1, index)  # faster than w[:, input]
        return m.make(F.embedding(input, weight), own.reshape(m.n, *input.shape, own.shape[2]))
    member = torch.arange(m.n, device=input.device).repeat_interleave(len(input) // m.n)
    own = input + (member * len(weight)).reshape(-1, *([1] * (input.ndim - 1)))  # in the concatenated tables
    if not isinstance(w, LowRank):
        whole: Tensor = m.mark(F.embedding(own, w.reshape(-1, w.shape[-1])))
        return whole
    y = F.embedding(input, w.theta).reshape(m.n, -1, w.theta.shape[1])  # (N, K, d)
    a = F.embedding(own, w.a.reshape(-1, w.a.shape[2])).reshape(m.n, -1, w.a.shape[2])  # (N, K, R)
    with exactly(y):  # torch does not cast an embedding under autocast
        found: Tensor = m.mark(_outer(a, w.b.transpose(1, 2), y).reshape(*input.shape, -1))
    return found


def _layer_norm(
    m: Interception, input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    return _affine(m, elementwise, input, F.layer_norm(input, normalized_shape, eps=eps), weight, bias)


def _rms_norm(
    m: Interception, input: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Tensor:
    return _affine(m, elementwise, input, F.rms_norm(input, normalized_shape, eps=eps), weight, None)


def _group_norm(
    m: Interception, input: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    return _affine(m, on_channels, input, F.group_norm(input, num_groups, eps=eps), weight, bias)


def _batch_norm(
    m: Interception, input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if training:
        raise NoRuleError("normalises over the rows of its members together")
    return _affine(m, on_channels, input, F.batch_norm(input, running_mean, running_var, eps=eps), weight, bias)


def _instance_norm(
    m: Interception, input: Tensor, running_mean: Any = None, running_var: Any = None, weight: Any = None,
    bias: Any = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if running_mean is not None and use_input_stats:
        raise NoRuleError("counts statistics over the rows of its members together")
    y = F.instance_norm(input, running_mean, running_var, use_input_stats=use_input_stats, eps=eps)
    return _affine(m, on_channels, input, y, weight, bias)


def _prelu(m: Interception, input: Tensor, weight: Tensor) -> Tensor:
    m.refuse(input)
    return m.follow(input, F.relu(input) + on_channels(m, torch.mul, m.follow(input, -F.relu(-input)), weight))


def _expand(m: Interception, input: Tensor, *sizes: Any) -> Any:
    """Repeat a parameter for each row of the batch, as a class token is: rows of each member with its own."""
    own, shape = stack(m, input), sizes[0] if isinstance(sizes[0], (tuple, list, torch.Size)) else sizes
    at = None if own is None else _rows_at(m, input, shape)
    if own is None or at is None:
        return m.alone(Tensor.expand, (input, *sizes), {})
    m.guessed |= m.n > 1  # as many as rows, but this may be by chance
    before = (*[1] * (len(shape) - input.ndim), *input.shape)
    after = [kept if size == -1 else size for size, kept in zip(shape, before, strict=True)]
    after[at] //= m.n
    return m.mark(own.reshape(m.n, *before).expand(m.n, *after).movedim(0, at).flatten(at, at + 1))


def _rows_at(m: Interception, input: Tensor, shape: Any) -> int | None:
    """Return which dimension of this shape, to which a parameter is expanded, is the rows; None if none is.

    That is the first one, or the second one of the states (layers, rows, H) of a recurrent layer.
    """
    if input.ndim == len(shape) and input.shape[0] == 1 and m.is_rows(shape[0]):
        return 0
    if input.ndim < len(shape) and shape[0] == m.rows:
        return 0
    return 1 if input.ndim == len(shape) == 3 and input.shape[1] == 1 and shape[1] == m.rows else None


def _expand_as(m: Interception, input: Tensor, other: Tensor) -> Any:
    m.refuse(other)
    return _expand(m, input, *other.shape)


def _broadcast(m: Interception, *tensors: Any) -> Any:
    """Expand batches and parameters to one shape, as distributions do with their mean and their deviation."""
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors
    shape = torch.broadcast_shapes(*(x.shape for x in given))  # type: ignore[no-untyped-call]
    plain = m.mark if any(map(m.is_batch, given)) else tuple
    return tuple(plain([x.expand(shape)])[0] if m.members(x) is None else _expand(m, x, *shape) for x in given)


def _repeat(m: Interception, input: Tensor, *times: Any) -> Any:
    counts = times[0] if isinstance(times[0], (tuple, list, torch.Size)) else times
    one = input.ndim == len(counts) and input.shape[:1] == (1,) and all(count == 1 for count in counts[1:])
    if m.members(input) is None or not one:
        return m.alone(Tensor.repeat, (input, *times), {})
    return _expand(m, input, counts[0], *input.shape[1:])


def _affine(m: Interception, apply: Callable[..., Tensor], input: Tensor, y: Tensor, gain: Any, bias: Any) -> Tensor:
    """Scale and shift y, which is the normalised `input`."""
    m.refuse(input)
    y = m.follow(input, y)
    for func, p in ((torch.mul, gain), (torch.add, bias)):
        if p is not None:
            y = m.follow(y, of_type(y, apply(m, func, y, p)))
    return y


RULES: dict[Any, Rule] = {
    **{func: of_two(func) for func in ELEMENTWISE},
    **{func: in_place(out) for func, out in IN_PLACE.items()},
    F.linear: _linear,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    torch.mm: _matmul,
    Tensor.mm: _matmul,
    torch.addmm: _addmm,
    Tensor.addmm: _addmm,
    F.embedding: _embedding,
    F.embedding_bag: embedding_bag,
    torch.conv1d: convolution(torch.conv1d),
    torch.conv2d: convolution(torch.conv2d),
    torch.conv3d: convolution(torch.conv3d),
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    torch.prelu: _prelu,
    Tensor.expand: _expand,
    Tensor.expand_as: _expand_as,
    torch.broadcast_to: _expand,
    Tensor.broadcast_to: _expand,
    torch.broadcast_tensors: _broadcast,
    Tensor.repeat: _repeat,
}

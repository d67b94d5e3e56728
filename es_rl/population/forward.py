"""Many members of one nn.Module in one forward pass; the module stays as it was written.

Shapes: N members, k rows a member; the module sees N·k rows, those of one member together.

Inside `with perturb(module, members, p):` a call of the module is intercepted where torch uses its parameters, and
what has a rule in `es_rl.population.rules` is computed for all members at once. A module that uses a parameter in any
other way is called once for each member, which a warning says once. The module, its parameters and its buffers stay
untouched.
"""

from __future__ import annotations

import inspect
import random
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from es_rl.errors import EnvError
from es_rl.noise import Perturbation
from es_rl.population.attention import attention
from es_rl.population.interception import Interception, NoRuleError
from es_rl.population.members import LowRank, Members, members_of, select
from es_rl.population.rules import RULES


@contextmanager
def perturb(module: nn.Module, members: Sequence[int], p: Perturbation) -> Iterator[Population]:
    """Let `module` stand for `members` (2i and 2i+1 are the pair ±) until the block ends.

    The first dimension of every tensor that goes in or comes out are the rows. No gradients are tracked. Memory: the
    members' noise, N copies of the parameters if dense. Raises `EnvError` for batch norm in training mode.
    """
    for name, part in module.named_modules():
        if part.training and isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise EnvError(
                f"{name or type(module).__name__} is a {type(part).__name__} in training mode, which normalises over "
                f"the rows of different members together. Call eval() on the module first."
            )
    population = Population(module, members_of(module, members, p, include_frozen=False), len(members))
    with _standing_in(module, population):
        yield population


@contextmanager
def _standing_in(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Calls of the module are calls of `forward`; afterwards of what they were."""
    own = vars(module)
    before = own.get("forward")  # somebody's own, in place of the class's
    own["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del own["forward"]
        else:
            own["forward"] = before


class Population:
    """The members that a perturbed module stands for; called in place of its forward."""

    def __init__(self, module: nn.Module, members: dict[str, Members], n: int) -> None:
        self._module, self._all = module, members
        self.__signature__ = inspect.signature(module.forward)  # for whoever asks which arguments it takes
        self._forward = module.forward
        parts = [part for part in module.modules() if type(part) is nn.MultiheadAttention]
        self._attentions = [part for part in parts if "forward" not in vars(part)]
        self.calls = 0
        self._n = self._everyone = n
        self._parameters = dict(module.named_parameters())
        self.select(range(self._n))
        self.together = _VERDICTS.get(module, True)  # computed at once; False: one after the other

    def select(self, index: Sequence[int] | NDArray[np.int64]) -> None:
        """From now on the rows are those of the members at these positions only."""
        at = torch.as_tensor(np.asarray(index), device=next(self._module.parameters()).device)
        self._n = len(at)
        self._live = self._all
        if self._n < self._everyone or bool((at.cpu() != torch.arange(self._n)).any()):
            self._live = select(self._all, at)
        self._by_id = {id(self._parameters[name]): m for name, m in self._live.items()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        rows = _rows((args, kwargs))
        if rows % self._n:
            raise EnvError(
                f"a batch of {rows} rows for {self._n} members: each member must have the same number of rows."
            )
        with torch.no_grad():
            if self.together:
                try:
                    known = self._module in _VERDICTS
                    return (self._together if known else self._first)(rows, args, kwargs)
                except NoRuleError as use:
                    self._give_up(use, args, kwargs)
            return self._each(range(self._n), rows, args, kwargs)

    def _first(self, rows: int, args: Any, kwargs: Any) -> Any:
        """Compute all members at once, and check some of them by themselves: it is not known yet whether it is sound.

        A module that writes into what it is given gets copies.
        """
        before = _generators()
        try:
            out = self._together(rows, *tree_map(_copy, (args, kwargs)))
            if self._n > 1:
                after = _generators()
                self._check(out, rows, args, kwargs)
                _set_generators(after)  # what a check draws, nobody misses
        except NoRuleError:
            _set_generators(before)  # as if it had never been tried
            raise
        return out

    def _give_up(self, use: NoRuleError, args: Any, kwargs: Any) -> None:
        """Compute members one after the other from now on. Raises `EnvError` where that cannot be done."""
        name = type(self._module).__name__
        if _keeps((args, kwargs)):
            raise EnvError(
                f"{name} {use}, and what it keeps between calls, such as a cache, cannot be shared out among members. "
                f"Evaluate its members in turn (of a language model: es.noise=dense)."
            ) from use
        self.together = False
        _warn_once(f"{name} {use}: its members are computed one after the other")

    def _together(self, rows: int, args: Any, kwargs: Any) -> Any:
        """Compute all members in one forward pass. Raises `NoRuleError` where that is impossible."""
        interception = Interception(dict(self._by_id), self._n, rows, RULES)
        alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)  # most of the time
        interception.mark(args if alone else tree_flatten((args, kwargs))[0])
        with interception:
            return self._intercepted(*args, **kwargs) if self._attentions else self._forward(*args, **kwargs)

    def _intercepted(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward, with attention in terms of functions that have rules."""
        parts: dict[nn.Module, Callable[..., Any]] = {part: attention(part) for part in self._attentions}
        with ExitStack() as stack:
            for part, forward in parts.items():
                if part is not self._module:
                    stack.enter_context(_standing_in(part, forward))
            return parts.get(self._module, self._forward)(*args, **kwargs)

    def _check(self, out: Any, rows: int, args: Any, kwargs: Any) -> None:
        """Once for a module: whether its rows are independent, by its first and its last member alone.

        What counts is the error in proportion to what the perturbation does.
        """
        if _keeps((args, kwargs)):
            return
        theta = {name: value.detach() for name, value in self._parameters.items()}
        for i in (0, self._n - 1):
            alone, unperturbed = (
                _numbers(self._alone(weights, *tree_map(_copy, tree_map(_part(i, rows, self._n), (args, kwargs)))))
                for weights in (self._weights(i), theta)
            )
            together = _numbers(tree_map(_part(i, rows, self._n), out))
            if not all(map(_alike, alone, unperturbed, together)):
                _VERDICTS[self._module] = False
                raise NoRuleError("does not keep its rows, the first dimension, apart")
        _VERDICTS[self._module] = True

    def _each(self, index: Sequence[int], rows: int, args: Any, kwargs: Any) -> Any:
        """The module by itself for some members, one after the other, with explicit weights."""
        before = _generators()
        parts = []
        for i in index:
            _set_generators(before)  # what is drawn, all members draw
            parts.append(self._alone(self._weights(i), *tree_map(_part(i, rows, self._n), (args, kwargs))))
        flat = [tree_flatten(part) for part in parts]
        name = type(self._module).__name__
        joined = [_joined(same, rows // self._n, name) for same in zip(*(leaves for leaves, _ in flat), strict=True)]
        return tree_unflatten(joined, flat[0][1])

    def _alone(self, weights: dict[str, Tensor], args: Any, kwargs: Any) -> Any:
        """The module's own forward with these weights, wherever it holds its parameters; its hooks are the caller's."""
        before = {name: self._parameters[name].data for name in weights}
        try:
            for name, value in weights.items():
                self._parameters[name].data = value
            return self._forward(*args, **kwargs)
        finally:
            for name, value in before.items():
                self._parameters[name].data = value

    def _weights(self, i: int) -> dict[str, Tensor]:
        return {
            name: (m.theta + m.a[i] @ m.b[i].T).reshape(self._parameters[name].shape)
            if isinstance(m, LowRank)
            else m[i]
            for name, m in self._live.items()
        }


def _joined(parts: Sequence[Any], rows: int, name: str) -> Any:
    """The members' outputs, one below the other; what is no tensor of rows must be the same for all."""
    first = parts[0]
    if all(isinstance(part, Tensor) and part.ndim and len(part) == rows for part in parts):
        return torch.cat(list(parts))
    if isinstance(first, Tensor):
        if all(torch.equal(first, part) for part in parts):
            return first
    elif isinstance(first, (bool, int, float, str, type(None))) and all(first == part for part in parts):
        return first
    what = f"a tensor of shape {tuple(first.shape)}" if isinstance(first, Tensor) else f"a {type(first).__name__}"
    raise EnvError(
        f"{name} returns {what} for {rows} rows of a member, which cannot be joined with those of the others. "
        f"Return tensors of which the first dimension are the rows, or evaluate one member at a time."
    )


def _generators() -> tuple[Any, ...]:
    """Where the global generators of random numbers are."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 - a module may use it


def _set_generators(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])  # noqa: NPY002


# Whether the members of a module may be computed at once, where that was checked.
_VERDICTS: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
_WARNED: set[str] = set()


def _warn_once(text: str) -> None:
    if text not in _WARNED:
        _WARNED.add(text)
        warnings.warn(text, stacklevel=4)


def _keeps(arguments: Any) -> bool:
    """Whether there is something, such as a cache, that a second call would change."""
    return any(not isinstance(x, (Tensor, int, float, str, type(None))) for x in tree_flatten(arguments)[0])


def _copy(x: Any) -> Any:
    """A module may write into what it is given."""
    return x.clone() if isinstance(x, Tensor) else x


def _numbers(out: Any) -> list[Tensor]:
    return [leaf.double() for leaf in tree_flatten(out)[0] if isinstance(leaf, Tensor) and leaf.numel()]


def _alike(one: Tensor, base: Tensor, many: Tensor) -> bool:
    """Whether a member's output alone is that among many, but for rounding, in proportion to what its noise does."""
    finite = one.isfinite()
    if one.shape != many.shape or not torch.equal(one[~finite].nan_to_num(), many[~finite].nan_to_num()):
        return False
    if not finite.any():
        return True
    effect = float((one - base)[finite & base.isfinite()].abs().max()) if base.isfinite().any() else 0.0
    rounding = 1e-5 * float(one[finite].abs().max())
    return float((many - one)[finite].abs().max()) <= 0.01 * effect + rounding  # never true of NaN


def _rows(arguments: Any) -> int:
    args = arguments[0]
    if args and isinstance(args[0], Tensor) and args[0].ndim:
        return len(args[0])  # most of the time
    for leaf in tree_flatten(arguments)[0]:
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise EnvError("a perturbed module needs a tensor whose first dimension are the rows.")


def _part(i: int, rows: int, n: int) -> Callable[[Any], Any]:
    """The rows of member i of whatever has rows."""
    k = rows // n
    return lambda x: x[i * k : (i + 1) * k] if isinstance(x, Tensor) and x.ndim and len(x) == rows else x

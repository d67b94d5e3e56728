"""Many members of one nn.Module in one forward pass, without changes to the module.

Shapes: N members, k rows per member. The module sees N·k rows; the rows of one member are contiguous.

Inside `with perturb(module, members, p):`, torch functions that use the module's parameters are intercepted. Functions
with a rule in `es_rl.population.rules` are computed for all members at once. A module that uses a parameter in any
other way is called once for each member, with a single warning. The module, its parameters and its buffers do not
change.
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
    """Make calls of `module` compute `members` (2i and 2i+1 are a pair, + and −) until the block ends.

    The first dimension of every input and output tensor is the rows. No gradients are tracked. Memory: the members'
    noise; if it is dense, N copies of the parameters. Raises `EnvError` for batch norm in training mode.
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


class Population:
    """The members that a perturbed module computes; called instead of the module's forward."""

    def __init__(self, module: nn.Module, members: dict[str, Members], n: int) -> None:
        self._module, self._all = module, members
        self.__signature__ = inspect.signature(module.forward)  # for code that inspects the arguments of forward
        self._forward = module.forward
        parts = [part for part in module.modules() if type(part) is nn.MultiheadAttention]
        self._attentions = [part for part in parts if "forward" not in vars(part)]
        self.calls = 0
        self._n = self._everyone = n
        self._parameters = dict(module.named_parameters())
        self.select(range(self._n))
        self.together = _VERDICTS.get(module, True)  # True: compute members at once; False: one after the other

    def select(self, index: Sequence[int] | NDArray[np.int64]) -> None:
        """Compute only the members at these positions from now on."""
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
        """Compute all members at once, and check two of them alone, because the module has not been checked yet.

        A module may write into its inputs, so each call gets copies.
        """
        before = _generators()
        try:
            out = self._together(rows, *tree_map(_copy, (args, kwargs)))
            if self._n > 1:
                after = _generators()
                self._check(out, rows, args, kwargs)
                _set_generators(after)  # undo the draws of the check
        except NoRuleError:
            _set_generators(before)  # undo the draws of the failed attempt
            raise
        return out

    def _give_up(self, use: NoRuleError, args: Any, kwargs: Any) -> None:
        """Compute members one after the other from now on. Raises `EnvError` if that is impossible."""
        name = type(self._module).__name__
        if _keeps((args, kwargs)):
            raise EnvError(
                f"{name} {use}, and what it keeps between calls, such as a cache, cannot be split among members. "
                f"Evaluate its members in turn (of a language model: es.noise=dense)."
            ) from use
        self.together = False
        _warn_once(f"{name} {use}: its members are computed one after the other")

    def _together(self, rows: int, args: Any, kwargs: Any) -> Any:
        """Compute all members in one forward pass. Raises `NoRuleError` if that is impossible."""
        interception = Interception(dict(self._by_id), self._n, rows, RULES)
        alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)  # the usual case
        interception.mark(args if alone else tree_flatten((args, kwargs))[0])
        with interception:
            return self._intercepted(*args, **kwargs) if self._attentions else self._forward(*args, **kwargs)

    def _intercepted(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's forward, with attention written in functions that can be computed for all members."""
        parts: dict[nn.Module, Callable[..., Any]] = {part: attention(part) for part in self._attentions}
        with ExitStack() as stack:
            for part, forward in parts.items():
                if part is not self._module:
                    stack.enter_context(_standing_in(part, forward))
            return parts.get(self._module, self._forward)(*args, **kwargs)

    def _check(self, out: Any, rows: int, args: Any, kwargs: Any) -> None:
        """Check, once per module, that its rows are independent: compute its first and its last member alone.

        The error is compared with the effect of the perturbation. Raises `NoRuleError` if it is too large.
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
                raise NoRuleError("mixes its rows, the first dimension")
        _VERDICTS[self._module] = True

    def _each(self, index: Sequence[int], rows: int, args: Any, kwargs: Any) -> Any:
        """Compute some members one after the other, with explicit weights."""
        before = _generators()
        parts = []
        for i in index:
            _set_generators(before)  # all members draw the same random numbers
            parts.append(self._alone(self._weights(i), *tree_map(_part(i, rows, self._n), (args, kwargs))))
        flat = [tree_flatten(part) for part in parts]
        name = type(self._module).__name__
        joined = [_joined(same, rows // self._n, name) for same in zip(*(leaves for leaves, _ in flat), strict=True)]
        return tree_unflatten(joined, flat[0][1])

    def _alone(self, weights: dict[str, Tensor], args: Any, kwargs: Any) -> Any:
        """Run the module's own forward with these weights; its hooks are run by the outer call.

        The weights are set on the parameters themselves, wherever the module holds them.
        """
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
    """Concatenate the members' outputs. Raises `EnvError` if an output without rows differs between members."""
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
        f"Return tensors whose first dimension is the rows, or evaluate one member at a time."
    )


def _generators() -> tuple[Any, ...]:
    """Return the states of the global random number generators."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 - a module may use it


def _set_generators(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])  # noqa: NPY002


# The modules that were checked, and whether their members may be computed at once.
_VERDICTS: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
_WARNED: set[str] = set()


def _warn_once(text: str) -> None:
    if text not in _WARNED:
        _WARNED.add(text)
        warnings.warn(text, stacklevel=4)


def _keeps(arguments: Any) -> bool:
    """Tell whether there is an argument, such as a cache, that a second call would change."""
    return any(not isinstance(x, (Tensor, int, float, str, type(None))) for x in tree_flatten(arguments)[0])


def _copy(x: Any) -> Any:
    """Copy a tensor, because a module may write into its inputs."""
    return x.clone() if isinstance(x, Tensor) else x


def _numbers(out: Any) -> list[Tensor]:
    return [leaf.double() for leaf in tree_flatten(out)[0] if isinstance(leaf, Tensor) and leaf.numel()]


def _alike(one: Tensor, base: Tensor, many: Tensor) -> bool:
    """Tell whether a member's output alone (`one`) equals that among many, within 1 % of the effect of its noise.

    `base` is the output without noise. Rounding errors are allowed for.
    """
    finite = one.isfinite()
    if one.shape != many.shape or not torch.equal(one[~finite].nan_to_num(), many[~finite].nan_to_num()):
        return False
    if not finite.any():
        return True
    effect = float((one - base)[finite & base.isfinite()].abs().max()) if base.isfinite().any() else 0.0
    rounding = 1e-5 * float(one[finite].abs().max())
    return float((many - one)[finite].abs().max()) <= 0.01 * effect + rounding  # False for NaN


def _rows(arguments: Any) -> int:
    args = arguments[0]
    if args and isinstance(args[0], Tensor) and args[0].ndim:
        return len(args[0])  # the usual case
    for leaf in tree_flatten(arguments)[0]:
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise EnvError("a perturbed module needs a tensor whose first dimension is the rows.")


def _part(i: int, rows: int, n: int) -> Callable[[Any], Any]:
    """Return a function that takes the rows of member i of a tensor, and returns anything without rows unchanged."""
    k = rows // n
    return lambda x: x[i * k : (i + 1) * k] if isinstance(x, Tensor) and x.ndim and len(x) == rows else x

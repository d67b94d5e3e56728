"""Many members of one nn.Module in one forward pass, without changes to the module.

Shapes: N members, k rows per member. The module sees N·k rows; the rows of one member are contiguous.

Inside `with perturb(module, members, p):`, torch functions that use the module's parameters are intercepted. Functions
with a rule in `es_rl.population.rules`, and others that vmap can compute, are computed for all members at once. A
module that uses a parameter in any other way is called once for each member, with a single warning. The module, its
parameters and its buffers do not change.
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
from es_rl.population.experts import experts, is_experts
from es_rl.population.interception import Interception, NoRuleError
from es_rl.population.members import LowRank, Members, members_of, select
from es_rl.population.recurrent import cell, recurrent
from es_rl.population.rows import alike, copy, joined, keeps, numbers, rows_of, rows_of_member
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
    with standing_in(module, population):
        yield population


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


# Layers that torch computes by one function, written in functions that have rules.
REWRITTEN: dict[type[nn.Module], Callable[[Any], Callable[..., Any]]] = {
    nn.MultiheadAttention: attention,
    **dict.fromkeys((nn.RNN, nn.GRU, nn.LSTM), recurrent),
    **dict.fromkeys((nn.RNNCell, nn.GRUCell, nn.LSTMCell), cell),
}


def _rewrite(part: nn.Module) -> Callable[..., Any]:
    return REWRITTEN[type(part)](part) if type(part) in REWRITTEN else experts(part)


class Population:
    """The members that a perturbed module computes; called instead of the module's forward."""

    def __init__(
        self, module: nn.Module, members: dict[str, Members], n: int, forward: Callable[..., Any] | None = None
    ) -> None:
        self._module, self._all = module, members
        self._forward = module.forward if forward is None else forward
        self.__signature__ = inspect.signature(self._forward)  # for code that inspects the arguments of forward
        self._rewritten = self.rewritten_in(module)
        self.calls = 0
        self.running = False  # inside a call
        self._guessed = False  # in the last call: see `Interception`
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

    def moves(self, parameter: Tensor) -> bool:
        """Tell whether members differ in a parameter."""
        return id(parameter) in self._by_id

    @staticmethod
    def rewritten_in(module: nn.Module) -> list[nn.Module]:
        """Return the layers of `REWRITTEN` whose forward is torch's."""
        parts = [part for part in module.modules() if type(part) in REWRITTEN or is_experts(part)]
        return [part for part in parts if "forward" not in vars(part)]

    def part(self, part: nn.Module, forward: Callable[..., Any], rewritten: list[nn.Module]) -> Population:
        """Return the same members of a part of the module."""
        members = {name: self._by_id[id(value)] for name, value in part.named_parameters() if self.moves(value)}
        population = Population(part, members, self._n, forward)
        population._rewritten = rewritten
        return population

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self._call, args, kwargs)

    def run(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function that computes all members; count it as a call."""
        before, self.running = self.running, True
        self.calls += 1
        try:
            return forward(*args, **kwargs)
        finally:
            self.running = before

    def _call(self, args: Any, kwargs: Any) -> Any:
        rows = rows_of((args, kwargs))
        if rows % self._n:
            raise EnvError(
                f"a batch of {rows} rows for {self._n} members: each member must have the same number of rows."
            )
        with torch.no_grad():
            if self.together:
                try:
                    if self._module not in _VERDICTS:
                        return self._first(rows, args, kwargs)
                    out = self._together(rows, args, kwargs)
                    return self._first(rows, args, kwargs) if self._unsure(args, kwargs) else out
                except NoRuleError as use:
                    self._give_up(use, args, kwargs)
            return self._each(range(self._n), rows, args, kwargs)

    def _first(self, rows: int, args: Any, kwargs: Any) -> Any:
        """Compute all members at once, and check two of them alone, because the module has not been checked yet.

        A module may write into its inputs, so each call gets copies.
        """
        before = _generators()
        try:
            out = self._together(rows, *tree_map(copy, (args, kwargs)))
            if self._n > 1:
                after = _generators()
                self._check(out, rows, args, kwargs)
                _set_generators(after)  # undo the draws of the check
        except NoRuleError:
            _set_generators(before)  # undo the draws of the failed attempt
            raise
        return out

    def _unsure(self, args: Any, kwargs: Any) -> bool:
        """Tell whether rows were guessed by their number in the last call, and were not checked for such shapes."""
        return self._guessed and _shapes(args, kwargs) not in _CHECKED.get(self._module, ())

    def _give_up(self, use: NoRuleError, args: Any, kwargs: Any) -> None:
        """Compute members one after the other from now on. Raises `EnvError` if that is impossible."""
        name = type(self._module).__name__
        if keeps((args, kwargs)):
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
        try:
            with interception:
                return self._intercepted(*args, **kwargs) if self._rewritten else self._forward(*args, **kwargs)
        finally:
            self._guessed = interception.guessed

    def _intercepted(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's forward, with some layers written in functions that can be computed for all members."""
        parts = {part: _rewrite(part) for part in self._rewritten}
        with ExitStack() as stack:
            for part, forward in parts.items():
                if part is not self._module:
                    stack.enter_context(standing_in(part, forward))
            return parts.get(self._module, self._forward)(*args, **kwargs)

    def _check(self, out: Any, rows: int, args: Any, kwargs: Any) -> None:
        """Check, once per module, that its rows are independent: compute its first and its last member alone.

        The error is compared with the effect of the perturbation. Raises `NoRuleError` if it is too large.
        """
        if keeps((args, kwargs)):
            if self._guessed:
                raise NoRuleError("repeats a parameter for each row")
            return
        theta = {name: value.detach() for name, value in self._parameters.items()}
        for i in (0, self._n - 1):
            alone, unperturbed = (
                numbers(
                    self._alone(weights, *tree_map(copy, tree_map(rows_of_member(i, rows, self._n), (args, kwargs))))
                )
                for weights in (self._weights(i), theta)
            )
            together = numbers(tree_map(rows_of_member(i, rows, self._n), out))
            if not all(map(alike, alone, unperturbed, together)):
                _VERDICTS[self._module] = False
                raise NoRuleError("mixes its rows, the first dimension")
        _VERDICTS[self._module] = True
        _CHECKED.setdefault(self._module, set()).add(_shapes(args, kwargs))

    def _each(self, index: Sequence[int], rows: int, args: Any, kwargs: Any) -> Any:
        """Compute some members one after the other, with explicit weights."""
        before = _generators()
        parts = []
        for i in index:
            _set_generators(before)  # all members draw the same random numbers
            parts.append(self._alone(self._weights(i), *tree_map(rows_of_member(i, rows, self._n), (args, kwargs))))
        flat = [tree_flatten(part) for part in parts]
        name = type(self._module).__name__
        whole = [joined(same, rows // self._n, name) for same in zip(*(leaves for leaves, _ in flat), strict=True)]
        return tree_unflatten(whole, flat[0][1])

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


def _generators() -> tuple[Any, ...]:
    """Return the states of the global random number generators."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 - a module may use it


def _set_generators(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])  # noqa: NPY002


# The modules that were checked, and whether their members may be computed at once.
_VERDICTS: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
# The shapes of arguments with which they were checked.
_CHECKED: weakref.WeakKeyDictionary[nn.Module, set[tuple[Any, ...]]] = weakref.WeakKeyDictionary()
_WARNED: set[str] = set()


def _shapes(args: Any, kwargs: Any) -> tuple[Any, ...]:
    return tuple(tuple(x.shape) for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor))


def _warn_once(text: str) -> None:
    if text not in _WARNED:
        _WARNED.add(text)
        warnings.warn(text, stacklevel=4)

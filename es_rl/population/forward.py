"""Many members of one nn.Module in one forward pass, without changes to the module.

Shapes: N members, k rows per member. The module sees N·k rows; the rows of one member are contiguous.

Inside `with perturb(module, members, p):`, torch functions that use the module's parameters are intercepted. Functions
with a rule in `es_rl.population.rules`, and others that vmap can compute, are computed for all members at once. A
module that uses a parameter in any other way is called once for each member, with a single warning. The module, its
parameters and its buffers do not change.
"""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from es_rl.errors import EnvError
from es_rl.noise import Perturbation
from es_rl.population import generators
from es_rl.population.hooks import with_weights
from es_rl.population.interception import Interception, NoRuleError
from es_rl.population.layers.rewriting import rewritten, rewritten_in, standing_in
from es_rl.population.layout import Layout, Share, turned
from es_rl.population.members import LowRank, Members, louder, members_of, select
from es_rl.population.precision import Precision
from es_rl.population.rows import alike, copy, growing, joined, keeps, numbers, tensors
from es_rl.population.rules import RULES


@contextmanager
def perturb(module: nn.Module, members: Sequence[int], p: Perturbation) -> Iterator[Population]:
    """Make calls of `module` compute `members` (2i and 2i+1 are a pair, + and −) until the block ends.

    Inputs and outputs have rows, each of one member: see `es_rl.population.layout`. No gradients are tracked. Memory:
    the members' noise; if it is dense, N copies of the parameters. Raises `EnvError` for batch norm in training mode.
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


class Population:
    """The members that a perturbed module computes; called instead of the module's forward."""

    def __init__(
        self, module: nn.Module, members: dict[str, Members], n: int, forward: Callable[..., Any] | None = None
    ) -> None:
        self._module, self._all = module, members
        self._forward = with_weights(module) if forward is None else forward
        self.__signature__ = inspect.signature(self._forward)  # for code that inspects the arguments of forward
        self._layers = rewritten_in(module)
        self._layout = Layout(module, self._forward)
        self._dims: dict[tuple[Any, ...], list[int | None]] = {}  # see `_row_dims`, by shapes of arguments
        self.calls, self.running, self._guessed = 0, False, False  # inside a call; in the last call: see `Interception`
        self._n = self._everyone = n
        self._parameters = dict(module.named_parameters())
        self.select(range(self._n))
        self.together = True  # compute members at once; False: one after the other

    def select(self, index: Sequence[int] | NDArray[np.int64]) -> None:
        """Compute only the members at these positions from now on."""
        at = torch.as_tensor(np.asarray(index), device=next(self._module.parameters()).device)
        self._n = len(at)
        self._live = self._all
        if self._n < self._everyone or bool((at.cpu() != torch.arange(self._n)).any()):
            self._live = select(self._all, at)
        self._by_id = self._ids()

    def moves(self, parameter: Tensor) -> bool:
        """Tell whether members differ in a parameter."""
        return id(parameter) in self._by_id

    def part(self, part: nn.Module, forward: Callable[..., Any], layers: list[nn.Module]) -> Population:
        """Return the same members of a part of the module."""
        members = {name: self._by_id[id(value)] for name, value in part.named_parameters() if self.moves(value)}
        population = Population(part, members, self._n, forward)
        population._layers = layers
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
        rows = self._layout.rows(args, kwargs)
        if rows % self._n:
            raise EnvError(
                f"a batch of {rows} rows for {self._n} members: each member must have the same number of rows."
            )
        with torch.no_grad():
            verdict = _VERDICTS.get(self._module, {}).get(self._case(args, kwargs))
            self.together &= verdict is not False
            if self.together:
                try:
                    return (self._together if verdict else self._first)(rows, args, kwargs)
                except NoRuleError as use:
                    self._give_up(use, args, kwargs)
            return self._each(rows, args, kwargs)

    def _first(self, rows: int, args: Any, kwargs: Any) -> Any:
        """Compute all members at once, and check two of them alone: the module was not checked with such arguments.

        What has rows is told by its length, which something else may have by chance. So each case is checked, whatever
        this process has computed before. A module may write into its inputs, so each call gets copies.
        """
        before = generators.states()
        try:
            out = self._together(rows, *tree_map(copy, (args, kwargs)))
            after = generators.states()
            self._check(out, rows, args, kwargs)
            generators.restore(after)  # undo the draws of the check
        except NoRuleError:
            generators.restore(before)  # undo the draws of the failed attempt
            raise
        return out

    def _case(self, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """Return what a verdict holds for: the number of members, and the shapes of the arguments."""
        return self._n, *_shapes(args, kwargs)

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
                return self._rewritten(args, kwargs) if self._layers else self._forward(*args, **kwargs)
        finally:
            self._guessed = interception.guessed

    def _rewritten(self, args: Any, kwargs: Any) -> Any:
        """Run the module's forward, with some layers written in functions that can be computed for all members."""
        with rewritten(self._layers, self._module, self._forward) as forward:
            if not self._layout.turns:
                return forward(*args, **kwargs)
            with self._layout.rows_first(args, kwargs) as (args, kwargs):
                return turned(forward(*args, **kwargs))

    def _check(self, out: Any, rows: int, args: Any, kwargs: Any) -> None:
        """Check, once in each case, that rows are independent: compute the first and the last member alone.

        The error is compared with the effect of the perturbation. Raises `NoRuleError` if it is too large.
        """
        only = self._n == 1  # all rows are this member's
        if keeps((args, kwargs)):  # such as a cache: it cannot be given to a second call, and another may be longer
            if self._guessed and not only:
                raise NoRuleError("repeats a parameter for each row")
            return
        with Precision() as precision:
            sound = only or self._agree(out, rows, args, kwargs, tolerance=0.01)
        if not sound and precision.low:  # rounding errors may be as large as the effect of the noise
            with self._loud():
                out = self._together(rows, *tree_map(copy, (args, kwargs)))
                sound = self._agree(out, rows, args, kwargs, tolerance=0.1)
        _VERDICTS.setdefault(self._module, {})[self._case(args, kwargs)] = sound
        if not sound:
            raise NoRuleError("mixes its rows, the first dimension")

    @contextmanager
    def _loud(self) -> Iterator[None]:
        """Give the members more noise inside the block."""
        quiet = self._live
        try:
            self._live = louder(quiet, self._theta())
            self._by_id = self._ids()
            yield
        finally:
            self._live = quiet
            self._by_id = self._ids()

    def _agree(self, out: Any, rows: int, args: Any, kwargs: Any, *, tolerance: float) -> bool:
        """Tell whether `out` has what the first and the last member compute alone."""
        found = tensors(out)
        for i in (0, self._n - 1):
            share = Share(i, rows, self._n)
            alone, unperturbed = (
                numbers(self._alone(weights, *tree_map(copy, self._layout.of_members(share, args, kwargs))))
                for weights in (self._weights(i), self._theta())
            )
            together = (share.like(one, many).double() for one, many in zip(alone, found, strict=False))
            same = map(partial(alike, tolerance=tolerance), alone, unperturbed, together)
            if len(alone) != len(found) or not all(same):
                return False
        return True

    def _each(self, rows: int, args: Any, kwargs: Any) -> Any:
        """Compute all members one after the other, with explicit weights."""
        before, buffers = generators.states(), generators.buffers(self._module)
        parts = []
        for i in range(self._n):
            generators.restore(before)  # all members draw the same random numbers
            own = self._layout.of_members(Share(i, rows, self._n), args, kwargs)
            parts.append(self._alone(self._weights(i), *own))
            generators.restore_buffers(buffers)  # and see the same buffers
        if len(parts) == 1:
            return parts[0]
        flat = [tree_flatten(part) for part in parts]
        dims = self._row_dims(flat[0][0], rows, args, kwargs)
        name = type(self._module).__name__
        whole = [joined(same, dim, name) for dim, *same in zip(dims, *(leaves for leaves, _ in flat), strict=True)]
        return tree_unflatten(whole, flat[0][1])

    def _row_dims(self, found: list[Any], rows: int, args: Any, kwargs: Any) -> list[int | None]:
        """Return which dimension of each output of the first member is the rows, None if there is none.

        If others are as long, the outputs of twice as many rows show it.
        """
        k = rows // self._n
        fitting = [[d for d, size in enumerate(x.shape) if size == k] if isinstance(x, Tensor) else [] for x in found]
        if all(dims in ([], [0]) for dims in fitting):
            return [dims[0] if dims else None for dims in fitting]
        shapes = _shapes(args, kwargs)
        if shapes not in self._dims:
            before = generators.states()
            two = self._layout.of_members(Share(0, rows, self._n, count=2), args, kwargs)
            twice = tree_flatten(self._alone(self._weights(0), *tree_map(copy, two)))[0]
            generators.restore(before)
            self._dims[shapes] = [growing(few, many, 2) for few, many in zip(found, twice, strict=True)]
        return self._dims[shapes]

    def _alone(self, weights: dict[str, Tensor], args: Any, kwargs: Any) -> Any:
        """Run the module's own forward with these weights; its hooks are run by the outer call.

        The weights are set on the parameters themselves, wherever the module holds them.
        """
        before = {name: self._parameters[name].data for name in weights}
        try:
            for name, value in weights.items():
                self._parameters[name].data = value
            torch.clear_autocast_cache()  # it holds the parameters' values of before
            return self._forward(*args, **kwargs)
        finally:
            for name, value in before.items():
                self._parameters[name].data = value
            torch.clear_autocast_cache()

    def _weights(self, i: int) -> dict[str, Tensor]:
        return {
            name: m.matrix(i).reshape(self._parameters[name].shape) if isinstance(m, LowRank) else m[i]
            for name, m in self._live.items()
        }

    def _theta(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self._parameters.items()}

    def _ids(self) -> dict[int, Members]:
        return {id(self._parameters[name]): m for name, m in self._live.items()}


# Of each module, the cases that were checked, and whether its members may be computed at once in them.
_VERDICTS: weakref.WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], bool]] = weakref.WeakKeyDictionary()
_WARNED: set[str] = set()


def _shapes(args: Any, kwargs: Any) -> tuple[Any, ...]:
    if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
        return (tuple(args[0].shape),)  # the usual case
    return tuple(tuple(x.shape) for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor))


def _warn_once(text: str) -> None:
    if text not in _WARNED:
        _WARNED.add(text)
        warnings.warn(text, stacklevel=4)

"""Interception of torch functions that use a parameter of many members.

Shapes: N members. A batch has rows of each member; the rows of one member are contiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from es_rl.population.members import LowRank, Members

# Computes a torch function for all members. Its arguments are the interception, then those of the torch function.
Rule = Callable[..., Any]
TRANSPOSES = {Tensor.t, torch.t, Tensor.transpose, torch.transpose, Tensor.T.__get__, Tensor.mT.__get__}  # type: ignore[attr-defined]


class NoRuleError(Exception):
    """A parameter is used in a way that cannot be computed for all members at once."""


_WRITES = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"}
# Functions that read a tensor's values into Python.
READS = {"item", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy", "__array__", "equal", "allclose"}


class Interception(TorchFunctionMode):
    """A torch mode that sends functions of a perturbed parameter, or of a tensor made from one, to their rule.

    There are three kinds of tensors: those that stand for members; batches, which are inputs of the module or computed
    from them; and constants, which are the same for all members.
    """

    def __init__(self, members: dict[int, Members], n: int, rows: int, rules: Mapping[Any, Rule]) -> None:
        super().__init__()
        self.n, self.rows, self._rules = n, rows, rules
        self._members = members
        self._made: list[Tensor] = []  # kept alive, so that no id is used again
        self._mark = object()  # set as an attribute on every batch
        self.guessed = False  # whether a rule took something for rows because of its length alone

    def mark(self, x: Any) -> Any:
        """Mark `x`, or all tensors in it, as batches; return `x`."""
        if isinstance(x, Tensor):
            x._es_rl_batch = self._mark  # type: ignore[attr-defined]
        elif isinstance(x, (tuple, list)):
            for part in x:
                self.mark(part)
        return x

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        perturbed = batch = False
        for x in (*args, *kwargs.values()):  # a plain loop, because this runs before every call of torch
            if id(x) in self._members or (type(x) in (tuple, list) and self._is_perturbed(x)):
                perturbed = True
            elif not batch:
                batch = self._is_marked(x)
        if batch and func in (Tensor.to, Tensor.type_as):
            batch = self._is_marked(args[0])  # of the other one, only the type is asked for
        if not perturbed:
            result = func(*args, **kwargs)
            return self.mark(result) if batch else result
        rule = self._rules.get(func)
        result = self.alone(func, args, kwargs) if rule is None else rule(self, *args, **kwargs)
        return self.mark(result) if batch and id(result) not in self._members else result

    def is_batch(self, x: Tensor) -> bool:
        """Tell whether the first dimension is rows: as many as the module's input has, or a multiple of that."""
        return self._is_marked(x) and x.ndim > 0 and len(x) % self.rows == 0 and len(x) > 0

    def is_rows(self, count: int) -> bool:
        """Tell whether this many rows are as many as the module's input has, or a multiple of that."""
        return count > 0 and count % self.rows == 0

    def follow(self, x: Tensor, y: Tensor) -> Tensor:
        """Mark `y`, computed by a rule, as a batch if `x` is one; return `y`."""
        return self.mark(y) if self._is_marked(x) else y

    def refuse(self, x: Any) -> None:
        """Raise `NoRuleError` if `x` is a parameter where a rule cannot handle one."""
        if self.members(x) is not None:
            raise NoRuleError("computes with parameters alone")

    def members(self, x: Any) -> Members | None:
        """Return the members that `x` stands for, or None if it stands for none."""
        return self._members.get(id(x))

    def make(self, like: Tensor, members: Members) -> Tensor:
        """Let `like` stand for these members from now on; return it."""
        self._members[id(like)] = members
        self._made.append(like)
        return like

    def _is_marked(self, x: Any) -> bool:
        if type(x) in (tuple, list):
            return any(self._is_marked(part) for part in x)
        return getattr(x, "_es_rl_batch", None) is self._mark

    def _is_perturbed(self, x: Any) -> bool:
        if isinstance(x, (tuple, list)):
            return any(self._is_perturbed(part) for part in x)
        return id(x) in self._members

    def alone(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call a function without a rule: one that asks for a shape or a type, or computes with parameters.

        Raises `NoRuleError` if it reads or writes values, or if vmap cannot compute it for each member.
        """
        name = getattr(func, "__name__", str(func))
        if name in ("to", "type_as") and len(args) == 2 and isinstance(args[1], Tensor):  # only its type is asked for
            func, args = Tensor.to, (args[0], args[1].device, args[1].dtype)
            if self.members(args[0]) is None:  # a parameter's
                return func(*args)
        tensors = leaves(args, kwargs)
        if name in READS:
            raise NoRuleError(f"gives parameters to {name}")
        if len(tensors) > 1:
            return self._by_member(func, name, args, kwargs, tensors)
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor):
            if isinstance(result, (tuple, list)) and any(isinstance(part, Tensor) for part in result):
                raise NoRuleError(f"gives parameters to {name}")
            return result  # a shape, a type, a device
        return self._array(func, name, args, kwargs, result)

    def _by_member(self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> Tensor:
        """Compute a function of batches and parameters for each member, with its own rows and arrays, by vmap."""
        batch = [self.is_batch(x) for x in tensors]
        strange = any(self._is_marked(x) and not rows for x, rows in zip(tensors, batch, strict=True))
        if strange or name in _WRITES or (name.endswith("_") and not name.endswith("__")):
            raise NoRuleError(f"gives parameters to {name}")
        split = [
            x.reshape(self.n, len(x) // self.n, *x.shape[1:]) if rows else _explicit(self.members(x), x)
            for x, rows in zip(tensors, batch, strict=True)
        ]
        axes = tuple(0 if own is not x else None for own, x in zip(split, tensors, strict=True))

        def one(*own: Tensor) -> Any:
            values = iter(own)
            filled = tree_map(lambda x: next(values) if isinstance(x, Tensor) else x, (args, kwargs))
            return func(*filled[0], **filled[1])

        try:
            result = vmap(one, in_dims=axes)(*split)
        except (RuntimeError, ValueError, TypeError) as error:
            raise NoRuleError(f"gives parameters to {name} ({str(error).splitlines()[0]})") from error
        if not isinstance(result, Tensor):
            raise NoRuleError(f"gives parameters to {name}")
        if not any(batch):
            return self.make(func(*args, **kwargs), result)
        if result.ndim < 2 or result.shape[1] != split[batch.index(True)].shape[1]:
            raise NoRuleError(f"gives parameters to {name}")
        return result.flatten(0, 1)

    def _array(self, func: Any, name: str, args: Any, kwargs: Any, result: Tensor) -> Tensor:
        """Compute a function of one parameter alone for each member.

        Casts, transposes and row slices keep low-rank factors; for anything else each member's matrix is formed.
        """
        at = next(i for i, x in enumerate(args) if isinstance(x, Tensor)) if args else -1
        members = self.members(args[at]) if at >= 0 else None
        if members is None or name in _WRITES or (name.endswith("_") and not name.endswith("__")):
            raise NoRuleError(f"gives parameters to {name}")
        theta = args[at]
        if func == Tensor.data.__get__ or name in ("to", "float", "detach", "contiguous", "type_as"):  # type: ignore[attr-defined]
            cast = [
                func(*args[:at], part, *args[at + 1 :], **kwargs)
                for part in (members if isinstance(members, LowRank) else [members])
            ]
            return self.make(result.view_as(result), LowRank(*cast) if isinstance(members, LowRank) else cast[0])
        if isinstance(members, LowRank):
            if func in TRANSPOSES and result.ndim == 2 and theta.ndim == 2:
                return self.make(result, members.transpose() if result.shape == theta.T.shape else members)
            if name == "__getitem__" and theta.ndim == 2 and isinstance(args[1], slice):  # some rows
                return self.make(result, LowRank(members.theta[args[1]], members.a[:, args[1]], members.b))
            members = members.explicit().reshape(-1, *theta.shape)
        return self.make(
            result.view_as(result), of_each(lambda one: func(*args[:at], one, *args[at + 1 :], **kwargs), members)
        )


def leaves(*values: Any) -> list[Tensor]:
    """Return all tensors in these values, in order."""
    return [x for x in tree_flatten(values)[0] if isinstance(x, Tensor)]


def _explicit(members: Members | None, x: Tensor) -> Tensor:
    """Return the arrays (N, *shape) of the members of x, or x itself if it has none."""
    if members is None:
        return x
    return members.explicit().reshape(-1, *x.shape) if isinstance(members, LowRank) else members


def of_each(func: Callable[..., Tensor], *own: Tensor) -> Tensor:
    """Return func of each member's arrays, (N, …) → (N, …). Raises `NoRuleError` if vmap cannot compute it."""
    try:
        stack: Tensor = vmap(func)(*own)
    except (RuntimeError, ValueError, TypeError) as error:  # for example because func draws random numbers
        raise NoRuleError(f"uses a parameter in a way that vmap refuses ({str(error).splitlines()[0]})") from error
    return stack

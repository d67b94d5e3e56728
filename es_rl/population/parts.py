"""Calls of a part of a perturbed module, such as `model.features(x)`, compute all members too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from es_rl.errors import EnvError
from es_rl.population.forward import Population
from es_rl.population.interception import READS
from es_rl.population.layers.rewriting import rewritten_in, standing_in


@contextmanager
def with_parts(module: nn.Module, population: Population) -> Iterator[None]:
    """Compute all members in calls of the module's parts too, until the block ends.

    Raises `EnvError` where a parameter is used outside of any call, since its value would be theta's, not a member's.
    """
    with ExitStack() as stack:
        for name, part in module.named_modules():
            if name and any(True for _ in part.parameters()):
                stack.enter_context(standing_in(part, _part(part, population)))
        stack.enter_context(_Outside(module, population))
        yield


def _part(part: nn.Module, population: Population) -> Callable[..., Any]:
    """Return the forward of a part: its own inside a call of the population, else one that computes all members."""
    own, layers = part.forward, rewritten_in(part)
    known: list[Population] = []

    def forward(*args: Any, **kwargs: Any) -> Any:
        if population.running:
            return own(*args, **kwargs)
        if not known:
            known.append(population.part(part, own, layers))
        return population.run(known[0], *args, **kwargs)

    return forward


class _Outside(TorchFunctionMode):
    """Refuses functions of a perturbed parameter outside the calls of a population."""

    def __init__(self, module: nn.Module, population: Population) -> None:
        super().__init__()
        self._population = population
        self._names = {id(value): name for name, value in module.named_parameters() if population.moves(value)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._population.running:
            name = self._used((*args, *(kwargs or {}).values()))
            if name and (isinstance(result, Tensor) or getattr(func, "__name__", "") in READS):
                raise EnvError(
                    f"the fitness uses the parameter {name} itself, which has no member's value in a batched fitness. "
                    f"Use it inside the model's forward, or score one member at a time: without batched."
                )
        return result

    def _used(self, values: Any) -> str:
        for value in values:
            if id(value) in self._names:
                return self._names[id(value)]
            if type(value) in (tuple, list) and (name := self._used(value)):
                return name
        return ""

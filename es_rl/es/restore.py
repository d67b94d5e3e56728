"""Check that saved tensors are the state of a policy, its optimiser and its training: they may be a stranger's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from es_rl.errors import CheckpointError
from es_rl.es.config import OptimConfig
from es_rl.es.optim import entries
from es_rl.es.strategy import ESState

Named = Mapping[str, Tensor]
# How tensors of the library are called that hold numbers of things, and sums or means of squares.
OURS = ("normalizer.", "scale/", "simulations/", "critic_optim/", "explore/")
COUNTS, SQUARES = ("count", "lengths", "step"), ("m2", "variance", "exp_avg_sq")
LARGEST_COUNT = 2**53  # from here on, float64 does not count


def restored(saved: ESState, fresh: ESState, optim: OptimConfig | None, source: str) -> ESState:
    """Return the saved state, whose `theta` holds the buffers too, in the form of `fresh`.

    The optimiser is not checked if `optim` is None. Raises `CheckpointError`; `source` says where the state is from.
    """
    check_fit(source, saved.theta, fresh.theta | fresh.buffers, "policy")
    _check_numbers(source, saved.theta, fresh.theta | fresh.buffers)
    if optim is not None:
        _check_optim(source, saved.optim, fresh.theta, entries(optim))
    if fresh.extra:
        check_fit(source, saved.extra, fresh.extra, "settings of the run")
        _check_numbers(source, saved.extra, fresh.extra)
    theta, buffers = ({name: saved.theta[name] for name in part} for part in (fresh.theta, fresh.buffers))
    return replace(saved, theta=theta, buffers=buffers, extra=saved.extra if fresh.extra else {})


def check_fit(source: str, found: Named, expected: Named, what: str) -> None:
    """Raise `CheckpointError` if names, shapes or types of saved tensors differ from those expected."""
    one, two = ({name: (t.shape, t.dtype) for name, t in named.items()} for named in (expected, found))
    if one != two:
        differing = sorted({name for name, _ in set(one.items()) ^ set(two.items())})
        raise CheckpointError(f"{source}: does not fit the {what}; differing: {', '.join(differing)}.")


def _check_numbers(source: str, found: Named, fresh: Named) -> None:
    for name, value in fresh.items():
        if bool(value.isfinite().all()) and not bool(found[name].isfinite().all()):
            raise CheckpointError(f"{source}: {name} holds numbers that are not finite.")
        kind = re.split(r"[./]", name)[-1]
        largest = LARGEST_COUNT if kind in COUNTS else math.inf
        bounded = name.startswith(OURS) and kind in (*COUNTS, *SQUARES)
        if bounded and not bool(((found[name] >= 0) & (found[name] <= largest)).all()):
            raise CheckpointError(f"{source}: {name} holds numbers that it cannot have, such as negative ones.")


def _check_optim(source: str, saved: Named, theta: Named, known: Named) -> None:
    """Check that each parameter has all entries of the optimiser, or none: parameters may be frozen."""
    moving = {full_name.rpartition("/")[0] for full_name in saved}
    expected = {f"{name}/{entry}" for name in moving for entry in known}
    if odd := sorted(moving - {*theta}) or sorted(expected ^ {*saved}):
        raise CheckpointError(f"{source}: is not of this policy's optimiser; differing: {', '.join(odd[:5])}.")
    for full_name, value in saved.items():
        name, _, entry = full_name.rpartition("/")
        shape = () if known[entry].ndim == 0 else theta[name].shape
        lowest = 0.0 if entry in ("step", "exp_avg_sq") else -math.inf
        if value.shape != shape or value.dtype != known[entry].dtype:
            raise CheckpointError(f"{source}: {full_name} has another shape or type than the optimiser's.")
        if not bool((value.isfinite() & (value >= lowest)).all()):
            raise CheckpointError(f"{source}: {full_name} holds numbers that an optimiser cannot have.")

"""Numbers of the records of runs: curves against an axis, and the bands of runs that differ only in their seed. Pure.

Shapes: K runs of a group, T records of a run, or points of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.errors import ConfigError, lookup

Array = NDArray[np.float64]
Record = Mapping[str, Any]

GRID = 200  # points at which a band is drawn
MANY = 5  # runs from which on a band is the middle half, and not from the lowest to the highest
HUGE = 1e100  # a number beyond this is none: an axis could not hold it
SIGMA = "sigma"
STEPS = {"env_steps": "environment steps", "tokens": "tokens"}  # metrics that count the steps of a run → text
# Axes besides these: name → text, and the values (T,) of a run.
TIMES: dict[str, tuple[str, Callable[[RunRecords], Array]]] = {
    "generation": ("generation", lambda run: run.values("generation")),
    "minutes": ("minutes of training", lambda run: run.values("seconds") / 60),
    "processor_hours": (
        "processor hours of training",
        lambda run: _sums(run.values("time/processor_seconds")) / 3600,
    ),
}
AUTO = "steps"  # the axis of what a run counts
AXES = (AUTO, *STEPS, *TIMES)


@dataclass(frozen=True, eq=False)
class RunRecords:
    """The records of one run, in the order of their generations, and what is known of it."""

    name: str
    records: Sequence[Record]
    config: Mapping[str, Any] = field(default_factory=dict)  # by dotted names
    command: str = ""
    path: Path | None = None  # its directory

    @cached_property
    def tags(self) -> list[str]:
        """The names of all numbers in the records, in the order in which they appear."""
        found: dict[str, None] = {}
        for record in self.records:
            found |= dict.fromkeys(tag for tag, v in record.items() if math.isfinite(plain_number(v)))
        return list(found) + ([SIGMA] if SIGMA not in found and np.isfinite(self._sigma()).any() else [])

    @cached_property
    def steps(self) -> str:
        """The metric that counts the steps of this run; the generation if nothing does."""
        return next((name for name in STEPS if name in self.tags), "generation")

    def values(self, tag: str) -> Array:
        """Return a metric (T,); NaN where a record lacks it."""
        if tag == SIGMA and not any(SIGMA in record for record in self.records):
            return self._sigma()
        return np.array([plain_number(record.get(tag)) for record in self.records], np.float64)

    def last(self, tag: str) -> float:
        """Return the last value of a metric; NaN if there is none."""
        found = self.values(tag)
        found = found[np.isfinite(found)]
        return float(found[-1]) if len(found) else math.nan

    def axis(self, name: str) -> Array:
        """Return the values (T,) of an axis. Raises `ConfigError` if the run has none."""
        found = self.values(name) if name in STEPS else lookup(TIMES, name, "x")[1](self)
        if not np.isfinite(found).any():
            others = ", ".join(other for other in (self.steps, "generation") if other != name)
            raise ConfigError(f"x={name}: {self.name} has not recorded it. Give another one, such as x={others}.")
        return found

    def curve(self, tag: str, axis: str) -> tuple[Array, Array]:
        """Return those points (x, y) of a metric that have both, with rising x."""
        x, y = self.axis(axis), self.values(tag)
        known = np.isfinite(x) & np.isfinite(y)
        order = np.argsort(x[known], kind="stable")
        return x[known][order], y[known][order]

    def _sigma(self) -> Array:
        """Return sigma of each generation by the run's keys (T,); NaN if they tell none."""
        told = [plain_number(self.config.get(name)) for name in ("es.sigma", "es.sigma_decay")]
        if self.config.get("baseline"):  # trained by backpropagation
            return np.full(len(self.records), np.nan)
        decay = told[1] if math.isfinite(told[1]) else 1.0
        with np.errstate(all="ignore"):
            # A generation counts once it is over: its members were perturbed when one less had been.
            done = self.values("generation") - 1
            return np.where(done >= 0, told[0] * decay**done, np.nan)  # generation 0 had no members


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed."""

    label: str
    runs: Sequence[RunRecords]


@dataclass(frozen=True, eq=False)
class Band:
    """The median of several curves on a grid (T,), and the ends of their band."""

    x: Array
    median: Array
    low: Array
    high: Array


def _sums(values: Array) -> Array:
    """Return running sums (T,), in which unknown values count as zero; NaN if all are unknown."""
    return np.where(np.isfinite(values).any(), np.nancumsum(values), np.nan)


def in_order(records: Iterable[Record]) -> list[Record]:
    """Return records in the order of their generations; of two of one generation the later one counts."""
    known = {generation: r for r in records if math.isfinite(generation := plain_number(r.get("generation")))}
    return [known[generation] for generation in sorted(known)]


def plain_number(value: Any) -> float:
    """Return a number as float, and NaN for all else: None, a text, a truth value, infinity."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return math.nan
    try:
        found = float(value)
    except OverflowError:  # an int may have any number of digits
        return math.nan
    return found if abs(found) <= HUGE else math.nan


def common_axis(runs: Sequence[RunRecords], name: str) -> str:
    """Return the axis `name` of runs; for `steps` the metric that they all count. Raises `ConfigError`."""
    if name not in AXES:
        lookup(dict.fromkeys(AXES), name, "x")
    counted = list(dict.fromkeys(run.steps for run in runs))
    if name == AUTO and len(counted) > 1:
        raise ConfigError(f"x={AUTO}: the runs count {' and '.join(counted)}. Give x=minutes or x=generation.")
    return counted[0] if name == AUTO else name


def axis_text(name: str) -> str:
    """Return what an axis counts, as text."""
    return STEPS[name] if name in STEPS else TIMES[name][0]


def band(curves: Sequence[tuple[Array, Array]]) -> Band | None:
    """Return the median and band of curves (x, y) where all have values; None if that is nowhere, or for one curve.

    The band reaches from the lowest to the highest curve; of `MANY` or more it holds the middle half.
    """
    if len(curves) < 2 or not all(len(x) for x, _ in curves):
        return None
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if start > end:
        return None
    first = curves[0][0]
    same = all(np.array_equal(first, x) for x, _ in curves)
    grid = first if same else np.linspace(start, end, GRID if start < end else 1)
    values = at(grid, curves)  # (K, T)
    ends = (25, 75) if len(curves) >= MANY else (0, 100)
    low, high = np.percentile(values, ends, axis=0)
    return Band(grid, np.median(values, axis=0), low, high)


def at(grid: Array, curves: Sequence[tuple[Array, Array]]) -> Array:
    """Interpolate curves (x, y) linearly on one grid (T,) and return (K, T); NaN outside a curve."""
    return np.stack([np.interp(grid, x, y, left=np.nan, right=np.nan) for x, y in curves])

"""Summarise the runs of a comparison: returns, resources, times to fixed returns, and who wins. Pure functions.

`Results` is the content of `results.json`. Fields that an older file lacks count as unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from es_rl.compare.report.statistics import (
    MIN_SEEDS,
    Array,
    first_reached,
    interval,
    iqm,
    median_interval,
    probability_of_improvement,
    round_levels,
)
from es_rl.run.screen import number

Results = Mapping[str, Any]
OURS = "es"
RANDOM = "random"
DISTURBED = 0.1  # mark a training if other programs took more than this share of processor time
# Short names of the contenders in figures, tables and sentences.
LABELS = {
    OURS: "es_rl",
    "ppo_fast": "PPO, fast envs",
    "ppo": "PPO, RL-Zoo",
    "sac": "SAC, SB3",
    "ars": "ARS, sb3-contrib",
    "evotorch": "PGPE, EvoTorch",
    RANDOM: "random",
}
FAST = (OURS, "ppo_fast")  # contenders that train on es_rl's own environments
# Costs of a training: name → what it counts, and the cost at a point of the curve.
COSTS: dict[str, tuple[str, Callable[[Results], float]]] = {
    "wall-clock": ("minutes of training", lambda point: point.get("seconds", np.nan) / 60),
    "cpu-hours": ("processor hours of training", lambda point: point.get("cpu_seconds", np.nan) / 3600),
    "env-steps": ("environment steps, millions", lambda point: point.get("env_steps", np.nan) / 1e6),
}
SPANS = 20  # equal parts of a training; only the last evaluation of each counts for the time to a return
RESOURCES = ("environments", "processes", "threads")


def label(results: Results, name: str) -> str:
    """Return the short name of a contender; the name in the results if `LABELS` has none."""
    return LABELS.get(name) or str(results["labels"].get(name, name))


def runs(results: Results, name: str = "") -> Iterator[Any]:
    """Yield the trainings of one contender, or of all."""
    return (run for run in results["runs"] if not name or run["name"] == name)


def finished(results: Results, name: str) -> list[Any]:
    """Return the trainings of a contender that have a return."""
    return [run for run in runs(results, name) if "return_mean" in run]


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return for each contender: returns by seed, median, IQM and its interval, costs, resources and failures."""
    return {name: _row(list(runs(results, name)), finished(results, name)) for name in _order(results)}


def _order(results: Results) -> list[str]:
    """Return the contenders in the order of `LABELS`; unknown ones come last."""
    known = list(LABELS)
    return sorted(results["labels"], key=lambda name: known.index(name) if name in known else len(known))


def _row(every: list[Any], done: list[Any]) -> dict[str, Any]:
    returns = np.array([run["return_mean"] for run in done], np.float64)
    low, high = interval(returns)
    means = {key: _mean([run.get(key) for run in done]) for key in ("env_steps", "seconds", "cpu_seconds")}
    others = [run["others"] for run in done if run.get("others") is not None]
    return means | {
        "returns": returns,
        "median": float(np.median(returns)) if done else np.nan,
        "iqm": float(iqm(returns)) if len(done) >= MIN_SEEDS else np.nan,
        "interval": (float(low), float(high)),
        "failed": [run["failed"] for run in every if "failed" in run],
        "missing": sum("failed" not in run and "return_mean" not in run for run in every),
        "others": max(others) if others else np.nan,
        # The random policy has no training that could be disturbed.
        "disturbed": [run["seed"] for run in done if (run.get("others") or 0.0) > DISTURBED and run.get("seconds")],
        "repeated": sum(bool(run.get("repeated")) for run in done),
        "resources": {name: _distinct(every, name) for name in RESOURCES},
        "notes": _distinct(every, "note"),
    }


def _mean(values: Sequence[float | None]) -> float:
    """Return the mean; NaN if a value is unknown or there are none."""
    return float(np.mean([np.nan if value is None else value for value in values])) if values else np.nan


def _distinct(every: Sequence[Any], name: str) -> list[Any]:
    """Return the distinct values of one resource over the trainings of a contender."""
    said = [(run.get("resources") or {}).get(name) for run in every]
    return list(dict.fromkeys(value for value in said if value is not None))


def curve(run: Results, cost: Callable[[Results], float]) -> tuple[Array, Array]:
    """Return cost (T,) and return (T,) of those evaluations of a training that have both."""
    points = [(cost(point), point["return"]) for point in run.get("curve") or () if point["return"] is not None]
    x, y = np.array([point for point in points if np.isfinite(point).all()], np.float64).reshape(-1, 2).T
    return x, y


def thinned(run: Results) -> Results:
    """Return a training with the first point of its curve, and the last one of each of `SPANS` equal spans."""
    points, total = run.get("curve") or (), run.get("seconds")
    if not total:
        return run
    last = {int(np.ceil(SPANS * point["seconds"] / total)): point for point in points[1:]}
    return {**run, "curve": [*points[:1], *last.values()]}


def levels(results: Results) -> list[float]:
    """Return three round returns between the random policy's median and the best median.

    If the random policy was not run, the lowest first evaluation of any training takes its place.
    """
    found = summary(results)
    medians = [row["median"] for row in found.values() if np.isfinite(row["median"])]
    curves = [curve(run, COSTS["wall-clock"][1])[1] for run in runs(results)]
    first = [float(y[0]) for y in curves if len(y)]
    low = found[RANDOM]["median"] if RANDOM in found else np.nan
    if not np.isfinite(low):
        low = min(first, default=np.nan)
    return round_levels(low, max(medians, default=np.nan))


def times(results: Results, name: str, level: float, cost: Callable[[Results], float]) -> Array:
    """Return what each finished training of a contender (K,) had cost when its curve first reached a level.

    Curves are thinned to the same number of points, so that more frequent evaluation is no advantage.
    """
    curves = [curve(thinned(run), cost) for run in finished(results, name)]
    return np.array([first_reached(level, x, y) for x, y in curves if len(x)], np.float64)


def time_text(reached: Array) -> str:
    """Return the median with its interval, and how many of the seeds reached the level, as text."""
    count = int(np.isfinite(reached).sum())
    if not count:
        return "not reached" if len(reached) else "–"
    seeds, median = f"{count} of {len(reached)}", float(np.median(reached))
    if not np.isfinite(median):
        return f"{_short(float(reached.min()))} at the earliest ({seeds})"
    low, high = median_interval(reached)
    ends = f" [{_short(low)}, {_short(high) if np.isfinite(high) else 'never'}]" if np.isfinite(low) else ""
    return f"{_short(median)}{ends} ({seeds})"


def _short(value: float) -> str:
    """Return a cost as text, with fewer decimals the larger it is."""
    decimals = next((d for d, limit in ((3, 1), (2, 10), (1, 100)) if value < limit), 0)
    return f"{value:,.{decimals}f}"


def beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[int, bool]:
    """Return the sign of the difference of two medians, and whether the difference is clear.

    It is clear if the intervals of the IQMs do not overlap and that of the probability of improvement excludes 0.5.
    """
    sign = int(np.sign(one["median"] - other["median"]))
    _, low, high = probability_of_improvement(one["returns"], other["returns"])
    (a, b), (c, d) = one["interval"], other["interval"]
    return sign, bool((sign > 0 and d < a and low > 0.5) or (sign < 0 and b < c and high < 0.5))  # NaN is never clear


def better(results: Results, name: str) -> tuple[float, float, float]:
    """Return the probability that es_rl is better than a contender, with its interval; NaN if it is unknown."""
    found = summary(results)
    if name == OURS or OURS not in found:
        return np.nan, np.nan, np.nan
    return probability_of_improvement(found[OURS]["returns"], found[name]["returns"])


def headline(results: Results) -> str:
    """Say which contender wins, and against which ones es_rl wins and loses, by medians."""
    found = {name: row for name, row in summary(results).items() if len(row["returns"])}
    lost = [label(results, name) for name in results["labels"] if name not in found]
    said = [_winner(results, found)] if len(found) > 1 else []
    if OURS in found:
        said += _verdicts(results, found)
    said += [
        f"{label(results, name)} is judged by the {len(row['returns'])} trainings that did not fail, of "
        f"{len(row['returns']) + len(row['failed'])}."
        for name, row in found.items()
        if row["failed"]
    ]
    counts = [len(row["returns"]) for row in found.values()]
    if counts and min(counts) < MIN_SEEDS:
        said.append(f"Fewer than {MIN_SEEDS} seeds (n = {min(counts)}) make nothing clear.")
    if lost:
        said.append(f"No return of: {', '.join(lost)}.")
    return " ".join(said)


def _winner(results: Results, found: Mapping[str, Any]) -> str:
    first, second = sorted(found, key=lambda name: -found[name]["median"])[:2]
    sign, clear = beats(found[first], found[second])
    names = [f"{label(results, name)} (median {number(found[name]['median'])})" for name in (first, second)]
    if not sign:
        return f"{names[0]} and {names[1]} are level."
    return f"{names[0]} wins, {'' if clear else 'not clearly, '}ahead of {names[1]}."


def _verdicts(results: Results, found: Mapping[str, Any]) -> list[str]:
    """Say which contenders es_rl loses to, beats and is level with, in this order."""
    verbs = {-1: "loses to", 1: "beats", 0: "is level with"}
    groups: dict[str, list[str]] = {verb: [] for verb in verbs.values()}
    for name, row in found.items():
        if name != OURS:
            sign, clear = beats(found[OURS], row)
            text = label(results, name) + ("" if clear or not sign else " (not clearly)")
            groups[verbs[sign]].append(text)
    return [f"es_rl {verb} {joined(names)}." for verb, names in groups.items() if names]


def joined(names: Sequence[str]) -> str:
    """Join names for a sentence."""
    # Not with commas: labels contain commas.
    return "; ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]

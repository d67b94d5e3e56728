"""Make the measured parts of docs/when.md from the results of `benchmarks/when.py`. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from when_cases import CASES, OURS, PPO, RECURRENT, ROUNDED, Case

Result = Mapping[str, Any]
Row = tuple[str, list[float], list[float], str]  # the change in words, our returns, PPO's returns, the cases to run
BEGIN, END = "<!-- {}: made by benchmarks/when.py -->", "<!-- /{} -->"  # markers around a part of the page
NOTHING = "Not measured yet."
ENOUGH = 3  # with fewer seeds of either side, nobody is called ahead
LABELS = {PPO: "PPO", RECURRENT: "RecurrentPPO"}


def between(page: str, part: str, text: str) -> str:
    """Put the text between the markers of a part of the page. Raises ValueError unless each is there once."""
    begin, end = BEGIN.format(part), END.format(part)
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"{begin} and {end} must each be on the page once")
    return f"{page.split(begin)[0]}{begin}\n{text}\n{end}{page.split(end)[1]}"


def rows(results: Sequence[Result]) -> list[Row]:
    """Return all comparisons for which both sides are measured, in the order of the cases."""
    found: list[Row] = []
    for case in CASES.values():
        ours = returns(results, case.name, OURS)
        if case.name in ROUNDED:
            theirs = returns(results, "plain", PPO, case.name)
            after = returns(results, "plain", OURS, case.name)
            found.append((f"{case.what}: es_rl trained with them", ours, theirs, f"plain,{case.name}"))
            found.append((f"{case.what}: both rounded after training", after, theirs, "plain"))
        else:
            found.append((case.what, ours, returns(results, case.name, case.against), case.name))
    return [row for row in found if row[1] and row[2]]


def returns(results: Sequence[Result], case: str, name: str, key: str = "return_mean") -> list[float]:
    """Return the value of `key` for each seed of a contender, in the order of seeds."""
    mine = [r for r in results if r["case"] == case and r["name"] == name and key in r]
    return [r[key] for r in sorted(mine, key=lambda r: int(r["seed"]))]


def ahead(row: Row, results: Sequence[Result]) -> str:
    """Return who is ahead: the side with every seed above every seed of the other.

    The returns decide. If all seeds have solved a task that can be solved, less processor time decides.
    """
    _, ours, theirs, name = row
    case = CASES.get(name)
    if case is not None and case.solved is not None and min(*ours, *theirs) >= case.solved:
        times = (returns(results, name, who, "cpu_seconds") for who in (OURS, case.against))
        ours, theirs = ([-seconds for seconds in side] for side in times)
    if min(len(ours), len(theirs)) < ENOUGH:
        return "too few seeds"
    if min(ours) > max(theirs):
        return OURS
    return "PPO" if min(theirs) > max(ours) else "neither"


def table(results: Sequence[Result]) -> str:
    """Return the table of all comparisons: medians, each seed, processor minutes, who is ahead, and the command."""
    found = rows(results)
    if not found:
        return NOTHING
    lines = ["| HalfCheetah-v4, or the memory task, with | es_rl | PPO | ahead | command |", "|---|---|---|---|---|"]
    for row in found:
        what, ours, theirs, case = row
        label = LABELS[CASES[case.rpartition(",")[2]].against]
        cells = [_cell(ours, _minutes(results, case, OURS)), _cell(theirs, _minutes(results, case, ""))]
        if label != "PPO":
            cells[1] = f"{label}: {cells[1]}"
        command = f"`python benchmarks/when.py run cases=[{case}]`"
        lines.append(f"| {what} | {' | '.join(cells)} | {ahead(row, results)} | {command} |")
    return "\n".join(lines)


def _cell(values: Sequence[float], minutes: float | None) -> str:
    """Return the median and each seed; also the median minutes, if the task may be solved early."""
    each = ", ".join(_number(value) for value in values)
    took = "" if minutes is None else f", after {minutes:.1f} min"
    return f"{_number(median(values))} ({each}){took}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2f}"


def _minutes(results: Sequence[Result], name: str, contender: str) -> float | None:
    """Return the median processor minutes if the case ends when its task is solved; otherwise None."""
    case = CASES.get(name)
    if case is None or case.solved is None:
        return None
    return median(returns(results, name, contender or case.against, "cpu_seconds")) / 60


def advice(results: Sequence[Result]) -> str:
    """Return advice for readers: who was ahead on which cases, and which share of the plain return each case leaves."""
    found = rows(results)
    if not found:
        return NOTHING
    by = {who: [row[0] for row in found if ahead(row, results) == who] for who in (OURS, "PPO", "neither")}
    few = len(found) - sum(map(len, by.values()))
    lines = [
        f"- **Take PPO** where it was ahead, {_count(by['PPO'])}: {_list(by['PPO'])}.",
        f"- **Take es_rl** where it was ahead, {_count(by[OURS])}: {_list(by[OURS])}.",
        f"- **Try both** where the results of the two contenders overlap, {_count(by['neither'])}: "
        f"{_list(by['neither'])}.",
    ]
    if few:
        lines.append(f"- Nothing is said of {_count([''] * few)} with fewer than {ENOUGH} seeds of each.")
    if kept := _kept(found):
        lines.append(f"- **What a change costs.** The share of its plain return that each keeps, by medians: {kept}.")
    return "\n".join(lines)


def _kept(found: Sequence[Row]) -> str:
    """Return the share of its plain return that each side keeps, by case; empty if a plain return is not above 0."""
    plain = next((row for row in found if row[3] == "plain" and row[0] == CASES["plain"].what), None)
    if plain is None or median(plain[1]) <= 0 or median(plain[2]) <= 0:
        return ""
    others = [row for row in found if row is not plain and CASES[row[3].rpartition(",")[2]].solved is None]
    return "; ".join(
        f"{what}, es_rl {median(ours) / median(plain[1]):.0%} and PPO {median(theirs) / median(plain[2]):.0%}"
        for what, ours, theirs, _ in others
    )


def _count(items: Sequence[str]) -> str:
    return f"{len(items)} comparison{'' if len(items) == 1 else 's'}"


def _list(items: Sequence[str]) -> str:
    return "; ".join(items) or "none"


def measured(results: Sequence[Result]) -> str:
    """Return when and on which machine the results were measured, and what is missing."""
    if not results:
        return NOTHING
    last = max(results, key=lambda r: str(r["date"]))
    minutes = sorted({float(r["minutes"]) for r in results})
    seeds = sorted({int(r["seed"]) for r in results})
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items() if name in SHOWN)
    lines = [
        f"Seeds {', '.join(map(str, seeds))}; {' or '.join(f'{m:g}' for m in minutes)} processor minutes for each "
        f"training, on one core of {last['machine']['processor']}; {last['date']}; {versions}."
    ]
    if missing := _missing(results):
        lines.append(f"Not measured yet: {', '.join(missing)}.")
    return " ".join(lines)


SHOWN = ("mujoco", "torch", "stable-baselines3", "sb3-contrib")


def _missing(results: Sequence[Result]) -> list[str]:
    done = {(r["case"], r["name"]) for r in results}
    each: list[tuple[Case, str]] = [(case, name) for case in CASES.values() for name in case.contenders]
    return [f"{case.name} of {name}" for case, name in each if (case.name, name) not in done]

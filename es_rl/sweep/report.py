"""The report of a sweep: the best keys as YAML, a table of trials, the history, and the importance of keys."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from es_rl.run.atomic import replace_file
from es_rl.sweep.study import Sweep
from es_rl.sweep.trial import RUNGS, Plan

COLOR, QUIET = "#0b6e99", "#8d96a3"
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
FIGURES = ("history", "importance")
ENOUGH = 4  # complete trials needed to estimate the importance of keys


def write(out: Path, sweep: Sweep, plan: Plan, command: str) -> None:
    """Write `best.yaml`, `trials.csv` and `report.md`."""
    trials = [trial for trial in sweep.trials if "keys" in trial.user_attrs]
    trials.sort(key=_rank)
    best = sweep.best()
    if best is not None:
        found = plan.contender.best({**plan.fixed, **best.user_attrs["keys"]})
        text = f"# trial {best.number} of: {command}\n" + OmegaConf.to_yaml(OmegaConf.create(_nested(found)))
        _replace(out / "best.yaml", text)
    _replace(out / "trials.csv", _csv(trials, sweep, plan))
    figures = [f"![{name}]({name}.svg)" for name in FIGURES if (out / f"{name}.svg").exists()]
    _replace(out / "report.md", "\n\n".join([_markdown(trials, sweep, plan, command), *figures]).rstrip() + "\n")


def figures(out: Path, sweep: Sweep) -> None:
    """Draw `history` and `importance` as SVG and PNG, if there is anything to show."""
    complete = [trial for trial in sweep.trials if trial.state == TrialState.COMPLETE]
    if complete:
        _save(out / "history", _history(complete))
    if shares := importance(sweep):
        _save(out / "importance", _bars(shares))


def importance(sweep: Sweep) -> dict[str, float]:
    """Estimate the importance of keys (PED-ANOVA, Watanabe et al. 2023); empty for one key or too few trials."""
    copy = optuna.create_study(direction="maximize")
    names = list(sweep.space)
    for trial in sweep.trials:
        if trial.state == TrialState.COMPLETE and all(name in trial.params for name in names):
            copy.add_trial(trial)
    if len(copy.trials) < ENOUGH or len(names) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        shares: dict[str, float] = optuna.importance.get_param_importances(copy, evaluator=evaluator)
    return shares


def _rank(trial: FrozenTrial) -> tuple[int, float, int]:
    """Return the sort key of a trial: complete ones first, best first; then those that came farthest."""
    if trial.state == TrialState.COMPLETE:
        return 0, -float(trial.value or 0.0), trial.number
    return 1, -float(max(trial.intermediate_values, default=-1)), trial.number


def _cells(trial: FrozenTrial, plan: Plan) -> dict[str, str]:
    """Return the cells of a trial in the tables, without its keys."""
    about, complete = trial.user_attrs, trial.state == TrialState.COMPLETE
    values = about.get("values", [])
    found = {"trial": str(trial.number), "state": STATES[trial.state]}
    found["score"] = _number(trial.value) if complete else ""
    for i, seed in enumerate(plan.seeds):
        found[f"seed {seed}"] = _number(values[i]) if i < len(values) else ""
    found["seconds"] = f"{about['seconds']:.0f}" if "seconds" in about else ""
    return found | {"reason": about.get("reason", "")}


def _csv(trials: list[FrozenTrial], sweep: Sweep, plan: Plan) -> str:
    names = list(sweep.space)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for i, trial in enumerate(trials):
        cells = _cells(trial, plan)
        if i == 0:
            writer.writerow([*cells, *names])
        writer.writerow([*cells.values(), *(trial.user_attrs["keys"].get(name, "") for name in names)])
    return text.getvalue()


def _markdown(trials: list[FrozenTrial], sweep: Sweep, plan: Plan, command: str) -> str:
    settings: dict[str, Any] = sweep.study.user_attrs["settings"]
    best, seeds = sweep.best(), ", ".join(str(seed) for seed in plan.seeds)
    rungs = ", ".join(f"{rung:g}" for rung in RUNGS)
    found = "No trial is complete yet."
    if best is not None:
        found = f"The best one is trial {best.number} with {_number(best.value)}: {_keys(best)}."
    lines = [
        f"# Sweep of {settings['']['contender']} on {settings['']['env']}", "",
        f"```\n{command}\n```", "",
        found, "",
        f"The score is the mean of the evaluations in the last fifth of {plan.env_steps:,} environment steps,",
        f"and the median over the seeds {seeds}. A trial is stopped after {rungs} of the",
        "steps of a seed if it is below the median of the other trials there. The trial with the default settings is",
        "never stopped.", "",
    ]  # fmt: skip
    heads = ["trial", "state", "score", *(f"seed {seed}" for seed in plan.seeds), "seconds", "settings", "reason"]
    lines += [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for trial in trials:
        cells = _cells(trial, plan) | {"settings": _keys(trial)}
        lines.append("| " + " | ".join(cells[head].replace("|", "/") for head in heads) + " |")
    return "\n".join(lines)


def _keys(trial: FrozenTrial) -> str:
    """Return a trial's keys as command-line arguments, in Markdown."""
    keys = " ".join(f"{k}={v}" for k, v in trial.user_attrs["keys"].items())
    return f"`{keys}`" if keys else "the default settings"


def _nested(keys: dict[str, Any]) -> dict[str, Any]:
    """Turn dotted names into groups."""
    tree: dict[str, Any] = {}
    for name, value in keys.items():
        *groups, last = name.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return tree


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _history(complete: list[FrozenTrial]) -> Any:
    """Draw the value of every complete trial, and the best so far."""
    figure, axes = _canvas(3.6)
    numbers = [trial.number for trial in complete]
    values = np.array([trial.value for trial in complete], np.float64)
    axes.plot(numbers, values, "o", color=QUIET, ms=4, label="complete trials")
    axes.step(numbers, np.maximum.accumulate(values), where="post", color=COLOR, label="the best so far")
    axes.set(xlabel="trial", ylabel="score")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _bars(shares: dict[str, float]) -> Any:
    """Draw a bar for each key, the most important on top."""
    figure, axes = _canvas(0.9 + 0.35 * len(shares))
    names = list(shares)[::-1]
    axes.barh(names, [shares[name] for name in names], color=COLOR)
    axes.set(xlabel="importance")
    return figure


def _canvas(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # pyplot would look for a window system

    figure = Figure(figsize=(6, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _save(path: Path, figure: Any) -> None:
    figure.savefig(path.with_suffix(".png"), dpi=130)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def _replace(path: Path, text: str) -> None:
    replace_file(path, text.encode())

"""The numbers of a comparison as CSV: every evaluation, every training, and the summary of each contender."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from es_rl.compare.report.summary import RESOURCES, Results, better, label, runs, summary

CURVE = ("seconds", "cpu_seconds", "env_steps", "return")
OUTCOME = ("return_mean", "return_std", "length_mean", "env_steps", "seconds", "cpu_seconds", "others", "repeated")


def tables(results: Results) -> dict[str, str]:
    """Return the CSV files by name: every evaluation, every training, and the summary of each contender."""
    points = [
        (run["name"], run["seed"], *(point.get(key) for key in CURVE))
        for run in runs(results)
        for point in run.get("curve") or ()
    ]
    outcomes = []
    for run in runs(results):
        resources = run.get("resources") or {}
        had = (resources.get(key) for key in RESOURCES)
        outcomes.append((run["name"], run["seed"], *(run.get(key) for key in OUTCOME), *had, run.get("failed")))
    rows = [
        (name, label(results, name), len(row["returns"]), row["median"], row["iqm"], *row["interval"],
         *better(results, name), row["env_steps"], row["seconds"], row["cpu_seconds"])
        for name, row in summary(results).items()
    ]  # fmt: skip
    chances = ("es_rl_better", "es_rl_better_low", "es_rl_better_high")
    means = ("env_steps", "seconds", "cpu_seconds")
    return {
        "curves.csv": csv_text(("contender", "seed", *CURVE), points),
        "returns.csv": csv_text(("contender", "seed", *OUTCOME, *RESOURCES, "failed"), outcomes),
        "summary.csv": csv_text(
            ("contender", "label", "seeds", "median", "iqm", "iqm_low", "iqm_high", *chances, *means), rows
        ),
    }


def csv_text(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return CSV; unknown values are empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(["" if value is None or value != value else value for value in row] for row in rows)
    return text.getvalue()

"""Find runs, read them, and put those that differ only in their seed into groups.

A run may come from a stranger: every text in it is made plain before it is drawn.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from es_rl.config import expanded
from es_rl.errors import CheckpointError, printable
from es_rl.plot.config import exists
from es_rl.plot.curves import Group, RunRecords, in_order
from es_rl.run import CONFIG, METRICS, atomic, json_lines
from es_rl.run.directory import around, check_run, command_of, find, runs_in, saved_config

SHOWN = 3  # differing keys in a label
WIDE = 60  # characters of a text in a figure
# Keys that do not tell how a run trains: which one it is, how long it goes on, how it is spread and watched.
ASIDE = (
    "seed", "run", "generations", "env_steps", "tokens", "minutes", "workers", "hang_after", "reward_seconds", "track",
    "es.max_failed",
)  # fmt: skip
ASIDE_GROUPS = ("target_", "eval.", "video.", "checkpoint.", "cluster.")
OPEN = "env_kwargs."  # of these keys, one that is missing was not given
SUBJECTS = ("env", "corpus", "model")  # keys that tell what is trained on, or what


@dataclass(frozen=True)
class NoKeys:
    """Keys of a run of any kind: `config.yaml` is read as it is."""


def gather(given: Sequence[str]) -> tuple[list[RunRecords], list[str]]:
    """Read the runs that paths, patterns and folders of runs name, each once.

    Return them, and why others in the folders are left out. Raises `CheckpointError` for a run that is itself named.
    """
    found: dict[Path, RunRecords] = {}
    left_out: list[str] = []
    for text in given:
        for path in _matches(text):
            for run in _runs(path):
                try:
                    found.setdefault(run.resolve(), read(run))
                except CheckpointError as error:
                    if run == path:
                        raise
                    left_out.append(str(error))
    if not found:
        raise CheckpointError(left_out[0])
    return list(found.values()), left_out


def read(path: Path) -> RunRecords:
    """Return the records and keys of a run. Raises `CheckpointError` if it has none."""
    check_run(path)
    file = path / METRICS
    if not file.exists():
        raise CheckpointError(f"{path}: has no {METRICS}: no generation has ended yet. Give another run, or wait.")
    with atomic.reading(file):
        records = in_order(json_lines.read(file))
    if not records:
        raise CheckpointError(f"{file}: holds no record of a generation. Give another run, or wait.")
    return RunRecords(printable(path), records, saved_config(path, NoKeys), command_of(path), path)


def grouped(runs: Sequence[RunRecords]) -> list[Group]:
    """Put runs that differ only in their seed into one group, named by the keys in which groups differ."""
    keys = differing(runs)
    found: dict[tuple[str, ...], list[RunRecords]] = {}
    for run in runs:
        found.setdefault(tuple(value_text(run.config, key) for key in keys), []).append(run)
    labels = _labels(list(found), keys)
    return [Group(label, members) for label, members in zip(labels, found.values(), strict=True)]


def differing(runs: Sequence[RunRecords]) -> list[str]:
    """Return the keys in which runs differ, besides those that do not tell how a run trains.

    A key that a run lacks because an older version wrote it does not tell it from others.
    """
    found = []
    for key in dict.fromkeys(key for run in runs for key in run.config):
        known = [run for run in runs if key in run.config or key.startswith(OPEN)]
        if len({value_text(run.config, key) for run in known}) > 1 and not aside(key):
            found.append(key)
    return found


def subject(runs: Sequence[RunRecords]) -> str:
    """Return what runs train on: their environment, corpus or model; "" if they tell none."""
    names = (next((run.config[key] for key in SUBJECTS if run.config.get(key)), "") for run in runs)
    return ", ".join(dict.fromkeys(printable(name) for name in names if name))


def value_text(config: Mapping[str, Any], key: str) -> str:
    """Return the value of a key as on the command line; – if there is none."""
    if key not in config:
        return "–"
    value = config[key]
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def short(text: str) -> str:
    """Cut a text to the width of a figure."""
    return text if len(text) <= WIDE else f"{text[: WIDE - 1]}…"


def _matches(text: str) -> list[Path]:
    """Return the path that a text is, or those that match it as a pattern, which a shell does not expand after `=`."""
    path = find(text, "run", "")[0] if text == "last" else expanded(text, "run")
    if inner := around(path):
        return [inner[0]]
    found = [path] if exists(path) else [Path(name) for name in sorted(glob.glob(str(path)))]  # noqa: PTH207
    if not found:
        raise CheckpointError(f"{text}: no such run directory.")
    return found


def _runs(path: Path) -> list[Path]:
    """Return a run itself, or the runs in a folder. Raises `CheckpointError` if there are none."""
    found = [path] if (path / CONFIG).is_file() else sorted(runs_in(path))
    if not found:
        raise CheckpointError(f"{path}: neither a run directory, which has a config.yaml, nor a folder of runs.")
    return found


def aside(key: str) -> bool:
    """Tell whether a key does not tell how a run trains."""
    return key in ASIDE or key.startswith(ASIDE_GROUPS)


def _labels(identities: Sequence[tuple[str, ...]], keys: Sequence[str]) -> list[str]:
    """Return a short name for each group by its values of the differing keys; no two are equal."""
    labels: list[str] = []
    for values in identities:
        parts = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
        more = f", and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
        label = short(", ".join(map(printable, parts[:SHOWN]))) + more
        labels.append(label if label not in labels else f"{label} ({len(labels) + 1})")
    return labels

"""Prompts and their columns, from a file of JSON lines. Pure, except for reading the file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from es_rl.errors import ConfigError

HELD_OUT = 0.1  # fraction of the lines, without a separate file
Row = dict[str, Any]  # the column `prompt`, and any others


@dataclass(frozen=True)
class Dataset:
    train: list[Row]
    held_out: list[Row]


def digest(rows: list[Row]) -> str:
    """Return the sha256 of rows."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def read(path: str, held_out: str) -> Dataset:
    """Return the rows of two files; without a second, hold out the last tenth of the first. Raises `ConfigError`."""
    rows = lines(path, "data")
    if held_out:
        others = lines(held_out, "eval.data")
        if others[0].keys() != rows[0].keys():
            odd = ", ".join(sorted(others[0].keys() ^ rows[0].keys()))
            raise ConfigError(f"eval.data={held_out}: has other columns than data={path}; differing: {odd}.")
        return Dataset(rows, others)
    cut = len(rows) - max(1, round(HELD_OUT * len(rows)))
    if not cut:
        raise ConfigError(f"data={path}: one line. Give more, of which a tenth is held out, or eval.data=FILE.")
    return Dataset(rows[:cut], rows[cut:])


def lines(path: str, key: str) -> list[Row]:
    """Return one JSON object per line, each with a prompt: a string, or chat messages. Raises `ConfigError`."""
    try:
        content = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror}). Give a file of JSON lines.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{key}={path}: not text in UTF-8. Give a file of JSON lines.") from error
    rows = [_row(line, f"{key}={path}, line {i}") for i, line in enumerate(content.split("\n"), 1) if line.strip()]
    if not rows:
        raise ConfigError(f"{key}={path}: has no lines. Give a file of JSON lines, each with a prompt.")
    for i, row in enumerate(rows, 1):
        if row.keys() != rows[0].keys():
            odd = ", ".join(sorted(row.keys() ^ rows[0].keys()))
            raise ConfigError(f"{key}={path}, row {i}: has other columns than the first; differing: {odd}.")
    return rows


def _row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON ({error}).") from error
    if not isinstance(row, dict) or "prompt" not in row:
        raise ConfigError(f'{where}: has no prompt. A line is such as {{"prompt": "2+2=", "answer": "4"}}.')
    if taken := row.keys() & {"prompts", "completions"}:
        raise ConfigError(f"{where}: the column {min(taken)} has a name that rewards are given already. Rename it.")
    if not _is_prompt(row["prompt"]):
        raise ConfigError(f'{where}: the prompt must be a string, or messages {{"role": …, "content": …}}.')
    try:
        json.dumps(row["prompt"], ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        odd = row["prompt"] if isinstance(row["prompt"], str) else str(row["prompt"])
        raise ConfigError(
            f"{where}: the prompt has half of a pair of surrogates, {error.object[error.start]!a}, in "
            f"{odd[:40]!a}, which is no character. Write the file in UTF-8."
        ) from error
    return row


def _is_prompt(prompt: Any) -> bool:
    if isinstance(prompt, str):
        return bool(prompt)
    return (
        isinstance(prompt, list)
        and bool(prompt)
        and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in prompt
        )
    )


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    """Return the columns other than `prompt`, by name."""
    return {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}

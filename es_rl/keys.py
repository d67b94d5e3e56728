"""Declare keys: fields of frozen dataclasses with a help text and a range. `config.py` reads and explains them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any

MOST_WORKERS = 10_000  # processes; more than that is a slip


def key(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
    resumable: bool = False,
    path: bool = False,
    bare: str = "",
) -> Any:
    """Declare a key with its help text and its range: low ≤ value ≤ high, above < value < below, value in choices.

    A `resumable` key may change when a run is resumed, because theta does not depend on it. A `path` may begin with ~.
    On the command line, a word without a name means the key that says what it is: `bare` is id, run, directory, file,
    output (a file to write) or repo (a name on the Hub). A list takes several such words.
    """
    metadata = {"help": text, "low": low, "high": high, "above": above, "below": below, "choices": tuple(choices)}
    metadata |= {"resumable": resumable, "path": path, "bare": bare}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def group(kind: type[Any], text: str) -> Any:
    """Declare a group of keys: a nested dataclass with a help text."""
    return field(default_factory=kind, metadata={"help": text})

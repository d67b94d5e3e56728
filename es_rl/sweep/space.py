"""The space that a sweep searches: ranges of numbers and choices, read from `key=value` arguments.

`a..b` is a range, `a..b:log` a range on a logarithmic scale, and `x,y,z` or `[x,y,z]` a choice. Anything else is a
fixed value. For a key that is itself a list, give a list of lists as the choice: `[[64,64],[32,32]]`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from es_rl.errors import ConfigError
from es_rl.sweep.contenders import Contender

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})(?::(\w*))?")
DIGITS = 4  # significant digits of the values to try
EVEN = ("es.population", "es.population_max", "chunk")  # must be even: members come in pairs


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool
    integer: bool
    even: bool = False

    def contains(self, value: Any) -> bool:
        """Tell whether a key's value lies in the range."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and self.low <= value <= self.high

    def text(self, value: float) -> str:
        """Return a value as the text that a training is given."""
        if self.integer:
            return str(int(value) - int(value) % 2 if self.even else int(value))
        return repr(float(min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)))


@dataclass(frozen=True)
class Choice:
    """The values to choose from: the texts that a training is given, and the values that it reads from them."""

    texts: tuple[str, ...]
    values: tuple[Any, ...]


Dimension = Range | Choice
Space = dict[str, Dimension]


def parse(arguments: Mapping[str, str], contender: Contender) -> tuple[Space, dict[str, str]]:
    """Separate searched keys from fixed ones. Raises `ConfigError` for what no training would accept."""
    space: Space = {}
    fixed: dict[str, str] = {}
    for name, text in arguments.items():
        kind = contender.kind(name)
        found = RANGE.fullmatch(text.replace("_", ""))
        if found:
            space[name] = _range(name, text, found, contender)
        elif (texts := _choices(text, kind)) is not None:
            space[name] = _choice(name, text, texts, contender)
        else:
            contender.value(name, text)
            fixed[name] = text
    return space, fixed


def describe(space: Space) -> dict[str, Any]:
    """Return the space in a form for JSON, to compare it with that of an earlier call."""
    described: dict[str, Any] = {}
    for name, dimension in space.items():
        if isinstance(dimension, Range):
            described[name] = f"{_exact(dimension.low)}..{_exact(dimension.high)}" + (":log" if dimension.log else "")
        else:
            described[name] = f"[{','.join(dimension.texts)}]"
    return described


def _exact(number: float) -> str:
    """Return a number as a short text, with all its digits."""
    return short if float(short := f"{number:g}") == number else repr(number)


def _range(name: str, text: str, found: re.Match[str], contender: Contender) -> Range:
    """Return a range. Raises `ConfigError` unless a training accepts its ends."""
    low_text, high_text, scale = found.groups()
    kind, low, high = contender.kind(name), float(low_text), float(high_text)
    if scale not in (None, "log"):
        raise ConfigError(f"{name}={text}: the scale must be log, or left out.")
    if kind not in ("int", "float", "any"):
        raise ConfigError(f"{name}={text}: {name} is no number, so it cannot have a range. Give choices: {name}=…,….")
    integer = kind == "int" or (kind == "any" and low_text.lstrip("+-").isdigit() and high_text.lstrip("+-").isdigit())
    if integer and not (low.is_integer() and high.is_integer()):
        raise ConfigError(f"{name}={text}: both ends must be whole numbers, as {name} is.")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{name}={text}: must run from the smaller number to the larger one.")
    if scale and low <= 0:
        raise ConfigError(f"{name}={text}: a logarithmic range must begin above 0.")
    for end in (low_text, high_text):
        contender.value(name, str(int(float(end))) if integer else end)
    even = integer and name in EVEN
    if even and (low % 2 or high % 2):
        raise ConfigError(f"{name}={text}: both ends must be even, as {name} is.")
    return Range(low, high, scale == "log", integer, even)


def _choice(name: str, text: str, texts: list[str], contender: Contender) -> Choice:
    """Return a choice. Raises `ConfigError` unless a training accepts its values and they differ."""
    values = [contender.value(name, item) for item in texts]
    if not values:
        raise ConfigError(f"{name}={text}: nothing to choose from. Give values: {name}=…,….")
    if name in EVEN and any(isinstance(value, int) and value % 2 for value in values):
        raise ConfigError(f"{name}={text}: each value must be even, as {name} is.")
    if any(value in values[:i] for i, value in enumerate(values)):
        raise ConfigError(f"{name}={text}: give each value once.")
    return Choice(tuple(texts), tuple(values))


def _choices(text: str, kind: str) -> list[str] | None:
    """Return the texts of a choice, or None for a single value."""
    if not (text.startswith("[") and text.endswith("]")):
        plain = "," in text and not set(text) & set("[]{}\"'")
        return _split(text) if plain and kind not in ("list", "any") else None
    texts = _split(text[1:-1])
    nested = bool(texts) and all(item.startswith("[") or item == "null" for item in texts)
    return texts if nested or kind not in ("list", "any") else None


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets."""
    depth, parts = 0, [""]
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]

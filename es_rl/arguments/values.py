"""The value of a key: read, converted to the type of the key, and checked."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from es_rl.arguments import type_of
from es_rl.errors import ConfigError, nearest

WANTED = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text",
    "list": "a list, such as 64,64",
}  # fmt: skip
LARGEST = 1 << 63  # whole numbers are smaller
PLAIN = {"int": int, "float": float, "bool": bool, "str": str}
LONGEST = 20  # digits of a whole number, at most, that may be written as a float, such as 1e6


def check_text(name: str, value: Any, source: str) -> None:
    """Refuse what OmegaConf would not take as it is: it would resolve `${` even to an environment variable."""
    if "${" in str(value):
        raise ConfigError(f"{source}{name}={value}: must not contain ${{: values are taken as they are.")
    if "???" in re.split(r"[\s\[\]{},:'\"]+", str(value)):
        raise ConfigError(f"{source}{name}={value}: must not be ???, which means a missing value.")


def assigned(alone: Any, f: dataclasses.Field[Any], name: str, entry: str, value: Any, source: str) -> Any:
    """Return the value of a key, converted to its type.

    With `entry`, such as .NAME, return an open dictionary with one more entry. `alone` holds the value so far. Text
    from the command line, which has no source, is parsed as YAML unless the key holds text.
    """
    kind = "" if entry else type_of(f)
    try:
        read = value if source or kind == "str" or not isinstance(value, str) else parsed(value, kind)
    except Exception as error:
        raise ConfigError(f"{source}{name}={value}: not readable as a value.") from error
    read = _whole(read) if kind == "int" else read
    if type(read) is PLAIN.get(kind) or (read is None and str(f.type).endswith("| None") and not entry):
        return read
    try:
        tree = OmegaConf.structured(alone)
        OmegaConf.update(tree, f"value{entry}", read, merge=False, force_add=bool(entry))
    except (OmegaConfBaseException, ValueError, OverflowError) as error:
        wanted = WANTED.get(kind.partition("[")[0], "names with values" if read is None else "")
        reason = f"It must be {wanted}" if wanted else str(error).splitlines()[0].rstrip(".")
        shown = value if kind.startswith("list") else read
        raise ConfigError(f"{source}{name}={shown}: wrong type. {reason}.") from error
    return OmegaConf.to_container(tree)["value"]  # type: ignore[index, call-overload]


def parsed(text: str, kind: str = "") -> Any:
    """Return a text of the command line as YAML has it. A list needs no brackets; a whole number may be 1e6."""
    value: Any = OmegaConf.from_dotlist([f"value={text}"]).value
    if kind == "int" and isinstance(value, float) and isinstance(whole := _whole(text), int):
        return whole
    if kind.startswith("list") and value is not None and not OmegaConf.is_config(value):
        value = OmegaConf.from_dotlist([f"value=[{text}]"]).value
        return [_whole(item) for item in value] if kind == "list[int]" else value
    return value


def _whole(value: Any) -> Any:
    """Return a number without a fraction as an integer, such as 1e6; anything else as it is."""
    try:
        number = Decimal(value.replace("_", "") if isinstance(value, str) else repr(value))
    except InvalidOperation:
        return value
    exact = number.is_finite() and number.adjusted() < LONGEST and number == number.to_integral_value()
    return int(number) if exact and not isinstance(value, bool) else value


def check_range(name: str, value: Any, f: dataclasses.Field[Any], source: str) -> None:
    """Raise `ConfigError` if a value, or an item of a list, is out of the range of its key."""
    limits = f.metadata
    for item in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
        number = item if isinstance(item, (int, float)) and not isinstance(item, bool) else None
        bad = number is not None and (
            (isinstance(number, float) and not math.isfinite(number))
            or (limits["low"] is not None and number < limits["low"])
            or (limits["above"] is not None and number <= limits["above"])
            or (limits["high"] is not None and number > limits["high"])
            or (limits["below"] is not None and number >= limits["below"])
        )
        if bad or (limits["choices"] and item not in limits["choices"]):
            hint = nearest(str(item), limits["choices"])
            raise ConfigError(f"{source}{name}={item}: must be{rule(f, comma='')}.{hint}")
        if isinstance(number, int) and abs(number) >= LARGEST:
            raise ConfigError(f"{source}{name}={item}: too large a number.")


def is_number(text: str) -> bool:
    """Tell whether Python reads a text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def rule(f: dataclasses.Field[Any], comma: str = ",") -> str:
    """Return the range of a key in words, with a comma before them; without one, as they follow `must be`."""
    limits = f.metadata
    if limits["choices"]:
        return f"{comma} one of {', '.join(limits['choices'])}"
    parts = [
        f"{sign} {limits[bound]:g}" if bound != "high" or limits[bound] < 1e9 else f"{sign} {limits[bound]}"
        for bound, sign in (("low", ">="), ("above", ">"), ("high", "<="), ("below", "<"))
        if limits[bound] is not None
    ]
    return f"{comma} {' and '.join(parts)}" if parts else ("" if comma else " a finite number")

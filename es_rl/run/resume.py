"""The configuration of a resumed run: only keys on which theta does not depend may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from es_rl.config import build, flatten, leaves, pairs
from es_rl.errors import ConfigError
from es_rl.plugins import module_rule

C = TypeVar("C")


def resumed_config(kind: type[C], saved: Mapping[str, Any], argv: Sequence[str], source: str, code: str) -> C:
    """Return the `saved` configuration with the resumable keys in `argv` changed. Raises `ConfigError`.

    `code` is the key that may name a module. If it does, it must be given again.
    """
    given = pairs(argv)
    previous: Any = build(kind, [(saved, f"{source}: ")])
    if ":" in getattr(previous, code) and given.get(code) != getattr(previous, code):
        raise ConfigError(module_rule(code, getattr(previous, code), source))
    config: Any = build(kind, [(saved, f"{source}: "), (given, "")])
    before, after = flatten(dataclasses.asdict(previous)), flatten(dataclasses.asdict(config))
    free = [name for name, field in leaves(kind) if field.metadata["resumable"]]
    for name in sorted({*before, *after} - {*free}):
        if before.get(name) != after.get(name):
            raise ConfigError(
                f"{name}={after.get(name)}: the run has {before.get(name)}, and this cannot change when it goes on. "
                f"Start a new run, or change only: {', '.join(free)}."
            )
    result: C = config
    return result

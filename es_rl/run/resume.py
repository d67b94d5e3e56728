"""What may change when a run goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from es_rl.config import build, flatten, pairs
from es_rl.errors import ConfigError
from es_rl.plugins import module_rule

C = TypeVar("C")


STOP_RULES = ("generations", "env_steps", "minutes", "target_return")


# What may change when a run goes on: nothing that theta depends on.
RESUMABLE = (
    *STOP_RULES,
    "tokens",
    "target_bits",
    "target_reward",
    "workers",
    "hang_after",
    "reward_seconds",
    "eval.",
    "video.",
    "checkpoint.",
    "es.max_failed",
)


def resumed_config(kind: type[C], saved: Mapping[str, Any], argv: Sequence[str], source: str, code: str) -> C:
    """The dataclass of a run that goes on: as `saved`, save for the keys of `RESUMABLE`. Raises `ConfigError`.

    `code` is the key that may name a module, which must then be given again.
    """
    given = pairs(argv)
    previous: Any = build(kind, [(saved, f"{source}: ")])
    if ":" in getattr(previous, code) and given.get(code) != getattr(previous, code):
        raise ConfigError(module_rule(code, getattr(previous, code), source))
    config: Any = build(kind, [(saved, f"{source}: "), (given, "")])
    before, after = flatten(dataclasses.asdict(previous)), flatten(dataclasses.asdict(config))
    for name in sorted({*before, *after}):
        if not name.startswith(RESUMABLE) and before.get(name) != after.get(name):
            free = ", ".join(k + "*" if k.endswith(".") else k for k in RESUMABLE)
            raise ConfigError(
                f"{name}={after.get(name)}: the run has {before.get(name)}, and a run goes on as it began. "
                f"Start a new run, or change only: {free}."
            )
    result: C = config
    return result

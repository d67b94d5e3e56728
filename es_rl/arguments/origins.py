"""Where the keys of a run have their values from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

COMMAND_LINE, PYTHON = "command line", "Python"


@dataclass(frozen=True)
class Origins:
    """Where each given key has its value from, and what else the user should know of the values."""

    of: Mapping[str, str] = field(default_factory=dict)  # key → origin, as told to the user
    notes: tuple[str, ...] = ()

    @classmethod
    def joined(cls, sources: Sequence[tuple[Mapping[str, Any], str]], notes: Sequence[str] = ()) -> Origins:
        """Return the origins of keys from sources (keys, origin) in order: later ones win."""
        return cls({name: origin for keys, origin in sources for name in keys}, tuple(notes))

    def get(self, name: str) -> str:
        """Return the origin of a key, or that of the last given entry of an open dictionary; "" if none was given."""
        entries = [origin for given, origin in self.of.items() if given == name or given.startswith(f"{name}.")]
        return entries[-1] if entries else ""


NOWHERE = Origins()  # nothing is known, as of a run that goes on

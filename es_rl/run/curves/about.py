"""What viewers of curves are told of a run when it begins."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from es_rl.config import leaves
from es_rl.run.terms import RunTerms


@dataclass(frozen=True)
class About:
    """A sitting of a run: where it is, and what was asked for."""

    path: Path
    config: Any  # resolved
    command: str
    terms: RunTerms

    @property
    def name(self) -> str:
        """The last two parts of the path: a run's group and its own name."""
        return "/".join(self.path.absolute().parts[-2:])

    def keys(self) -> dict[str, Any]:
        """Return the resolved keys by their dotted names; entries of open dictionaries are keys too.

        Of an environment or a policy from Python, only the name: the object is nobody's who reads about a run.
        """
        found: dict[str, Any] = {}
        for name, field in leaves(type(self.config)):
            value = attrgetter(name)(self.config)
            told = str(value) if isinstance(value, str) else value
            found |= {f"{name}.{k}": v for k, v in value.items()} if "dict" in str(field.type) else {name: told}
        return found

"""Modules named on the command line as `module:Name`. Importing one runs its code, so no file may name one."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def load(name: str) -> ModuleType:
    """Import a module, also from the current directory, however the program was started. Its errors pass through."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    global _theirs
    ours = _settings()
    module = importlib.import_module(name)
    if (set_by_it := _settings()) != ours:
        _theirs = set_by_it
        _apply(ours)
    return module


@contextlib.contextmanager
def their_settings() -> Iterator[None]:
    """Run code of a loaded module with the global settings that the module has made, and ours again after it.

    These are torch's default type and what NumPy does on errors. A module may rely on them; the rest of the program
    must not depend on them.
    """
    if _theirs is None:
        yield
        return
    ours = _settings()
    _apply(_theirs)
    try:
        yield
    finally:
        _apply(ours)


_theirs: tuple[Any, Any] | None = None


def _settings() -> tuple[Any, Any]:
    torch = sys.modules.get("torch")
    return np.geterr(), torch and torch.get_default_dtype()


def _apply(settings: tuple[Any, Any]) -> None:
    np.seterr(**settings[0])
    if (torch := sys.modules.get("torch")) is not None and settings[1] is not None:
        torch.set_default_dtype(settings[1])


def module_rule(name: str, value: str, source: str) -> str:
    """Return the error message for a `module:Name` found in a file."""
    return (
        f"{name}={value} in {source}: importing a module runs its code, so it is taken from the command line only. "
        f"If you trust it, add {name}={value}."
    )

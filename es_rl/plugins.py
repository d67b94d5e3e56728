"""Modules named on the command line as `module:Name`. Importing one runs its code, so no file may name one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType


def load(name: str) -> ModuleType:
    """Import a module, also from the current directory, however the program was started. Its errors pass through."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def module_rule(name: str, value: str, source: str) -> str:
    """Return the error message for a `module:Name` found in a file."""
    return (
        f"{name}={value} in {source}: importing a module runs its code, so it is taken from the command line only. "
        f"If you trust it, add {name}={value}."
    )

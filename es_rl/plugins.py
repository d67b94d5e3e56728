"""What comes from outside the package: modules named on the command line as `module:Name`, and objects from Python.

Importing a module runs its code, so no file may name one.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np

FROM_PYTHON = "python:"  # begins the names of objects given from Python


class Given(str):
    """The name of an object that was given from Python, with the object.

    A configuration holds it where it otherwise holds a name. Only the text is written to files and shown; the object
    travels to other processes with the functions that need it.
    """

    object: Any

    def __new__(cls, object: Any, name: str = "") -> Given:  # noqa: A002
        name = name or getattr(object, "__qualname__", type(object).__qualname__).rpartition("<locals>.")[2]
        given = super().__new__(cls, FROM_PYTHON + name.removeprefix(FROM_PYTHON))
        given.object = object
        return given

    def __deepcopy__(self, memo: dict[int, Any]) -> Given:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (cloudpickle.dumps(self.object), str(self))  # also what a notebook defines


def _received(data: bytes, name: str) -> Given:
    return Given(cloudpickle.loads(data), name)


def file_name(name: str) -> str:
    """Return a name of an environment or a policy without what a shell or a file system could misread."""
    return re.sub(r"[^\w.-]+", "-", name.removeprefix(FROM_PYTHON).replace("<lambda>", "function"))


def load(name: str) -> ModuleType:
    """Import a module, also from the current directory, however the program was started. Its errors pass through."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    with their_settings(watch=True):
        return importlib.import_module(name)


@contextlib.contextmanager
def their_settings(*, watch: bool = False) -> Iterator[None]:
    """Run code of a loaded module with the global settings that it has made, and ours again after it.

    These are torch's default type and device, what NumPy does on errors, the current directory, the standard streams
    and the places where modules are looked for. Such code may rely on them; the rest of the program must not depend on
    them. With `watch`, what the block changes is found and kept for later blocks.
    """
    global _theirs
    if _theirs is None and not watch:
        yield
        return
    ours = _settings()
    if _theirs is not None:
        _apply(_theirs)
    try:
        yield
    finally:
        found = {name: value for name, value in _settings().items() if value != ours.get(name, value)}
        _theirs = found or None
        _apply({name: ours[name] for name in found})


_theirs: dict[str, Any] | None = None  # those that differ from ours


def _settings() -> dict[str, Any]:
    found: dict[str, Any] = {"errors": np.geterr(), "stdout": sys.stdout, "stderr": sys.stderr}
    found |= {"path": tuple(sys.path), "directory": ""}
    with contextlib.suppress(OSError):  # it may be gone
        found["directory"] = os.getcwd()  # noqa: PTH109  faster: an environment calls this at each reset
    if (torch := sys.modules.get("torch")) is not None:
        found |= {"type": torch.get_default_dtype(), "device": torch.get_default_device()}
    return found


def _apply(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        match name:
            case "errors":
                np.seterr(**value)
            case "directory":
                with contextlib.suppress(OSError):
                    os.chdir(value)
            case "path":
                sys.path[:] = value
            case "device":  # torch asks at every call once a device was set, even if it is the usual one
                sys.modules["torch"].set_default_device(None if value.type == "cpu" else value)
            case "type":
                sys.modules["torch"].set_default_dtype(value)
            case _:
                setattr(sys, name, value)


def code_keys(config: Any, names: Sequence[str]) -> list[str]:
    """Return those of these keys that name a module, as arguments: every later command must be told them again."""
    return [f"{name}={value}" for name in names if ":" in (value := getattr(config, name))]


def module_rule(name: str, value: str, source: str) -> str:
    """Return the error message for a `module:Name` found in a file."""
    if value.startswith(FROM_PYTHON):
        return (
            f"{name}={value} in {source}: was given from Python. Give it again: es_rl.ES.load(RUN, {name}=…), or, on "
            f"the command line, {name}=NAME or {name}=module:Name with the same spaces."
        )
    return (
        f"{name}={value} in {source}: importing a module runs its code, so it is taken from the command line only. "
        f"If you trust it, add {name}={value}."
    )

"""Expected errors and their exit codes. A message gives the value received, the rule and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

# What code of others may raise in place of doing its work. Ctrl-C is not among it.
FOREIGN = (Exception, SystemExit, GeneratorExit)
LONG = 1000  # characters of the text of an error that are kept


def text_of(error: BaseException) -> str:
    """Return the text of an error, printable and not too long, or nothing if its own `__str__` raises."""
    try:
        text = str(error)
    except FOREIGN:
        return ""
    if len(text) > LONG:  # the text of an assertion may hold whole arrays
        text = f"{text[: LONG // 2]} … {text[-LONG // 2 :]}"
    return in_lines(text)


def in_lines(text: str) -> str:
    """Return a text of several lines, in which each is printable."""
    return "\n".join(map(printable, text.expandtabs().splitlines()))


def printable(text: object) -> str:
    """Replace all that is no character for the eye: a terminal, SVG or Markdown could take it as a command."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


class EsRlError(Exception):
    """An error that a user can act on. It is shown as one or two lines, never as a traceback."""

    exit_code = 1


class ConfigError(EsRlError):
    """An invalid key or value, on the command line or in a file of keys."""

    exit_code = 2


class EnvError(EsRlError):
    """An environment, a policy or a reward that cannot be used."""

    exit_code = 3


class CheckpointError(EsRlError):
    """A run or a checkpoint that is missing, damaged or incompatible."""

    exit_code = 4


class TrainingError(EsRlError):
    """Training that cannot continue, for example because most members fail."""

    exit_code = 5


class TornError(TrainingError):
    """theta is only partly updated, or infinite. It must not be saved."""


class ResourceError(EsRlError):
    """A refusal by the system: disk, memory, processes or permissions."""

    exit_code = 6


class Stopped(EsRlError):  # noqa: N818 - a wish, not an error
    """A request by the user or the system to stop. Exit code: 75 for SIGTERM and SIGHUP, 130 for Ctrl-C."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def missing_extra(what: str, *extras: str, constrained: bool = True) -> ResourceError:
    """Return the error for what needs extras of this package, which are not installed.

    Not `constrained`: constraints.txt has other versions than an extra can take.
    """
    install = "pip install -c constraints.txt" if constrained else "pip install"
    return ResourceError(f"{what}. In the checkout of es_rl: {install} -e '.[{','.join(dict.fromkeys(extras))}]'.")


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ` Did you mean …?` with up to three close names, or an empty string."""
    known = list(names)
    close = [k for k in known if k.lower() == name.lower()] or difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    close = close or [k for k in known if name and name in k][:3]
    return f" Did you mean {' or '.join(close)}?" if close else ""


def lookup(table: Mapping[str, T], name: str, key: str) -> T:
    """Return the entry `name` of a registry. Raises `ConfigError`, naming the config `key`, if there is none."""
    if name not in table:
        raise ConfigError(f"{key}={name}: unknown.{nearest(name, table)} Known: {', '.join(sorted(table))}.")
    return table[name]

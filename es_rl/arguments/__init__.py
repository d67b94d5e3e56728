"""Read the command line as people type it: `env=X`, `--env=X`, `--env X`, `env X`, a bare id, a bare path of a run.

A bare word is understood by what it is, for the keys that say so where they are declared (`key(…, bare=…)`). Whatever
could mean two things is refused. `synonyms.py` knows the names that keys have in other programs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from es_rl.arguments.synonyms import elsewhere
from es_rl.errors import ConfigError, nearest

Fields = Mapping[str, dataclasses.Field[Any]]
BESIDES = ("resume", "config")  # names of arguments that are no declared keys
ID = re.compile(r"(?:[\w.]+:)?(?:[\w-]+/)?[\w.-]+-v\d+|[\w.]+:[\w./-]+")  # Name-v0, space/Name-v0, module:Id
ELSEWHERE = ("/", "./", "../", "~", "runs/")  # begin a path, whatever else it looks like
NAMES = {
    "id": "an environment's id", "run": "a run's directory", "directory": "a directory", "file": "a file",
    "output": "a file to write", "repo": "a name on the Hub",
}  # fmt: skip
RATHER = ("output", "repo")  # a word that is not there is one of these before it is a run
REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
APART = "\n"  # between the bare words of a key that takes several
KEYS_OF = (".yaml", ".yml")  # end the names of files of keys
SWITCHES = ("true", "false", "yes", "no", "on", "off")


def given(argv: Sequence[str], known: Fields) -> dict[str, str]:
    """Return the arguments as {key: text}. `known` are the declared keys by name; other names are not checked here.

    What is given for a list that takes bare words is joined by `APART`. Raises `ConfigError` for an argument that is
    not understood, could mean two things, or is given twice.
    """
    found: dict[str, str] = {}
    words = list(reversed(argv))
    while words:
        name, text = _next(words, known)
        if name in found and _takes_several(name, known):
            text = f"{found[name]}{APART}{text}"
        elif name in found:
            raise ConfigError(f"{name}: given twice ({found[name]} and {text}). Give it once.")
        found[name] = text
    return found


def type_of(f: dataclasses.Field[Any]) -> str:
    """Return the type of a key's values as it is written, such as list[int]; whether None is allowed is left out."""
    return (f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type))).replace(" | None", "")


def bare_keys(known: Fields) -> dict[str, str]:
    """Return the keys that need no name: {name: what a bare word must be to mean it}."""
    return {name: bare for name, f in known.items() if (bare := f.metadata.get("bare"))}


def _takes_several(name: str, known: Fields) -> bool:
    return name in bare_keys(known) and type_of(known[name]).startswith("list")


def _next(words: list[str], known: Fields) -> tuple[str, str]:
    """Take one argument from the end of `words`; return its key and its text."""
    word = words.pop()
    option = word.startswith("--")
    name, equals, text = word.removeprefix("--").partition("=")
    name = _spelt(name, known) if option else name
    if equals and name:
        return name, text
    if word.startswith("-") and not option and not equals:
        raise _refused(word, word.lstrip("-"))
    if not option and not equals and not _names_a_key(name, known):
        return _by_what_it_is(word, known)
    if equals or not name:
        raise _refused(word)
    if option and name not in known and _is_switch(name.removeprefix("no_"), known) and name.startswith("no_"):
        return name.removeprefix("no_"), "false"
    switch = _is_switch(name, known)
    if words and _is_value(words[-1], known) and (not switch or words[-1].lower() in SWITCHES):
        return name, words.pop()
    if option and switch:
        return name, "true"
    raise _refused(word, name) if _names_a_key(name, known) else _unknown(word, name, known)


def _spelt(name: str, known: Fields) -> str:
    """Return the name of an option as keys are written, with underscores."""
    inside = _is_entry(name, known)
    return name if inside or name in known else name.replace("-", "_")


def _names_a_key(word: str, known: Fields) -> bool:
    return word in (*known, *BESIDES) or _is_entry(word, known)


def _is_entry(name: str, known: Fields) -> bool:
    """Tell whether a name is that of an entry of an open dictionary."""
    return any(name.startswith(f"{key}.") and type_of(f).startswith("dict") for key, f in known.items())


def _is_switch(name: str, known: Fields) -> bool:
    return name in known and type_of(known[name]) == "bool"


def _is_value(word: str, known: Fields) -> bool:
    """Tell whether a word can be the value of the one before it: it is no option, no key=value, and no key's name."""
    name, equals, _ = word.partition("=")
    return not word.startswith("--") and not _names_a_key(word, known) and not (equals and _names_a_key(name, known))


def _by_what_it_is(word: str, known: Fields) -> tuple[str, str]:
    """Return the key that a bare word is for, and the word. Raises `ConfigError` if there is none, or two."""
    kinds = _kinds(word)
    takers = bare_keys(known)
    meant = [name for name, kind in takers.items() if kind in kinds]
    if "run" in kinds and (rather := [name for name in meant if takers[name] in RATHER]):
        meant = [name for name in meant if name in rather or takers[name] != "run"]
    if len(meant) == 1:
        return meant[0], word
    if meant:
        raise ConfigError(f"{word}: could be {' or '.join(meant)}. Write {' or '.join(f'{k}={word}' for k in meant)}.")
    raise _refused(word, hint=_hint(word, kinds, known))


def _kinds(word: str) -> set[str]:
    """Return what a bare word can be, of `NAMES`."""
    try:
        path = Path(word).expanduser()
        found = {"run", "directory"} if path.is_dir() else {"file"} if path.is_file() else set()
        found |= {"run"} if found and path.name == "config.yaml" else set()
        written = {"output"} if path.suffix and not path.is_dir() and path.suffix not in KEYS_OF else set()
    except (OSError, RuntimeError, ValueError):  # no home directory, or no name that a file can have
        found, written = set(), set()
    a_path = word.startswith(ELSEWHERE) or (found and "/" in word)
    if not a_path and ID.fullmatch(word):
        found |= {"id"}
    named = {"repo"} if not a_path and REPO.fullmatch(word) else set()
    return written | named | (found or ({"run"} if word == "last" or "/" in word else set()))


def _hint(word: str, kinds: set[str], known: Fields) -> str:
    """Return the remedy for a bare word that no key is for."""
    if kinds & {"run", "directory"} and any(f.metadata["resumable"] for f in known.values()):
        start = f", or init={word} to start from its policy" if "init" in known else ""
        return f" To go on with the run in it, write resume={word}{start}."
    if word.endswith(KEYS_OF):
        return f" If it is a file of keys, write config={word}."
    usual = [f"{name}={word}" for name in bare_keys(known)]
    return nearest(word, known) or (f" Write {' or '.join(usual)}, if that is meant." if usual else "")


def _refused(argument: str, name: str = "", hint: str = "") -> ConfigError:
    hint = f" Write {name}=…" + _or_path(name) if name else hint
    return ConfigError(f"{argument}: not of the form key=value.{hint} --help lists every key.")


def _unknown(option: str, name: str, known: Fields) -> ConfigError:
    """Return the refusal of an option without a value that is no key, such as --no-video or --wandb."""
    positive = name.removeprefix("no_")
    inside = [key for key in known if key.startswith(f"{positive}.")]
    hint = f" {positive} is a group of keys. Set one of them: {', '.join(inside)}." if inside else ""
    hint = hint or elsewhere(name, "VALUE", known) or nearest(name, known) or nearest(positive, known)
    return ConfigError(f"{option}: unknown key.{hint} --help lists every key.")


def _or_path(name: str) -> str:
    """Return the remedy for a directory that has the name of a key."""
    return f", or ./{name} for the directory." if Path(name).is_dir() else ""

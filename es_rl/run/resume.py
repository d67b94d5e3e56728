"""The configuration of a resumed run: only keys on which theta does not depend may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from es_rl.config import as_text, build, leaves, pairs
from es_rl.errors import CheckpointError, ConfigError
from es_rl.plugins import FROM_PYTHON, module_rule
from es_rl.run import CONFIG, checkpoint, directory

C = TypeVar("C")
# Keys that no file may set, also when a run goes on, and what each does.
OUTWARD = {
    "track": "sends the curves elsewhere with your login",
    "cluster.address": "lets the machines of a cluster run code for you, and you for them",
    "cluster.runtime_env": "brings code to the machines of a cluster",
}
EMPTY: dict[type, str] = {list: "[]", dict: "{}"}


class _Nothing:
    """The value of an entry that is not there; None is a value."""

    def __repr__(self) -> str:
        return "nothing"


NOTHING = _Nothing()


def resumed(argv: Sequence[str], kind: type[Any], verb: str = "train") -> tuple[Path | None, list[str]]:
    """Return the run that `resume=` names, if any, and the other arguments. Raises `ConfigError`, `CheckpointError`."""
    given = pairs(argv, kind)
    named = given.pop("resume", "")
    others = [f"{name}={text}" for name, text in given.items()]
    if not named:
        return None, others
    run, which = directory.find(named, "resume", verb)
    newest = max(checkpoint.ages(run), default=0)
    if which not in ("", "last", str(newest)):
        start = f", or start a new run with init={named}" if "init" in dict(leaves(kind)) else ""
        raise ConfigError(
            f"resume={named}: a run goes on from its newest checkpoint, that of generation {newest}. "
            f"Give resume={run}{start}."
        )
    return run, others


def resumed_config(
    kind: type[C], saved: Mapping[str, Any], given: Mapping[str, Any], source: str, code: Sequence[str]
) -> C:
    """Return the configuration of `saved` keys with the resumable keys in `given` changed. Raises `ConfigError`.

    `code` names the keys that may name a module. Those that do must be given again. In the place of an object from
    Python, whose name says nothing, any name may be given: what it is for is compared when it is made.
    """
    again = {name: given[name] for name in code if given.get(name) and _from_python(saved.get(name))}
    saved = {**saved, **again}
    previous: Any = build(kind, [(saved, f"{source}: ")])
    for name in code:
        if ":" in getattr(previous, name) and given.get(name) != getattr(previous, name):
            raise ConfigError(module_rule(name, getattr(previous, name), source))
    config: Any = build(kind, [(saved, f"{source}: "), (given, "")])
    free = [name for name, field in leaves(kind) if field.metadata["resumable"]]
    for name, (was, now) in _differences(previous, config).items():
        if name not in free:
            raise ConfigError(
                f"{name}={now}: the run has {was}, and this cannot change when it goes on. "
                f"Start a new run, or change only: {', '.join(free)}."
            )
    result: C = config
    return result


def saved_keys(path: Path, kind: type[Any]) -> dict[str, Any]:
    """Return the keys of a run's `config.yaml`, those of a `kind`, except `OUTWARD` ones.

    Raises `CheckpointError` if the file is missing, cannot be read, or was edited or cut off: if it has another value
    than the newest checkpoint for a key that may not change.
    """
    source, known = checkpoint.newest_keys(path, kind)
    try:
        saved = directory.saved_config(path, kind)
        before, now = (build(kind, [(keys, f"{path / CONFIG}: ")]) for keys in (known or saved, saved))
    except (CheckpointError, ConfigError) as error:
        remedy = f" Restore the file from {source}." if source else ""
        raise CheckpointError(f"{error}{remedy}") from error
    free = {name for name, field in leaves(kind) if field.metadata["resumable"]}
    for name, (was, value) in _differences(before, now).items():
        if name not in free and not _from_python(was):
            raise CheckpointError(
                f"{path / CONFIG}: has {name}={value}, but the run was trained with {was}. "
                f"Restore the file from {source}, or start a new run."
            )
    return {name: value for name, value in saved.items() if not outward(name)}


def outward(name: str) -> str:
    """Return the `OUTWARD` key that a key is, or an entry of; otherwise nothing."""
    return next((key for key in OUTWARD if name == key or name.startswith(f"{key}.")), "")


def _from_python(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(FROM_PYTHON)


def refuse_outward(file: Mapping[str, Any], given: Mapping[str, Any], source: str) -> None:
    """Raise `ConfigError` for an `OUTWARD` key that a file sets and the command line does not."""
    for name, value in file.items():
        key, entries = outward(name), [f"{name}.{entry}" for entry in value] if isinstance(value, dict) else [name]
        if value and key and not {key, name} & given.keys() and not given.keys() >= {*entries}:
            raise ConfigError(
                f"{name}={as_text(value)} in {source}: {OUTWARD[key]}, so it is taken from the command line only. "
                f"If you want it, add {name}={as_text(value)}; if not, {key}={EMPTY.get(type(value), '')}."
            )


def changes(keys: Mapping[str, Any], config: Any) -> list[str]:
    """Return a line for each key that has another value than in `keys`, those of a checkpoint."""
    if not keys:  # saved by an older version
        return []
    before = build(type(config), [(keys, f"{CONFIG}: ")])
    return [_change(name, was, now) for name, (was, now) in _differences(before, config).items()]


def _change(name: str, was: Any, now: Any) -> str:
    lost = outward(name) and was not in ("", NOTHING, []) and now in ("", NOTHING, [])
    again = f": it must be given at every resume, {name}={as_text(was)}" if lost else ""
    return f"{name} is now {_told(now)}; it was {_told(was)}{again}"


def _told(value: Any) -> str:
    return "not set" if value is None else str(value)


def _differences(before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    """Return the values of the keys in which two configurations differ. NaN counts as equal to itself."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, _ in leaves(type(before)):
        was, now = attrgetter(name)(before), attrgetter(name)(after)
        if isinstance(was, dict) and isinstance(now, dict):
            for entry in sorted({*was, *now}, key=repr):
                found[f"{name}.{entry}"] = (was.get(entry, NOTHING), now.get(entry, NOTHING))
        else:
            found[name] = (was, now)
    return {name: (was, now) for name, (was, now) in found.items() if repr(was) != repr(now)}

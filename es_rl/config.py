"""Keys: declared as fields of frozen dataclasses, given as `key=value` or in a file, checked, explained by `--help`.

The keys themselves are declared in the `config.py` of each kind of run, and in the modules of the smaller verbs.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path, PurePath
from typing import Any, TypeVar, get_type_hints

import yaml
from omegaconf import OmegaConf

from es_rl.arguments import BESIDES, NAMES, bare_keys, given, type_of
from es_rl.arguments.unknown import check_keys
from es_rl.arguments.values import assigned, check_range, check_text, is_number, rule
from es_rl.errors import ConfigError

C = TypeVar("C")


def parse(kind: type[C], argv: Sequence[str]) -> C:
    """Return a `kind` with the arguments of one of the smaller verbs. Raises `ConfigError`."""
    return build(kind, [(pairs(argv, kind), "")])


def pairs(argv: Sequence[str], *kinds: type[Any]) -> dict[str, str]:
    """Return the arguments of a verb with the keys of these kinds as {key: text}. Raises `ConfigError`.

    They may be typed as `es_rl.arguments` tells. Names and values are not checked yet.
    """
    return given(argv, {name: f for kind in kinds for name, f in leaves(kind)})


def check_names(argv: Sequence[str], *kinds: type[Any]) -> None:
    """Raise `ConfigError` if an argument is no key of these kinds, and none of those beside declared keys."""
    known = {name: f for kind in kinds for name, f in leaves(kind)}
    check_keys({name: value for name, value in given(argv, known).items() if name not in BESIDES}, known)


def read_file(path: Path, kind: type[Any]) -> dict[str, Any]:
    """Return the keys of a `kind` in a YAML file, by dotted names; open dictionaries stay as they are.

    YAML is loaded safely. Raises `ConfigError`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8.") from error
    return read_text(text, kind, path)


def read_text(text: str, kind: type[Any], path: Path) -> dict[str, Any]:
    """Return the keys of a `kind` in the YAML text of a file. Raises `ConfigError`."""
    try:
        loaded = OmegaConf.load(io.StringIO(text))
        tree: Any = OmegaConf.to_container(loaded, resolve=False)
    except Exception as error:
        mark = getattr(error, "problem_mark", None)  # where YAML's parser stopped
        said = str(error).splitlines()[0] if mark is None else f"line {mark.line + 1}: {error.problem}"  # type: ignore[attr-defined]
        raise ConfigError(f"{path}: not a YAML file of keys ({said}).") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must hold keys and values.")
    return flatten(tree, whole=open_keys(kind))


def build(kind: type[C], sources: Sequence[tuple[Mapping[str, Any], str]]) -> C:
    """Return an instance of the dataclass built from (keys, source) in order; later ones win. Raises `ConfigError`.

    The source begins error messages. It is "" for the command line.
    """
    known, config, found = dict(leaves(kind)), kind(), dict[str, Any]()
    for values, source in sources:
        check_keys(values, known, source)
        for name, value in values.items():
            check_text(name, value, source)
            key = name if name in known else next(key for key in known if name.startswith(f"{key}."))
            if known[key].metadata["path"] and isinstance(value, str):
                value = str(expanded(value, name)) if value.startswith("~") else value
            alone: Any = _alone(kind, key)  # type: ignore[arg-type]
            now = alone(found[key] if key in found else attrgetter(key)(config))
            found[key] = assigned(now, known[key], name, name.removeprefix(key), value, source)
            check_range(name, found[key], known[key], source)
    built: C = _changed(config, found)
    return built


def _changed(config: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Return a configuration with these keys changed."""
    changes = {}
    for f in dataclasses.fields(config):
        name, now = f"{prefix}{f.name}", getattr(config, f.name)
        if dataclasses.is_dataclass(now):
            changes[f.name] = _changed(now, values, f"{name}.")
        elif name in values:
            changes[f.name] = values[name]
    return dataclasses.replace(config, **changes)


def expanded(path: str, name: str) -> Path:
    """Return the path that a key gives, with the home directory for ~. Raises `ConfigError` if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{name}={path}: there is no such home directory. Give the whole path.") from error


def leaves(kind: type[Any]) -> tuple[tuple[str, dataclasses.Field[Any]], ...]:
    """Return (dotted name, field) of every key, in order, including those in groups."""
    return _leaves(kind)  # type: ignore[arg-type]


@cache
def _leaves(kind: type[Any]) -> tuple[tuple[str, dataclasses.Field[Any]], ...]:
    hints, found = get_type_hints(kind), list[tuple[str, dataclasses.Field[Any]]]()
    for f in dataclasses.fields(kind):
        if isinstance(group := hints[f.name], type) and dataclasses.is_dataclass(group):
            found += [(f"{f.name}.{name}", inside) for name, inside in leaves(group)]
        else:
            found.append((f.name, f))
    return tuple(found)


@cache
def _alone(kind: type[Any], name: str) -> type[Any]:
    """Return a dataclass with one field, `value`, that has the type of a key: OmegaConf checks and converts values."""
    first, _, rest = name.partition(".")
    hint = get_type_hints(kind)[first]
    return _alone(hint, rest) if rest else dataclasses.make_dataclass("Alone", [("value", hint)])


def open_keys(kind: type[Any]) -> set[str]:
    """Return the keys that hold an open dictionary, whose entries are not keys."""
    return {name for name, f in leaves(kind) if "dict" in str(f.type)}


def flatten(tree: Mapping[Any, Any], prefix: str = "", *, whole: Collection[str] = ()) -> dict[str, Any]:
    """Return a nested mapping as {dotted name: value}. Mappings named in `whole`, and in those, stay as they are.

    Other empty mappings vanish at the top level; deeper ones stay.
    """
    result: dict[str, Any] = {}
    for name, value in tree.items():
        kept = f"{prefix}{name}".startswith(tuple(f"{key}." for key in whole)) or f"{prefix}{name}" in whole
        if isinstance(value, Mapping) and (value or not prefix) and not kept:
            result |= flatten(value, f"{prefix}{name}.", whole=whole)
        else:
            result[f"{prefix}{name}"] = value
    return result


def to_yaml(config: Any) -> str:
    """Return the configuration as YAML, in the form of `config.yaml`."""
    return str(yaml.dump(tree_of(config), Dumper=_Dumper, allow_unicode=True, sort_keys=False))


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # C is ten times as fast
    """Writes what OmegaConf reads back: more texts in quotes than YAML needs, and paths."""


def _represent_text(dumper: _Dumper, text: str) -> Any:
    quotes = "'" if text in ("y", "Y", "n", "N") or is_number(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=quotes)


def _represent_path(dumper: _Dumper, path: PurePath) -> Any:
    return dumper.represent_sequence("tag:yaml.org,2002:python/object/apply:pathlib.PosixPath", [str(path)])


_Dumper.add_representer(str, _represent_text)
_Dumper.add_multi_representer(PurePath, _represent_path)


def tree_of(config: Any) -> dict[str, Any]:
    """Return the configuration as nested dictionaries of plain values: of a name that carries an object, the text."""
    return dataclasses.asdict(config, dict_factory=_texts)


def _texts(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, str) else value for name, value in items}


def as_text(value: Any) -> str:
    """Return the value of a key as it is typed on the command line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return ",".join(map(as_text, value)) if isinstance(value, list) else str(value)


def check_saved(config: Any) -> None:
    """Raise `ConfigError` if `config.yaml` could not hold the configuration: if it would be read as another one."""
    kind = type(config)
    try:
        text = to_yaml(config).encode().decode()
        saved = build(kind, [(read_text(text, kind, Path("config.yaml")), "config.yaml: ")])
    except (ConfigError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError(f"these keys cannot be saved: {str(error).splitlines()[0]}") from error
    for name, _ in leaves(kind):
        given, read = (attrgetter(name)(c) for c in (config, saved))
        if repr(given) != repr(read):
            raise ConfigError(f"{name}={given}: would be saved as {read}. Give another value.")


def help_text(kind: type[Any], usage: str, *, without: Sequence[str] = ()) -> str:
    """Return the text of `--help`: one line for each key with its default, meaning, type and range.

    Keys in `without` are left out: those that a verb refuses.
    """
    about = {f.name: f.metadata["help"] for f in dataclasses.fields(kind)}
    bare = [f"{name} ({NAMES[what]})" for name, what in bare_keys(dict(leaves(kind))).items()]
    unnamed = f"; {' and '.join(bare)} without the name too" if bare else ""
    lines, opened = [usage, "", f"keys, given as key=value, or as --key value{unnamed}:"], ""
    for name, f in leaves(kind):
        if name in without:
            continue
        group = name.rpartition(".")[0]
        if group and group != opened:
            lines.append(f"  {about[group]}:")
        opened = group
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        default = ",".join(map(str, default)) if isinstance(default, list) else default
        shown = "" if default in ("", None, {}) else f" = {default}"
        inset = "    " if group else "  "
        lines.append(f"{inset + name + shown:<36} {f.metadata['help']} ({type_of(f)}{rule(f)})")
    return "\n".join(lines)

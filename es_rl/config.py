"""Keys: declared as fields of frozen dataclasses, given as `key=value` or in a file, checked, explained by `--help`.

The keys themselves are declared in the `config.py` of each kind of run, and in the modules of the smaller verbs.
"""

from __future__ import annotations

import dataclasses
import io
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from es_rl.arguments import BESIDES, NAMES, bare_keys, given, type_of
from es_rl.arguments.unknown import check_keys
from es_rl.errors import ConfigError, nearest

C = TypeVar("C")
WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list, such as 64,64"}
LONGEST = 20  # digits of a whole number that is written as 1e6 is


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
    known = dict(leaves(kind))
    tree = OmegaConf.structured(kind)
    _writable(tree)
    for values, source in sources:
        check_keys(values, known, source)
        for name, value in values.items():
            _check_text(name, value, source)
            if name in known and known[name].metadata["path"] and isinstance(value, str):
                value = str(expanded(value, name)) if value.startswith("~") else value
            _assign(tree, name, value, source, known.get(name))
            if name in known:  # entries of an open dictionary have no range
                _check_range(name, OmegaConf.select(tree, name), known[name], source)
    result: C = OmegaConf.to_object(tree)  # type: ignore[assignment]
    return result


def expanded(path: str, name: str) -> Path:
    """Return the path that a key gives, with the home directory for ~. Raises `ConfigError` if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{name}={path}: there is no such home directory. Give the whole path.") from error


def leaves(kind: type[Any], prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Yield (dotted name, field) of every key, in order, including those in groups."""
    hints = get_type_hints(kind)
    for f in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from leaves(hints[f.name], f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, f


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
    return OmegaConf.to_yaml(OmegaConf.create(tree_of(config)))


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
    except (ConfigError, UnicodeError) as error:
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
        lines.append(f"{inset + name + shown:<36} {f.metadata['help']} ({type_of(f)}{_rule(f)})")
    return "\n".join(lines)


def _check_text(name: str, value: Any, source: str) -> None:
    """Refuse what OmegaConf would not take as it is: it would resolve `${` even to an environment variable."""
    if "${" in str(value):
        raise ConfigError(f"{source}{name}={value}: must not contain ${{: values are taken as they are.")
    if "???" in re.split(r"[\s\[\]{},:'\"]+", str(value)):
        raise ConfigError(f"{source}{name}={value}: must not be ???, which means a missing value.")


def _assign(tree: DictConfig, name: str, value: Any, source: str, f: dataclasses.Field[Any] | None) -> None:
    """Set one key or, without a field, an entry of an open dictionary.

    Text from the command line, which has no source, is parsed as YAML unless the key holds text.
    """
    kind = "" if f is None else type_of(f)
    try:
        read = value if source or kind == "str" or not isinstance(value, str) else parsed(value, kind)
    except Exception as error:
        raise ConfigError(f"{source}{name}={value}: not readable as a value.") from error
    try:
        OmegaConf.update(tree, name, _whole(read) if kind == "int" else read, merge=False, force_add=f is None)
    except OmegaConfBaseException as error:
        wanted = WANTED.get("list" if kind.startswith("list") else kind, "")
        reason = f"It must be {wanted}" if wanted else str(error).splitlines()[0].rstrip(".")
        shown = value if kind.startswith("list") else read
        raise ConfigError(f"{source}{name}={shown}: wrong type. {reason}.") from error


def parsed(text: str, kind: str = "") -> Any:
    """Return a text of the command line as YAML has it. A list needs no brackets; a whole number may be 1e6."""
    value: Any = OmegaConf.from_dotlist([f"value={text}"]).value
    if kind == "int" and isinstance(value, float) and isinstance(whole := _whole(text), int):
        return whole
    if kind.startswith("list") and value is not None and not OmegaConf.is_config(value):
        value = OmegaConf.from_dotlist([f"value=[{text}]"]).value
        return [_whole(item) for item in value] if kind == "list[int]" else value
    return value


def _whole(value: Any) -> Any:
    """Return a number without a fraction as an integer, such as 1e6; anything else as it is."""
    try:
        number = Decimal(value.replace("_", "") if isinstance(value, str) else repr(value))
    except InvalidOperation:
        return value
    exact = number.is_finite() and number.adjusted() < LONGEST and number == number.to_integral_value()
    return int(number) if exact and not isinstance(value, bool) else value


def _check_range(name: str, value: Any, f: dataclasses.Field[Any], source: str) -> None:
    rule = f.metadata
    for item in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
        number = item if isinstance(item, (int, float)) and not isinstance(item, bool) else None
        bad = number is not None and (
            not math.isfinite(number)
            or (rule["low"] is not None and number < rule["low"])
            or (rule["above"] is not None and number <= rule["above"])
            or (rule["high"] is not None and number > rule["high"])
            or (rule["below"] is not None and number >= rule["below"])
        )
        if bad or (rule["choices"] and item not in rule["choices"]):
            hint = nearest(str(item), rule["choices"])
            raise ConfigError(f"{source}{name}={item}: must be{_rule(f, comma='')}.{hint}")


def _rule(f: dataclasses.Field[Any], comma: str = ",") -> str:
    rule = f.metadata
    if rule["choices"]:
        return f"{comma} one of {', '.join(rule['choices'])}"
    parts = [
        f"{sign} {rule[bound]:g}" if bound != "high" or rule[bound] < 1e9 else f"{sign} {rule[bound]}"
        for bound, sign in (("low", ">="), ("above", ">"), ("high", "<="), ("below", "<"))
        if rule[bound] is not None
    ]
    return f"{comma} {' and '.join(parts)}" if parts else ("" if comma else " a finite number")


def _writable(node: DictConfig) -> None:
    """Unlock a tree so that keys can be set: the nodes of frozen dataclasses are read-only."""
    OmegaConf.set_readonly(node, False)
    for name in node:
        child = node._get_node(name)
        if isinstance(child, DictConfig):
            _writable(child)

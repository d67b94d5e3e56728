"""Keys: declared as fields of frozen dataclasses, given as `key=value` or in a file, checked, explained by `--help`.

The keys themselves are declared in the `config.py` of each kind of run, and in the modules of the smaller verbs.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from es_rl.errors import ConfigError, nearest

C = TypeVar("C")


def parse(kind: type[C], argv: Sequence[str]) -> C:
    """Return a `kind` with the `key=value` arguments of one of the smaller verbs. Raises `ConfigError`."""
    return build(kind, [(pairs(argv), "")])


def pairs(argv: Sequence[str]) -> dict[str, str]:
    """Return `key=value` arguments as a dict. Raises `ConfigError` for one without `=`, or given twice."""
    found: dict[str, str] = {}
    for argument in argv:
        name, equals, text = argument.partition("=")
        if not equals or not name:
            bare = argument.lstrip("-")
            hint = f" Write {bare}=…" if bare and bare != argument else ""
            raise ConfigError(f"{argument}: not of the form key=value.{hint} --help lists every key.")
        if name in found:
            raise ConfigError(f"{name}: given twice ({found[name]} and {text}). Give it once.")
        found[name] = text
    return found


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
        for name, value in values.items():
            _check_name(name, known, source)
            _check_text(name, value, source)
            if name in known and known[name].metadata["path"] and isinstance(value, str):
                value = str(expanded(value, name)) if value.startswith("~") else value
            _assign(tree, name, value, source, inside=name not in known)
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
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def differing(config: Any) -> str:
    """Return as YAML the keys that do not have their declared default."""
    plain = type(config)()
    tree = {name: copy.deepcopy(attrgetter(name)(config)) for name, _ in leaves(type(config))}
    return OmegaConf.to_yaml({name: value for name, value in tree.items() if value != attrgetter(name)(plain)})


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
    lines, opened = [usage, "", "keys, given as key=value:"], ""
    for name, f in leaves(kind):
        if name in without:
            continue
        group = name.rpartition(".")[0]
        if group and group != opened:
            lines.append(f"  {about[group]}:")
        opened = group
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        shown = "" if default in ("", None, {}) else f" = {default}"
        inset = "    " if group else "  "
        lines.append(f"{inset + name + shown:<36} {f.metadata['help']} ({_type_name(f)}{_rule(f)})")
    return "\n".join(lines)


def _leaf(name: str, known: Mapping[str, Any]) -> str | None:
    """Return the key that `name` sets: itself, or the open dictionary that contains it; None if there is none."""
    if name in known:
        return name
    return next((k for k, f in known.items() if "dict" in str(f.type) and name.startswith(k + ".")), None)


def _check_text(name: str, value: Any, source: str) -> None:
    """Refuse what OmegaConf would not take as it is: it would resolve `${` even to an environment variable."""
    if "${" in str(value):
        raise ConfigError(f"{source}{name}={value}: must not contain ${{: values are taken as they are.")
    if "???" in re.split(r"[\s\[\]{},:'\"]+", str(value)):
        raise ConfigError(f"{source}{name}={value}: must not be ???, which means a missing value.")


def _check_name(name: str, known: Mapping[str, Any], source: str) -> None:
    if _leaf(name, known) is not None:
        return
    inside = [k for k in known if k.startswith(name + ".")]
    if inside:
        raise ConfigError(f"{source}{name}: a group of keys. Set one of them: {', '.join(inside)}.")
    same_ending = [k for k in known if k.split(".")[-1] == name]
    hint = f" Did you mean {' or '.join(same_ending)}?" if same_ending else nearest(name, known)
    raise ConfigError(f"{source}{name}: unknown key.{hint} --help lists every key.")


def _assign(tree: DictConfig, name: str, value: Any, source: str, *, inside: bool) -> None:
    """Set one key or, with `inside`, an entry of an open dictionary.

    Text from the command line, which has no source, is parsed as YAML unless the key holds text.
    """
    if not source and isinstance(value, str) and not isinstance(OmegaConf.select(tree, name), str):
        try:
            value = OmegaConf.from_dotlist([f"value={value}"]).value
        except Exception as error:
            raise ConfigError(f"{source}{name}={value}: not readable as a value.") from error
    try:
        OmegaConf.update(tree, name, value, merge=False, force_add=inside)
    except OmegaConfBaseException as error:
        wanted = "a list, such as [64]" if OmegaConf.is_list(OmegaConf.select(tree, name)) else ""
        reason = f"It must be {wanted}" if wanted else str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"{source}{name}={value}: wrong type. {reason}.") from error


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


def _type_name(f: dataclasses.Field[Any]) -> str:
    return str(f.type).replace(" | None", "")


def _writable(node: DictConfig) -> None:
    """Unlock a tree so that keys can be set: the nodes of frozen dataclasses are read-only."""
    OmegaConf.set_readonly(node, False)
    for name in node:
        child = node._get_node(name)
        if isinstance(child, DictConfig):
            _writable(child)

"""Refuse keys that a command does not have, each with the argument that may have been meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from es_rl.arguments.synonyms import elsewhere
from es_rl.errors import ConfigError, nearest

HELP = " --help lists every key."


def check_keys(values: Mapping[str, Any], known: Mapping[str, Any], source: str = "") -> None:
    """Raise one `ConfigError` for all keys that are not among the `known` ones, a line for each.

    `source` begins each line.
    """
    refused = [said for name, value in values.items() if (said := _refusal(name, value, known))]
    if refused:
        lines = [said.removesuffix(HELP) for said in refused[:-1]] + refused[-1:]
        raise ConfigError("\n".join(source + line for line in lines))


def _refusal(name: str, value: Any, known: Mapping[str, Any]) -> str:
    """Return why a key cannot be, or an empty string."""
    if name in known or any("dict" in str(f.type) and name.startswith(k + ".") for k, f in known.items()):
        return ""
    if inside := [k for k in known if k.startswith(name + ".")]:
        return f"{name}: a group of keys. Set one of them: {', '.join(inside)}."
    group = name.rpartition(".")[0]
    beside = [k for k in known if group and k.startswith(group + ".")]
    said = elsewhere(name, value, known)
    if said and beside and not any(f" {k}=" in said for k in beside):
        return f"{name}: unknown key. Of this group there are {', '.join(beside)}."
    if said:
        return f"{name}: unknown key.{said}"
    same_ending = [k for k in known if k.split(".")[-1] == name]
    hint = f" Did you mean {' or '.join(same_ending)}?" if same_ending else nearest(name, known)
    return f"{name}: unknown key.{hint}{HELP}"

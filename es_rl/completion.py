"""Write a script that completes the verbs, keys and values of `es-rl` in a shell.

    eval "$(es-rl completion bash)"        # in ~/.bashrc
    eval "$(es-rl completion zsh)"         # in ~/.zshrc, after compinit

The script holds all names, as the verbs declare them, so a press of the tab key starts no Python.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from typing import Any

from es_rl import cli
from es_rl.arguments import type_of
from es_rl.config import leaves
from es_rl.envs.mujoco_tasks import TASKS
from es_rl.envs.worlds import WORLDS
from es_rl.errors import ConfigError, lookup
from es_rl.es.shaping import SHAPINGS
from es_rl.noise import KINDS

USAGE = """python -m es_rl.completion SHELL   a script for bash or zsh that completes verbs, keys and values

Let the shell run it when it starts: eval "$(es-rl completion bash)" in ~/.bashrc, or with zsh in ~/.zshrc."""
# Values of keys whose names are in a registry; other keys have those that they declare.
VALUES: dict[str, Collection[str]] = {"env": [*TASKS, *WORLDS], "es.noise": KINDS, "es.shaping": SHAPINGS}
VALUES |= {"checkpoint": ["last", "best"], "run": ["last"], "resume": ["last"], "init": ["last"]}
BASH = """_es_rl() {{
    local verb=${{COMP_WORDS[1]}} cur=${{COMP_WORDS[COMP_CWORD]}} key= words= dashes=
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{verbs}" -- "$cur"))
        return
    fi
    if [ "$cur" = "=" ]; then
        key=${{COMP_WORDS[COMP_CWORD-1]}} cur=
    elif [ "${{COMP_WORDS[COMP_CWORD-1]}}" = "=" ]; then
        key=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    if [ -n "$key" ]; then
        case "$verb ${{key#--}}" in
{values}
        esac
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
        if [ -z "$words" ] || [ "$words" = last ]; then
            COMPREPLY+=($(compgen -f -- "$cur"))
            compopt -o filenames
        fi
        return
    fi
    case "$verb" in
{keys}
    esac
    case "$cur" in --*) dashes=-- ;; esac
    COMPREPLY=($(compgen -P "$dashes" -W "$words" -- "${{cur#--}}"))
    if [ "${{#COMPREPLY[@]}}" -gt 0 ]; then
        compopt -o nospace
    else
        COMPREPLY=($(compgen -f -- "$cur"))
        compopt -o filenames
    fi
}}
complete -F _es_rl es-rl"""
ZSH = """_es_rl() {{
    local verb=${{words[2]}} names= key
    if (( CURRENT == 2 )); then
        compadd -- {verbs}
        return
    fi
    if compset -P '*='; then
        key=${{${{IPREFIX%=}}#--}}
        case "$verb $key" in
{values}
        esac
        [[ -n $names ]] && compadd -- ${{=names}}
        [[ -z $names || $names == last ]] && _files
        return
    fi
    case "$verb" in
{keys}
    esac
    compset -P --
    compadd -S '' -- ${{=names}}
    _files
}}
compdef _es_rl es-rl"""
SHELLS = {"bash": (BASH, "words"), "zsh": (ZSH, "names")}  # the script, and the variable that its cases set


def main(argv: Sequence[str]) -> int:
    """Run the verb; return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(USAGE)
    if len(argv) != 1:
        raise ConfigError(f"give one shell: {' or '.join(SHELLS)}, such as es-rl completion bash.")
    script, variable = lookup(SHELLS, argv[0], "shell")
    keys = {verb: keys_of(verb) for verb in cli.VERBS}
    names = {verb: " ".join(f"{name}=" for name in found) for verb, found in keys.items()}
    values = {f"{verb} {name}": " ".join(_values(name, f)) for verb, found in keys.items() for name, f in found.items()}
    cases = [
        "\n".join(f'{" " * 8}"{case}") {variable}="{words}" ;;' for case, words in table.items() if words)
        for table in (values, names)
    ]
    return cli.show(script.format(verbs=" ".join(cli.VERBS), values=cases[0], keys=cases[1]))


def keys_of(verb: str) -> dict[str, Any]:
    """Return the fields of all keys that a verb takes, by name; those beside them have no field."""
    module = importlib.import_module(f"es_rl.{verb}")
    if hasattr(module, "__path__"):  # a package
        module = importlib.import_module(f"es_rl.{verb}.__main__")
    found: dict[str, Any] = {name: f for kind in getattr(module, "KEYS", ()) for name, f in leaves(kind)}
    resumable = any(f.metadata["resumable"] for f in found.values())
    return found | (dict.fromkeys(("resume", "config") if verb == "train" else ("resume",)) if resumable else {})


def _values(name: str, f: Any) -> Collection[str]:
    """Return what can be completed after `name=`, besides files."""
    if name in VALUES:
        return VALUES[name]
    if f is None:
        return ()
    return ("true", "false") if type_of(f) == "bool" else [choice for choice in f.metadata["choices"] if choice]


if __name__ == "__main__":
    cli.run(main)

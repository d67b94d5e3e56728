"""What users give: keys as arguments of Python, stop rules, callbacks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from es_rl.arguments.unknown import check_keys
from es_rl.config import build, flatten, leaves, open_keys, tree_of
from es_rl.envs.registry import given
from es_rl.errors import ConfigError, Stopped
from es_rl.plugins import FROM_PYTHON, Given
from es_rl.rl.config import CODE, Config, resume_config

KEYBOARD = 130  # exit code of a training that Ctrl-C stopped
STOP_RULES = ("env_steps", "generations", "minutes", "target_return")


def flat(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys by dotted names, with plain values: lists for tuples, numbers of Python for those of NumPy."""
    return {name: _plain(value) for name, value in flatten(keys, whole=open_keys(Config)).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def as_code(values: Sequence[Any], keys: Mapping[str, Any]) -> str:
    """Return arguments as Python code, to be read by people."""
    named = [f"{name}={value!r}" for name, value in keys.items() if "." not in name]
    dotted = {name: value for name, value in keys.items() if "." in name}
    return ", ".join([*(repr(str(value)) for value in values), *named, *([f"**{dotted}"] if dotted else [])])


def until(wanted: Mapping[str, Any], done: Mapping[str, float]) -> dict[str, Any]:
    """Return stop rules that count from what is done; none holds besides those wanted. Raises `ConfigError`."""
    known = dict(leaves(Config))
    for name, value in wanted.items():
        if name not in STOP_RULES:
            check_keys({name: value}, {rule: known[rule] for rule in STOP_RULES}, "learn: ")
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise ConfigError(f"learn: {name}={value!r}: must be a number.")
        if name != "target_return" and not value > 0:
            raise ConfigError(f"learn: {name}={value}: must be > 0.")
        build(Config, [({name: _plain(value)}, "learn: ")])  # whole numbers of steps and generations
    return dict.fromkeys(STOP_RULES) | {name: _plain(value) + done.get(name, 0) for name, value in wanted.items()}


def changed(config: Config, keys: Mapping[str, Any]) -> Config:
    """Return a configuration with some keys changed that may change. Raises `ConfigError`."""
    saved = flatten(tree_of(config), whole=open_keys(Config))
    found = resume_config(saved, {**keys, **{name: saved[name] for name in CODE}}, "the model")
    return replace(found, env=config.env, policy=config.policy)  # which may carry objects


def again_given(saved: Mapping[str, Any], env: Any, policy: Any, wanted: dict[str, Any]) -> dict[str, str]:
    """Return the names of an environment and a policy that are given for a saved model, "" for those that are not.

    Add to `wanted` what is compared with the saved keys. What came from Python cannot be: its name says little.
    """
    again = {"env": given(env) if env else "", "policy": Given(policy) if callable(policy) else policy or ""}
    for name, value in again.items():
        if value:
            both = isinstance(value, Given) and str(saved.get(name)).startswith(FROM_PYTHON)
            wanted[name] = saved[name] if both else str(value)
    return again


def exception_of(stop: Stopped) -> BaseException:
    """Return what Python raises where a training was stopped: for Ctrl-C, or to end the program."""
    if stop.exit_code == KEYBOARD:
        return KeyboardInterrupt(str(stop))
    sys.stderr.write(f"es_rl: {stop}\n")
    return SystemExit(stop.exit_code)


def callbacks_of(callback: Any) -> list[Any]:
    """Return the functions to call after each generation. Raises `ConfigError` for what cannot be called."""
    each = callback if isinstance(callback, (list, tuple)) else [] if callback is None else [callback]
    functions: list[Any] = [getattr(one, "on_generation", one) for one in each]
    for one in functions:
        try:
            inspect.signature(one).bind("model", "record")
        except TypeError as error:  # it cannot be called, or not so
            raise ConfigError(
                f"callback={one!r}: must be a function of (model, record), or a list of such. Those of other libraries "
                f"do not fit."
            ) from error
        except ValueError:  # some built-in functions have no signature
            continue
    return functions

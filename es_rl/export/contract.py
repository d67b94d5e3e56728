"""What a program must know besides the file, as JSON: names, shapes and meanings of numbers, the rate, the robot."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

import es_rl
from es_rl.envs.pixels import PLAIN, View
from es_rl.envs.spaces import leaves, size
from es_rl.export.check import TOLERANCE, Verified
from es_rl.export.formats import names
from es_rl.export.stepped import Stepped
from es_rl.rl.agent import Agent

RATES = (1e-3, 1e6)  # steps per second that are believed
BATCH = "batch"  # name of the dimension of any size


def tensors(agent: Agent, stepped: Stepped, form: str) -> dict[str, Any]:
    """Return the inputs and outputs of a file, in order, and what the numbers of observations and actions are."""
    many = [] if form == "numpy" else [BATCH]  # its reader acts for one episode, and keeps the memory
    memory, normalizer = stepped.memory, getattr(agent.policy, "normalizer", None)
    state = memory.initial(1) if many else ()
    inputs, outputs = names(len(state))
    kept = [
        {"shape": [*many, *part.shape[1:]], "type": _type(part), "meaning": meaning}
        for part, meaning in zip(state, memory.meanings if many else (), strict=True)
    ]
    observed, acted = size(agent.observation_space), sum(_numbers(part) for _, part in leaves(agent.action_space))
    used = observed if stepped.seen.images else getattr(normalizer, "inputs", observed)
    given = {"name": inputs[0], "shape": [*many, *stepped.seen.row], "type": _type(stepped.examples()[0]), "used": used}
    shape = many if isinstance(agent.action_space, spaces.Discrete) else [*many, acted]
    told = {"name": outputs[0], "shape": shape, "type": _type(stepped(*stepped.examples())[0])}
    first = [{**part, "initial": _same(start)} for part, start in zip(kept, state, strict=True)]
    return {
        "inputs": [given, *({"name": name, **part} for name, part in zip(inputs[1:], first, strict=True))],
        "outputs": [told, *({"name": name, **part} for name, part in zip(outputs[1:], kept, strict=True))],
        "observation": _parts(agent.observation_space, observed=True),
        "action": _parts(agent.action_space, observed=False),
    }


def surroundings(env: gymnasium.Env[Any, Any] | None, view: View = PLAIN) -> dict[str, Any]:
    """Return what only the environment knows: its rate, and its robot if it is one of `es_rl.envs.robot`.

    If anything is done with frames and images before the policy sees them, return that too.
    """
    known = {"rate_hz": None if env is None else rate(env, view), "robot": None if env is None else _robot(env)}
    return known | ({"view": asdict(view)} if view.keys else {})


def rate(env: gymnasium.Env[Any, Any], view: View = PLAIN) -> float | None:
    """Return the actions per second of an environment's time, from its `dt` or its `render_fps`; None if unknown."""
    for told, inverse in ((getattr(env.unwrapped, "dt", None), True), (env.metadata.get("render_fps"), False)):
        try:
            value = 1 / float(told) / view.frame_skip if inverse else float(told)  # type: ignore[arg-type]
        except (TypeError, ValueError, ZeroDivisionError):
            continue
        if RATES[0] <= value <= RATES[1]:
            return round(value, 9)
    return None


def identity(agent: Agent, *, file: str, form: str, sha256: str, model: str) -> dict[str, Any]:
    """Return which policy a file is made of. Digests are of the file and of the checkpoint's model.safetensors."""
    return {
        "file": file,
        "format": form,
        "sha256": sha256,
        "es_rl": es_rl.__version__,
        "env": agent.config.env,
        "policy": agent.config.policy,
        "generation": agent.generation,
        "model_sha256": model,
    }


def verified(found: Verified, source: str, episodes: int) -> dict[str, Any]:
    """Return how the file compares with the policy."""
    return {"source": source, "episodes": episodes, **asdict(found), "tolerance": TOLERANCE}


def _robot(env: gymnasium.Env[Any, Any]) -> dict[str, Any] | None:
    module = sys.modules.get("es_rl.envs.robot.env")
    if module is None or not isinstance(env.unwrapped, module.RobotEnv):
        return None
    from es_rl.envs.robot.deployment import deployment

    return deployment(env.unwrapped.task)


def _parts(space: spaces.Space[Any], *, observed: bool) -> list[dict[str, Any]]:
    """Return where the parts of a space stand in a row of numbers, and between which bounds they lie.

    In an observation, choices are one-hot. In an action they are the choice itself.
    """
    found, first = [], 0
    for path, part in leaves(space):
        numbers = int(spaces.flatdim(part)) if observed else _numbers(part)
        low, high = _bounds(part, observed=observed)
        found.append(
            {
                "path": list(path), "kind": type(part).__name__, "first": first, "numbers": numbers,
                "shape": list(part.shape or ()), "type": str(part.dtype), "low": low, "high": high,
            } | ({"one_hot": isinstance(part, (spaces.Discrete, spaces.MultiDiscrete))} if observed
                 else {"convert": _conversion(part)})
        )  # fmt: skip
        first += numbers
    return found


def _bounds(space: spaces.Space[Any], *, observed: bool) -> tuple[Any, Any]:
    """Return the bounds of the numbers of a part: one number if they are all the same, None where there is none."""
    match space:
        case spaces.Box():
            low, high = space.low, space.high
        case spaces.Discrete() | spaces.MultiDiscrete() if not observed:
            low = np.asarray(space.start)
            high = low + (space.n if isinstance(space, spaces.Discrete) else space.nvec) - 1
        case _:
            low, high = np.zeros(1), np.ones(1)
    return _told(low.reshape(-1).tolist()), _told(high.reshape(-1).tolist())


def _told(values: Sequence[Any]) -> Any:
    """Return a list of bounds as JSON values: one if they are all the same, None for an infinite one."""
    known = [value if math.isfinite(value) else None for value in values]
    return known[0] if known and len(set(known)) == 1 else known


def _conversion(space: spaces.Space[Any]) -> str | None:
    """Return what is done with the numbers of an action before they get the space's type."""
    kind = np.dtype(space.dtype).kind
    if not isinstance(space, spaces.Box) or kind == "f":
        return None
    return "true from 0.5" if kind == "b" else "round to the nearest whole number, of two the even one"


def _numbers(space: spaces.Space[Any]) -> int:
    return int(np.prod(space.shape or ()))


def _type(part: Any) -> str:
    return str(part.dtype).removeprefix("torch.")


def _same(part: Any) -> Any:
    """Return the value of a tensor whose numbers are all the same, or its first row as lists."""
    values = part[0]
    return (
        values.reshape(-1)[0].item()
        if values.numel() and bool((values == values.reshape(-1)[0]).all())
        else values.tolist()
    )

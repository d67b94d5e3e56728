"""The parts of a space: which ones a policy can observe or act in, and where they stand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from es_rl.observations import is_image

Space = spaces.Space[Any]
Path = tuple[Any, ...]  # the keys and positions that lead to a part

RULE = "Box, Discrete, MultiBinary, MultiDiscrete, and Dict or Tuple of these are"
MOST_CHOICES = 10_000_000  # of a part: a policy has a number for each
EXACT = 2**53  # float64, in which actions of several kinds travel, holds all whole numbers up to here


def parts_of(space: spaces.Dict | spaces.Tuple[Any]) -> list[tuple[Any, Space]]:
    """Return the parts of a Dict by key, or of a Tuple by position, in the order of the space."""
    return list(space.items()) if isinstance(space, spaces.Dict) else list(enumerate(space))


def leaves(space: Space, path: Path = ()) -> Iterator[tuple[Path, Space]]:
    """Yield the parts that have no parts of their own, in the order in which their numbers stand side by side."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        for name, part in parts_of(space):
            yield from leaves(part, (*path, name))
    else:
        yield path, space


def part_at(obs: Any, path: Path) -> Any:
    """Return the part of an observation that is at this path. Raises KeyError, IndexError or TypeError without one."""
    for name in path:
        obs = obs[name]
    return obs


def is_picture(space: Space) -> bool:
    """Tell whether a part of a space is an image: see `es_rl.observations`."""
    return isinstance(space, spaces.Box) and is_image(space.low, space.high)


def usable(space: Space) -> tuple[Space | None, list[str]]:
    """Return the part of a space that has a fixed size, or None, and the names of the parts that are left out."""
    if isinstance(space, spaces.Dict):
        found = {name: usable(part) for name, part in space.items()}
        left_out = [".".join(filter(None, (str(name), inner))) for name, (_, names) in found.items() for inner in names]
        kept = {name: part for name, (part, _) in found.items() if part is not None}
        return (spaces.Dict(list(kept.items())) if left_out else space) if kept else None, left_out
    if isinstance(space, spaces.Tuple):
        return (None, [""]) if any(usable(part)[1] for part in space) else (space, [])
    return (space, []) if _simple(space) else (None, [""])


def same(one: Space, other: Space) -> bool:
    """Tell whether two spaces are equal, and whether their numbers stand in the same order."""
    return one == other and [path for path, _ in leaves(one)] == [path for path, _ in leaves(other)]


def refusal(observation: Space, action: Space) -> str:
    """Return why no policy can observe or act in these spaces, with a remedy; "" if one can."""
    seen, _ = usable(observation)
    if seen is None:
        paths = (_said("observation", path, part) for path, part in leaves(observation) if not _simple(part))
        text = next(paths, _said("observation", (), observation))
        return f"{text} is not supported; {RULE}. {_wrap('Observation')}"
    return _odd_part("observation", seen) or _odd_action(action) or _odd_part("action", action)


def _odd_action(space: Space, path: Path = ()) -> str:
    """Return why a policy cannot give an action of this part of a space; "" if it can."""
    what = _said("action", path, space)
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        if not len(space):
            return f"{what} has no parts. {_leave_out(path)}"
        return next(filter(None, (_odd_action(part, (*path, name)) for name, part in parts_of(space))), "")
    if not _simple(space):
        return f"{what} is not supported; {RULE}. {_wrap('Action')}"
    nothing = space.shape is not None and not np.prod(space.shape)
    if nothing and (path or isinstance(space, spaces.MultiDiscrete)):
        return f"{what} has no numbers. {_leave_out(path)}"
    if path and isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        first = np.asarray(space.start).astype(object)
        if (abs(first) > EXACT - (space.n if isinstance(space, spaces.Discrete) else space.nvec.astype(object))).any():
            return f"{what} has numbers beyond 2**53, which cannot be told apart. Let them start at 0."
    return ""


def _odd_part(name: str, space: Space) -> str:
    """Return which part of a space cannot be used, whatever it is used for; "" if there is none."""
    for path, part in leaves(space):
        if isinstance(part, spaces.Box) and ((part.low == np.inf).any() or (part.high == -np.inf).any()):
            return f"{_said(name, path, part)} has no number in it. Correct its bounds."
        if (choices := _choices(part)) > MOST_CHOICES:
            return (
                f"{_said(name, path, part)} has {choices:,} choices, and {MOST_CHOICES:,} are the most, since a policy "
                f"has a number for each. {_wrap(name.capitalize())}"
            )
        if odd := [key for key in path if not isinstance(key, (str, int, float))]:
            return f"{_said(name, path, part)} has the key {odd[0]!r}; keys must be texts or numbers. Rename it."
    return ""


def _choices(space: Space) -> int:
    """Return how many choices a part has, those of all its places together; 0 if it has none."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return sum(map(int, space.nvec.flat)) if isinstance(space, spaces.MultiDiscrete) else 0


def _simple(space: Space) -> bool:
    return isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete))


def _said(name: str, path: Path, space: Space) -> str:
    """Name a part of a space, such as `action_space["arm"][1]: Discrete(3)`."""
    text = one_line(space)
    if not path:
        return f"the {name} space {text}"
    keys = [json.dumps(key, ensure_ascii=False) if isinstance(key, str) else repr(key) for key in path]
    return f"{name}_space{''.join(f'[{key}]' for key in keys)}: {text}"


def one_line(space: Space) -> str:
    """Return how a space is printed, in one line: arrays have several."""
    return " ".join(str(space).split())


def _wrap(kind: str) -> str:
    return f"Wrap the environment in gymnasium.wrappers.Transform{kind}"


def _leave_out(path: Path) -> str:
    return "Leave this part out" if path else "Give the policy something to choose"

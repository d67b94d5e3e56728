"""What the keys of the window mean. Nothing is heard, drawn or simulated here.

Keys have pygame's names: `up`, `space`, `return`, `7`, `,`. They are those of these places on a US keyboard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

Range = tuple[float, float]

# Pairs of keys that raise and lower a number of the command. The usual names have their own pair.
PAIRS = (("up", "down"), ("left", "right"), (",", "."), ("page up", "page down"), ("home", "end"))
USUAL = {"forward": PAIRS[0], "turn": PAIRS[1], "sideways": PAIRS[2]}
PRESSES = 5  # of a key, from 0 to the farther end of a range
SPEEDS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # times real time
LAG = 0.1  # seconds: a longer delay is not made up for
DIGITS = 12  # of a checkpoint's number, at most
COMMANDING = (
    ("x", "stand still: all numbers of the command are 0, or the nearest to it"),
    ("c", "the task's own commands again, in a new episode"),
)
PUSHING = (("p", "push the robot"),)
ALWAYS = (
    ("backspace", "begin a new episode"),
    ("space", "pause, or go on"),
    ("- =", "slower, faster"),
    ("400 enter", "load the checkpoint of generation 400; backspace drops the digits"),
    ("n b", "load the newest checkpoint, the best one"),
)


@dataclass(frozen=True)
class Steering:
    """What the keys have set so far."""

    ranges: Mapping[str, Range] = field(default_factory=dict)  # of the numbers of the command, by name
    command: Mapping[str, float] | None = None  # None: the task's own
    speed: float = 1.0  # times real time
    paused: bool = False
    typed: str = ""  # the first digits of a checkpoint's number


@dataclass(frozen=True)
class Wish:
    """What a key asks for at once."""

    restart: bool = False
    push: bool = False
    checkpoint: str = ""  # last, best or the number of a generation


WISHES = {
    "p": Wish(push=True),
    "backspace": Wish(restart=True),
    "n": Wish(checkpoint="last"),
    "b": Wish(checkpoint="best"),
    "c": Wish(restart=True),
}


def pressed(now: Steering, key: str, told: Mapping[str, float]) -> tuple[Steering, Wish]:
    """Return what is set after a key was pressed, and what it asks for. `told` is the present command."""
    if len(key) == 1 and key in "0123456789":
        return replace(now, typed=(now.typed + key)[:DIGITS]), Wish()
    after = replace(now, typed="")
    if key == "return":
        return after, Wish(checkpoint=now.typed)
    if key == "backspace" and now.typed:
        return after, Wish()
    if key == "c":
        return (replace(after, command=None), WISHES[key]) if now.ranges else (now, Wish())
    if key in WISHES:
        return after, WISHES[key]
    return _set(now, after, key, told), Wish()


def _set(now: Steering, after: Steering, key: str, told: Mapping[str, float]) -> Steering:
    """Return what is set after a key that asks for nothing at once; a key without a meaning changes nothing."""
    if key == "space":
        return replace(after, paused=not now.paused)
    if key in ("-", "="):
        at = SPEEDS.index(now.speed) + (1 if key == "=" else -1)
        return replace(after, speed=SPEEDS[min(max(at, 0), len(SPEEDS) - 1)])
    command = dict(told if now.command is None else now.command)
    if key == "x" and now.ranges:
        return replace(after, command={name: clamped(0.0, limits) for name, limits in now.ranges.items()})
    for name, (more, less) in pairs(list(now.ranges)).items():
        if key in (more, less):
            command[name] = moved(command[name], now.ranges[name], 1 if key == more else -1)
            return replace(after, command=command)
    return now


def pairs(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the keys that raise and lower each number of a command. If there are too few keys, the last have none."""
    found = {name: USUAL[name] for name in names if name in USUAL}
    free = [pair for pair in PAIRS if pair not in found.values()]
    others = [name for name in names if name not in found]
    return found | dict(zip(others, free, strict=False))


def moved(value: float, limits: Range, by: int) -> float:
    """Return a number that is some presses higher or lower, a multiple of a press within the limits."""
    press = max(abs(limit) for limit in limits) / PRESSES
    return clamped((round(value / press) + by) * press if press else 0.0, limits)


def clamped(value: float, limits: Range) -> float:
    """Return the nearest number within the limits."""
    return min(max(value, limits[0]), limits[1])


def next_due(due: float, now: float, seconds: float) -> float:
    """Return when the next step is due if this one was due at `due` and takes so many seconds, as clocks show them.

    A short delay is made up for, a long one is not.
    """
    return max(due + seconds, now - LAG)


def explained(ranges: Mapping[str, Range | None], *, pushes: bool = True) -> str:
    """Return a line for each key. A range of None is not shown."""
    lines = []
    for name, keys in pairs(list(ranges)).items():
        limits = ranges[name]
        lines.append((" ".join(keys), name + (f": {limits[0]:g} to {limits[1]:g}" if limits else "")))
    lines += [*(COMMANDING if ranges else ()), *(PUSHING if pushes else ()), *ALWAYS]
    return "\n".join(f"  {keys:<20} {text}" for keys, text in lines)


def status(now: Steering, told: Mapping[str, float], generation: int) -> str:
    """Return what the window shows as text, in one line."""
    parts = [f"checkpoint {generation}", *(f"{name} {value:.2f}" for name, value in told.items())]
    parts += ["paused"] if now.paused else [f"speed {now.speed:g}"] if now.speed != 1 else []
    parts += [f"load {now.typed}_"] if now.typed else []
    return "  ".join(parts)

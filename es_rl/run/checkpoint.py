"""Checkpoints: written atomically, with checksums, without pickle.

`checkpoints/<generation>/` holds `model.safetensors` (theta and the policy's buffers by name, and nothing that differs
between equal runs), `trainer.safetensors` (the optimiser's state), `state.json` (counters, and what the policy is for),
`config.yaml` (the keys that it was trained with), `extra.safetensors` if the kind of training has more state than that,
and a manifest. `index.json` says which are the last and the best one.
Links of these names are a convenience: not every file system has links, and a copy may follow them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from es_rl.config import read_text
from es_rl.errors import CheckpointError, ConfigError
from es_rl.keys import key
from es_rl.run import CONFIG, atomic

if TYPE_CHECKING:  # names, keys and progress are read without torch
    from torch import Tensor

    from es_rl.es.config import OptimConfig
    from es_rl.es.strategy import ESState


@dataclass(frozen=True)
class CheckpointConfig:
    every: int = key(
        10,
        "generations between checkpoints; a run also saves once a minute, at a new best score, and when it ends",
        low=1,
        resumable=True,
    )
    keep: int = key(3, "keep this many of the newest checkpoints, the best one, some for films", low=1, resumable=True)


FORMAT = 2
FILES = ("model.safetensors", "trainer.safetensors", "state.json")
EXTRA = "extra.safetensors"
INDEX, NAMED = "index.json", ("last", "best")


@dataclass(frozen=True)
class Progress:
    """The progress of a run, apart from the strategy's state."""

    steps: int = 0  # environment steps, or tokens, of all members; evaluations do not count
    seconds: float = 0.0  # of training, evaluations included
    best_score: float | None = None  # of all evaluations so far
    last_score: float | None = None
    flat_generations: int = 0  # in a row without any difference in fitness


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk."""

    generation: int
    model: dict[str, Tensor]  # parameters and buffers
    optim: dict[str, Tensor]
    progress: Progress
    about: dict[str, Any]  # what the policy is for, as JSON
    path: Path
    best: bool = False  # it was the best one when it was saved
    config: str = ""  # the resolved keys as YAML; empty if it was saved by an older version
    extra: dict[str, Tensor] = field(default_factory=dict)

    def keys(self, kind: type[Any]) -> dict[str, Any]:
        """Return the keys that it was trained with, those of a `kind`; none from an older version."""
        with atomic.reading(self.path):
            return read_text(self.config, kind, self.path / CONFIG) if self.config else {}

    def state(self, fresh: ESState, optim: OptimConfig | None = None) -> ESState:
        """Return the strategy's state. Raises `CheckpointError` if it is not one of the policy of `fresh`.

        Names, shapes and types must be the same, numbers finite, and the optimiser's state one of the optimiser
        `optim`, if it is given. The rest of the state is left out if `fresh` has none.
        """
        from es_rl.es.restore import restored
        from es_rl.es.strategy import ESState

        state = ESState(self.generation, self.model, {}, self.optim, self.extra)
        return restored(state, fresh, optim, str(self.path))


def save(
    run: Path,
    state: ESState,
    progress: Progress,
    *,
    about: Mapping[str, Any],
    config: str,
    keep: int,
    best: bool,
    pinned: int | None = None,
    milestones: Sequence[float] = (),
) -> Path:
    """Write a checkpoint, name it the last (and the best) one, and remove old ones. Return its path.

    Of the old ones, `pinned` remains, and the first one after each of the `milestones`, in seconds of training.
    `about` says what the policy is for, as JSON; `config` holds the keys, as YAML. Raises OSError. If writing fails,
    earlier checkpoints remain.
    """
    from safetensors.torch import save as save_tensors

    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    atomic.put_back(folder)
    for leftover in (path for what in ("writing", "old", *NAMED) for path in folder.glob(f".{what}-*")):
        shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
    facts: dict[str, Any] = {"format": FORMAT, "generation": state.generation, "best": best}
    facts |= {"progress": asdict(progress), "about": dict(about)}
    contents = {
        "model.safetensors": save_tensors({**state.theta, **state.buffers}),
        "trainer.safetensors": save_tensors(state.optim),
        **({EXTRA: save_tensors(state.extra)} if state.extra else {}),
        "state.json": json.dumps(facts, indent=2, allow_nan=False).encode(),
        CONFIG: config.encode(),
    }
    final = folder / _name(state.generation)
    atomic.write(final, contents)
    names = _name_it(final, best=best)
    kept = {*names.values(), *_first_after(run, milestones)} | ({_name(pinned)} if pinned is not None else set())
    _prune(folder, keep, kept)
    return final


def adopt(loaded: Checkpoint) -> None:
    """Name a checkpoint the last (and the best) one if a save was killed before it did. Raises OSError."""
    if loaded.path.name > named(loaded.path.parent).get("last", ""):
        _name_it(loaded.path, best=loaded.best)


def load(run: Path, which: str = "last") -> Checkpoint:
    """Return the checkpoint `last`, `best` or of a generation. Raises `CheckpointError` if it is missing or damaged."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise CheckpointError(f"{run}: has no checkpoints.")
    if which not in NAMED and not which.isdecimal():
        raise CheckpointError(f"checkpoint={which}: must be last, best or the number of a generation.")
    atomic.put_back(folder)
    path = folder / (_name(int(which)) if which.isdecimal() else named(folder).get(which, which))
    if not path.is_dir():
        there = ", ".join(str(int(p.name)) for p in _all(folder)) or "none"
        raise CheckpointError(f"{run}: has no checkpoint {which}; it has those of the generations {there}.")
    return read(path)


def load_newest(run: Path, on_warning: Callable[[str], None]) -> Checkpoint:
    """Return the newest sound checkpoint. Warn of damaged ones. Raises `CheckpointError` if none is sound."""
    found = _all(atomic.put_back(run / "checkpoints"))
    if not found:
        raise CheckpointError(f"{run}: has no checkpoint to resume from.")
    problems = []
    for path in reversed(found):
        try:
            return read(path)
        except CheckpointError as error:
            problems.append(str(error))
            on_warning(f"{error} Falling back to the one before.")
    raise CheckpointError(f"{run}: all {len(found)} checkpoints are damaged. The newest: {problems[0]}")


def newest_keys(run: Path, kind: type[Any]) -> tuple[Path | None, dict[str, Any]]:
    """Return the file with the keys of the newest checkpoint that knows them, and these keys; None if there is none."""
    for path in reversed(_all(run / "checkpoints")):
        with contextlib.suppress(CheckpointError, ConfigError), atomic.reading(path):
            contents = atomic.read(path, (), optional=[CONFIG])
            if CONFIG in contents:
                return path / CONFIG, read_text(contents[CONFIG].decode(), kind, path / CONFIG)
    return None, {}


def read(path: Path, files: Sequence[str] = FILES) -> Checkpoint:
    """Return a checkpoint that has at least these files. Check all against the manifest before parsing any."""
    from safetensors.torch import load as load_tensors

    with atomic.reading(path):
        contents = atomic.read(path, files, optional=[CONFIG, EXTRA])
        facts = json.loads(contents["state.json"])
        if facts["format"] != FORMAT:
            raise CheckpointError(f"{path}: has format {facts['format']}; this version reads {FORMAT}.")
        return Checkpoint(
            generation=count(facts["generation"], "generation"),
            model=load_tensors(contents["model.safetensors"]),
            optim=load_tensors(contents["trainer.safetensors"]) if "trainer.safetensors" in files else {},
            extra=load_tensors(contents[EXTRA]) if EXTRA in contents else {},
            progress=_progress(facts["progress"]),
            about=dict(facts["about"]),
            path=path,
            best=facts.get("best") is True,  # older versions do not say
            config=contents.get(CONFIG, b"").decode(),
        )


def _progress(saved: dict[str, Any]) -> Progress:
    """Return the progress. Raises ValueError or TypeError if a value is not such a number; scores may be None."""
    progress = Progress(**saved)
    for name in ("steps", "flat_generations"):
        count(getattr(progress, name), name)
    for name, lowest in (("seconds", 0.0), ("best_score", -math.inf), ("last_score", -math.inf)):
        value = getattr(progress, name)
        optional = value is None and name.endswith("_score")
        if not optional and (isinstance(value, bool) or not math.isfinite(value) or value < lowest):
            raise ValueError(f"{name} is {value}")
    return progress


def count(value: Any, name: str) -> int:
    """Return a whole number that counts something. Raises ValueError."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{name} is {str(value)[:40]}")
    return value


def _all(folder: Path) -> list[Path]:
    """Return the checkpoint directories, oldest first."""
    return sorted(p for p in folder.glob("*") if p.name.isdecimal() and p.is_dir())


def _name(generation: int) -> str:
    return f"{generation:08d}"


def named(folder: Path) -> dict[str, str]:
    """Return the directory names of the last and the best checkpoint, as far as they are known."""
    try:
        known = json.loads(atomic.contents_of(folder / INDEX))
        found = {name: str(known[name]) for name in NAMED if name in known}
    except (OSError, ValueError, TypeError, RecursionError):
        found = {}
    sound = {name for name, target in found.items() if target.isdecimal() and (folder / target).is_dir()}
    # An older version has no index, but links, or directories if a copy has followed them.
    return {name: target for name in NAMED if (target := found[name] if name in sound else _origin(folder / name))}


def _name_it(path: Path, *, best: bool) -> dict[str, str]:
    """Name a checkpoint the last (and the best) one. Return all names. Raises OSError."""
    folder = path.parent
    names = named(folder) | {"last": path.name} | ({"best": path.name} if best else {})
    atomic.write_json(folder / INDEX, names)
    for name, target in names.items():
        _link(folder / name, target)
    return names


def ages(run: Path) -> dict[int, float]:
    """Return for how many seconds each checkpoint of a run was trained, by its generation; −1 if it does not tell."""
    return {int(path.name): _seconds(path) for path in _all(run / "checkpoints")}


def _first_after(run: Path, milestones: Sequence[float]) -> set[str]:
    """Return the names of the first checkpoints after so many seconds of training."""
    known = ages(run) if milestones else {}
    reached = ([g for g, age in known.items() if age >= seconds] for seconds in milestones)
    return {_name(found[0]) for found in reached if found}


def _seconds(path: Path) -> float:
    """Return for how long a checkpoint was trained; −1 if its file does not tell."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        return float(json.loads(atomic.contents_of(path / "state.json"))["progress"]["seconds"])
    return -1.0


def _origin(link: Path) -> str:
    """Return the name of the checkpoint that a link leads to, or that a directory is a copy of; or an empty name."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        name = _name(int(json.loads(atomic.contents_of(link / "state.json"))["generation"]))
        return name if (link.parent / name).is_dir() else ""
    return ""


def _link(link: Path, target: str) -> None:
    """Let a link lead to a checkpoint where the file system has links; remove a copy that stands in its place."""
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    temporary = link.with_name(f".{link.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        temporary.symlink_to(target)
        temporary.replace(link)


def _prune(folder: Path, keep: int, names: set[str]) -> None:
    """Remove all checkpoints but the newest and those that are named."""
    for path in _all(folder)[:-keep]:
        if path.name not in names:
            shutil.rmtree(path)

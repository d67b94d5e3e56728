"""A run's directory: its path, its lock, its configuration, command and versions."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import IO, Any

from es_rl.config import expanded, read_file, to_yaml
from es_rl.errors import CheckpointError, ConfigError, ResourceError, printable
from es_rl.run import COMMAND, CONFIG, VERSIONS, WORKERS_LOG, atomic
from es_rl.run.checkpoint import NAMED
from es_rl.workers.machine import source_digest

PACKAGES = ("es-rl", "numpy", "torch", "gymnasium", "mujoco")
OPTIONAL = ("transformers", "tokenizers")
DEEP = 4  # folders below a given one in which runs are looked for
LISTED = 10  # runs of a folder that a message names
FOLDERS = ("checkpoints", "videos", "start", "pretrained")  # of a run, in which files are written


def create(given: str, group: str, name: str) -> Path:
    """Create the directory of a new run: `given`, or `runs/GROUP/TIME-NAME`. Return its path.

    Raises `ConfigError` if it is not empty, `ResourceError` if the file system refuses.
    """
    check_place(given, "run")
    path = Path(given or f"runs/{group.replace(':', '-')}/{time.strftime('%Y%m%d-%H%M%S')}-{name}")
    with reporting(path):
        if not given:
            return _make_unused(path)
        path.mkdir(parents=True, exist_ok=True)
        if (path / CONFIG).exists():
            raise ConfigError(
                f"run={path}: holds a run already. Go on with it by resume={path}, or give another directory."
            )
        if any(path.iterdir()):
            raise ConfigError(f"run={path}: the directory is not empty. Give another name.")
    return path


def find(given: str | Path, key: str, verb: str = "train") -> tuple[Path, str]:
    """Return the run that a key's path means, and the checkpoint that it names, or "".

    The path is a run's, or one of its checkpoints (`RUN/checkpoints/120`); `last` is the newest run of a verb under
    runs, or of any verb for "". Whether there is a run is not checked. Raises `CheckpointError`, with a list, for a
    folder of runs.
    """
    if str(given) == "last":
        newest = [
            run for run in runs_in(Path("runs"), without=("compare", "sweep")) if not verb or _verb(run) in (verb, "")
        ]
        if not newest:
            of = f" of es_rl.{verb}" if verb else ""
            raise CheckpointError(f"{key}=last: there is no run{of} under runs. Give a run's directory.")
        return newest[0], ""
    path = expanded(str(given), key)
    if inner := around(path):
        return inner
    if not (_is_run(path) or (path / "checkpoints").is_dir()) and (inside := runs_in(path)):
        more = f"\n  and {len(inside) - LISTED} older ones" if len(inside) > LISTED else ""
        listed = "\n".join(f"  {key}={run}  {_told(run)}" for run in inside[:LISTED])
        raise CheckpointError(f"{key}={path}: a folder of runs. Give one, here the newest first:\n{listed}{more}")
    return path, ""


def fixed(given: str, key: str, verb: str = "train") -> str:
    """Return what a key's path means now, as a path that means the same later: `last` does not."""
    parent, which = find(given, key, verb)
    return str(parent / "checkpoints" / which if which else parent)


def around(path: Path) -> tuple[Path, str] | None:
    """Return the run that holds a path, its checkpoints or its `config.yaml`, and the checkpoint, or ""; or None."""
    for at, part in enumerate(path.parts):
        if part == "checkpoints" and _is_run(run := Path(*path.parts[:at])):
            which = "".join(path.parts[at + 1 : at + 2])
            return run, str(int(which)) if which.isdecimal() else which
    return (path.parent, "") if path.name == CONFIG and path.is_file() else None


def _is_run(path: Path) -> bool:
    return (path / CONFIG).is_file()


def runs_in(folder: Path, depth: int = DEEP, without: Sequence[str] = ()) -> list[Path]:
    """Return the runs in a folder and its subfolders, those that were trained last first.

    Links, hidden folders and those `without` are left out, and folders that cannot be read.
    """
    found: list[Path] = []
    with contextlib.suppress(OSError):  # not a folder, or one of somebody else's
        for path in sorted(folder.iterdir()):
            if path.name in without or path.name.startswith(".") or path.is_symlink() or not path.is_dir():
                continue
            found += [path] if _is_run(path) else runs_in(path, depth - 1) if depth else []
    return sorted(found, key=_trained, reverse=True)


def _trained(run: Path) -> float:
    """Return when a run was last saved, in seconds since the epoch."""
    known = (run / "checkpoints" / "index.json", run / CONFIG)
    return max((path.stat().st_mtime for path in known if path.is_file()), default=0.0)


def command_of(run: Path) -> str:
    """Return the command that began a run, in one line; "" if its files do not say."""
    try:
        return printable(atomic.contents_of(run / COMMAND).decode(errors="replace").strip())
    except OSError:
        return ""


def _verb(run: Path) -> str:
    """Return the verb that began a run; "" if its files do not say. `es_rl.ES` in Python trains as the verb does."""
    found = re.search(r"es_rl\.(\w+)", command_of(run))
    return found[1].replace("ES", "train") if found else ""


def _told(run: Path) -> str:
    """Return a few words about a run: what it trains in or on, its generation and its last score."""
    told: list[str] = []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        keys = (run / CONFIG).read_text(encoding="utf-8")
        told += map(printable, re.findall(r"^(?:env|corpus|data): (.+)", keys, re.M)[:1])
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        newest = max((p for p in (run / "checkpoints").iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))
        told.append(f"generation {int(newest.name)}")
        score = json.loads(atomic.contents_of(newest / "state.json"))["progress"]["last_score"]
        told += [] if score is None else [f"{'return' if _verb(run) in ('train', '') else 'score'} {float(score):,.1f}"]
    return "  ".join(told)


def discard_unbegun(path: Path) -> None:
    """Remove the directory of a run that never began."""
    if not (path / CONFIG).exists():
        for name in (".lock", WORKERS_LOG, COMMAND, VERSIONS, ".config.yaml"):
            (path / name).unlink(missing_ok=True)
        for name in ("checkpoints", "start"):  # they hold the untrained policy
            shutil.rmtree(path / name, ignore_errors=True)
        with contextlib.suppress(OSError):  # it holds other files
            path.rmdir()


def describe(path: Path, config: Any, command: str) -> None:
    """Write the resolved configuration, the command and the versions of a new run."""
    with reporting(path):
        (path / COMMAND).write_text(f"{command}\n", encoding="utf-8")
        (path / VERSIONS).write_text(json.dumps(versions(), indent=2) + "\n", encoding="utf-8")
    save_config(path, config)


def save_config(path: Path, config: Any) -> None:
    """Write a run's resolved configuration. The file is replaced completely or stays as it was."""
    with reporting(path):
        (path / ".config.yaml").write_text(to_yaml(config), encoding="utf-8")
        (path / ".config.yaml").replace(path / CONFIG)


def check_place(path: str | Path, key: str) -> None:
    """Raise `ConfigError` for an address, such as s3://…: it would become folders in the current directory."""
    if re.match(r"[a-z][\w+.-]+:/", str(path), re.I):
        raise ConfigError(f"{key}={path}: is an address, and files are written on this machine. Give a path.")


def check_file(path: Path, key: str) -> None:
    """Raise `ConfigError` if a file to write is there as something else: a device would be replaced."""
    check_place(path, key)
    with contextlib.suppress(OSError):  # too long a name: writing tells
        if path.exists() and not path.is_file():
            raise ConfigError(f"{key}={path}: is not a file. Give the name of a new file, or of one to replace.")


def check_run(path: Path) -> None:
    """Raise `CheckpointError` if a directory holds no run."""
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such run directory.")
    if not (path / CONFIG).is_file():
        raise CheckpointError(f"{path}: not a run directory, it has no config.yaml.")


def saved_config(path: Path, kind: type[Any]) -> dict[str, Any]:
    """Return the keys in a run's `config.yaml`, those of a `kind`. Raises `CheckpointError`."""
    check_run(path)
    try:
        return read_file(path / CONFIG, kind)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def versions() -> dict[str, str]:
    """Return the versions that results may depend on; `code` is a checksum of the package's source files.

    The version of a package that must be there, but has not been installed, as in a bare checkout, is "unknown".
    """
    found = {"python": platform.python_version(), "code": source_digest()}
    installed = {package: _installed(package) or "unknown" for package in PACKAGES}
    return found | installed | {package: number for package in OPTIONAL if (number := _installed(package))}


@cache
def _installed(package: str) -> str:
    """Return the version of an installed package, or an empty string."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def changed_versions(path: Path) -> list[str]:
    """Return a line for each version that has changed since the run was started."""
    try:
        before = json.loads(atomic.contents_of(path / VERSIONS))
        if not isinstance(before, dict):
            raise ValueError("not an object")
    except (OSError, ValueError):
        return ["versions.json cannot be read: whether library versions changed is not known"]
    now = versions()
    return [f"{k} was {v} and is now {now.get(k)}" for k, v in before.items() if now.get(k) != v]


def check_inside(path: Path) -> None:
    """Raise `CheckpointError` if a file or folder of a run is a link: writing to it would change something elsewhere.

    Only the links to checkpoints may stay. A run from a stranger could hold any others.
    """
    with reporting(path):
        for folder in (path, *(path / name for name in FOLDERS)):
            for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
                ours = entry.name.lstrip(".").partition("-")[0] in NAMED  # also one of a save that was cut off
                if entry.is_symlink() and not (folder.name == "checkpoints" and ours):
                    raise CheckpointError(
                        f"{entry}: is a link to {entry.readlink()}. The files of a run must lie in its directory: "
                        f"copy the run with cp -rL, or remove the link."
                    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the run against a second trainer. The kernel releases the lock when this process ends, however it ends.

    Raises `ResourceError` if another one has it, and `CheckpointError` if the run holds links.
    """
    check_inside(path)
    with reporting(path):
        file = (path / ".lock").open("a+", encoding="utf-8")
    with file:
        with reporting(path):
            _take_lock(path, file)
        yield


def _take_lock(path: Path, file: IO[str]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        raise ResourceError(f"{path}: in use by another trainer, process {holder}. Stop it first.") from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()


@contextmanager
def reporting(path: Path, remedy: str = "Choose another place with run=DIRECTORY") -> Iterator[None]:
    """Turn an error of the file system into a `ResourceError` of one line."""
    try:
        yield
    except OSError as error:
        what = error.filename2 or error.filename or path
        raise ResourceError(f"{what}: {error.strerror or error}. {remedy}.") from error


def _make_unused(path: Path) -> Path:
    """Make the directory `path`, or the first of path-2, path-3, … that does not exist, and return it."""
    for i in count(1):
        candidate = path if i == 1 else path.with_name(f"{path.name}-{i}")
        with contextlib.suppress(FileExistsError):  # also of a run that began in the same second
            candidate.mkdir(parents=True)
            return candidate
    raise AssertionError("unreachable")

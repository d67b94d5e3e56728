"""Directories of files that appear complete or not at all, and are checked when they are read.

Each has a `MANIFEST.json` with the size and sha256 of every file. A directory is written under another name, flushed
to disk and renamed, so it is complete under its final name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from es_rl.errors import CheckpointError, EsRlError

MANIFEST = "MANIFEST.json"


def write(final: Path, contents: Mapping[str, bytes]) -> None:
    """Write a directory of these files and their manifest: it appears complete or not at all. Raises OSError."""
    manifest = {name: {"size": len(data), "sha256": _sha256(data)} for name, data in contents.items()}
    temporary, old = (final.with_name(f".{what}-{os.getpid()}-{final.name}") for what in ("writing", "old"))
    for leftover in (temporary, old):  # of an earlier process with the same id
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    for name, data in {**contents, MANIFEST: json.dumps(manifest, indent=2).encode()}.items():
        _write_to_disk(temporary / name, data)
    if final.exists():  # an earlier one, or a damaged one that a resumed run has skipped
        final.rename(old)
    temporary.rename(final)
    _flush_directory(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def contents_of(path: Path) -> bytes:
    """Return the contents of a file. Raises OSError for what is no file, such as a pipe, which would wait for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file", str(path))
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def read(path: Path, names: Sequence[str], *, optional: Sequence[str] = ()) -> dict[str, bytes]:
    """Return the contents of these files, and of the optional ones that the manifest lists.

    Raises OSError, or `CheckpointError` if a file does not match the manifest.
    """
    if not path.exists():
        put_back(path.parent, path.name)
    manifest = json.loads(contents_of(path / MANIFEST))
    names = [*names, *(name for name in optional if name in manifest)]
    contents = {name: contents_of(path / name) for name in names}
    for name, data in contents.items():
        if len(data) != manifest[name]["size"] or _sha256(data) != manifest[name]["sha256"]:
            raise CheckpointError(f"{path / name}: damaged, it is not what {MANIFEST} says.")
    return contents


def put_back(folder: Path, names: str = "*") -> Path:
    """Give earlier directories their names again if a process was killed before new ones had them. Return folder."""
    for old in folder.glob(f".old-*-{names}"):
        path = folder / old.name.split("-", 2)[2]
        if not path.exists():
            old.rename(path)
    return folder


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error while reading a path into a `CheckpointError`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: cannot be read ({error.strerror}).") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path}: holds a file that is not safetensors ({error}).") from error
    except EsRlError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error}).") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_to_disk(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that appears complete or not at all."""
    replace_file(path, (json.dumps(value, indent=1) + "\n").encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that appears complete or not at all, also while another process writes the same one."""
    temporary = temporary_of(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_of(path: Path) -> Path:
    """Return the name under which this process writes a file before it gets its own."""
    return path.with_name(f".writing-{os.getpid()}-{path.name}")

"""Write a policy's file and its contract: both or neither."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from es_rl.run.atomic import temporary_of
from es_rl.run.directory import check_file, reporting

ELSEWHERE = "Choose another place with out=FILE"
CONTRACT = ".json"


def check_place(out: Path) -> None:
    """Make the directory of a file, and raise `ConfigError` or `ResourceError` if it cannot be written there."""
    for path in (out, out.with_suffix(CONTRACT)):
        check_file(path, "out")
    with reporting(out, ELSEWHERE):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_of(out)
        with temporary.open("wb"):
            pass
        temporary.unlink()


def write(out: Path, data: bytes, contract: dict[str, Any]) -> None:
    """Write a file, and the contract beside it under the same name with another suffix. Raises `ResourceError`."""
    text = json.dumps(contract, indent=1, allow_nan=False) + "\n"
    contents = {out: data, out.with_suffix(CONTRACT): text.encode()}
    with reporting(out, ELSEWHERE), contextlib.ExitStack() as undo:
        for path, content in contents.items():
            undo.callback(temporary_of(path).unlink, missing_ok=True)
            with temporary_of(path).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:  # no old file stays beside a new contract
            path.unlink(missing_ok=True)
            undo.callback(path.unlink, missing_ok=True)
        for path in contents:
            temporary_of(path).replace(path)
        undo.pop_all()

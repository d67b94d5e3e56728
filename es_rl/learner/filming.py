"""Film a model in a process of its own: the renderer must be chosen before MuJoCo is imported."""

from __future__ import annotations

from pathlib import Path

from es_rl.errors import EsRlError
from es_rl.record import film_in_child
from es_rl.rl.config import RecordConfig
from es_rl.workers.processes import kill_process


def film(keys: RecordConfig, log: Path) -> None:
    """Film a run, and wait for it. What the process refuses is raised here, as the same kind of error."""
    process = film_in_child(keys, log)
    try:
        process.join()
        code = process.exitcode
    finally:
        kill_process(process)
    if code:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["the process was killed"]
        kinds = [kind for kind in EsRlError.__subclasses__() if kind.exit_code == code]
        raise (*kinds, EsRlError)[0](said[-1].removeprefix("es_rl: "))

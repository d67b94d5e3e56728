"""Film a model in a process of its own: the renderer must be chosen before MuJoCo is imported."""

from __future__ import annotations

from pathlib import Path

from es_rl.errors import CheckpointError, ConfigError, EnvError, EsRlError, ResourceError, TrainingError
from es_rl.record import film_in_child, reason_in
from es_rl.rl.config import RecordConfig
from es_rl.workers.processes import kill_process

KINDS = {kind.exit_code: kind for kind in (ConfigError, EnvError, CheckpointError, TrainingError, ResourceError)}


def film(keys: RecordConfig, log: Path) -> None:
    """Film a run, and wait for it. What the process refuses is raised here, as the same kind of error."""
    process = film_in_child(keys, log)
    try:
        process.join()
        code = process.exitcode
    finally:
        kill_process(process)
    if code:
        raise KINDS.get(code, EsRlError)(reason_in(log))

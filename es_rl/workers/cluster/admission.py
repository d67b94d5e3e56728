"""Decide which workers may compute: those that have this run's software and, if asked, processors of one kind."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import es_rl
from es_rl.errors import CheckpointError, ConfigError, EsRlError, ResourceError, printable
from es_rl.workers.cluster.fingerprint import differing
from es_rl.workers.machine import source_digest


def software() -> dict[str, str]:
    """Return the versions that must be the same on all machines of a cluster."""
    import ray

    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "Ray": ray.__version__, "es_rl": f"{es_rl.__version__} (source {source_digest()})"}


class Admission:
    """Judge workers by what they tell of their machines. `say` gets a line when bits differ from machine to machine.

    The first worker that is admitted is what others are compared with. It is kept in a file, if there is one: a run
    that goes on is to have the bits with which it began.
    """

    def __init__(self, strict: bool, say: Callable[[str], None], kept: Path | None = None) -> None:
        self._strict, self._say, self._kept = strict, say, kept
        self._software = software()
        self._first: Mapping[str, Any] | None = _read(kept)  # host and fingerprint of the first worker
        self._warned: set[str] = set()  # machines whose fingerprint was told

    def refusal(self, facts: Mapping[str, Any]) -> EsRlError | None:
        """Return why a worker is to be left out; None if it may compute."""
        for name, ours in self._software.items():
            if (theirs := facts["software"].get(name)) != ours:
                return ResourceError(
                    f"{facts['host']} has {name} {theirs}, and this machine {ours}. "
                    f"Install the same version on all machines of the cluster."
                )
        if self._first is None:
            self._first = {name: facts[name] for name in ("host", "fingerprint")}
            self._keep(self._first)
        other = differing(self._first["fingerprint"], facts["fingerprint"])
        if not other:
            return None
        what = f"{facts['host']} computes other bits than {self._first['host']} ({', '.join(other)})"
        if self._strict:
            return ResourceError(f"{what}. cluster.same_bits=warn lets it compute all the same.")
        if facts["host"] not in self._warned:
            self._warned.add(facts["host"])
            self._say(
                f"{what}: theta depends on which of them computes a member. cluster.same_bits=strict leaves it out"
            )
        return None

    def _keep(self, first: Mapping[str, Any]) -> None:
        if self._kept is not None:
            with contextlib.suppress(OSError):  # a full disk: the next sitting begins with any processor
                whole = self._kept.with_suffix(".new")
                whole.write_text(json.dumps(first), encoding="utf-8")
                whole.replace(self._kept)


def _read(kept: Path | None) -> Mapping[str, Any] | None:
    if kept is None or not kept.is_file():
        return None
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        return {"host": printable(found["host"]), "fingerprint": dict(found["fingerprint"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{kept}: cannot be read. Delete it to begin with any processor.") from error


def lacks_module(host: str, text: str) -> ConfigError:
    """Return the error of a machine that cannot import what it is to run."""
    return ConfigError(
        f"{host}: {text.rstrip('.')}. Give cluster.runtime_env.working_dir=DIRECTORY of the module, "
        f"or install it on all machines of the cluster."
    )

"""Decide which workers may compute: those that have this run's software and, if asked, processors of one kind."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from typing import Any

import es_rl
from es_rl.errors import ConfigError, EsRlError, ResourceError
from es_rl.workers.cluster.fingerprint import differing
from es_rl.workers.machine import source_digest


def software() -> dict[str, str]:
    """Return the versions that must be the same on all machines of a cluster."""
    import ray

    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "Ray": ray.__version__, "es_rl": f"{es_rl.__version__} (source {source_digest()})"}


class Admission:
    """Judge workers by what they tell of their machines. `say` gets a line when bits differ from machine to machine."""

    def __init__(self, strict: bool, say: Callable[[str], None]) -> None:
        self._strict, self._say = strict, say
        self._software = software()
        self._first: Mapping[str, Any] | None = None  # facts of the first worker that was admitted
        self._warned: set[str] = set()  # machines whose fingerprint was told

    def refusal(self, facts: Mapping[str, Any]) -> EsRlError | None:
        """Return why a worker is to be left out; None if it may compute."""
        for name, ours in self._software.items():
            if (theirs := facts["software"].get(name)) != ours:
                return ResourceError(
                    f"{facts['host']} has {name} {theirs}, and this machine {ours}. "
                    f"Install the same version on all machines of the cluster."
                )
        self._first = self._first or facts
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


def lacks_module(host: str, text: str) -> ConfigError:
    """Return the error of a machine that cannot import what it is to run."""
    return ConfigError(
        f"{host}: {text.rstrip('.')}. Give cluster.runtime_env.working_dir=DIRECTORY of the module, "
        f"or install it on all machines of the cluster."
    )

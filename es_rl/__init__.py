"""es_rl: train neural networks by evolution strategies, above all reinforcement-learning agents.

    python -m es_rl.train env=HalfCheetah-v5        # or: es-rl train env=HalfCheetah-v5

    import es_rl
    model = es_rl.ES("mlp", "HalfCheetah-v5").learn(200_000)
    policy = es_rl.load("runs/HalfCheetah-v5/...")  # a trained policy
    action = policy(obs)                            # one observation; call policy.reset() between episodes
    es_rl.Trainer(module, fitness).train(100)       # any torch.nn.Module, any fitness

The modules `es_rl.envs`, `es_rl.policies`, `es_rl.noise`, `es_rl.population`, … are imported on first use, so that
`import es_rl` stays fast.
"""

from __future__ import annotations

import os
import sys

if sys.argv[:1] == ["-m"]:  # `python -m es_rl.VERB`
    try:
        _here = os.getcwd()  # noqa: PTH109 - pathlib may be hidden, see below
    except OSError as error:  # torch, which a verb imports, would end the process without a word
        sys.stderr.write(f"es_rl: the current directory: {error.strerror}. Change to another one.\n")
        sys.exit(6)
    _rest = [path for path in sys.path if path not in ("", _here)]
    if len(_rest) < len(sys.path) and not os.access("es_rl", os.F_OK):
        # A file of the user's, such as queue.py, must not hide a module of Python: the current directory comes after
        # those. An empty part of PYTHONPATH would put it first in every child.
        _library = os.__file__.rpartition(os.sep)[0]
        _at = 1 + max(
            [-1, *(i for i, path in enumerate(_rest) if path in (_library, f"{_library}{os.sep}lib-dynload"))]
        )
        sys.path[:] = [*_rest[:_at], _here, *_rest[_at:]]
        if "PYTHONPATH" in os.environ:
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, os.environ["PYTHONPATH"].split(os.pathsep)))

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from es_rl.rl.agent import Agent

__version__ = "0.1.0"

ROOMS = {
    **{name: name for name in ("callbacks", "envs", "es", "noise", "plot", "policies", "population", "rng")},
    "optim": "es.optim",
    "shaping": "es.shaping",
}
NAMES = {
    "ES": "learner.model",
    "Trainer": "trainer.trainer",
    "batched": "trainer.fitness",
    "VanillaESTrainer": "trainer.eggroll_trainer",
    "EGGROLLTrainer": "trainer.eggroll_trainer",
}
__all__ = ["load", *ROOMS, *NAMES]


def load(run: str | Path, checkpoint: str = "last", *, policy: str | Callable[..., nn.Module] | None = None) -> Agent:
    """Return the trained policy of a run directory, ready to act.

    `run` may be the address of a published policy: `hf://USER/NAME`, or `hf://USER/NAME@REVISION`. It is downloaded.
    `checkpoint` is `last`, `best` or a generation number. Raises `es_rl.errors.CheckpointError` if it is missing or
    damaged. Nothing in the run is executed: weights are read from safetensors, names are looked up in the package's
    registries. A policy from outside the package is given again as `policy`, a function or `module:function`.
    """
    from es_rl.plugins import Given
    from es_rl.rl.agent import load as load_agent

    return load_agent(run, checkpoint, policy=Given(policy) if callable(policy) else policy or "")


def __getattr__(name: str) -> Any:
    if name in ROOMS:
        return importlib.import_module(f"es_rl.{ROOMS[name]}")
    if name in NAMES:
        return getattr(importlib.import_module(f"es_rl.{NAMES[name]}"), name)
    raise AttributeError(f"module 'es_rl' has no attribute {name!r}")

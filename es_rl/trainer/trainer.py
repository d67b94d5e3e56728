"""Train any `torch.nn.Module` on any fitness, from Python.

    def fitness(model):                       # higher is better; no gradient is needed
        return -((model(x) - y) ** 2).mean().item()

    trainer = es_rl.Trainer(model, fitness, population=64, sigma=0.05, lr=0.02)
    trainer.train(100)                        # afterwards the model holds the trained parameters

    @es_rl.batched                            # many members in one forward pass
    def fitness(model, n):                    # the rows of member 0 first, then those of member 1, …
        error = (model(x.repeat(n, 1)) - y.repeat(n, 1)) ** 2
        return -error.reshape(n, -1).mean(dim=1)

Each generation is a pure function of the trainer's state. Its result is the same for any number of workers, and after
`load`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from es_rl import es
from es_rl.errors import CheckpointError, ConfigError
from es_rl.es.restore import check_fit, restored
from es_rl.es.strategy import ESState, Generation
from es_rl.noise import Perturbation, member_weights
from es_rl.run import atomic
from es_rl.run.checkpoint import FILES, count
from es_rl.run.log import plain
from es_rl.trainer.fitness import MemberFitness, Scores, assign, restored_after
from es_rl.trainer.settings import Shaping, check_model, check_workers, checked, optimizer_name, settings, shaped
from es_rl.workers.cluster.config import ClusterConfig
from es_rl.workers.interface import Pool
from es_rl.workers.machine import as_in_workers
from es_rl.workers.opening import open_pool
from es_rl.workers.worker import JobFailure

Record = dict[str, Any]
FORMAT = "trainer-2"


class Best(NamedTuple):
    """The member with the highest fitness so far, with its parameters and buffers."""

    fitness: float
    generation: int
    member: int
    state_dict: dict[str, Tensor]


class Trainer:
    """Trains a module on a fitness with an evolution strategy.

    `fitness(model)` is called with each member's weights in the model. A fitness marked by `batched` is called with
    many members at once. It may draw from the global generators of Python, NumPy and torch: all members of a generation
    see the same numbers. Its changes to parameters, buffers and train/eval mode are undone. Only parameters with
    `requires_grad` are trained. Workers copy fitness and model when `train` starts: later changes, such as those by a
    callback, do not reach them.

    `shaping` is a name, or a function of the fitness (M,) that returns utilities (M,). `optimizer` is a name, or a
    class of `torch.optim`.

    `callbacks` are functions of (trainer, record), or objects with such a method `on_generation`. They are called after
    each generation; one that returns True ends `train`. `options` are further keys of the strategy and of the
    optimiser, such as top=8, freeze_vectors=True, sigma_decay=0.99, weight_decay=0.01, momentum=0.9. A worker that
    scores no member for `hang_after` seconds is replaced. `cluster` is the key cluster.address: auto, local, or
    HOST:PORT of a Ray cluster, where workers=0 means as many as it has room for. Raises `ConfigError` for bad settings,
    and for a model that is not in float32 on the CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        fitness: Callable[..., Any],
        *,
        noise: str = "lowrank",
        rank: int = 1,
        population: int = 64,
        sigma: float = 0.05,
        optimizer: str | type[torch.optim.Optimizer] = "adam",
        lr: float = 0.02,
        shaping: str | Shaping = "centered_ranks",
        seed: int = 0,
        workers: int = 0,
        chunk: int | None = None,
        hang_after: float = 3600.0,
        cluster: str = "",
        callbacks: Sequence[Any] = (),
        **options: Any,
    ) -> None:
        self._shaping = shaping if callable(shaping) else None
        named = "raw" if callable(shaping) else shaping
        given = {"noise": noise, "rank": rank, "population": population, "sigma": sigma, "shaping": named}
        check_model(model)
        check_workers(workers, hang_after)
        self._params = checked(given, {"name": optimizer_name(optimizer), "lr": lr}, options, seed, chunk, model)
        self.model, self.callbacks = model, list(callbacks)
        self._fitness = MemberFitness(model, fitness)
        self._pool: Pool | None = None
        self._workers, self._hang_after, self._cluster = workers, hang_after, ClusterConfig(address=cluster)
        self._initial = es.init(model)
        es.check(self._params, self._initial)
        self.reset()

    def reset(self) -> None:
        """Go back to the initial parameters; clear `history` and `best`."""
        self._state = self._initial
        self.history: list[Record] = []
        self.best: Best | None = None
        self._show()

    @property
    def generation(self) -> int:
        """Number of generations so far."""
        return self._state.generation

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the trained parameters and buffers by name, for `model.load_state_dict`."""
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def train(self, generations: int) -> list[Record]:
        """Run this many generations, fewer if a callback returns True. Return their records."""
        first = len(self.history)
        try:
            for _ in range(generations):
                record = self.step()
                answers = [getattr(each, "on_generation", each)(self, record) for each in self.callbacks]
                if True in answers:
                    break
        finally:
            self.close()
        return self.history[first:]

    def step(self) -> Record:
        """Run one generation and return its record.

        Raises `TrainingError` if a share of more than `max_failed` of the members failed, or all of them.
        """
        with as_in_workers():  # as in workers: the rounding of sums depends on the number of threads
            return self._step()

    def save(self, path: str | Path) -> None:
        """Write everything that `load` needs to a directory, replacing an earlier save. Nothing is pickled.

        Raises `ConfigError` if the path holds anything else.
        """
        final = Path(path)
        if final.exists() and not all((final / name).exists() for name in (atomic.MANIFEST, "state.json")):
            raise ConfigError(f"{path}: exists, and is not a saved trainer. Give another path.")
        final.parent.mkdir(parents=True, exist_ok=True)
        best = self.best
        about = {
            "format": FORMAT,
            "generation": self.generation,
            "settings": settings(self._params),
            "own_shaping": self._shaping is not None,
            "frozen": sorted(self._params.frozen),
            "history": [{k: plain(v) for k, v in record.items()} for record in self.history],
            "best": None if best is None else [best.fitness, best.generation, best.member],
        }
        kept = {} if best is None else {f"best/{name}": value for name, value in best.state_dict.items()}
        first = {f"initial/{k}": v for k, v in (self._initial.theta | self._initial.buffers).items()}
        moving = {f"optim/{k}": v for k, v in self._state.optim.items()}
        contents = {
            "model.safetensors": save_tensors({**self._state.theta, **self._state.buffers}),
            "trainer.safetensors": save_tensors({k: v.contiguous() for k, v in {**moving, **kept, **first}.items()}),
            "state.json": json.dumps(about, allow_nan=False).encode(),
        }
        atomic.write(final, contents)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: nn.Module,
        fitness: Callable[..., Any],
        *,
        shaping: Shaping | None = None,
        workers: int = 0,
        cluster: str = "",
        hang_after: float = 3600.0,
        callbacks: Sequence[Any] = (),
    ) -> Trainer:
        """Return a saved trainer. It continues exactly, to the last bit, as if it had never been saved.

        `cluster` is given each time: no file names one. `model` must have the same architecture. Its parameters are
        overwritten, and those frozen at the save are frozen again. A `shaping` that was a function is not saved: give
        it again. Raises `CheckpointError`.
        """
        folder = Path(path)
        with atomic.reading(folder):
            contents = atomic.read(folder, FILES)
            about = json.loads(contents["state.json"])
            if about["format"] != FORMAT:
                raise CheckpointError(f"{folder}: has format {about['format']}; this version reads {FORMAT}.")
            for name, value in model.named_parameters():
                value.requires_grad_(name not in about["frozen"])
            if about.get("own_shaping", False) != (shaping is not None):
                raise CheckpointError(f"{folder}: give the function shaping= that it was trained with, if it had one.")
            own = about["settings"] | ({} if shaping is None else {"shaping": shaping})
            trainer = cls(
                model, fitness, workers=workers, cluster=cluster, hang_after=hang_after, callbacks=callbacks, **own
            )
            state, rest = load_tensors(contents["model.safetensors"]), load_tensors(contents["trainer.safetensors"])
            trainer._restore(folder, about, state, rest)
        return trainer

    def close(self) -> None:
        """End the worker processes. They start again when needed."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _step(self) -> Record:
        start = time.monotonic()
        p, chunks = es.ask(self._params, self._state)
        generation = Generation(self._state.generation, es.arrays(self._state), p)
        outcomes = self._map(generation, chunks)
        scored = [
            Scores(np.full(len(c), np.nan), [o.message]) if isinstance(o, JobFailure) else o
            for c, o in zip(chunks, outcomes, strict=True)
        ]
        failures = [failure for part in scored for failure in part.failures]
        fitness = np.concatenate([part.fitness for part in scored])  # (M,)
        es.check_failures(fitness, failures, max_failed=self._params.es.max_failed, generation=self.generation + 1)
        self._remember_best(fitness, p)
        used = fitness if self._shaping is None else shaped(self._shaping, fitness)
        self._state, told = es.tell(self._params, self._state, used, self._state.buffers)
        self._show()
        record: Record = {"generation": self.generation, **es.fitness_metrics(fitness), **told.metrics()}
        record["time/generation"] = time.monotonic() - start
        self.history.append(record)
        return record

    def _restore(self, path: Path, about: Mapping[str, Any], model: dict[str, Tensor], rest: dict[str, Tensor]) -> None:
        fresh = self._initial
        check_fit(str(path), model, fresh.theta | fresh.buffers, "model")
        generation, initial = count(about["generation"], "generation"), _part(rest, "initial/")
        self._state = restored(
            ESState(generation, model, {}, _part(rest, "optim/")), fresh, self._params.optim, str(path)
        )
        check_fit(f"{path}: initial", initial, fresh.theta | fresh.buffers, "model")
        self._initial = ESState(0, {name: initial[name] for name in fresh.theta}, self._state.buffers, {})
        self.history = list(about["history"])
        if about["best"] is not None:
            fitness, born, member = about["best"]
            best = _part(rest, "best/")
            check_fit(f"{path}: best", best, fresh.theta | fresh.buffers, "model")
            self.best = Best(float(fitness), count(born, "generation"), count(member, "member"), best)
        self._show()

    def _map(self, generation: Generation, chunks: list[range]) -> list[Any]:
        self._pool = self._pool or open_pool(
            self._cluster, self._workers, self._workers or None, hang_after=self._hang_after
        )
        return self._pool.map(self._fitness, generation, chunks)

    def _remember_best(self, fitness: NDArray[np.float64], p: Perturbation) -> None:
        if not np.isfinite(fitness).any():
            return
        member = int(np.nanargmax(np.where(np.isfinite(fitness), fitness, -np.inf)))
        if self.best is None or fitness[member] > self.best.fitness:
            self._show()  # with workers, nobody has, and a callback may have changed the model
            weights = member_weights(self.model, member, p)
            with restored_after(self.model):
                assign(self.model, weights)
                self.best = Best(float(fitness[member]), self.generation, member, self.state_dict)

    def _show(self) -> None:
        """Write the state into the model."""
        assign(self.model, {**self._state.theta, **self._state.buffers})


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

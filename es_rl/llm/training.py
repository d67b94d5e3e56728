"""The parts of a fine-tuning, put together; `es_rl.run.loop` runs it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from es_rl import rewards
from es_rl.arguments.origins import Origins
from es_rl.errors import CheckpointError
from es_rl.es.chunks import idle_workers
from es_rl.es.strategy import ESState
from es_rl.llm import model as language
from es_rl.llm import prompts as dataset
from es_rl.llm.config import LlmConfig, resolve
from es_rl.llm.export import export
from es_rl.llm.in_place import unchanged
from es_rl.llm.prompts import Dataset
from es_rl.llm.task import LlmTask
from es_rl.run import directory, loop, trackers
from es_rl.run.checkpointer import Checkpointer
from es_rl.run.log import RunLog
from es_rl.run.task import Run, Training
from es_rl.run.terms import REWARD
from es_rl.workers import opening
from es_rl.workers.interface import Pool, counted
from es_rl.workers.machine import available_memory, available_processors, use_one_thread
from es_rl.workers.shared_memory import allocate

CACHE_BYTES = 1 << 31  # of cached keys and values per batch, at most
UNCHANGED = 0.1  # warn if noise leaves more than this share of the weights unchanged
MODELS = 1.5  # memory that a worker may need, in sizes of the float32 model


def train(config: LlmConfig, command: str, resumed: Path | None, origins: Origins) -> int:
    """Begin a run, or go on with one, until a stop rule is met. Return the exit code.

    `command` is what was typed, `origins` those of the keys of a new run.
    """
    config = resolve(config)
    trackers.check(config.track)
    opening.check(config.cluster)
    data = dataset.read(config.data, config.eval.data)
    rewards.weights(config.reward)
    source = resumed / "start" if resumed else language.fetch(config.model)
    if resumed and not (source / "config.json").exists():
        raise CheckpointError(f"{source}: has no config.json, so the starting model is lost. Start a new run.")
    language.check(source)
    use_one_thread()
    run = resumed or directory.create(config.run, "llm", re.sub(r"\W.*", "", config.reward) or "reward")
    prepare = partial(_prepare, config, run, data, source)
    title = f"es_rl: {config.model}, {config.reward} → {run}"
    count = _workers(config, source)
    return loop.run(
        Run(
            config, run, prepare, command, title, workers=count, resumed=bool(resumed), terms=REWARD,
            origins=origins, titled=("model", "reward", "run"), commands=_commands(config, run),
        )
    )  # fmt: skip


def _commands(config: LlmConfig, run: Path) -> list[str]:
    """Return what to type after a run: draw its curves, write the best model, go on."""
    where, best = (shlex.quote(str(path)) for path in (run, run / "best"))
    given = f"{where} reward={shlex.quote(config.reward)}" if ":" in config.reward else where
    return [
        f"python -m es_rl.plot run={where}",
        f"python -m es_rl.llm export={where} checkpoint=best out={best}",
        f"python -m es_rl.llm resume={given}",
    ]


def _workers(config: LlmConfig, model: Path) -> int:
    """Return the number of workers; by default one per GPU, or as many as processors and memory allow."""
    if config.workers is not None:
        return config.workers
    if config.device == "cuda":
        return torch.cuda.device_count()
    size = sum(file.stat().st_size for file in model.glob("*") if file.suffix in (".safetensors", ".gguf"))
    size *= 6 if any(model.glob("*.gguf")) else 2  # 4 or 16 bits per weight become 32
    return max(1, min(available_processors(), int(available_memory() / max(1.0, MODELS * size))))


def _prepare(
    config: LlmConfig, run: Path, data: Dataset, source: Path, workers: Pool, say: Callable[[str], None]
) -> Training:
    """Save the starting model in the run, put theta into shared memory, and make the task."""
    start = run / "start"
    say(f"opening {source}")
    model, tokenizer = language.open_model(source, "float32")
    speaker = language.Language(model, tokenizer, torch.device("cpu"))
    longest = language.check_lengths(speaker, data.train, config.max_new_tokens, f"data={config.data}")
    # Not `longest`, on which batches depend: theta must not depend on what is held out.
    language.check_lengths(speaker, data.held_out, config.max_new_tokens, "held-out data")
    if source != start:
        with directory.reporting(run):
            model.save_pretrained(start)  # type: ignore[operator]
            tokenizer.save_pretrained(start)
    rows = _rows(config, model.config, longest) if config.rows is None else config.rows
    fields = {name: (tuple(value.shape), "f4") for name, value in model.named_parameters()}
    descriptor, memory = allocate(fields)
    theta = {name: torch.from_numpy(array) for name, array in memory.arrays().items()}
    for name, value in model.named_parameters():
        theta[name].copy_(value)
    del model, speaker
    task = LlmTask(config, run, data, theta, memory, rows, workers, say)
    state = ESState(0, dict(theta), {}, {})
    _warn(config, task, state, say)
    about = {"data": dataset.digest(data.train), "reward": config.reward, "modules": list(config.modules)}
    heading = (
        f"{sum(value.numel() for value in theta.values()):,} parameters in {config.dtype} on {config.device}, "
        f"{config.es.population} members in chunks of {config.chunk}, {config.batch} of {len(data.train):,} prompts a "
        f"generation, {len(data.held_out):,} held out, {counted(workers.count)}"
    )
    follow = partial(_Follower, run, descriptor)
    if idle := idle_workers(config.es.population, config.chunk or 2, workers.count):
        say(idle)
    return Training(task, state, about, heading, follow=follow, step=task.step, in_place=True)


def _rows(config: LlmConfig, model: Any, longest: int) -> int:
    """Return the rows of a batch whose keys and values fit into `CACHE_BYTES`; at least a prompt per member."""
    assert config.chunk is not None
    text = model.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 1
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    heads = getattr(text, "num_key_value_heads", None) or heads
    item = language.DTYPES[config.dtype].itemsize
    row: int = 2 * text.num_hidden_layers * heads * width * (longest + config.max_new_tokens) * item  # bytes
    return max(1 if config.es.noise == "dense" else config.chunk, CACHE_BYTES // row)


def _warn(config: LlmConfig, task: LlmTask, state: ESState, say: Callable[[str], None]) -> None:
    """Warn of noise that is too small for the type of the weights: nothing can be learnt from it."""
    still = unchanged(state.theta, task.perturbation(0), language.DTYPES[config.dtype])
    if still > UNCHANGED:
        say(
            f"warning: es.sigma={config.es.sigma:g} leaves {still:.0%} of the weights in {config.dtype} as they are. "
            f"Raise it, or give dtype=float32."
        )


class _Follower:
    """Exports the model when a run finishes, and releases the shared memory."""

    milestones: Sequence[float] = ()  # a language model is large

    def __init__(self, run: Path, descriptor: int, log: RunLog) -> None:
        self._run, self._descriptor = run, descriptor

    def poll(self, saver: Checkpointer) -> None:
        pass

    def finish(self, saver: Checkpointer, check: Callable[[], None]) -> Mapping[str, Path]:
        export(self._run, made := self._run / "pretrained")
        return {"model": made}

    def close(self) -> None:
        os.close(self._descriptor)

"""The parts of a training on text, put together; `es_rl.run.loop` runs it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from es_rl import es, rewards
from es_rl.arguments.origins import Origins
from es_rl.errors import CheckpointError, ConfigError
from es_rl.es.chunks import idle_workers
from es_rl.rng import integer_seed
from es_rl.run import checkpoint, directory, loop, trackers
from es_rl.run.task import Run, Training
from es_rl.run.terms import REWARD, RunTerms
from es_rl.text.config import TextConfig
from es_rl.text.corpus import Corpus, read
from es_rl.text.gpt import Gpt
from es_rl.text.task import Backpropagation, TextTask
from es_rl.workers import opening
from es_rl.workers.interface import Pool, counted
from es_rl.workers.machine import available_processors, use_one_thread


def train(config: TextConfig, command: str, resumed: Path | None, origins: Origins) -> int:
    """Begin a run, or go on with one, until a stop rule is met. Return the exit code.

    `command` is what was typed, `origins` those of the keys of a new run.
    """
    trackers.check(config.track)
    opening.check(config.cluster)
    corpus = read(config.corpus, config.ctx)
    if config.reward:
        rewards.load(config.reward)
    use_one_thread()
    if config.model and not resumed:
        config = replace(config, model=directory.fixed(config.model, "model", "text"))
    model = make_model(config, "" if resumed else config.model)
    run = resumed or directory.create(config.run, "text", config.baseline or "gpt")
    prepare = partial(_prepare, config, corpus, model)
    title = f"es_rl: {config.corpus} → {run}"
    count = available_processors() if config.workers is None else config.workers
    return loop.run(
        Run(
            config, run, prepare, command, title, workers=count, resumed=bool(resumed), terms=_terms(config),
            origins=origins, titled=("corpus", "run"), commands=_commands(config, run),
        )
    )  # fmt: skip


def _commands(config: TextConfig, run: Path) -> list[str]:
    """Return what to type after a run: draw its curves, start another one from its network, go on."""
    where, corpus, reward = (shlex.quote(str(text)) for text in (run, config.corpus, config.reward))
    given = f"{where} reward={reward}" if config.reward else where
    return [
        f"python -m es_rl.plot run={where}",
        f"python -m es_rl.text corpus={corpus} model={where} seed={config.seed + 1}",
        f"python -m es_rl.text resume={given}",
    ]


def _terms(config: TextConfig) -> RunTerms:
    """Return the terms of the run: bits per byte (lower is better), or the reward."""
    if config.reward:
        return REWARD
    bits = "eval/bits_per_byte"
    return RunTerms(
        steps="tokens", unit="tokens", score=bits, spread="", best=f"{bits}_best", target="target_bits", sign=-1
    )


def _prepare(
    config: TextConfig, corpus: Corpus, model: nn.Module, workers: Pool, say: Callable[[str], None]
) -> Training:
    task, state = TextTask(config, corpus, workers), es.init(model)
    known = task.known
    sizes = f"{len(corpus.train):,} bytes to train on, {len(corpus.held_out):,} held out"
    unlearnt = ", ".join(f"{name.partition('/')[2]} {value:.3f}" for name, value in known.items())
    say(f"{sizes}; bits per byte without learning, of {task.rows * config.ctx:,} of them: {unlearnt}")
    about = {"corpus": corpus.digest(), "ctx": config.ctx, "gpt": asdict(config.gpt)}
    parameters = sum(value.numel() for value in model.parameters())
    heading = (
        f"GPT of {parameters:,} parameters, {config.es.population} members in chunks of {config.chunk}, "
        f"{config.batch} sequences of {config.ctx} bytes, {counted(workers.count)}"
    )
    if config.baseline:
        heading = f"GPT of {parameters:,} parameters by backpropagation and AdamW, {config.batch} sequences a step"
        return Training(task, state, about, heading, step=Backpropagation(config, corpus, model))
    if idle := idle_workers(config.es.population, config.chunk or 2, workers.count):
        say(idle)
    return Training(task, state, about, heading)


def make_model(config: TextConfig, parent: str) -> nn.Module:
    """Return a fresh network, or the one of the run `parent`.

    Raises `CheckpointError` if it does not fit, `ConfigError` if that run has the same seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer_seed(config.seed, "policy"))
        model = Gpt(**asdict(config.gpt), ctx=config.ctx)
    model.requires_grad_(False).eval()
    if parent:
        path, which = directory.find(parent, "model", "text")
        if directory.saved_config(path, TextConfig).get("seed") == config.seed:
            raise ConfigError(
                f"seed={config.seed}: is the seed of model={path}, so its sequences and noise would come again. "
                f"Give another seed."
            )
        loaded = checkpoint.load(path, which or "last")
        if (loaded.about.get("gpt"), loaded.about.get("ctx")) != (asdict(config.gpt), config.ctx):
            raise CheckpointError(
                f"model={path}: is of gpt={loaded.about.get('gpt')}, ctx={loaded.about.get('ctx')}. "
                f"Give these keys too."
            )
        state = loaded.state(es.init(model))
        model.load_state_dict({**state.theta, **state.buffers})
    return model

"""Train a byte-level GPT on a text by evolution strategies: no gradient, any score.

    python -m es_rl.text corpus=FILE minutes=15
    python -m es_rl.text corpus=FILE model=RUN seed=1 minutes=15     # start from a trained GPT, as a new run
    python -m es_rl.text corpus=FILE reward=my_rewards:politeness    # score generated text instead of the loss
    python -m es_rl.text corpus=FILE baseline=adamw minutes=15       # the same GPT by backpropagation, for comparison

All members of a generation see the same sequences. Each chunk of members takes one forward pass. This module puts the
parts of the training together; `es_rl.run.loop` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import nn

from es_rl import cli, es, rewards
from es_rl.config import help_text
from es_rl.errors import CheckpointError, ConfigError
from es_rl.es.chunks import idle_workers
from es_rl.es.config import EPISODIC
from es_rl.rng import integer_seed
from es_rl.run import checkpoint, directory, loop
from es_rl.run.resume import saved_keys
from es_rl.run.task import Run, Training
from es_rl.run.terms import REWARD, RunTerms
from es_rl.text.config import ADAMW, DEFAULTS, TextConfig, parse_resume, parse_text
from es_rl.text.corpus import Corpus, read
from es_rl.text.gpt import Gpt
from es_rl.text.task import Backpropagation, TextTask
from es_rl.workers.machine import available_processors, use_one_thread
from es_rl.workers.pool import Workers

USAGE = """python -m es_rl.text corpus=FILE [key=value …]   train a byte-level GPT
python -m es_rl.text resume=RUN [key=value …]    go on with a run; stop rules may change

Other defaults than those below: {}; with baseline=adamw
{}; a generation is one step on one batch.""".format(
    *(" ".join(f"{k}={v}" for k, v in d.items()) for d in (DEFAULTS, ADAMW))
)


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(TextConfig, USAGE, without=[f"es.{name}" for name in EPISODIC]))
    resumed, keys = directory.resumed(argv)
    if resumed:
        config = parse_resume(saved_keys(resumed, TextConfig), keys, str(resumed / "config.yaml"))
    else:
        config = parse_text(argv)
    corpus = read(config.corpus, config.ctx)
    if config.reward:
        rewards.load(config.reward)
    use_one_thread()
    model = make_model(config, "" if resumed else config.model)
    run = resumed or directory.create(config.run, "text", config.baseline or "gpt")
    prepare = partial(_prepare, config, corpus, model)
    title = f"es_rl: {config.corpus} → {run}"
    count = available_processors() if config.workers is None else config.workers
    return loop.run(
        Run(
            config,
            run,
            prepare,
            cli.command("text", argv),
            title,
            workers=count,
            resumed=bool(resumed),
            terms=_terms(config),
        )
    )


def _terms(config: TextConfig) -> RunTerms:
    """Return the terms of the run: bits per byte (lower is better), or the reward."""
    if config.reward:
        return REWARD
    bits = "eval/bits_per_byte"
    return RunTerms(
        steps="tokens", unit="tokens", score=bits, spread="", best=f"{bits}_best", target="target_bits", sign=-1
    )


def _prepare(
    config: TextConfig, corpus: Corpus, model: nn.Module, workers: Workers, say: Callable[[str], None]
) -> Training:
    task, state = TextTask(config, corpus, workers), es.init(model)
    known = task.known
    sizes = f"{len(corpus.train):,} bytes to train on, {len(corpus.held_out):,} held out"
    counted = ", ".join(f"{name.partition('/')[2]} {value:.3f}" for name, value in known.items())
    say(f"{sizes}; bits per byte without learning, of {task.rows * config.ctx:,} of them: {counted}")
    about = {"corpus": corpus.digest(), "ctx": config.ctx, "gpt": asdict(config.gpt)}
    parameters = sum(value.numel() for value in model.parameters())
    heading = (
        f"GPT of {parameters:,} parameters, {config.es.population} members in chunks of {config.chunk}, "
        f"{config.batch} sequences of {config.ctx} bytes, {workers.count or 'no'} workers"
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
        path = Path(parent)
        if directory.saved_config(path, TextConfig).get("seed") == config.seed:
            raise ConfigError(
                f"seed={config.seed}: is the seed of model={path}, so its sequences and noise would come again. "
                f"Give another seed."
            )
        loaded = checkpoint.load(path)
        if (loaded.about.get("gpt"), loaded.about.get("ctx")) != (asdict(config.gpt), config.ctx):
            raise CheckpointError(
                f"model={path}: is of gpt={loaded.about.get('gpt')}, ctx={loaded.about.get('ctx')}. "
                f"Give these keys too."
            )
        state = loaded.state(es.init(model))
        model.load_state_dict({**state.theta, **state.buffers})
    return model


if __name__ == "__main__":
    cli.run(main)

"""Fine-tune a language model on any reward by evolution strategies: no gradient, and no activations kept.

    python -m es_rl.llm model=DIR_OR_ID data=FILE.jsonl reward=conciseness minutes=30
    python -m es_rl.llm model=DIR_OR_ID data=FILE.jsonl reward=countdown+0.1*my_rewards:politeness
    python -m es_rl.llm model=DIR_OR_ID data=FILE.jsonl reward=countdown preset=es-at-scale
    python -m es_rl.llm export=RUN out=DIRECTORY

With low-rank noise many members complete the prompts in one batch (EGGROLL: Sarkar et al. 2025, arXiv 2511.16652); with
dense noise each in turn is written over the model (Qiu et al. 2025, arXiv 2509.24372). The composition root of this
kind of training; `es_rl.loop` does the rest.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from es_rl import checkpoint as checkpoints
from es_rl import cli, dataset, language, loop, rewards, rundir
from es_rl.checkpoint import Saver, check_fit
from es_rl.config import (
    EPISODIC,
    CheckpointConfig,
    EsConfig,
    check_pairs,
    going_on,
    idle_workers,
    refuse_episodic,
)
from es_rl.dataset import Dataset
from es_rl.errors import CheckpointError, ConfigError, lookup
from es_rl.es import ESState
from es_rl.finetune import FineTune
from es_rl.in_place import unchanged
from es_rl.keys import build, group, help_text, key, pairs, parse
from es_rl.loop import Prepared, Run
from es_rl.processes import available_memory, available_processors, choose_device, use_one_thread
from es_rl.rng import MAX_SEED
from es_rl.runlog import RunLog
from es_rl.screen import REWARD
from es_rl.shaping import SHAPINGS
from es_rl.shared import allocate
from es_rl.workers import Workers

USAGE = """python -m es_rl.llm model=DIR_OR_ID data=FILE.jsonl reward=NAME [key=value …]   fine-tune a language model
python -m es_rl.llm resume=RUN [key=value …]          go on with a run; stop rules may change
python -m es_rl.llm export=RUN out=DIRECTORY          a run's newest theta, for from_pretrained; or checkpoint=best

data: one JSON object a line, with a prompt (a string, or chat messages) and columns that the reward is given.
reward: countdown, conciseness, exact_match, or module:function with TRL's signature; several as a+0.1*b.
Other defaults than those below: es.noise=lowrank es.population=32 es.sigma=0.005 es.shaping=zscore;
preset=es-at-scale (as published): es.noise=dense mirrored=false es.population=30 es.sigma=0.001."""
DEFAULTS = {"es.noise": "lowrank", "es.population": 32, "es.sigma": 0.005, "es.shaping": "zscore"}
PRESETS: dict[str, dict[str, Any]] = {
    "": {},
    # Qiu et al. 2025, section 4: no mirroring, z-scores, α = sigma/2.
    "es-at-scale": {"es.noise": "dense", "mirrored": False, "es.population": 30, "es.sigma": 0.001},
}
TOGETHER = 256  # rows of a chunk: more make a batch of a small model no faster
SPREAD = 2  # chunks at least, for as many workers
CACHE_BYTES = 1 << 31  # keys and values that one batch may hold
UNCHANGED = 0.1  # share of weights that noise does not move, above which there is a warning
MODELS = 1.5  # worth of memory that a worker may need


@dataclass(frozen=True)
class AscentConfig:
    lr: float | None = key(
        None, "of theta += lr * estimate; default: sigma²/2, as the published sigma/2 has 1/sigma in it", above=0
    )
    lr_decay: float = key(1.0, "lr is multiplied by this after each generation", above=0, high=1)
    anchor: float = key(0.0, "share of the way back to the starting weights, with each update", low=0, high=1)


@dataclass(frozen=True)
class LlmEvalConfig:
    every: int = key(10, "generations between evaluations; 0: only at the end", low=0)
    data: str = key("", "a file of held-out prompts; default: the last tenth of data")
    prompts: int = key(64, "held-out prompts of an evaluation, at most", low=1)
    kl: bool = key(True, "measure the distance to the starting model, along what theta says")


@dataclass(frozen=True)
class LlmConfig:
    model: str = key("", "a directory with safetensors or one GGUF file, or an id of the Hugging Face Hub")
    data: str = key("", "a file of JSON lines, each with a prompt and the columns of the reward")
    reward: str = key("", "what completions are judged by")
    preset: str = key("", "settings of a publication: es-at-scale", choices=tuple(PRESETS))
    batch: int = key(8, "prompts of a generation, the same for all members", low=1)
    max_new_tokens: int = key(64, "of a completion, at most", low=1)
    modules: list[str] = key([], "only parameters within modules of these names move, such as [q_proj,v_proj]")
    mirrored: bool = key(True, "members come in pairs of opposite noise; false: with es.noise=dense only")
    dtype: str = key(
        "auto", "of the members' weights; theta itself is float32; auto: bfloat16 on a GPU, else float32",
        choices=("auto", *language.DTYPES),
    )  # fmt: skip
    device: str = key("auto", "of the members: cpu, cuda, auto", choices=("cpu", "cuda", "auto"))
    reward_seconds: float = key(30.0, "after which a reward that says nothing is killed", above=0)
    es: EsConfig = group(EsConfig, "the evolution strategy")
    optim: AscentConfig = group(AscentConfig, "the update")
    generations: int | None = key(None, "stop after so many generations", low=1)
    tokens: int | None = key(None, "stop after so many tokens, of all members", low=1)
    minutes: float | None = key(None, "stop after so many minutes of training; 60 if no rule is given", above=0)
    target_reward: float | None = key(None, "stop when eval/reward_mean reaches this")
    seed: int = key(0, "names every random number of the run", low=0, high=MAX_SEED)
    workers: int | None = key(
        None, "worker processes, each with a model; 0: all in this one; default: as many as GPUs, or processors with "
        "memory for them", low=0,
    )  # fmt: skip
    rows: int | None = key(None, "rows of one batch, at most; default: from the model's size", low=1)
    chunk: int | None = key(None, "members of one batch, an even number; default: from the batch", low=2)
    hang_after: float = key(300.0, "seconds without a token after which a worker is replaced", above=0)
    run: str = key("", "the run's directory; default: runs/llm/TIME-REWARD")
    eval: LlmEvalConfig = group(LlmEvalConfig, "evaluation of theta on what is held out")
    checkpoint: CheckpointConfig = group(CheckpointConfig, "checkpoints")


@dataclass(frozen=True)
class ExportConfig:
    export: str = key("", "a run")
    checkpoint: str = key("last", "last, best, or a generation")
    out: str = key("", "a directory to be made")


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(LlmConfig, USAGE, without=[f"es.{name}" for name in EPISODIC]))
    given = pairs(argv)
    if "export" in given:
        asked = parse(ExportConfig, argv)
        if not asked.out:
            raise ConfigError("out is missing: give a directory that is to be made.")
        if Path(asked.out).exists():
            raise ConfigError(f"out={asked.out}: is there already. Give a directory that is to be made.")
        export(Path(asked.export), Path(asked.out), asked.checkpoint)
        return cli.show(asked.out)
    resumed, keys = rundir.resumed(argv)
    if resumed:
        config = going_on(LlmConfig, rundir.saved_config(resumed), keys, str(resumed / "config.yaml"), "reward")
    else:
        refuse_episodic(given, "es.")
        preset = lookup(PRESETS, given.get("preset", ""), "preset")
        config = build(LlmConfig, [(DEFAULTS | preset, ""), (given, "")])
    config = _resolve(config)
    data = dataset.read(config.data, config.eval.data)
    rewards.weights(config.reward)
    source = resumed / "start" if resumed else language.fetch(config.model)
    if resumed and not (source / "config.json").exists():
        raise CheckpointError(f"{source}: has no config.json, so the starting model is lost. Start a new run.")
    language.check(source)
    use_one_thread()
    run = resumed or rundir.create(config.run, "llm", re.sub(r"\W.*", "", config.reward) or "reward")
    prepare = partial(_prepare, config, run, data, source)
    title = f"es_rl: {config.model}, {config.reward} → {run}"
    count = _workers(config, source)
    return loop.run(Run(config, run, prepare, "llm", argv, title, workers=count, resumed=bool(resumed), terms=REWARD))


def _resolve(config: LlmConfig) -> LlmConfig:
    """Rules between keys, and the defaults that follow from other keys. Raises `ConfigError`."""
    for name in ("model", "data", "reward"):
        if not getattr(config, name):
            raise ConfigError(f"{name} is missing: give model=DIR_OR_ID data=FILE.jsonl reward=NAME.")
    check_pairs(config.es, "es.")
    lookup(SHAPINGS, config.es.shaping, "es.shaping")
    if config.es.noise not in ("lowrank", "dense"):
        raise ConfigError(f"es.noise={config.es.noise}: a language model's is lowrank or dense.")
    if not config.mirrored and (config.es.noise == "lowrank" or config.es.shaping == "sign" or config.es.top):
        raise ConfigError("mirrored=false: needs es.noise=dense, all members, and a shaping that knows no pairs.")
    if config.chunk is not None and config.chunk % 2:
        raise ConfigError(f"chunk={config.chunk}: must be even, both members of a pair speak together.")
    device = choose_device(config.device).type
    dtype = ("bfloat16" if device == "cuda" else "float32") if config.dtype == "auto" else config.dtype
    most = 2 if config.es.noise == "dense" else max(2, min(TOGETHER // config.batch, config.es.population // SPREAD))
    chunk = most - most % 2 if config.chunk is None else config.chunk
    return replace(config, device=device, dtype=dtype, chunk=min(chunk, config.es.population))


def _workers(config: LlmConfig, model: Path) -> int:
    """One for each GPU; or as many as there are processors, and memory for their models."""
    if config.workers is not None:
        return config.workers
    if config.device == "cuda":
        return torch.cuda.device_count()
    size = sum(file.stat().st_size for file in model.glob("*") if file.suffix in (".safetensors", ".gguf"))
    size *= 6 if any(model.glob("*.gguf")) else 2  # four bits, or sixteen, that become thirty-two
    return max(1, min(available_processors(), int(available_memory() / max(1.0, MODELS * size))))


def _prepare(
    config: LlmConfig, run: Path, data: Dataset, source: Path, workers: Workers, say: Callable[[str], None]
) -> Prepared:
    """The model's files of the run, theta in shared memory, who speaks and who judges."""
    start = run / "start"
    say(f"opening {source}")
    model, tokenizer = language.open_model(source, "float32")
    speaker = language.Language(model, tokenizer, torch.device("cpu"))
    longest = max(
        language.check_lengths(speaker, rows, config.max_new_tokens, name)
        for rows, name in ((data.train, f"data={config.data}"), (data.held_out, "held-out data"))
    )
    if source != start:
        with rundir.reporting(run):
            model.save_pretrained(start)  # type: ignore[operator]
            tokenizer.save_pretrained(start)
    rows = _rows(config, model.config, longest) if config.rows is None else config.rows
    fields = {name: (tuple(value.shape), "f4") for name, value in model.named_parameters()}
    descriptor, memory = allocate(fields)
    theta = {name: torch.from_numpy(array) for name, array in memory.arrays().items()}
    for name, value in model.named_parameters():
        theta[name].copy_(value)
    del model, speaker
    task = FineTune(config, run, data, theta, memory, rows, workers)
    state = ESState(0, dict(theta), {}, {})
    _warn(config, task, state, say)
    about = {"data": dataset.digest(data.train), "reward": config.reward, "modules": list(config.modules)}
    heading = (
        f"{sum(value.numel() for value in theta.values()):,} parameters in {config.dtype} on {config.device}, "
        f"{config.es.population} members in chunks of {config.chunk}, {config.batch} of {len(data.train):,} prompts a "
        f"generation, {len(data.held_out):,} held out, {workers.count or 'no'} workers"
    )
    follow = partial(_Follower, run, descriptor)
    if idle := idle_workers(config.es.population, config.chunk or 2, workers.count):
        say(idle)
    return Prepared(task, state, about, heading, follow=follow, step=task.step, in_place=True)


def _rows(config: LlmConfig, model: Any, longest: int) -> int:
    """Of a batch, by the memory of their keys and values; one prompt of each member at least."""
    assert config.chunk is not None
    text = model.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 1
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    heads = getattr(text, "num_key_value_heads", None) or heads
    item = language.DTYPES[config.dtype].itemsize
    row: int = 2 * text.num_hidden_layers * heads * width * (longest + config.max_new_tokens) * item  # bytes
    return max(1 if config.es.noise == "dense" else config.chunk, CACHE_BYTES // row)


def _warn(config: LlmConfig, task: FineTune, state: ESState, say: Callable[[str], None]) -> None:
    """Noise that the type cannot hold teaches nothing."""
    still = unchanged(state.theta, task.perturbation(0), language.DTYPES[config.dtype])
    if still > UNCHANGED:
        say(
            f"warning: es.sigma={config.es.sigma:g} leaves {still:.0%} of the weights in {config.dtype} as they are. "
            f"Raise it, or give dtype=float32."
        )


class _Follower:
    """What is left of a run: its model as a directory, and no memory."""

    def __init__(self, run: Path, descriptor: int, log: RunLog) -> None:
        self._run, self._descriptor = run, descriptor

    def poll(self, saver: Saver) -> None:
        pass

    def finish(self, saver: Saver, check: Callable[[], None]) -> None:
        export(self._run, self._run / "pretrained")

    def close(self) -> None:
        os.close(self._descriptor)


def export(run: Path, out: Path, checkpoint: str = "last") -> None:
    """Write a checkpoint's theta as a directory that `from_pretrained` loads. Raises `CheckpointError`, `EnvError`."""
    rundir.saved_config(run)
    loaded = checkpoints.load(run, checkpoint)
    model, tokenizer = language.open_model(run / "start", "float32")
    check_fit(loaded.path, loaded.model, ESState(0, dict(model.named_parameters()), {}, {}), "model")
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(loaded.model.pop(name))
    writing = out.with_name(f".writing-{os.getpid()}-{out.name}")
    with rundir.reporting(out, "Choose another place with out=DIRECTORY"):
        shutil.rmtree(writing, ignore_errors=True)
        model.save_pretrained(writing)  # type: ignore[operator]
        tokenizer.save_pretrained(writing)
        shutil.rmtree(out, ignore_errors=True)
        writing.rename(out)


if __name__ == "__main__":
    cli.run(main)

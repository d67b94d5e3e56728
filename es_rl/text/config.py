"""Keys for training on text, and the rules between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from es_rl.arguments.origins import COMMAND_LINE, Origins
from es_rl.config import build, pairs
from es_rl.errors import ConfigError, lookup
from es_rl.es.chunks import default_chunk
from es_rl.es.config import EsConfig, OptimConfig, check_chunk, check_pairs, refuse_episodic
from es_rl.es.shaping import SHAPINGS
from es_rl.keys import MOST_WORKERS, group, key
from es_rl.noise import KINDS
from es_rl.rng import MAX_SEED
from es_rl.run.checkpoint import CheckpointConfig
from es_rl.run.resume import resumed_config
from es_rl.workers.cluster.config import ClusterConfig, check_cluster

DEFAULTS = {"es.noise": "lowrank", "es.population": 256, "es.sigma": 0.02, "optim.lr": 0.01}
# A step of AdamW takes as long as one member; an evaluation takes as long as ten steps, so it is done less often.
ADAMW = {"batch": 8, "optim.name": "adamw", "optim.lr": 0.001, "eval.every": 250, "checkpoint.every": 1000}
TOKENS_AT_ONCE = 8_192  # tokens of one forward pass, so that memory does not grow with the population


@dataclass(frozen=True)
class GptConfig:
    layers: int = key(2, "number of blocks, each an attention and a perceptron", low=1)
    heads: int = key(4, "attention heads per block", low=1)
    width: int = key(64, "size of a token's vector; a multiple of heads", low=1)


@dataclass(frozen=True)
class TextEvalConfig:
    every: int = key(10, "generations between evaluations; 0: only at the end", low=0, resumable=True)
    bytes: int = key(16_384, "maximum held-out bytes per evaluation", low=1, resumable=True)
    sample: int = key(200, "bytes of generated text shown with each evaluation", low=0, resumable=True)


@dataclass(frozen=True)
class TextConfig:
    corpus: str = key("", "text file; its last tenth is held out", path=True, resumable=True, bare="file")
    model: str = key("", "run of a trained GPT to start from, with another seed; default: from scratch", path=True)
    ctx: int = key(128, "sequence length in bytes", low=2)
    batch: int = key(2, "sequences per generation, the same for all members", low=1)
    gpt: GptConfig = group(GptConfig, "the network")
    reward: str = key(
        "", "module:function that scores generated text, (prompts, completions) → numbers; default: the loss"
    )
    baseline: str = key("", "adamw: train by backpropagation instead, for comparison", choices=("", "adamw"))
    es: EsConfig = group(EsConfig, "the evolution strategy")
    optim: OptimConfig = group(OptimConfig, "the optimiser")
    generations: int | None = key(None, "stop after this many generations", low=1, resumable=True)
    tokens: int | None = key(None, "stop after this many bytes, summed over all members", low=1, resumable=True)
    minutes: float | None = key(
        None, "stop after this many minutes of training; 60 if no stop rule is given", above=0, resumable=True
    )
    target_bits: float | None = key(None, "stop when eval/bits_per_byte falls to this", resumable=True)
    target_reward: float | None = key(None, "stop when eval/reward_mean reaches this", resumable=True)
    seed: int = key(0, "random seed", low=0, high=MAX_SEED)
    workers: int | None = key(
        None, "worker processes; 0: all work in this process, so a hanging reward hangs the training; default: the "
        "available processors", low=0, high=MOST_WORKERS, resumable=True,
    )  # fmt: skip
    cluster: ClusterConfig = group(ClusterConfig, "a cluster of machines")
    chunk: int | None = key(
        None, "members per forward pass, an even number; default: from es.population, batch and ctx", low=2
    )
    hang_after: float = key(
        300.0, "replace a worker after this many seconds without a finished chunk", above=0, resumable=True
    )
    run: str = key("", "run directory; default: runs/text/TIME-gpt, or TIME-adamw", path=True)
    eval: TextEvalConfig = group(TextEvalConfig, "evaluation of theta on the held-out part")
    track: list[str] = key(
        [], "trackers that get the curves besides TensorBoard: wandb, trackio, mlflow", resumable=True
    )
    checkpoint: CheckpointConfig = group(CheckpointConfig, "checkpoints")


def parse_text(argv: Sequence[str]) -> TextConfig:
    """Return the resolved configuration of a new run. Raises `ConfigError`."""
    return read_new(argv)[0]


def read_new(argv: Sequence[str]) -> tuple[TextConfig, Origins]:
    """Return the resolved configuration of a new run, and where its values are from. Raises `ConfigError`."""
    given = pairs(argv, TextConfig)
    refuse_episodic(given, "es.")
    defaults = ADAMW if given.get("baseline") else DEFAULTS
    config = _resolve(build(TextConfig, [(defaults, ""), (given, "")]))
    return config, Origins.joined([(defaults, "default for text"), (given, COMMAND_LINE)])


def parse_resume(saved: Mapping[str, Any], argv: Sequence[str], source: str) -> TextConfig:
    """Return the resolved configuration of a resumed run. Raises `ConfigError`."""
    return _resolve(resumed_config(TextConfig, saved, pairs(argv, TextConfig), source, ["reward"]))


def _resolve(config: TextConfig) -> TextConfig:
    """Check the rules between keys, and fill in defaults that depend on other keys. Raises `ConfigError`."""
    if not config.corpus:
        raise ConfigError("corpus is missing: give a text file, such as corpus=shakespeare.txt.")
    from es_rl.es.optim import check_optimizer  # imports torch: once the keys are read

    check_pairs(config.es, "es.")
    check_cluster(config.cluster, config.workers)
    lookup(KINDS, config.es.noise, "es.noise")
    lookup(SHAPINGS, config.es.shaping, "es.shaping")
    check_optimizer(config.optim.name, "optim.name")
    if config.baseline and config.optim.name != config.baseline:
        raise ConfigError(f"optim.name={config.optim.name}: baseline={config.baseline} is itself the optimiser.")
    if config.reward and ":" not in config.reward:
        raise ConfigError(f"reward={config.reward}: must be module:function, of prompts and completions only.")
    if config.reward and config.target_bits is not None:
        raise ConfigError("target_bits: with a reward, bits per byte are not measured. Give target_reward.")
    if not config.reward and config.target_reward is not None:
        raise ConfigError("target_reward: needs a reward. Give reward=module:function, or target_bits.")
    if config.gpt.width % config.gpt.heads:
        raise ConfigError(f"gpt.width={config.gpt.width}: must be a multiple of gpt.heads={config.gpt.heads}.")
    most = max(2, TOKENS_AT_ONCE // (config.batch * config.ctx))
    chunk = min(default_chunk(config.es.population, 1), most - most % 2) if config.chunk is None else config.chunk
    check_chunk(chunk)
    return replace(config, chunk=min(chunk, config.es.population))

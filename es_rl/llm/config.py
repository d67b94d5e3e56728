"""Keys for fine-tuning a language model, the rules between them, and published settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from es_rl.errors import ConfigError, lookup
from es_rl.es.config import EsConfig, check_chunk, check_pairs
from es_rl.es.shaping import SHAPINGS
from es_rl.keys import MOST_WORKERS, group, key
from es_rl.rng import MAX_SEED
from es_rl.run.checkpoint import CheckpointConfig
from es_rl.workers.cluster.config import ClusterConfig, check_cluster
from es_rl.workers.machine import choose_device

DEFAULTS = {"es.noise": "lowrank", "es.population": 32, "es.sigma": 0.005, "es.shaping": "zscore"}


DTYPES = ("float32", "bfloat16", "float16")  # of torch


PRESETS: dict[str, dict[str, Any]] = {
    "": {},
    # Qiu et al. 2025, section 4: no mirroring, z-scores, α = sigma/2.
    "es-at-scale": {"es.noise": "dense", "mirrored": False, "es.population": 30, "es.sigma": 0.001},
}


TOGETHER = 256  # rows per chunk, at most: more do not make a small model faster


SPREAD = 2  # chunks per generation, at least, to keep as many workers busy


@dataclass(frozen=True)
class AscentConfig:
    lr: float | None = key(
        None,
        "theta += lr * estimate; default: sigma²/2, as the published sigma/2 includes the estimate's 1/sigma",
        above=0,
    )
    lr_decay: float = key(1.0, "multiply lr by this after each generation", above=0, high=1)
    anchor: float = key(
        0.0, "move theta back by this share of the way to the starting weights with each update", low=0, high=1
    )


@dataclass(frozen=True)
class LlmEvalConfig:
    every: int = key(10, "generations between evaluations; 0: only at the end", low=0, resumable=True)
    data: str = key("", "file of held-out prompts; default: the last tenth of data", path=True, resumable=True)
    prompts: int = key(64, "maximum held-out prompts per evaluation", low=1, resumable=True)
    kl: bool = key(True, "measure the distance from the starting model on theta's completions", resumable=True)


@dataclass(frozen=True)
class LlmConfig:
    model: str = key(
        "", "directory with safetensors or one GGUF file, or an id of the Hugging Face Hub", path=True, bare="directory"
    )
    data: str = key(
        "",
        "file of JSON lines, each with a prompt and the columns of the reward",
        path=True,
        resumable=True,
        bare="file",
    )  # fmt: skip
    reward: str = key("", "reward of the completions")
    preset: str = key("", "published settings: es-at-scale", choices=tuple(PRESETS))
    batch: int = key(8, "prompts per generation, the same for all members", low=1)
    max_new_tokens: int = key(64, "maximum tokens per completion", low=1)
    modules: list[str] = key([], "train only parameters in modules with these names, such as q_proj,v_proj")
    mirrored: bool = key(True, "use pairs of members with opposite noise; false: only with es.noise=dense")
    dtype: str = key(
        "auto", "type of the members' weights; theta itself is float32; auto: bfloat16 on a GPU, else float32",
        choices=("auto", *DTYPES),
    )  # fmt: skip
    device: str = key("auto", "device of the members: cpu, cuda, auto", choices=("cpu", "cuda", "auto"))
    reward_seconds: float = key(
        30.0, "kill the reward process after this many seconds without a result", above=0, resumable=True
    )
    es: EsConfig = group(EsConfig, "the evolution strategy")
    optim: AscentConfig = group(AscentConfig, "the update")
    generations: int | None = key(None, "stop after this many generations", low=1, resumable=True)
    tokens: int | None = key(None, "stop after this many tokens, summed over all members", low=1, resumable=True)
    minutes: float | None = key(
        None, "stop after this many minutes of training; 60 if no stop rule is given", above=0, resumable=True
    )
    target_reward: float | None = key(None, "stop when eval/reward_mean reaches this", resumable=True)
    seed: int = key(0, "random seed", low=0, high=MAX_SEED)
    workers: int | None = key(
        None, "worker processes, each with a model; 0: all work in this process; default: one per GPU, or as many as "
        "processors and memory allow", low=0, high=MOST_WORKERS, resumable=True,
    )  # fmt: skip
    cluster: ClusterConfig = group(ClusterConfig, "a cluster of machines")
    rows: int | None = key(None, "maximum rows per batch; default: from the model's size", low=1)
    chunk: int | None = key(
        None, "members per batch, an even number; default: from es.noise, es.population and batch", low=2
    )
    hang_after: float = key(300.0, "replace a worker after this many seconds without a token", above=0, resumable=True)
    run: str = key("", "run directory; default: runs/llm/TIME-REWARD", path=True)
    eval: LlmEvalConfig = group(LlmEvalConfig, "evaluation of theta on held-out prompts")
    track: list[str] = key(
        [], "trackers that get the curves besides TensorBoard: wandb, trackio, mlflow", resumable=True
    )
    checkpoint: CheckpointConfig = group(CheckpointConfig, "checkpoints")


@dataclass(frozen=True)
class ExportConfig:
    export: str = key("", "run to export", path=True)
    checkpoint: str = key("last", "checkpoint to export: last, best, or a generation")
    out: str = key("", "new directory to write", path=True)


def resolve(config: LlmConfig) -> LlmConfig:
    """Check the rules between keys, and fill in defaults that depend on other keys. Raises `ConfigError`."""
    for name in ("model", "data", "reward"):
        if not getattr(config, name):
            raise ConfigError(f"{name} is missing: give model=DIR_OR_ID data=FILE.jsonl reward=NAME.")
    check_pairs(config.es, "es.")
    check_cluster(config.cluster, config.workers)
    lookup(SHAPINGS, config.es.shaping, "es.shaping")
    if config.es.noise not in ("lowrank", "dense"):
        raise ConfigError(f"es.noise={config.es.noise}: must be lowrank or dense for a language model.")
    if not config.mirrored and (config.es.noise == "lowrank" or config.es.shaping == "sign" or config.es.top):
        raise ConfigError("mirrored=false: needs es.noise=dense, no es.top, and a shaping other than sign.")
    device = choose_device(config.device).type
    dtype = ("bfloat16" if device == "cuda" else "float32") if config.dtype == "auto" else config.dtype
    most = 2 if config.es.noise == "dense" else max(2, min(TOGETHER // config.batch, config.es.population // SPREAD))
    chunk = most - most % 2 if config.chunk is None else config.chunk
    check_chunk(chunk)
    return replace(config, device=device, dtype=dtype, chunk=min(chunk, config.es.population))

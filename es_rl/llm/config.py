"""The keys of the fine-tuning of a language model, the rules between them, and settings of publications."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from es_rl.errors import ConfigError, lookup
from es_rl.es.config import EsConfig, check_pairs
from es_rl.es.shaping import SHAPINGS
from es_rl.keys import group, key
from es_rl.llm import model as language
from es_rl.rng import MAX_SEED
from es_rl.run.checkpoint import CheckpointConfig
from es_rl.workers.machine import choose_device

DEFAULTS = {"es.noise": "lowrank", "es.population": 32, "es.sigma": 0.005, "es.shaping": "zscore"}


PRESETS: dict[str, dict[str, Any]] = {
    "": {},
    # Qiu et al. 2025, section 4: no mirroring, z-scores, α = sigma/2.
    "es-at-scale": {"es.noise": "dense", "mirrored": False, "es.population": 30, "es.sigma": 0.001},
}


TOGETHER = 256  # rows of a chunk: more make a batch of a small model no faster


SPREAD = 2  # chunks at least, for as many workers


@dataclass(frozen=True)
class AscentConfig:
    lr: float | None = key(
        None, "of theta += lr * estimate; default: sigma²/2, as the published sigma/2 has 1/sigma in it", above=0
    )
    lr_decay: float = key(1.0, "lr is multiplied by this after each generation", above=0, high=1)
    anchor: float = key(0.0, "share of the way back to the starting weights, with each update", low=0, high=1)


@dataclass(frozen=True)
class LlmEvalConfig:
    every: int = key(10, "generations between evaluations; 0: only at the end", low=0, resumable=True)
    data: str = key("", "a file of held-out prompts; default: the last tenth of data", resumable=True)
    prompts: int = key(64, "held-out prompts of an evaluation, at most", low=1, resumable=True)
    kl: bool = key(True, "measure the distance to the starting model, along what theta says", resumable=True)


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
    reward_seconds: float = key(30.0, "after which a reward that says nothing is killed", above=0, resumable=True)
    es: EsConfig = group(EsConfig, "the evolution strategy")
    optim: AscentConfig = group(AscentConfig, "the update")
    generations: int | None = key(None, "stop after so many generations", low=1, resumable=True)
    tokens: int | None = key(None, "stop after so many tokens, of all members", low=1, resumable=True)
    minutes: float | None = key(
        None, "stop after so many minutes of training; 60 if no rule is given", above=0, resumable=True
    )
    target_reward: float | None = key(None, "stop when eval/reward_mean reaches this", resumable=True)
    seed: int = key(0, "names every random number of the run", low=0, high=MAX_SEED)
    workers: int | None = key(
        None, "worker processes, each with a model; 0: all in this one; default: as many as GPUs, or processors with "
        "memory for them", low=0, resumable=True,
    )  # fmt: skip
    rows: int | None = key(None, "rows of one batch, at most; default: from the model's size", low=1)
    chunk: int | None = key(None, "members of one batch, an even number; default: from the batch", low=2)
    hang_after: float = key(300.0, "seconds without a token after which a worker is replaced", above=0, resumable=True)
    run: str = key("", "the run's directory; default: runs/llm/TIME-REWARD")
    eval: LlmEvalConfig = group(LlmEvalConfig, "evaluation of theta on what is held out")
    checkpoint: CheckpointConfig = group(CheckpointConfig, "checkpoints")


@dataclass(frozen=True)
class ExportConfig:
    export: str = key("", "a run")
    checkpoint: str = key("last", "last, best, or a generation")
    out: str = key("", "a directory to be made")


def resolve(config: LlmConfig) -> LlmConfig:
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

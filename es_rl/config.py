"""The keys of a run that trains a policy, the rules between them, and where they are from.

Precedence, later wins: defaults, the preset of the environment, `config=FILE`, the command line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from es_rl.errors import ConfigError
from es_rl.keys import build, flatten, group, key, pairs, read_file
from es_rl.presets import preset
from es_rl.rng import MAX_SEED

C = TypeVar("C")

WEIGHTS = ("float", "int8", "ternary")  # what a policy's matrices are rounded to


@dataclass(frozen=True)
class LinearConfig:
    squash: str = key("clip", "how outputs are brought to the action space", choices=("clip", "tanh"))
    weights: str = key("float", "matrices as they are, or rounded in every pass forward", choices=WEIGHTS)


@dataclass(frozen=True)
class MlpConfig:
    hidden: list[int] = key([64, 64], "widths of the hidden layers", low=1)
    activation: str = key("tanh", "between the layers", choices=("tanh", "relu", "elu", "gelu", "silu", "leaky_relu"))
    layer_norm: bool = key(False, "layer norm before each activation")
    squash: str = key("tanh", "how outputs are brought to the action space", choices=("clip", "tanh"))
    weights: str = key("float", "matrices as they are, or rounded in every pass forward", choices=WEIGHTS)


@dataclass(frozen=True)
class TransformerConfig:
    width: int = key(64, "numbers of a token; a multiple of heads", low=1)
    layers: int = key(2, "blocks of attention and perceptron", low=1)
    heads: int = key(4, "of each attention", low=1)
    context: int = key(16, "newest steps that each layer attends to", low=1)
    squash: str = key("tanh", "how outputs are brought to the action space", choices=("clip", "tanh"))


@dataclass(frozen=True)
class EsConfig:
    noise: str = key("dense", "perturbations: dense, orthogonal, lowrank, lowrank_orthogonal")
    rank: int = key(1, "of low-rank perturbations", low=1)
    noise_reuse: int = key(1, "generations that share their perturbations; 1: fresh ones each generation", low=1)
    freeze_vectors: bool = key(False, "biases and gains stay as they are, only matrices move")
    population: int = key(64, "members of a generation, an even number (antithetic pairs)", low=2)
    steps: int | None = key(
        None, "environment steps that a generation is to have: the population grows until it has about so many", low=1
    )
    population_max: int | None = key(None, "members that it may grow to; default: 16 times es.population", low=2)
    sigma: float = key(0.05, "standard deviation of the perturbation of each parameter", above=0)
    sigma_decay: float = key(1.0, "sigma is multiplied by this after each generation", above=0, high=1)
    shaping: str = key("centered_ranks", "fitness to utilities: centered_ranks, zscore, normalized, sign, raw")
    top: int | None = key(None, "pairs that count, the best ones (ARS); default: all", low=1)
    episodes: int = key(1, "episodes of each member; fitness is their mean", low=1)
    limit: int | None = key(None, "steps after which episodes of training are cut off at first; default: never", low=1)
    limit_growth: float = key(1.01, "es.limit is multiplied by this after each generation", low=1)
    reward_shift: float = key(0.0, "subtracted from each step's reward in training (an alive bonus)")
    max_failed: float = key(0.5, "share of failed members in a generation above which the run stops", low=0, high=1)


@dataclass(frozen=True)
class OptimConfig:
    name: str = key("adam", "optimiser: sgd, adam, adamw, clipup")
    lr: float = key(0.02, "learning rate", above=0)
    lr_decay: float = key(1.0, "lr is multiplied by this after each generation", above=0, high=1)
    weight_decay: float = key(0.0, "pull of theta towards zero", low=0)
    momentum: float = key(0.9, "of sgd and clipup", low=0, high=1)
    beta1: float = key(0.9, "of adam and adamw", low=0, below=1)
    beta2: float = key(0.999, "of adam and adamw", low=0, below=1)
    eps: float = key(1e-8, "of adam and adamw", above=0)
    max_speed: float | None = key(None, "of clipup: largest step of theta; default: twice lr", above=0)


@dataclass(frozen=True)
class EvalConfig:
    every: int = key(10, "generations between evaluations; 0: only at the end", low=0)
    episodes: int = key(10, "episodes of one evaluation", low=1)


@dataclass(frozen=True)
class VideoConfig:
    every: int = key(0, "generations between videos; 0: only at the end; -1: none at all", low=-1)
    seconds: float = key(12.0, "length of a video", above=0, high=600)


@dataclass(frozen=True)
class CheckpointConfig:
    every: int = key(10, "generations between checkpoints (also once a minute, and whenever the run ends)", low=1)
    keep: int = key(3, "newest checkpoints kept; the best one is kept besides", low=1)


@dataclass(frozen=True)
class Config:
    env: str = key("", "Gymnasium id, such as Humanoid-v4, or module:Id to import the module first")
    env_kwargs: dict[str, Any] = key({}, "arguments of the environment: env_kwargs.NAME=VALUE")
    backend: str = key("auto", "simulation: batch (MuJoCo tasks, fast), gymnasium (any id), auto: the faster one")
    policy: str = key("mlp", "network: linear, mlp, transformer")
    linear: LinearConfig = group(LinearConfig, "the linear policy")
    mlp: MlpConfig = group(MlpConfig, "the multilayer perceptron")
    transformer: TransformerConfig = group(TransformerConfig, "the transformer policy")
    obs_norm: bool = key(True, "observations normalised by their running mean and standard deviation")
    obs_first: int | None = key(
        None, "the policy sees the first so many numbers of an observation; default: all of them", low=1
    )
    obs_clip: float = key(10.0, "standard deviations at which normalised observations are cut off", above=0)
    es: EsConfig = group(EsConfig, "the evolution strategy")
    optim: OptimConfig = group(OptimConfig, "the optimiser")
    generations: int | None = key(None, "stop after so many generations", low=1)
    env_steps: int | None = key(None, "stop after so many environment steps, of all members", low=1)
    minutes: float | None = key(None, "stop after so many minutes of training; 60 if no rule is given", above=0)
    target_return: float | None = key(None, "stop when eval/return_mean reaches this")
    seed: int = key(0, "names every random number of the run", low=0, high=MAX_SEED)
    workers: int | None = key(None, "worker processes; 0: all in this one; default: the processors at hand", low=0)
    chunk: int | None = key(
        None,
        "members whose forward pass, or orthogonal noise, is computed together, an even number; a process has up to "
        "three times as many simulations; theta of the linear policy and the MLP is the same for any; default: from "
        "the population",
        low=2,
    )
    inference: str = key(
        "local",
        "where the policy runs: local, in the workers; central, in one place for all of them, on the device",
        choices=("local", "central"),
    )
    device: str = key("auto", "of central inference: cpu, cuda, auto", choices=("cpu", "cuda", "auto"))
    hang_after: float = key(60.0, "seconds without a finished step after which a worker is replaced", above=0)
    run: str = key("", "the run's directory; default: runs/ENV/TIME-POLICY")
    eval: EvalConfig = group(EvalConfig, "evaluation of the unperturbed policy")
    video: VideoConfig = group(VideoConfig, "videos")
    checkpoint: CheckpointConfig = group(CheckpointConfig, "checkpoints")


STOP_RULES = ("generations", "env_steps", "minutes", "target_return")
# What may change when a run goes on: nothing that theta depends on.
RESUMABLE = (
    *STOP_RULES,
    "tokens",
    "target_bits",
    "target_reward",
    "workers",
    "hang_after",
    "reward_seconds",
    "eval.",
    "video.",
    "checkpoint.",
    "es.max_failed",
)
TOGETHER = 64  # simulations side by side in a worker, above which it takes no further chunk
TOGETHER_CENTRAL = 1024  # of a chunk of central inference
WORTHWHILE = 8  # members of a chunk of a small population, or half of it
LARGE = 256  # members of a population that keeps eight workers busy, smaller ones four


def parse_train(argv: Sequence[str]) -> Config:
    """The resolved configuration of a new run. Raises `ConfigError`."""
    given = pairs(argv)
    path = given.pop("config", "")
    file = read_file(Path(path)) if path else {}
    if path and file.get("run") and Path(str(file["run"])).resolve() == Path(path).parent.resolve():
        del file["run"]  # the file is that of a run, which is not to be written over
    if "env" not in given and ":" in str(file.get("env", "")):
        raise ConfigError(module_rule("env", str(file["env"]), f"config={path}"))
    env = given.get("env") or str(file.get("env") or "")
    if not env:
        raise ConfigError("env is missing: give a Gymnasium id, such as env=HalfCheetah-v4.")
    sources = [(preset(env), f"preset of {env}: "), (file, f"{path}: "), (given, "")]
    return resolve(build(Config, sources))


def parse_resume(saved: Mapping[str, Any], argv: Sequence[str], source: str) -> Config:
    """The configuration of a policy's run that goes on. Raises `ConfigError`."""
    return resolve(going_on(Config, saved, argv, source, "env"))


def going_on(kind: type[C], saved: Mapping[str, Any], argv: Sequence[str], source: str, code: str) -> C:
    """The dataclass of a run that goes on: as `saved`, save for the keys of `RESUMABLE`. Raises `ConfigError`.

    `code` is the key that may name a module, which must then be given again.
    """
    given = pairs(argv)
    previous: Any = build(kind, [(saved, f"{source}: ")])
    if ":" in getattr(previous, code) and given.get(code) != getattr(previous, code):
        raise ConfigError(module_rule(code, getattr(previous, code), source))
    config: Any = build(kind, [(saved, f"{source}: "), (given, "")])
    before, after = flatten(dataclasses.asdict(previous)), flatten(dataclasses.asdict(config))
    for name in sorted({*before, *after}):
        if not name.startswith(RESUMABLE) and before.get(name) != after.get(name):
            free = ", ".join(k + "*" if k.endswith(".") else k for k in RESUMABLE)
            raise ConfigError(
                f"{name}={after.get(name)}: the run has {before.get(name)}, and a run goes on as it began. "
                f"Start a new run, or change only: {free}."
            )
    result: C = config
    return result


def module_rule(name: str, value: str, source: str) -> str:
    """Why a `module:Name` found in a file is refused."""
    return (
        f"{name}={value} in {source}: importing a module runs its code, so it is taken from the command line only. "
        f"If you trust it, add {name}={value}."
    )


def resolve(config: Config) -> Config:
    """Rules between keys, and the defaults that follow from other keys."""
    es = config.es
    check_pairs(es, "es.")
    if config.inference == "central" and config.workers == 0:
        raise ConfigError("inference=central: needs worker processes that simulate. Leave workers=0 out.")
    if config.inference == "local" and config.device == "cuda":
        raise ConfigError("device=cuda: needs inference=central, one place for the policies of all members.")
    width, heads = config.transformer.width, config.transformer.heads
    if width % heads:
        raise ConfigError(f"transformer.width={width}: must be a multiple of transformer.heads={heads}.")
    central = config.inference == "central"
    chunk = default_chunk(es.population, es.episodes, central=central) if config.chunk is None else config.chunk
    if chunk % 2:
        raise ConfigError(f"chunk={chunk}: must be even, both members of a pair are rolled out together.")
    return dataclasses.replace(config, chunk=min(chunk, es.population))


# Keys of the strategy that are about the episodes of environments.
EPISODIC = ("steps", "population_max", "episodes", "limit", "limit_growth", "reward_shift")


def refuse_episodic(names: Iterable[str], prefix: str = "") -> None:
    """Refuse keys that mean nothing where there are no episodes. Raises `ConfigError`."""
    for name in names:
        if name.startswith(prefix) and name.removeprefix(prefix) in EPISODIC:
            raise ConfigError(f"{name}: is about the episodes of environments, of which there are none. Leave it out.")


def check_pairs(es: EsConfig, prefix: str) -> None:
    """Refuse numbers of members that cannot be. Raises `ConfigError`, with the keys' names behind the prefix."""
    if es.population % 2:
        raise ConfigError(
            f"{prefix}population={es.population}: members come in antithetic pairs, so it must be even: "
            f"{es.population - 1} or {es.population + 1}."
        )
    if es.population_max is not None and (es.population_max < es.population or es.population_max % 2):
        raise ConfigError(
            f"{prefix}population_max={es.population_max}: must be even and at least {prefix}population={es.population}."
        )
    if es.top is not None and es.top > es.population // 2:
        raise ConfigError(
            f"{prefix}top={es.top}: at most {prefix}population/2 = {es.population // 2} pairs can count. "
            f"Give {prefix}top too."
        )


def default_chunk(population: int, episodes: int, *, central: bool = False) -> int:
    """Members of a chunk of at most so many simulations, all chunks as equal as can be.

    A share of the population, so that work spreads over workers, but of a small one half, since a step of a few
    simulations costs nearly as much as one of many. Half where one place acts for them all, and two chunks take turns.
    """
    spread = max(population // (4 if population < LARGE else 8), min(-(-population // 4) * 2, WORTHWHILE))
    share, together = (population // 2, TOGETHER_CENTRAL) if central else (spread, TOGETHER)
    most = max(2, min(share, together // episodes) // 2 * 2)
    chunks = -(-population // most)
    return 2 * -(-population // (2 * chunks))


def idle_workers(population: int, chunk: int, workers: int) -> str:
    """What to tell whoever has more workers than there are chunks for them; nothing if there are enough."""
    chunks = -(-population // chunk)
    if chunks >= workers:
        return ""
    smaller = max(2, population // workers // 2 * 2)
    remedy = f"chunk={smaller}, or a larger es.population" if smaller < chunk else "a larger es.population"
    return f"warning: {population} members in chunks of {chunk} keep {chunks} of {workers} workers busy. Give {remedy}."

"""The keys of a run that trains a policy, the rules between them, and the sources of their values.

Precedence, later wins: defaults, the preset of the environment, `config=FILE`, the command line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from es_rl.arguments.origins import COMMAND_LINE, Origins
from es_rl.config import as_text, build, check_names, expanded, pairs, read_file
from es_rl.envs.pixels import PixelsConfig, View, check_view
from es_rl.envs.renderer import QUALITIES
from es_rl.errors import ConfigError
from es_rl.es.chunks import default_chunk
from es_rl.es.config import EsConfig, OptimConfig, check_chunk, check_pairs
from es_rl.keys import MOST_WORKERS, group, key
from es_rl.plugins import module_rule
from es_rl.policies.config import CnnConfig, GruConfig, LinearConfig, LstmConfig, MlpConfig, TransformerConfig
from es_rl.rl.presets import family, fitting
from es_rl.rl.segments.config import CreditConfig, CriticConfig, check_given, check_judged
from es_rl.rng import MAX_SEED
from es_rl.run.checkpoint import CheckpointConfig
from es_rl.run.resume import refuse_outward, resumed_config
from es_rl.workers.cluster.config import ClusterConfig, check_cluster


@dataclass(frozen=True)
class EvalConfig:
    every: int = key(10, "generations between evaluations; 0: only at the end", low=0, resumable=True)
    episodes: int = key(10, "episodes per evaluation", low=1, resumable=True)


@dataclass(frozen=True)
class EnvpoolConfig:
    exact: bool = key(
        True, "make simulations anew for all episodes, so that the same keys give the same bits; false: let them go on "
        "with their own random numbers, which saves the time to make them"
    )  # fmt: skip


QUALITY = "of MuJoCo's pictures: fast (480x480), high (1280x720), or auto: fast on a machine without a GPU"


@dataclass(frozen=True)
class VideoConfig:
    every: int = key(0, "generations between videos; 0: only at the end; -1: never", low=-1, resumable=True)
    seconds: float = key(12.0, "length of a video", above=0, high=600, resumable=True)
    quality: str = key("auto", QUALITY, choices=("auto", *QUALITIES), resumable=True)


@dataclass(frozen=True)
class Config:
    env: str = key("", "Gymnasium id, such as Humanoid-v5, or module:Id to import the module first", bare="id")
    env_kwargs: dict[str, Any] = key({}, "arguments for the environment: env_kwargs.NAME=VALUE")
    backend: str = key(
        "auto",
        "simulator: batch (MuJoCo tasks, fast), gymnasium (any id), envpool (its ids), auto (batch where there is one)",
    )
    envpool: EnvpoolConfig = group(EnvpoolConfig, "simulations of EnvPool: with backend=envpool")
    serial: bool = key(
        False, "play episodes one after another, in the only simulation of a process, for an environment of which a "
        "process can hold just one"
    )  # fmt: skip
    frame_skip: int = key(
        1, "frames for which each action is repeated; their rewards are summed, and they count as one step", low=1
    )
    pixels: PixelsConfig = group(PixelsConfig, "what is done with images, in the order render, crop, gray, size, stack")
    policy: str = key(
        "mlp", "network: linear, mlp, cnn, gru, lstm, transformer, or module:function, which returns one of yours"
    )
    policy_kwargs: dict[str, Any] = key({}, "arguments for a policy module:function: policy_kwargs.NAME=VALUE")
    linear: LinearConfig = group(LinearConfig, "the linear policy")
    mlp: MlpConfig = group(MlpConfig, "the multilayer perceptron")
    cnn: CnnConfig = group(CnnConfig, "the convolutional policy, for images")
    gru: GruConfig = group(GruConfig, "the policy with a gated recurrent unit")
    lstm: LstmConfig = group(LstmConfig, "the policy with a long short-term memory")
    transformer: TransformerConfig = group(TransformerConfig, "the transformer policy")
    init: str = key("", "start with the policy of this run, or of this safetensors file; default: a new one", path=True)
    obs_norm: bool = key(True, "normalise observations by their running mean and standard deviation")
    obs_first: int | None = key(
        None, "show the policy only the first numbers of an observation, this many; default: all of them", low=1
    )
    obs_clip: float = key(10.0, "clip normalised observations to ± this many standard deviations", above=0)
    es: EsConfig = group(EsConfig, "the evolution strategy")
    credit: CreditConfig = group(CreditConfig, "judged steps: with es.segment")
    critic: CriticConfig = group(CriticConfig, "the network that predicts the rewards to come: with es.segment")
    optim: OptimConfig = group(OptimConfig, "the optimiser")
    generations: int | None = key(None, "stop after this many generations", low=1, resumable=True)
    env_steps: int | None = key(
        None,
        "stop after this many environment steps of all members; a step is one action of the policy, also with "
        "frame_skip",
        low=1,
        resumable=True,
    )
    minutes: float | None = key(
        None,
        "stop after this many minutes of training; default: 60 if no other stop rule is set",
        above=0,
        resumable=True,
    )
    target_return: float | None = key(None, "stop when eval/return_mean reaches this", resumable=True)
    seed: int = key(0, "random seed", low=0, high=MAX_SEED)
    workers: int | None = key(
        None,
        "worker processes; 0: run everything in this process; default: one per available processor",
        low=0,
        high=MOST_WORKERS,
        resumable=True,
    )
    cluster: ClusterConfig = group(ClusterConfig, "a cluster of machines")
    chunk: int | None = key(
        None,
        "even number of members whose forward pass, or orthogonal noise, is computed together; a process holds up to "
        "three times their simulations; with other noise and on a CPU, theta does not depend on it, except that of "
        "the cnn, of the transformer and of your own networks; default: from the population",
        low=2,
    )
    inference: str = key(
        "local",
        "where the policy runs: local (in each worker) or central (in one process for all workers, on device)",
        choices=("local", "central"),
    )
    device: str = key(
        "auto", "device of central inference: cpu, cuda, auto (cuda if available)", choices=("cpu", "cuda", "auto")
    )
    hang_after: float = key(
        60.0, "replace a worker that finishes no step for this many seconds", above=0, resumable=True
    )
    run: str = key("", "directory of the run; default: runs/ENV/TIME-POLICY", path=True)
    eval: EvalConfig = group(EvalConfig, "evaluation of the unperturbed policy")
    video: VideoConfig = group(VideoConfig, "videos")
    track: list[str] = key(
        [], "trackers that get the curves besides TensorBoard: wandb, trackio, mlflow", resumable=True
    )
    checkpoint: CheckpointConfig = group(CheckpointConfig, "checkpoints")

    @property
    def view(self) -> View:
        """Return what is done with frames and images."""
        return View(self.frame_skip, self.pixels)


RUN = "run directory, or a checkpoint in it; last: the newest run under runs; hf://USER/NAME: one on the Hub"


@dataclass(frozen=True)
class RunConfig:
    """The keys of every verb that takes a trained policy."""

    run: str = key("", RUN, path=True, bare="run")
    checkpoint: str = key("last", "checkpoint: last, best, or a generation number")
    env: str = key("", "another environment with the same spaces; must be given again for module:Id", bare="id")
    policy: str = key("", "the policy again, if it is module:function")
    env_kwargs: dict[str, Any] = key(
        {}, "arguments for the environment, besides those of the run: env_kwargs.NAME=VALUE"
    )


@dataclass(frozen=True)
class EvaluateConfig(RunConfig):
    episodes: int = key(20, "number of episodes", low=1)
    seed: int = key(0, "random seed of the initial states", low=0, high=MAX_SEED)
    backend: str = key(
        "", "simulation: gymnasium (the original), batch (MuJoCo tasks), envpool, auto (batch where there is one); "
        "default: gymnasium, or envpool if the policy was trained there"
    )  # fmt: skip


@dataclass(frozen=True)
class RecordConfig(RunConfig):
    out: str = key(
        "", "file to write, mp4 or GIF by its suffix; default: RUN/videos/ENV-GENERATION.mp4", path=True, bare="output"
    )
    gif: str = key("", "GIF file to write as well, of the first seconds; default: none", path=True)
    film: str = key(
        "policy",
        "what to film: the policy, or its progress, several checkpoints side by side",
        choices=("policy", "progress"),
    )
    seconds: float = key(12.0, "length of the video, filled with one episode after another", above=0, high=600)
    quality: str = key("auto", QUALITY, choices=("auto", *QUALITIES))
    caption: bool = key(True, "tell the time, the return and the minutes of training in the picture")
    seed: int = key(0, "random seed of the initial states", low=0, high=MAX_SEED)


@dataclass(frozen=True)
class PlayConfig(RunConfig):
    seed: int = key(0, "random seed of the initial states and of the directions of pushes", low=0, high=MAX_SEED)


@dataclass(frozen=True)
class PushConfig(RunConfig):
    run: str = key("", "run directory, or a checkpoint in it; last: the newest run under runs", path=True, bare="run")
    repo: str = key("", "name on the Hub: USER/NAME", bare="repo")
    private: bool = key(False, "make a new repository private")
    out: str = key("", "write the files into this new directory, and upload nothing", path=True)
    video: bool | None = key(
        None, "film of this checkpoint: true makes one if there is none; false leaves it out; default: if there is one"
    )
    episodes: int = key(20, "number of episodes of the evaluation", low=1)
    seed: int = key(0, "random seed of the evaluation's initial states", low=0, high=MAX_SEED)
    message: str = key("", "message of the commit; default: the generation and the return")


CODE = ("env", "policy")  # keys that may name a module, whose code then runs


def parse_train(argv: Sequence[str]) -> Config:
    """Return the resolved configuration of a new run. Raises `ConfigError`."""
    return read_train(argv)[0]


def read_train(argv: Sequence[str]) -> tuple[Config, Origins]:
    """Return the resolved configuration of a new run, and where its values are from. Raises `ConfigError`."""
    check_names(argv, Config)
    given = pairs(argv, Config)
    path = str(expanded(named, "config")) if (named := given.pop("config", "")) else ""
    file = read_file(Path(path), Config) if path else {}
    if path and file.get("run") and Path(str(file["run"])).resolve() == Path(path).parent.resolve():
        del file["run"]  # the file belongs to a run, which must not be overwritten
    for name in CODE:
        if name not in given and ":" in str(file.get(name, "")):
            raise ConfigError(module_rule(name, str(file[name]), f"config={path}"))
    refuse_outward(file, given, f"config={path}")
    return new_config(given, file, path)


def new_config(
    given: Mapping[str, Any], file: Mapping[str, Any] | None = None, path: str = "", *, by: str = COMMAND_LINE
) -> tuple[Config, Origins]:
    """Return the resolved configuration of a new run, and where its values are from: given keys, and those of a file.

    `by` is the origin of the given keys. Raises `ConfigError`.
    """
    file = file or {}
    env = str(given.get("env") or file.get("env") or "")
    if not env:
        raise ConfigError("env is missing: give a Gymnasium id, such as env=HalfCheetah-v5.")
    known, left = fitting(env, {**file, **given})
    config = build(Config, [(known, f"preset of {env}: "), (file, f"{path}: "), (given, "")])
    check_given(given, config.es.segment)
    sources = [(known, f"preset of {family(env)}"), (file, f"config={path}"), (given, by)]
    return resolve(config), Origins.joined(sources, _left_out(config, left))


def _left_out(config: Config, left: Mapping[str, Any]) -> list[str]:
    """Return what is told of keys of a preset that do not hold, since they were searched for another policy."""
    name = family(config.env)
    keys = " ".join(f"{key}={as_text(value)}" for key, value in left.items() if value != attrgetter(key)(config))
    told = (
        f"note: {name}'s preset was searched for another policy than policy={config.policy}, for which the defaults "
        f"hold. To have its settings anyway, give {keys}"
    )
    return [told] if keys else []


def parse_resume(saved: Mapping[str, Any], argv: Sequence[str], source: str) -> Config:
    """Return the resolved configuration of a resumed run. Raises `ConfigError`."""
    return resume_config(saved, pairs(argv, Config), source)


def resume_config(saved: Mapping[str, Any], given: Mapping[str, Any], source: str) -> Config:
    """Return the configuration of a resumed run, with given keys changed. Raises `ConfigError`."""
    return resolve(resumed_config(Config, saved, given, source, CODE))


def resolve(config: Config) -> Config:
    """Check the rules between keys, and set defaults that depend on other keys. Raises `ConfigError`."""
    es = config.es
    check_pairs(es, "es.")
    check_view(config.view)
    if es.segment:
        check_judged(config)
    if check_cluster(config.cluster, config.workers) and config.inference == "central":
        raise ConfigError(
            f"inference=central: the machines of a cluster share no memory with the process that runs the policy. "
            f"Leave it out, or cluster.address={config.cluster.address}."
        )
    if config.inference == "central" and config.workers == 0:
        raise ConfigError("inference=central: needs worker processes. Leave workers=0 out.")
    if config.inference == "local" and config.device == "cuda":
        raise ConfigError("device=cuda: works with inference=central only. Add it, or leave device out.")
    if not config.envpool.exact and config.backend != "envpool":
        raise ConfigError("envpool.exact=false: is for backend=envpool. Add that, or leave it out.")
    if config.serial and config.inference == "central":
        raise ConfigError("serial=true: works with inference=local only. Leave inference=central out.")
    width, heads = config.transformer.width, config.transformer.heads
    if width % heads:
        raise ConfigError(f"transformer.width={width}: must be a multiple of transformer.heads={heads}.")
    central = config.inference == "central"
    chunk = default_chunk(es.population, es.episodes, central=central) if config.chunk is None else config.chunk
    check_chunk(chunk)
    return dataclasses.replace(config, chunk=min(chunk, es.population))

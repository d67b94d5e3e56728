"""The composition root of a training: connect environments, policy and workers. `es_rl.run.loop` does the rest."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from es_rl import envs, es, policies
from es_rl.arguments.origins import NOWHERE, Origins
from es_rl.envs import BACKENDS, EnvSpec
from es_rl.envs.spaces import shape_of
from es_rl.errors import lookup
from es_rl.es.chunks import idle_workers
from es_rl.es.optim import check_optimizer
from es_rl.es.shaping import SHAPINGS
from es_rl.es.strategy import ESParams
from es_rl.noise import KINDS
from es_rl.plugins import FROM_PYTHON, code_keys, file_name
from es_rl.rl import agent, difficulty
from es_rl.rl.central import PROCESSES
from es_rl.rl.chunks import make_policy
from es_rl.rl.config import CODE, Config
from es_rl.rl.segments.task import SegmentTask
from es_rl.rl.task import RlTask, probe
from es_rl.run import directory, loop, trackers
from es_rl.run.log import RunLog
from es_rl.run.task import Follower, OnGeneration, Run, Training
from es_rl.run.terms import RETURN
from es_rl.workers import opening
from es_rl.workers.interface import Pool, counted
from es_rl.workers.machine import available_processors, choose_device

INEXACT = (
    "note: envpool.exact=false: simulations go on with their own random numbers. Another training, other workers or a "
    "resume give other episodes, and the two members of a pair begin with different ones."
)
Films = Callable[..., Follower]  # called with the run, its configuration and what to tell


def located_init(config: Config) -> Config:
    """Return the configuration of a new run with the checkpoint that `init` means now, since `last` changes."""
    if not config.init or Path(config.init).is_file():
        return config
    return replace(config, init=directory.fixed(config.init, "init"))


def create(config: Config) -> Path:
    """Create the directory of a new run. Raises `ConfigError` or `EnvError` for a configuration that cannot be run."""
    check(config)
    group = "/".join(map(file_name, config.env.split("/")))  # an id may have a space of names: es_rl/Arm-v0
    return directory.create(config.run, group, file_name(config.policy))


def train(
    config: Config,
    run: Path,
    command: str,
    films: Films,
    *,
    resumed: bool,
    spec: EnvSpec | None = None,
    on_generation: OnGeneration | None = None,
    quiet: bool = False,
    origins: Origins = NOWHERE,
) -> None:
    """Train in a run directory, a new one or that of a `resumed` run, until a stop rule is met.

    `command` is kept in a new directory, and the `origins` of its keys are told. `spec` is what is known of the
    environment; default: a worker finds it out.
    """
    check(config)
    count = available_processors() if config.workers is None else config.workers
    if config.inference == "central":
        count *= PROCESSES
    begin = partial(prepare, config, run, "" if resumed else config.init, films, spec)
    title = f"es_rl: {config.env} → {run}"
    loop.run(
        Run(
            config, run, begin, command, title, workers=count, resumed=resumed, terms=RETURN,
            on_generation=on_generation, quiet=quiet, origins=origins, titled=("env", "run"),
            commands=commands(config, run),
        )
    )  # fmt: skip


def commands(config: Config, run: Path) -> list[str]:
    """Return what to type after a run: evaluate, watch, go on. Nothing if it needs code that only Python can give."""
    if any(getattr(config, name).startswith(FROM_PYTHON) for name in CODE):
        return []
    rest = shlex.join(map(str, [run, *code_keys(config, CODE)]))
    watch = "record" if config.video.every < 0 else "play"
    return [
        f"python -m es_rl.evaluate run={rest} checkpoint=best",
        f"python -m es_rl.{watch} run={rest}",
        f"python -m es_rl.train resume={rest}",
    ]


def prepare(
    config: Config,
    run: Path,
    init: str,
    films: Films,
    spec: EnvSpec | None,
    workers: Pool,
    say: Callable[[str], None],
) -> Training:
    """Make the policy, the task that evaluates it in the environment, and the films."""
    spec = spec or probe(workers, config)
    for text in spec.warnings:
        if not re.search(envs.OUTDATED, text):  # v4 serves on purpose
            say(f"warning: {text}")
    if not config.envpool.exact:
        say(INEXACT)
    policy = make_policy(config, spec)
    parameters = sum(value.numel() for value in policy.parameters())
    if policies.flattens(config, shape := shape_of(spec.observation_space)):
        say(
            f"warning: policy={config.policy} sees {shape.size:,} numbers of an image side by side, so it has "
            f"{parameters:,} parameters. policy=cnn sees images; pixels.size makes them smaller"
        )
    judged = SegmentTask(config, spec, workers, say) if config.es.segment else None
    evaluator = RlTask(config, ESParams.of(config), spec, workers, judged.runner if judged else None)
    chunks = "" if evaluator.divisible else f" in chunks of {config.chunk}"
    members = f"{config.es.population} members{chunks} judged by whole episodes"
    if judged:
        members = f"{config.credit.simulations} simulations, members judged by steps"
    heading = f"{config.policy} policy of {parameters:,} parameters, {members}, {counted(workers.count)}"
    if config.inference == "local" and not judged:
        chunk = 2 if evaluator.divisible else config.chunk or 2
        if idle := idle_workers(config.es.population, chunk, workers.count):
            say(idle)

    def follow(log: RunLog) -> Follower:
        return films(run, config, say=say, show=log.screen.film, done=log.film)

    about = agent.about(spec.observation_space, spec.action_space)
    state = judged.begin() if judged else replace(es.init(policy), extra=difficulty.begun(spec.curriculum))
    if init:
        state = agent.start_from(Path(init), state)
    return Training(evaluator, state, about, heading, follow, judged.step if judged else None)


def check(config: Config) -> None:
    """Raise `ConfigError` or `EnvError` for a name that its registry does not have, or a device that is missing."""
    policies.check(config)
    lookup(BACKENDS | {"auto": None}, config.backend, "backend")
    lookup(KINDS, config.es.noise, "es.noise")
    lookup(SHAPINGS, config.es.shaping, "es.shaping")
    check_optimizer(config.optim.name, "optim.name")
    trackers.check(config.track)
    opening.check(config.cluster)
    envs.check_id(config.env, config.backend)
    if config.inference == "central":
        choose_device(config.device)

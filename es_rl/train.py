"""Train a policy by evolution strategies.

    python -m es_rl.train env=HalfCheetah-v4 minutes=4
    python -m es_rl.train resume=runs/HalfCheetah-v4/… minutes=8

The composition root: it connects environments, policy and workers. `es_rl.run.loop` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from es_rl import cli, envs, es
from es_rl.config import help_text
from es_rl.envs import BACKENDS
from es_rl.errors import lookup
from es_rl.es.chunks import idle_workers
from es_rl.es.optim import check_optimizer
from es_rl.es.shaping import SHAPINGS
from es_rl.es.strategy import ESParams
from es_rl.noise import KINDS
from es_rl.policies import POLICIES
from es_rl.record import Films
from es_rl.rl import agent, difficulty
from es_rl.rl.central import PROCESSES
from es_rl.rl.chunks import make_policy
from es_rl.rl.config import Config, parse_resume, parse_train
from es_rl.rl.segments.task import SegmentTask
from es_rl.rl.task import RlTask, probe
from es_rl.run import directory, loop
from es_rl.run.log import RunLog
from es_rl.run.resume import saved_keys
from es_rl.run.task import Run, Training
from es_rl.run.terms import RETURN
from es_rl.workers.machine import available_processors, choose_device, use_one_thread
from es_rl.workers.pool import Workers

USAGE = """python -m es_rl.train env=ID [key=value …]           train a policy
python -m es_rl.train config=FILE [key=value …]      the same, starting from a YAML file of keys
python -m es_rl.train resume=RUN [key=value …]       go on with a run; stop rules may change

Ctrl-C or SIGTERM saves a checkpoint and leaves."""


def main(argv: Sequence[str]) -> int:
    """Run the verb; return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(Config, USAGE))
    resumed, keys = directory.resumed(argv)
    if resumed:
        config = parse_resume(saved_keys(resumed, Config), keys, str(resumed / "config.yaml"))
    else:
        config = parse_train(argv)
    _check_names(config)
    use_one_thread()
    envs.check_id(config.env)
    count = available_processors() if config.workers is None else config.workers
    if config.inference == "central":
        choose_device(config.device)
        count *= PROCESSES
    run = resumed or directory.create(config.run, config.env, config.policy)
    prepare = partial(_prepare, config, run, "" if resumed else config.init)
    title = f"es_rl: {config.env} → {run}"
    return loop.run(Run(config, run, prepare, "train", argv, title, workers=count, resumed=bool(resumed), terms=RETURN))


def _prepare(config: Config, run: Path, init: str, workers: Workers, say: Callable[[str], None]) -> Training:
    """Make the policy, the task that evaluates it in the environment, and the films."""
    spec = probe(workers, config)
    for text in spec.warnings:
        say(f"warning: {text}")
    policy = make_policy(config, spec)
    judged = SegmentTask(config, spec, workers, say) if config.es.segment else None
    evaluator = RlTask(config, ESParams.of(config), spec, workers, judged.runner if judged else None)
    parameters = sum(value.numel() for value in policy.parameters())
    chunks = "" if evaluator.divisible else f" in chunks of {config.chunk}"
    members = f"{config.es.population} members{chunks} judged by whole episodes"
    if judged:
        members = f"{config.credit.simulations} simulations, members judged by steps"
    heading = f"{config.policy} policy of {parameters:,} parameters, {members}, {workers.count or 'no'} workers"
    if config.inference == "local" and not judged:
        chunk = 2 if evaluator.divisible else config.chunk or 2
        if idle := idle_workers(config.es.population, chunk, workers.count):
            say(idle)

    def films(log: RunLog) -> Films:
        return Films(run, config, say=say, done=log.animation)

    about = agent.about(spec.observation_space, spec.action_space)
    state = judged.begin() if judged else replace(es.init(policy), extra=difficulty.begun(spec.curriculum))
    if init:
        state = agent.start_from(Path(init), state)
    return Training(evaluator, state, about, heading, films, judged.step if judged else None)


def _check_names(config: Config) -> None:
    """Raise `ConfigError` for a name that its registry does not have, before anything is created."""
    lookup(POLICIES, config.policy, "policy")
    lookup(BACKENDS | {"auto": None}, config.backend, "backend")
    lookup(KINDS, config.es.noise, "es.noise")
    lookup(SHAPINGS, config.es.shaping, "es.shaping")
    check_optimizer(config.optim.name, "optim.name")


if __name__ == "__main__":
    cli.run(main)

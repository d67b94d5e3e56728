"""A trained policy loaded from a run directory, to act with, evaluate or film."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from gymnasium import spaces
from safetensors.torch import load as load_tensors
from torch import nn

from es_rl import es, policies
from es_rl.config import build
from es_rl.envs.spaces import Packer, action_maker, from_json, same, shape_of, size, to_json
from es_rl.errors import CheckpointError, ConfigError, EnvError
from es_rl.es.restore import restored
from es_rl.hub import client
from es_rl.hub.address import Address, is_address, parsed
from es_rl.plugins import module_rule
from es_rl.rl.config import Config, RunConfig, resolve
from es_rl.rl.prediction import predict
from es_rl.run import atomic, directory
from es_rl.run import checkpoint as checkpoints

R = TypeVar("R", bound=RunConfig)


class Agent:
    """A trained policy: `agent(obs)` returns the action for one observation. Call `reset()` when an episode begins."""

    def __init__(
        self,
        policy: nn.Module,
        config: Config,
        spaces: tuple[spaces.Space[Any], spaces.Space[Any]],
        *,
        generation: int = 0,
        seconds: float = 0.0,
    ) -> None:
        self.policy = policy
        self.config = config
        self.generation, self.seconds = generation, seconds  # of training
        self.observation_space, self.action_space = spaces
        self.path: Path | None = None  # of the checkpoint that it was read from
        self._pack, self._act = Packer(self.observation_space), action_maker(self.action_space)
        self._state: Any = None

    def __call__(self, obs: Any) -> Any:
        """Return an action of the action space for one observation of the observation space."""
        row = torch.from_numpy(self._pack(obs))[None]  # (1, O), or an image
        with torch.inference_mode():
            action, self._state = self.policy(row, self._state)
        return self._act(action[0].numpy())

    def reset(self) -> None:
        """Forget the previous episode."""
        self._state = None

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """Return (action, state) for one observation, or for a batch of them, as Stable-Baselines3's models do.

        `state` is what the last call returned; None begins an episode, and so does a true `episode_start`, one for each
        observation of a batch. The policy is always deterministic. Calls of the agent and `reset` do not matter here.
        """
        return predict(self.policy, self.observation_space, self.action_space, obs, state, episode_start)


def load(run: str | Path, checkpoint: str = "last", *, policy: str = "") -> Agent:
    """Return a run's policy from checkpoint `last`, `best` or a generation's number. Raises `CheckpointError`.

    The run may be the address of a published policy, hf://USER/NAME or hf://USER/NAME@REVISION. A policy from outside
    the package must be given again, as `module:function` or a `Given`: no file may name code.
    """
    address = parsed(run) if is_address(run) else None
    path, which = (Path(), checkpoint) if address else _located(run, checkpoint)
    try:
        if address:
            loaded = _published(address, which)
            path = loaded.path
        else:
            directory.check_run(path)
            loaded = checkpoints.load(path, which)
        saved = loaded.keys(Config) or directory.saved_config(path, Config)
        config = resolve(build(Config, [(saved, f"{path / 'config.yaml'}: ")]))
        if ":" in config.policy and not policy:
            raise ConfigError(module_rule("policy", config.policy, str(path)))
        if policy and policy != config.policy and ":" not in config.policy:
            raise ConfigError(f"policy={policy}: {path} has a policy of its own, {config.policy}. Leave it out.")
        config = replace(config, policy=policy or config.policy)
        observation_space, action_space = saved_spaces(loaded)
        shape = shape_of(observation_space)
        if ":" not in config.policy:  # a policy from outside may have any parameters
            _check_sizes(loaded, policies.widest(config, shape), size(action_space))
        module = policies.make(config, shape, action_space)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    state = loaded.state(es.init(module))
    module.load_state_dict({**state.theta, **state.buffers})
    seconds = loaded.progress.seconds
    agent = Agent(module, config, (observation_space, action_space), generation=loaded.generation, seconds=seconds)
    agent.path = loaded.path
    return agent


def _published(address: Address, which: str) -> checkpoints.Checkpoint:
    """Return the only checkpoint of a published policy. Raises `CheckpointError` if another one is asked for."""
    loaded = checkpoints.read(client.download(address), (client.WEIGHTS, client.STATE, client.KEYS))
    if which not in ("last", str(loaded.generation)):
        raise CheckpointError(
            f"checkpoint={which}: {address} has one, of generation {loaded.generation}. Leave checkpoint out."
        )
    return loaded


def start_from(path: Path, fresh: es.ESState) -> es.ESState:
    """Return a fresh state with the theta and the observation statistics of another run, or of a safetensors file.

    Raises `CheckpointError` if they are not of the same policy.
    """
    run, which = (path, "") if path.is_file() else directory.find(path, "init")
    if run.is_dir():
        return replace(fresh, **_parts(checkpoints.load(run, which or "last").state(replace(fresh, extra={}))))
    with atomic.reading(path):
        saved = es.ESState(0, load_tensors(atomic.contents_of(path)), {}, {})
    return replace(fresh, **_parts(restored(saved, replace(fresh, extra={}), None, str(path))))


def _parts(state: es.ESState) -> dict[str, Any]:
    return {"theta": state.theta, "buffers": state.buffers}


def _check_sizes(checkpoint: checkpoints.Checkpoint, *sizes: int) -> None:
    """Raise `CheckpointError` for spaces larger than the saved policy, before memory is taken for one of their size."""
    largest = max((side for value in checkpoint.model.values() for side in value.shape), default=0)
    if max(sizes) > largest:
        raise CheckpointError(f"{checkpoint.path}: state.json has spaces that do not fit the policy in it.")


def about(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> dict[str, Any]:
    """Return the spaces that a policy is made for, as JSON values for checkpoints."""
    return {"observation_space": to_json(observation_space), "action_space": to_json(action_space)}


def saved_spaces(checkpoint: checkpoints.Checkpoint) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Return the observation and action spaces a policy was trained for. Raises `CheckpointError`."""
    with atomic.reading(checkpoint.path):
        return from_json(checkpoint.about["observation_space"]), from_json(checkpoint.about["action_space"])


def check_spaces(
    agent: Agent, env: str, observation_space: spaces.Space[Any] | None, action_space: spaces.Space[Any]
) -> None:
    """Raise `EnvError` if the spaces of an environment are not those of a policy. None: no policy can observe it."""
    fits = observation_space is not None and same(observation_space, agent.observation_space)
    if not (fits and same(action_space, agent.action_space)):
        raise EnvError(f"env={env}: its spaces are not those that the policy was trained for ({agent.config.env}).")


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return one dictionary with the entries of another, also of those inside."""
    both = dict(one)
    for name, value in other.items():
        inside = isinstance(both.get(name), dict) and isinstance(value, dict)
        both[name] = _merged(both[name], value) if inside else value
    return both


def located(config: R) -> R:
    """Replace run=last, run=RUN/checkpoints/N and the like by the directory of a run and its checkpoint.

    Raises `ConfigError`, or `CheckpointError` for a folder of several runs.
    """
    if not config.run:
        raise ConfigError("run is missing: give a run's directory, such as run=runs/HalfCheetah-v5/NAME, or run=last.")
    if is_address(config.run):
        return config
    path, which = _located(config.run, config.checkpoint)
    return replace(config, run=str(path), checkpoint=which)


def _located(run: str | Path, checkpoint: str) -> tuple[Path, str]:
    path, named = directory.find(run, "run")
    if named and checkpoint not in ("last", named):
        raise ConfigError(f"run={run} and checkpoint={checkpoint} name two checkpoints. Give one of them.")
    return path, named or checkpoint


def of_run(config: RunConfig) -> Agent:
    """Return the agent of a run, with the environment's arguments of both. Raises `CheckpointError`, `ConfigError`."""
    config = located(config)
    agent = load(config.run, config.checkpoint, policy=config.policy)
    agent.config = replace(agent.config, env_kwargs=_merged(agent.config.env_kwargs, config.env_kwargs))
    return agent


def trusted(config: RunConfig) -> tuple[Agent, str]:
    """Return the agent of a run and the environment to make: the one given on the command line, or else the run's.

    Raises `CheckpointError`, and `ConfigError` if the run's environment is `module:Id` and none is given, since
    importing a module runs its code.
    """
    agent = of_run(config)
    if not config.env and ":" in agent.config.env:
        raise ConfigError(module_rule("env", agent.config.env, config.run))
    return agent, config.env or agent.config.env

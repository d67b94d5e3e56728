"""One training of `benchmarks/when.py`, of es_rl or of PPO, for a fixed processor time; and the judge of both.

Processor seconds are those of the training process, which has one thread. Work before the first step, such as importing
torch, does not count.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from when_cases import OURS, RECURRENT, ROUNDED, Case
from when_tasks import PLAIN

from es_rl import envs
from es_rl.envs.spaces import Floats, Ints
from es_rl.errors import TrainingError
from es_rl.policies.rounding import rounded
from es_rl.rl import agent as agents
from es_rl.rl.actors import Actor, policy_actor
from es_rl.rl.compaction import Compaction
from es_rl.rl.episodes import play
from es_rl.rl.presets import family
from es_rl.rng import integer_seed
from es_rl.workers.machine import use_one_thread
from es_rl.workers.processes import die_with_parent

TASKS = Path(__file__).with_name("when_tasks.py")
# Settings of RecurrentPPO that are not its defaults. They make it many times faster on one core: a small LSTM, and few
# large minibatches from many simulations. Rollouts hold whole episodes.
RECURRENT_ENVS, RECURRENT_MINIBATCHES, RECURRENT_STEPS = 64, 8, 32
RECURRENT_NETWORK = {"lstm_hidden_size": 64, "net_arch": [64]}
LOOK_SECONDS = 3.0  # processor time between two checks of whether a task is solved
LOOK_EPISODES = 100  # of each such check
STOP_SECONDS = 60.0  # time that a stopped training has to save its state
PATIENCE = 20.0  # a training counts as hung after this many times its processor seconds, and this many minutes more

Result = dict[str, Any]
MakeActor = Callable[[int], Actor]  # number of simulations → the actor in them


def train(case: Case, name: str, seed: int, minutes: float, out: Path) -> Result:
    """Train and judge one contender. Return returns, steps, and seconds of both clocks. Raises `TrainingError`."""
    use_one_thread()
    return (es_rl_result if name == OURS else ppo_result)(case, seed, 60 * minutes, out)


def es_rl_result(case: Case, seed: int, seconds: float, out: Path) -> Result:
    """Train with `es_rl.train` in its own process, and stop it when its processor time is over. Judge the policy."""
    run = out / "run"
    train_for(train_keys(case, seed, run), run, seconds, out / "log.txt")
    lines = read_lines(run / "metrics.jsonl")
    agent = agents.load(run)
    first = agent.config.obs_first
    found = judge(case, partial(policy_actor, agent.policy), first)
    result = found | {"env_steps": lines[-1]["env_steps"], "seconds": lines[-1]["seconds"], "cpu_seconds": spent(lines)}
    if case.name == "plain":
        floats = agent.policy.state_dict()
        for kind in ROUNDED:
            agent.policy.load_state_dict(rounded_state(floats, kind))
            result[kind] = judge(case, partial(policy_actor, agent.policy), first)["return_mean"]
    return result


def train_keys(case: Case, seed: int, run: Path) -> list[str]:
    """Return the keys of our training."""
    kwargs = [f"env_kwargs.{name}={value}" for name, value in case.env_kwargs.items()]
    where = [f"env={case.env}", f"backend={case.backend}", *kwargs, "workers=0", f"seed={seed}", f"run={run}"]
    # So large that the processor time ends the training, not these minutes.
    return [*where, "minutes=100000", "video.every=-1", "checkpoint.every=1000000", *case.keys]


def train_for(keys: list[str], run: Path, seconds: float, log: Path) -> None:
    """Train until `seconds` of processor time are over. Raises `TrainingError`."""
    dies = partial(die_with_parent, os.getpid(), signal.SIGTERM)
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, str(TASKS), *keys], stdout=said, stderr=said, stdin=subprocess.DEVNULL, preexec_fn=dies
        )
    patience = time.monotonic() + PATIENCE * (seconds + 60)
    try:
        while process.poll() is None:
            if spent(read_lines(run / "metrics.jsonl")) >= seconds:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):  # after a timeout, ask again
                    process.wait(STOP_SECONDS)
            elif time.monotonic() > patience:
                raise TrainingError(f"the training had not ended after {PATIENCE:g} times its minutes. See {log}.")
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    if process.returncode not in (0, 75):  # 75: stopped by us, and saved
        last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"])[-1]
        raise TrainingError(f"es_rl.train ended with exit code {process.returncode}: {last}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a file of JSON objects; an empty list if there is no file yet."""
    if not path.exists():
        return []
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]


def spent(lines: list[dict[str, Any]]) -> float:
    """Return the processor seconds of a training so far."""
    return float(sum(line["time/processor_seconds"] for line in lines))


class ProcessorClock:
    """A clock that measures which share of a training's processor seconds is left. `begin` starts it."""

    def __init__(self, seconds: float) -> None:
        self._limit, self._begun, self._wall = seconds, float("nan"), 0.0

    def begin(self) -> None:
        """Start the clock."""
        self._begun, self._wall = time.process_time(), time.monotonic()

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds so far."""
        return 0.0 if np.isnan(self._begun) else time.process_time() - self._begun

    @property
    def seconds(self) -> float:
        """Wall-clock seconds so far."""
        return time.monotonic() - self._wall

    @property
    def left(self) -> float:
        """The share of the processor seconds that is left."""
        return max(0.0, 1 - self.cpu_seconds / self._limit)


def ppo_result(case: Case, seed: int, seconds: float, out: Path) -> Result:
    """Train Stable-Baselines3's PPO or RecurrentPPO on the same simulations in this process. Judge the policy."""
    clock = ProcessorClock(seconds)
    model, normalize, first = (_recurrent if case.against == RECURRENT else _fast)(case, seed, clock)
    actor = partial(SB3Actor, model, normalize)
    model.learn(10**12, callback=_until(clock, case, actor))
    used = {"env_steps": model.num_timesteps, "seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds}
    result = judge(case, actor, first) | used
    if case.name == "plain":
        floats = model.policy.state_dict()
        for kind in ROUNDED:
            model.policy.load_state_dict(rounded_state(floats, kind))
            result[kind] = judge(case, actor, first)["return_mean"]
    model.env.close()
    return result


def _fast(case: Case, seed: int, clock: ProcessorClock) -> tuple[Any, Any, int | None]:
    """Return PPO with its settings in `es_rl.compare` for the plain task: the model, its normaliser, obs_first."""
    import stable_baselines3
    from stable_baselines3.common.vec_env import VecNormalize

    from es_rl.compare.opponents import ppo_fast
    from es_rl.compare.opponents.clock import BaselineConfig
    from es_rl.compare.opponents.sb3 import arguments

    config = BaselineConfig(name=case.against, env=PLAIN, seed=seed)
    table = {family(PLAIN): ppo_fast.settings(PLAIN)}
    given = arguments(table, config, cast(Any, clock), stable_baselines3.PPO, "obs_first")
    n, normalize, first = given.pop("n_envs"), given.pop("normalize"), given.pop("obs_first")
    env = envs.sb3(case.env, n, backend=case.backend, obs_first=first, **case.env_kwargs)
    if normalize:
        env = VecNormalize(env, gamma=given["gamma"])
    policy = given.pop("policy", "MlpPolicy")
    return stable_baselines3.PPO(policy, env, device="cpu", seed=seed, **given), env if normalize else None, first


def _recurrent(case: Case, seed: int, clock: ProcessorClock) -> tuple[Any, Any, int | None]:
    """Return RecurrentPPO with rollouts of at least two episodes, as `_fast` returns PPO; nothing is normalised."""
    import sb3_contrib

    env = envs.sb3(case.env, RECURRENT_ENVS, backend=case.backend, **case.env_kwargs)
    steps = max(RECURRENT_STEPS, 2 * (case.env_kwargs["gap"] + 1))
    batch = RECURRENT_ENVS * steps // RECURRENT_MINIBATCHES
    how = {"n_steps": steps, "batch_size": batch, "policy_kwargs": RECURRENT_NETWORK}
    model = sb3_contrib.RecurrentPPO("MlpLstmPolicy", env, device="cpu", seed=seed, **how)
    return model, None, None


class SB3Actor:
    """A model of Stable-Baselines3 that acts in n simulations. A recurrent model has a memory for each of them."""

    def __init__(self, model: Any, normalize: Any, n: int) -> None:
        self._model, self._normalize, self._n = model, normalize, n
        self._memory: tuple[NDArray[Any], ...] | None = None  # state of the LSTM: (layers, n, width) each

    def __call__(self, running: Ints, obs: Floats) -> NDArray[Any]:
        """Return the deterministic actions."""
        seen = obs if self._normalize is None else self._normalize.normalize_obs(obs)
        before = None if self._memory is None else tuple(part[:, running] for part in self._memory)
        begins = np.full(len(obs), self._memory is None)
        actions, after = self._model.predict(seen, state=before, episode_start=begins, deterministic=True)
        if after is not None:
            if self._memory is None:
                self._memory = tuple(np.zeros((len(part), self._n, part.shape[2]), part.dtype) for part in after)
            for mine, part in zip(self._memory, after, strict=True):
                mine[:, running] = part
        return np.asarray(actions)

    def drop(self, gaps: Compaction) -> None:
        """Do nothing: memories are stored by simulation, so no row moves."""


def _until(clock: ProcessorClock, case: Case, actor: MakeActor) -> Any:
    """Return a callback that ends training when the clock has run out, or when the task is solved."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Until(BaseCallback):  # type: ignore[misc]
        looked, solved = 0.0, False

        def _on_training_start(self) -> None:
            clock.begin()

        def _on_step(self) -> bool:
            return clock.left > 0 and not self.solved

        def _on_rollout_start(self) -> None:
            if case.solved is not None and clock.cpu_seconds - self.looked >= LOOK_SECONDS:
                self.looked = clock.cpu_seconds
                found = judge(case, actor, None, purpose="eval", count=LOOK_EPISODES, index=self.num_timesteps)
                self.solved = found["return_mean"] >= case.solved

    return Until()


def rounded_state(state: Mapping[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """Return a trained network's state with all matrices rounded in the same way as in es_rl's rounded layers."""
    return {
        name: rounded(value, kind) if value.ndim == 2 and value.is_floating_point() else value.clone()
        for name, value in state.items()
    }


def judge(
    case: Case,
    actor: MakeActor,
    first: int | None,
    *,
    purpose: str = "evaluate",
    count: int | None = None,
    index: int = 0,
) -> Result:
    """Play new episodes of the task that judges the case; return their mean and deviation. Raises `TrainingError`."""
    n = count or case.episodes
    seeds = [integer_seed(0, purpose, index, i) if index else integer_seed(0, purpose, i) for i in range(n)]
    vector = envs.make_vector(case.judged[0], n, case.judged[1], case.env_kwargs, first)
    returns = play(vector, actor(n), seeds).returns
    vector.close()
    if not np.isfinite(returns).all():
        raise TrainingError(f"{(~np.isfinite(returns)).sum()} of {n} episodes failed while the policy was judged.")
    return {"return_mean": float(returns.mean()), "return_std": float(returns.std()), "episodes": n}

"""A generation of judged steps: play a segment of each simulation, judge its steps, move the policy.

A run's state holds the simulations, the critic, the scale of rewards and the noise on outputs (`SegmentState`). A
generation is a pure function of the whole state.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from es_rl import es
from es_rl.envs import EnvSpec
from es_rl.errors import ConfigError, EnvError, TrainingError
from es_rl.es.diagnostics import effective_rank, norm
from es_rl.es.optim import Ascent
from es_rl.es.strategy import ESParams, ESState, Generation
from es_rl.policies import normalizer
from es_rl.population.credit import Credit
from es_rl.rl import difficulty
from es_rl.rl.actors import numpy_layers
from es_rl.rl.chunks import make_policy
from es_rl.rl.config import Config
from es_rl.rl.numpy_policy import remembers
from es_rl.rl.segments.critic import Critic, CriticFit, RewardScale, zero_state
from es_rl.rl.segments.judge import Judged, Played
from es_rl.rl.segments.state import LOG_STD, SegmentState, Simulations
from es_rl.rl.segments.update import Steps, Update, quickened
from es_rl.rl.segments.worker import Segment, SegmentRunner
from es_rl.rng import stream
from es_rl.run.task import StepResult
from es_rl.workers.interface import Pool
from es_rl.workers.worker import JobFailure

UNSOUND = "the critic's numbers are not finite"


class SegmentTask:
    """Judges a policy by steps of simulations that go on from one generation to the next."""

    def __init__(self, config: Config, spec: EnvSpec, workers: Pool, say: Callable[[str], None]) -> None:
        """Raise `EnvError` or `ConfigError` for an environment or a policy that steps cannot judge."""
        self._config, self._workers, self._say = config, workers, say
        self._params = ESParams.of(config)
        self._policy: Any = make_policy(config, spec)
        _check(config, spec, self._policy)
        self._network = quickened(nn.Sequential(OrderedDict(list(self._policy.named_children())[1:-1])))
        self.runner, self._measures, self._curriculum = SegmentRunner(config, spec), spec.measures, spec.curriculum

    def begin(self) -> ESState:
        """Begin all simulations. Return the state before the first generation."""
        config, easy = self._config, difficulty.begun(self._curriculum)
        state = replace(es.init(self._policy), extra=easy)
        begun = self._map(state, [Segment(part.start, len(part)) for part in self._parts()])
        log_std = np.full(self._policy.head.outputs, np.log(config.credit.explore), np.float32)
        explore = {LOG_STD: log_std, **zero_state({LOG_STD: log_std}, config.optim)}
        extra = SegmentState(
            Simulations.joined(begun),
            RewardScale.fresh(config.credit.simulations),
            {name: torch.from_numpy(value) for name, value in explore.items()},
            self._new_critic(0),
        )
        return replace(state, extra=extra.tensors() | easy)

    def step(self, state: ESState) -> StepResult:
        """Run one generation. Raises `EnvError` or `TrainingError`."""
        before, number = SegmentState.of(state.extra), state.generation + 1
        start, busy = time.monotonic(), self._workers.busy
        played = self.play(state, before)
        rolled = time.monotonic()
        reward = played.all("reward")
        scale = before.scale.after(reward, played.all("over"))
        judged = Judged.by(before.critic, self._config.critic, played, reward / scale.divisor)
        if not judged.sound:
            before = replace(before, critic=self._new_critic(number))
            self._say(f"warning: {UNSOUND}, so generation {number} is judged by rewards alone, and a new critic begins")
        steps = Steps(*(torch.tensor(part) for part in _flat(played, judged)))
        fit = CriticFit(state.generation, before.critic, steps.x.numpy(), judged.targets.astype(np.float32).ravel())
        moved, after, told = self._update(state, before, steps, fit)
        if not after.critic.sound:
            after = replace(after, critic=self._new_critic(number))
            self._say(f"warning: {UNSOUND} after generation {number}, so a new one begins. Lower critic.lr.")
        after = replace(after, simulations=played.simulations, scale=scale)
        moments = [part.moments for part in played.parts if part.moments is not None]
        ended = time.monotonic()
        times = {"time/rollout": rolled - start, "time/update": ended - rolled}
        shares = self._shares(ended - start, self._workers.busy - busy, played)
        measured, hard = played.metrics(), difficulty.metric(state.extra)
        record = measured | judged.metrics() | told | times | shares | hard
        buffers = normalizer.merge(state.buffers, moments)
        extra = after.tensors() | difficulty.after(self._curriculum, state.extra, measured)
        state = ESState(number, moved.theta, buffers, moved.optim, extra)
        return StepResult(state, reward.size, record, reward.sum(axis=0), flat=False)

    def _shares(self, seconds: float, busy: float, played: Played) -> dict[str, float]:
        """Return the shares of a generation's time in which workers had a job, and in which they simulated."""
        available = max(1e-9, seconds * max(1, self._workers.count))
        return {
            "time/utilisation": busy / available if self._workers.count else 1.0,
            "time/simulating": sum(part.simulating for part in played.parts) / available,
        }

    def play(self, state: ESState, before: SegmentState) -> Played:
        """Play a segment of each simulation."""
        std, steps = before.explore[LOG_STD].exp().numpy(), self._config.es.segment
        jobs = [Segment(part.start, len(part), steps, before.simulations.part(part), std) for part in self._parts()]
        played = Played(self._map(state, jobs), self._measures)
        n, share = self._config.credit.simulations, self._config.es.max_failed
        if played.broken > share * n:
            reason = next((part.reason for part in played.parts if part.reason), "a number was not finite")
            raise TrainingError(
                f"{played.broken} episodes in {n} simulations failed in generation {state.generation + 1}: {reason}. "
                f"es.max_failed={share:g} allows {int(share * n)}."
            )
        return played

    def _update(
        self, state: ESState, before: SegmentState, steps: Steps, fit: CriticFit
    ) -> tuple[ESState, SegmentState, dict[str, Any]]:
        """Move the policy, while a worker trains the critic.

        Return two states and metrics. The first has the new theta and its optimiser, the second the new critic and the
        new noise on outputs.
        """
        config = self._config
        self._policy.load_state_dict({**state.theta, **state.buffers})
        log_std = before.explore[LOG_STD].clone()
        moving = dict(self._network.named_parameters()) | {LOG_STD: log_std}
        optim = state.optim | {name: value for name, value in before.explore.items() if name != LOG_STD}
        lr = config.optim.lr * config.optim.lr_decay**state.generation
        ascent = Ascent(moving, optim, config=config.optim, lr=lr, fused=True)
        sigma = config.es.sigma * config.es.sigma_decay**state.generation
        update = Update(self._network, log_std, ascent, config.credit, sigma)
        going = update.batches(steps, stream(config.seed, "credit", state.generation))
        (critic,) = self._map(state, [fit], lambda: next(going, going) is None)
        for _ in going:
            self._workers.check()
        theta = {name: value.clone() for name, value in self._network.named_parameters()}
        change = {name: value - state.theta[name] for name, value in theta.items()}
        if not np.isfinite(length := norm(change)):
            raise TrainingError(f"theta is infinite after generation {state.generation + 1}. Lower optim.lr.")
        optim = ascent.state()
        explore = {LOG_STD: log_std} | {k: v for k, v in optim.items() if k.startswith(LOG_STD)}
        told = {
            "update/norm": length,
            "update/effective_rank": effective_rank(change.values()),
            "explore/std": float(log_std.exp().mean()),
        }
        of_theta = {name: value for name, value in optim.items() if name not in explore}
        moved = replace(state, theta=theta, optim=of_theta)
        return moved, replace(before, explore=explore, critic=critic), told | update.metrics()

    def _new_critic(self, generation: int) -> Critic:
        return Critic.fresh(self._policy.normalizer.inputs, self._config.critic, self._config.seed, generation)

    def _parts(self) -> list[range]:
        """Divide the simulations among the workers."""
        ends = np.linspace(0, self._config.credit.simulations, max(1, self._workers.count) + 1).astype(int).tolist()
        return [range(first, end) for first, end in pairwise(ends) if first < end]

    def _map(self, state: ESState, jobs: Sequence[Any], pump: Callable[[], bool] | None = None) -> list[Any]:
        noise = es.perturbation(self._params, state.generation)
        hard = difficulty.of(state.extra)
        generation = Generation(state.generation, es.arrays(state), noise, difficulty=hard)
        outcomes = self._workers.map(self.runner, generation, jobs, pump=pump)
        for outcome in outcomes:
            if isinstance(outcome, JobFailure):
                raise EnvError(f"env={self._config.env}: generation {state.generation + 1}: {outcome.message}.")
        return outcomes


def _flat(played: Played, judged: Judged) -> list[np.ndarray]:
    """Return observations, outputs, log likelihood and advantages of all steps, (n, …)."""
    found = [played.all("x")[:-1], played.all("outputs"), played.all("log_likelihood"), judged.advantages]
    return [part.astype(np.float32).reshape(-1, *part.shape[2:]) for part in found]


def _check(config: Config, spec: EnvSpec, policy: nn.Module) -> None:
    given = f"es.segment={config.es.segment}"
    if not spec.savable:
        raise EnvError(
            f"env={spec.id}: {given} needs simulations that can be saved in the middle of an episode, such as those of "
            f"Gymnasium's MuJoCo tasks and of robots of es_rl.envs.robot. Give es.segment=0 to judge whole episodes."
        )
    if not isinstance(spec.action_space, spaces.Box):
        raise EnvError(f"env={spec.id}: {given} needs continuous actions. Give es.segment=0.")
    if (layers := numpy_layers(policy)) is None or remembers(layers):
        raise ConfigError(
            f"policy={config.policy}: {given} needs a policy without memory that is a chain of linear layers, layer "
            f"norms and activations. Give policy=mlp, or es.segment=0."
        )
    Credit(policy)

"""Try training by judged steps: a prototype in one process, to find what works before it is built.

    python benchmarks/judged_steps.py env=HalfCheetah-v4 env_steps=400000 [lr=0.0006] [mlp.hidden=[64,64]] …

64 simulations go on from update to update. The policy acts with Gaussian noise on its outputs. After each 64 steps of
each simulation a learned value function gives every step its advantage (GAE: Schulman et al. 2016, arXiv 1506.02438).
Perturbed copies of the policy are then judged on the recorded steps by the clipped, importance-weighted advantage
(Schulman et al. 2017, arXiv 1707.06347, equation 7): see `es_rl.population.credit`. The policy is not differentiated;
the value function is.

Prints a line of JSON after each tenth of the steps: the mean return of ten episodes without noise, and seconds of the
processor since the start.
"""

import itertools
import json
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from es_rl import envs, policies
from es_rl.cli import run
from es_rl.config import parse
from es_rl.es import optim
from es_rl.es.config import OptimConfig
from es_rl.keys import group, key
from es_rl.policies.mlp import MlpConfig
from es_rl.policies.normalizer import Moments, merge
from es_rl.population.credit import Credit
from es_rl.rng import integer_seed, stream

ADAM = OptimConfig(eps=1e-5)
REWARD_DECAY = 0.99  # of the running return whose standard deviation scales rewards


@dataclass(frozen=True)
class Keys:
    env: str = key("HalfCheetah-v4", "environment id with a fast backend")
    env_steps: int = key(400_000, "environment steps", low=1)
    seed: int = key(0, "random seed", low=0)
    policy: str = key("mlp", "network", choices=("mlp",))
    mlp: MlpConfig = group(MlpConfig, "the network")
    obs_norm: bool = key(True, "normalise observations", choices=())
    obs_first: int | None = key(None, "see only this many numbers of an observation", low=1)
    obs_clip: float = key(10.0, "clip normalised observations", above=0)
    simulations: int = key(64, "simulations", low=1)
    steps: int = key(64, "steps of each simulation between two updates", low=1)
    epochs: int = key(5, "passes over the recorded steps", low=1)
    batch: int = key(256, "steps of one update", low=1)
    lr: float = key(6e-4, "learning rate", above=0)
    lr_end: float = key(1.0, "lr falls linearly to this share of it", low=0)
    sigma: float = key(0.004, "standard deviation of the perturbation of each parameter", above=0)
    explore: float = key(0.37, "standard deviation of the noise on outputs at first", above=0)
    clip: float = key(0.2, "largest change of a step's likelihood that is rewarded", above=0)
    gamma: float = key(0.99, "discount", low=0, high=1)
    gae: float = key(0.95, "lambda of the advantages", low=0, high=1)
    critic_epochs: int = key(5, "passes of the value function over the recorded steps", low=1)
    critic_lr: float = key(1e-3, "learning rate of the value function", above=0)


@dataclass
class Recorded:
    """Steps of all simulations. Shapes: T steps, N simulations, O observation, A outputs."""

    obs: np.ndarray  # (T, N, O) float32, normalised
    after: np.ndarray  # (T, N, O) observations after the step, before a restart
    outputs: np.ndarray  # (T, N, A) of the policy with noise
    reward: np.ndarray  # (T, N)
    terminated: np.ndarray  # (T, N)
    over: np.ndarray  # (T, N) terminated or cut off


class Simulations:
    """Simulations that go on from one update to the next, and restart with seeds of their own."""

    def __init__(self, keys):
        self._env = envs.make(keys.env, keys.simulations, obs_first=keys.obs_first)
        self._seed, self._ids, self._episodes = keys.seed, np.arange(keys.simulations), 0
        self.obs = self._restart(self._ids)

    def step(self, actions):
        """Step all; return the observations after the step, rewards, terminated and over, each (N, …)."""
        obs, reward, terminated, truncated = self._env.step(self._ids, actions)
        terminated = terminated | ~np.isfinite(reward)
        after, reward = np.nan_to_num(obs, posinf=0.0, neginf=0.0), np.nan_to_num(reward)
        over = terminated | truncated
        self.obs = after.copy()
        if over.any():
            self.obs[over] = self._restart(np.flatnonzero(over))
        return after, reward, terminated, over

    def _restart(self, ids):
        seeds = [integer_seed(self._seed, "episode", self._episodes + i) for i in range(len(ids))]
        self._episodes += len(ids)
        return self._env.reset(ids, seeds)


class Learner:
    """The policy, its exploration, its value function, and one update of all three."""

    def __init__(self, keys, spec):
        self._keys, self.policy = keys, policies.make(keys, *spec)
        self._network, self.normalizer, self.head = self.policy.network, self.policy.normalizer, self.policy.head
        self.log_std = torch.full((self.head.outputs,), float(np.log(keys.explore)))
        self._credit, self._optim, self._updates = Credit(self._network), {}, 0
        torch.manual_seed(keys.seed)
        widths = [self.normalizer.inputs, 64, 64]
        hidden = [part for i, o in itertools.pairwise(widths) for part in (nn.Linear(i, o), nn.Tanh())]
        self.critic = nn.Sequential(*hidden, nn.Linear(64, 1))
        self._critic_optim = torch.optim.Adam(self.critic.parameters(), keys.critic_lr)

    def outputs(self, obs):
        return self._network(torch.as_tensor(obs)).numpy()

    def update(self, recorded, advantages, targets, share):
        """Move the policy by all recorded steps, then the value function. `share` of the training is over."""
        keys = self._keys
        x, y = (torch.from_numpy(part.reshape(-1, part.shape[-1])) for part in (recorded.obs, recorded.outputs))
        advantages, targets = (torch.from_numpy(part.reshape(-1).astype(np.float32)) for part in (advantages, targets))
        before = self._likelihood(self._network(x), y)
        lr = keys.lr * (1 + (keys.lr_end - 1) * share)
        for _ in range(keys.epochs):
            noise = stream(keys.seed, "fitness", self._updates)
            for rows in np.array_split(noise.permutation(len(x)), max(1, len(x) // keys.batch)):
                self._step(x[rows], y[rows], advantages[rows], before[rows], noise, lr)
            self._updates += 1
        for _ in range(keys.critic_epochs):
            for rows in torch.randperm(len(x)).split(512):
                loss = (self.critic(x[rows])[:, 0] - targets[rows]).square().mean()
                self._critic_optim.zero_grad()
                loss.backward()
                self._critic_optim.step()

    def _likelihood(self, mean, y):
        return (-0.5 * ((y - mean) / self.log_std.exp()).square() - self.log_std).sum(1)

    def _step(self, x, y, advantages, before, noise, lr):
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        mean, std, clip = self._network(x), self.log_std.exp(), self._keys.clip
        ratio = (self._likelihood(mean, y) - before).exp()
        too_far = ((advantages > 0) & (ratio > 1 + clip)) | ((advantages < 0) & (ratio < 1 - clip))
        weight = torch.where(too_far, 0.0, ratio * advantages)[:, None]
        far = (y - mean) / std
        slopes = weight * far / std
        found = self._credit.estimate(lambda: self._network(x), slopes, sigma=self._keys.sigma, noise=noise)
        found["log_std"] = (weight * (far.square() - 1)).mean(0)
        theta = {name: value.detach() for name, value in self._network.named_parameters()} | {"log_std": self.log_std}
        moved, self._optim = optim.step(theta, found, self._optim, config=ADAM, lr=lr)
        for name, value in theta.items():
            value.copy_(moved[name])


def record(simulations, learner, keys, noise):
    """Play `keys.steps` steps of all simulations. Return them, and the moments of the observations."""
    normalizer = learner.normalizer
    center = normalizer.mean.numpy()
    std, rows, moments = learner.log_std.exp().numpy(), [], []
    for _ in range(keys.steps):
        obs = simulations.obs
        x = normalizer(torch.from_numpy(obs)).numpy()
        y = learner.outputs(x)
        y = y + std * noise.standard_normal(y.shape, dtype=np.float32)
        after, reward, terminated, over = simulations.step(learner.head(torch.from_numpy(y)).numpy())
        rows.append((x, normalizer(torch.from_numpy(after)).numpy(), y, reward, terminated, over))
        moved = obs[:, : normalizer.inputs] - center
        moments.append((moved.sum(0), np.square(moved).sum(0)))
    first, second = (np.stack(part).sum(0, keepdims=True) for part in zip(*moments, strict=True))
    found = Recorded(*(np.stack(part) for part in zip(*rows, strict=True)))
    return found, Moments(keys.steps * keys.simulations, first, second)


def judge(recorded, learner, keys):
    """Return the advantage of each step and what the value function should have said, both (T, N)."""
    with torch.no_grad():
        value, after = (
            learner.critic(torch.from_numpy(part))[..., 0].double().numpy() for part in (recorded.obs, recorded.after)
        )
    error = recorded.reward + keys.gamma * after * ~recorded.terminated - value
    advantages, later = np.zeros_like(error), np.zeros(error.shape[1])
    for t in reversed(range(len(error))):
        later = error[t] + keys.gamma * keys.gae * later * ~recorded.over[t]
        advantages[t] = later
    return advantages, advantages + value


class RewardScale:
    """Divides rewards by the standard deviation of a running discounted return."""

    def __init__(self, n):
        self._return, self._count, self._variance = np.zeros(n), 1e-4, 1.0

    def __call__(self, recorded):
        for reward, over in zip(recorded.reward, recorded.over, strict=True):
            self._return = self._return * REWARD_DECAY + reward
            self._count += len(reward)
            self._variance += (np.square(self._return).sum() - len(reward) * self._variance) / self._count
            self._return[over] = 0.0
        recorded.reward /= np.sqrt(self._variance + 1e-8)


def evaluate(keys, learner, episodes=10):
    """Return the mean return of episodes without noise."""
    env = envs.make(keys.env, episodes, obs_first=keys.obs_first)
    running, total = np.arange(episodes), np.zeros(episodes)
    obs = env.reset(running, [integer_seed(keys.seed, "eval", i) for i in range(episodes)])
    while len(running):
        actions = learner.policy(torch.from_numpy(obs))[0].numpy()
        obs, reward, terminated, truncated = env.step(running, actions)
        total[running] += np.nan_to_num(reward)
        goes_on = ~(terminated | truncated)
        obs, running = obs[goes_on], running[goes_on]
    return float(total.mean())


def main(argv):
    keys = parse(Keys, argv)
    torch.set_num_threads(1)
    spec = envs.probe(keys.env, {}, 0)
    size = min(spec.observation_space.shape[0], keys.obs_first or sys.maxsize)
    begun, looks, steps, generation = time.process_time(), 0, 0, 0
    simulations, learner = Simulations(keys), Learner(keys, (size, spec.action_space))
    scale, judging = RewardScale(keys.simulations), 0.0
    while steps < keys.env_steps:
        recorded, moments = record(simulations, learner, keys, stream(keys.seed, "noise", generation))
        scale(recorded)
        learner.update(recorded, *judge(recorded, learner, keys), steps / keys.env_steps)
        buffers = merge(dict(learner.policy.named_buffers()), [moments])
        learner.policy.load_state_dict(buffers, strict=False)
        steps, generation = steps + keys.simulations * keys.steps, generation + 1
        if steps >= keys.env_steps * (looks + 1) / 10:
            looks, before = looks + 1, time.process_time()
            line = {
                "env_steps": steps,
                "seconds": round(before - begun - judging, 1),
                "return": evaluate(keys, learner),
            }
            line |= {"explore": round(float(learner.log_std.exp().mean()), 3)}
            judging += time.process_time() - before
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

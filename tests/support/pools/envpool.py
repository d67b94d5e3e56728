"""A small library with EnvPool's interface, for tests that must run where EnvPool is not installed.

Trudge-v0: a number moves by the action and by chance, until it leaves [-3, 3] or after 30 steps. Like EnvPool, a simulation
is seeded when it is made, goes on with its own random numbers after that, and starts anew if it is stepped at its end;
here that counts as a mistake (`stepped_at_its_end`).
"""

import types
import weakref
from collections import namedtuple

import numpy as np
from gymnasium import spaces

__version__ = "1.2.5"
TINY, LARGEST = np.finfo(np.float32).tiny, np.finfo(np.float32).max  # EnvPool's way to say that there is no bound
SPECS = {
    "Trudge-v0": "envpool.walks",
    "Trudge-v1": "envpool.walks",
    "Duel-v0": "envpool.games",
    "Broken-v0": "envpool.walks",
}
OPTIONS = {
    "num_envs": 1, "num_threads": 0, "env_seed": [], "seed": 42, "base_path": "", "max_num_players": 1,
    "max_episode_steps": 30, "drift": 0.1, "mirrored": False, "start": (0.0, 0.0),
}  # fmt: skip
Config = namedtuple("Config", OPTIONS, defaults=OPTIONS.values())
registration = types.SimpleNamespace(
    registry=types.SimpleNamespace(specs={name: (module, "Spec", {}) for name, module in SPECS.items()})
)
made = []  # the number of simulations of each pool so far
alive = weakref.WeakSet()
stepped_at_its_end = []


def list_all_envs():
    return list(SPECS)


class Spec:
    observation_space = spaces.Dict(
        {"place": spaces.Box(TINY, LARGEST, (2,), np.float32), "mood": spaces.Discrete(3, start=1)}
    )
    action_space = spaces.Discrete(3)

    def __init__(self, name, **options):
        more = {"max_num_players": 2} if name == "Duel-v0" else {}
        self.name, self.config = name, Config(**(more | options))


def make_spec(name, **options):
    return Spec(name, **options)


def make_gymnasium(name, **options):
    return Pool(Spec(name, **options))


class Pool:
    def __init__(self, spec):
        self.observation_space, self.action_space = spec.observation_space, spec.action_space
        self._config, self._broken = spec.config, spec.name == "Broken-v0"
        self._rngs = [np.random.default_rng(seed) for seed in spec.config.env_seed]
        n = spec.config.num_envs
        assert len(self._rngs) == n and spec.config.num_threads == 1
        self._place, self._steps, self._over = np.zeros((n, 2)), np.zeros(n, int), np.ones(n, bool)
        self._sent = None
        made.append(n)
        alive.add(self)

    def reset(self, env_id=None):
        ids = np.arange(len(self._rngs)) if env_id is None else np.asarray(env_id)
        for i in ids:
            self._place[i] = self._config.start + self._rngs[i].normal(size=2)
            self._steps[i], self._over[i] = 0, False
        return self._seen(ids), {"env_id": ids}

    def send(self, actions, env_id):
        assert actions.shape == env_id.shape and env_id.dtype == np.int32
        stepped_at_its_end.extend(i for i in env_id if self._over[i])
        if self._broken and self._steps.max() > 3:
            raise ValueError("out of order")
        for action, i in zip(actions, env_id, strict=True):
            self._place[i, 0] += action - 1 + self._config.drift * self._rngs[i].normal()
            self._steps[i] += 1
        self._sent = env_id

    def recv(self):
        ids = np.sort(self._sent)  # EnvPool promises no order
        out, late = np.abs(self._place[ids, 0]) > 3, self._steps[ids] >= self._config.max_episode_steps
        self._over[ids] = out | late
        reward = (3 - np.abs(self._place[ids, 0])).astype(np.float32)
        return self._seen(ids), reward, out & ~late, late, {"env_id": ids}

    def step(self, actions, env_id):
        self.send(actions, env_id)
        return self.recv()

    def _seen(self, ids):
        return {"place": self._place[ids].astype(np.float32), "mood": (1 + self._steps[ids] % 3)[:, None]}

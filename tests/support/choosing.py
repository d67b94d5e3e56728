"""One environment for any spaces, `env=choosing:Choosing-v0 env_kwargs.kind=NAME`, and the spaces.

An episode has two steps. A step's reward is the share of an action's numbers that are those of one fixed action, the
same in every episode; a number of a Box earns the less the farther away it is. The best return is 2.
"""

from collections import OrderedDict
from functools import cache

import gymnasium
import numpy as np
from gymnasium import spaces

from es_rl.envs.spaces import leaves, row_of

INT64 = np.iinfo(np.int64)
SPACES = {
    "one choice": spaces.Discrete(1, start=3, dtype=np.int32),
    "negative choice": spaces.Discrete(4, start=-2),
    "byte choice": spaces.Discrete(3, start=250, dtype=np.uint8),
    "choices": spaces.MultiDiscrete([3, 2, 4]),
    "grid of choices": spaces.MultiDiscrete([[3, 3, 2], [2, 4, 1]], np.int32, start=[[1, -2, 0], [5, 0, 7]]),
    "byte choices": spaces.MultiDiscrete([55, 2], np.uint8, start=[200, 0]),
    "bits": spaces.MultiBinary(5),
    "grid of bits": spaces.MultiBinary([2, 3]),
    "number": spaces.Box(-1, 2, ()),
    "grid": spaces.Box(-2, 3, (2, 3)),
    "doubles": spaces.Box(np.array([-0.1, -np.inf]), np.array([0.1, 0.7]), dtype=np.float64),
    "halves": spaces.Box(-0.1, 0.1, (2,), np.float16),
    "counts": spaces.Box(-3, 3, (2,), np.int64),
    "bytes": spaces.Box(0, 255, (2, 3), np.uint8),
    "whole range": spaces.Box(INT64.min, INT64.max, (2,), np.int64),
    "flags": spaces.Box(0, 1, (3,), bool),
    "tuple": spaces.Tuple([spaces.Discrete(3, start=-1), spaces.Box(0, 1, (2,)), spaces.MultiBinary(1)]),
    "dict": spaces.Dict({"z": spaces.Discrete(2), "a": spaces.Box(-1, 1, (3,)), 3: spaces.MultiDiscrete([2, 2])}),
    "turned dict": spaces.Dict(
        [(3, spaces.MultiDiscrete([2, 2])), ("a", spaces.Box(-1, 1, (3,))), ("z", spaces.Discrete(2))]
    ),
    "nested": spaces.Dict(OrderedDict(
        z=spaces.Discrete(3, start=5),
        arm=spaces.Tuple([spaces.MultiBinary([2, 1]), spaces.Box(-1, 2, (2, 1)), spaces.Box(0, 4, (), np.int32)]),
        a=spaces.Dict({"x": spaces.MultiDiscrete([2, 3], start=[4, 0]), "flag": spaces.Box(0, 1, (1,), bool)}),
    )),
}  # fmt: skip


def is_of(space, action):
    """Whether an action is of the space, in Gymnasium's eyes and in the types of all parts."""
    if not space.contains(action):
        return False
    for path, leaf in leaves(space):
        part = action
        for name in path:
            part = part[name]
        if part.dtype != leaf.dtype or isinstance(part, np.ndarray) == isinstance(leaf, spaces.Discrete):
            return False
    return True


@cache
def samples(kind, seed):
    """Some elements of a space."""
    space = SPACES[kind]
    space.seed(seed)
    return [space.sample() for _ in range(16)]


class Choosing(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, kind, seen="nested", render_mode=None):
        self.render_mode = render_mode
        self.action_space, self.observation_space = SPACES[kind], SPACES[seen]
        self.target = row_of(self.action_space, samples(kind, 5)[0]).astype(np.float64)
        self.seen = samples(seen, 6)
        widths = [leaf.high - leaf.low if isinstance(leaf, spaces.Box) and leaf.dtype != bool else np.ones(leaf.shape)
                  for _, leaf in leaves(self.action_space)]  # fmt: skip
        self.width = np.concatenate([np.reshape(width, -1) for width in widths])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.look(), {}

    def look(self):
        return self.seen[self.np_random.integers(len(self.seen))]

    def step(self, action):
        assert is_of(self.action_space, action), f"{action!r} is not in {self.action_space}"
        self.t += 1
        far = np.abs(row_of(self.action_space, action) - self.target) / self.width
        return self.look(), float(np.maximum(0, 1 - far).mean()), self.t == 2, False, {}

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)


gymnasium.register("Choosing-v0", entry_point=Choosing)

"""Odd environments, each in one way; `env=zoo:NAME-v0`. `tests/envs/test_zoo.py` says what is to come of each."""

import os
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from hostile import Good

BOX = spaces.Box(-1, 1, (3,), np.float64)


class Odd(Good):
    limit = 12

    def step(self, action):
        self.t += 1
        return self.look(), -0.5, self.t >= self.limit, False, {}


def odd(name, *, observation=None, action=None, look=None, change=None, step=None, reset=None, **more):
    """Register an environment with these spaces; `look` gives observations, `change` alters what a step returns."""
    body = {
        key: value for key, value in (("observation_space", observation), ("action_space", action)) if value is not None
    }
    if look is not None:
        body["look"] = lambda self: look(self)
    if change is not None or step is not None:

        def stepped(self, given):
            if step is not None:
                return step(self, given)
            self.t += 1
            returned = (self.look() if look else Good.look(self), -0.5, self.t >= self.limit, False, {})
            return change(*returned) if change else returned

        body["step"] = stepped
    if reset is not None:
        body["reset"] = reset
    kind = type(name, (Odd,), body | more)
    gymnasium.register(f"{name}-v0", entry_point=kind, max_episode_steps=kind.limit)


class Unprintable(BaseException):
    """An error of no usual kind, which has no text."""

    def __str__(self):
        raise ValueError("no text")


def asking(check):
    """A step that refuses actions of another type than Gymnasium's."""

    def step(self, action):
        assert check(action), f"{type(action).__name__} {action!r}"
        self.t += 1
        return Good.look(self), -0.5, self.t >= self.limit, False, {}

    return step


# What trains.
odd("Lists", look=lambda self: [0.1, 0.2, 0.3])
odd("Tensors", look=lambda self: torch.tensor([0.1, 0.2, 0.3]))
odd("ReadOnly", look=lambda self: np.frombuffer(np.zeros(3).tobytes()))
odd("Strided", look=lambda self: np.zeros((3, 2))[:, 0])
odd("Scalar", observation=spaces.Box(-1, 1, ()), look=lambda self: np.float32(0.1))
odd("PythonNumber", observation=spaces.Box(-1, 1, ()), look=lambda self: 0.1)
odd("Picture", observation=spaces.Box(0, 255, (4, 4, 3), np.uint8), look=lambda self: np.full((4, 4, 3), 200, np.uint8))
odd("BitsSeen", observation=spaces.MultiBinary(4), look=lambda self: [1, 0, 1, 1])
odd("Choices", observation=spaces.MultiDiscrete([3, 2], start=[1, 5]), look=lambda self: np.array([3, 6]))
odd("Number", observation=spaces.Discrete(4, start=-2), look=lambda self: 1)
odd("Pairs", observation=spaces.Tuple([BOX, spaces.Discrete(2)]), look=lambda self: (np.zeros(3), 1))
odd("Mission", observation=spaces.Dict(
    {"image": BOX, "mission": spaces.Text(9), "deep": spaces.Dict({"said": spaces.Text(9), "x": BOX})}),
    look=lambda self: {"image": np.zeros(3), "mission": "go", "deep": {"said": "so", "x": np.ones(3)}})  # fmt: skip
odd("Blind", observation=spaces.Box(-1, 1, (0,)), look=lambda self: np.zeros(0))
odd("BlindPart", observation=spaces.Dict({"a": BOX, "b": spaces.Box(-1, 1, (0,))}),
    look=lambda self: {"a": np.zeros(3), "b": np.zeros(0)})  # fmt: skip
odd(
    "NumberedParts",
    observation=spaces.Dict({1: BOX, "a.b": BOX}),
    look=lambda self: {1: np.zeros(3), "a.b": np.ones(3)},
)
odd("LargeCounts", observation=spaces.Box(0, 2**63, (2,), np.uint64), look=lambda self: np.array([1, 2**60], np.uint64))
odd("Masked", look=lambda self: np.ma.masked_array(np.zeros(3), [0, 1, 0]))
odd("WideFloats", observation=spaces.Box(-1, 1, (3,), np.longdouble), look=lambda self: np.zeros(3, np.longdouble))
odd("OtherOrder", observation=spaces.Box(-1, 1, (3,), np.dtype(">f8")), look=lambda self: np.zeros(3, ">f8"))
odd("Idle", action=spaces.Box(-1, 1, (0,)), step=asking(lambda a: a.shape == (0,)))
odd("OneAction", action=spaces.Box(0.5, 0.5, (2,)), step=asking(lambda a: (a == 0.5).all()))
odd("Fractions", change=lambda o, r, *rest: (o, Fraction(-1, 2), *rest))
odd("EndsOfNone", change=lambda o, r, te, tr, i: (o, r, te or None, tr, i))
odd("Unbounded", observation=spaces.Box(-np.inf, np.inf, (3,)))
odd("Switches", action=spaces.Box(0, 1, (2,), bool),
    step=asking(lambda a: a.dtype == bool and a.shape == (2,)))  # fmt: skip
odd("Counts", action=spaces.Box(-3, 3, (2,), np.int64), step=asking(lambda a: a.dtype == np.int64))
odd("NumPyNumber", action=spaces.Discrete(3), step=asking(lambda a: isinstance(a, np.int64)))
odd("SmallNumber", action=spaces.Discrete(3, start=5, dtype=np.int8),
    step=asking(lambda a: isinstance(a, np.int8) and a >= 5))  # fmt: skip
odd("ManyBits", action=spaces.MultiBinary(3), step=asking(lambda a: a.dtype == np.int8 and a.shape == (3,)))
odd("ActsInADict", action=spaces.Dict({"a": BOX}), step=asking(lambda a: a["a"].dtype == np.float64))
odd("OneChoice", action=spaces.Discrete(1), step=asking(lambda a: a == 0))
odd("LargestFloats", action=spaces.Box(-3.4e38, 3.4e38, (2,)), step=asking(lambda a: np.isfinite(a).all()))
odd("HalfBounded", action=spaces.Box(0, np.inf, (2,)), step=asking(lambda a: (a >= 0).all()))
odd("Grid", action=spaces.Box(-1, 1, (2, 2)), step=asking(lambda a: a.shape == (2, 2)))
odd("TensorReward", change=lambda o, r, *rest: (o, torch.tensor(r), *rest))
odd("WholeReward", change=lambda o, r, *rest: (o, 1, *rest))
odd("NumPyEnds", change=lambda o, r, te, tr, i: (o, r, np.bool_(te), np.bool_(tr), i))
odd("FractionalEnds", change=lambda o, r, te, tr, i: (o, r, float(te), np.array([tr]), i))
odd("LargeBytes", observation=spaces.Dict({"a": spaces.Box(0, 255, (2,), np.uint8)}),
    look=lambda self: {"a": np.array([300, -5])})  # fmt: skip
odd("Measures", measures=["a", "b"], measured={"a": 1})
odd("NoInfo", change=lambda o, r, te, tr, i: (o, r, te, tr, None))
odd("Lists5", change=lambda *five: list(five))


class SameArray(Odd):
    """Returns one array again and again, and writes into it."""

    def look(self):
        self.seen = getattr(self, "seen", np.zeros(3))
        self.seen += 0.1
        return self.seen


class DoubleByDefault(Odd):
    def look(self):
        assert torch.zeros(1).dtype == torch.float64  # as this module has set it
        return super().look()


class StrictNumPy(Odd):
    def look(self):
        try:
            np.float64(1.0) / np.zeros(1)
        except FloatingPointError:
            return super().look()
        raise AssertionError("NumPy no longer raises")


class Slots(Odd):
    """Takes the generator that Gymnasium makes, and nothing else."""

    def look(self):
        return self.np_random.uniform(-1, 1, 3)


class Moves(Odd):
    """Goes to a directory of its own, and relies on being there."""

    home = tempfile.gettempdir()

    def reset(self, *, seed=None, options=None):
        os.chdir(self.home)
        return super().reset(seed=seed, options=options)

    def look(self):
        assert Path.cwd() == Path(self.home)
        return super().look()


class Silences(Odd):
    """Gives the streams away, as simulators do that print too much."""

    def reset(self, *, seed=None, options=None):
        sys.stdout = sys.stderr = None
        return super().reset(seed=seed, options=options)

    def look(self):
        assert sys.stdout is None
        return super().look()


class TakesOver(Odd):
    """Makes tensors on a device of its own, and lets nobody import anything."""

    def reset(self, *, seed=None, options=None):
        torch.set_default_device("meta")
        sys.path.clear()
        return super().reset(seed=seed, options=options)

    def look(self):
        assert torch.zeros(1).device.type == "meta" and not sys.path
        return super().look()


for kind in (SameArray, Slots, Moves, Silences, TakesOver):
    gymnasium.register(f"{kind.__name__}-v0", entry_point=kind, max_episode_steps=kind.limit)

# What is refused, or fails.
odd("NoAction", action=spaces.Box(np.full(2, np.inf), np.full(2, np.inf), dtype=np.float64))
odd("NanAtFirst", look=lambda self: np.full(3, np.nan if self.t == 0 else 0.0))
odd("WordEnds", change=lambda o, r, te, tr, i: (o, r, "False", tr, i))
odd("NanEnds", change=lambda o, r, te, tr, i: (o, r, float("nan"), tr, i))
odd("NumberAsWord", change=lambda o, r, *rest: (o, "1.5", *rest))
odd("MaskedReward", change=lambda o, r, *rest: (o, np.ma.masked, *rest))
odd("ChoiceBelow", observation=spaces.MultiDiscrete([3, 2]), look=lambda self: [-1, 0])
odd("ChoiceBeyond", observation=spaces.MultiDiscrete([3, 2]), look=lambda self: [3, 0])
odd("ChoiceMissing", observation=spaces.MultiDiscrete([3, 2]), look=lambda self: [1])
odd("HalfNumber", observation=spaces.Discrete(5), look=lambda self: 2.7)
odd("ComplexPart", observation=spaces.Dict({"a": BOX}), look=lambda self: {"a": np.zeros(3) + 1j})
odd("NoObservation", look=lambda self: None)
odd("Words", look=lambda self: "hello")
odd("OtherShape", look=lambda self: np.zeros((3, 1)))
odd("PartMissing", observation=spaces.Dict({"a": BOX, "b": BOX}), look=lambda self: {"a": np.zeros(3)})
odd(
    "PartTooShort",
    observation=spaces.Dict({"a": BOX, "b": BOX}),
    look=lambda self: {"a": np.zeros(3), "b": np.zeros(2)},
)
odd("BeyondItsSpace", observation=spaces.Discrete(3), look=lambda self: 3)
odd("BelowItsSpace", observation=spaces.Discrete(3), look=lambda self: -1)
odd("NanSeen", look=lambda self: np.array([0.0, np.nan, 0.0]) if self.t == 4 else np.zeros(3))
odd("HugeSeen", look=lambda self: np.array([0.0, 0.0, 1e200]) if self.t == 4 else np.zeros(3))
odd("InfiniteReward", change=lambda o, r, *rest: (o, np.inf, *rest))
odd("NoReward", change=lambda o, r, *rest: (o, None, *rest))
odd("WordReward", change=lambda o, r, *rest: (o, "good", *rest))
odd("TwoRewards", change=lambda o, r, *rest: (o, np.zeros(2), *rest))
odd("OldStep", change=lambda o, r, te, tr, i: (o, r, te, i))
odd("NoStep", change=lambda *five: None)
odd("OldReset", reset=lambda self, **_: np.zeros(3))
odd("OldResetOfADict", observation=spaces.Dict({"a": BOX, "b": BOX}),
    reset=lambda self, **_: {"a": np.zeros(3), "b": np.zeros(3)})  # fmt: skip
odd("ResetTakesNoSeed", reset=lambda self: (np.zeros(3), {}))
odd("Sequence", observation=spaces.Sequence(BOX))
odd("TextInATuple", observation=spaces.Tuple([BOX, spaces.Text(3)]))
odd("ActsInText", action=spaces.Dict({"arm": spaces.Tuple([BOX, spaces.Text(3)])}))
odd("ActsInNothing", action=spaces.Dict({}))
odd("NoSpace", observation_space=None)
odd("NothingSeen", observation=spaces.Dict({}), look=lambda self: {})
odd("GradientSeen", look=lambda self: torch.zeros(3, requires_grad=True))
odd("ComplexReward", change=lambda o, r, *rest: (o, 1j, *rest))
odd("EnormousReward", change=lambda o, r, *rest: (o, 10**400, *rest))
odd("Hashed", observation=spaces.Discrete(2**31), look=lambda self: 5)
odd("HashedPart", observation=spaces.Dict({"a": BOX, "b": spaces.MultiDiscrete([2**30, 9])}))
odd("ActsByHash", action=spaces.Discrete(2**40))
odd("SaysMuch", step=lambda self, action: (_ for _ in ()).throw(ValueError("x" * 10**6)))
odd("SaysCommands", step=lambda self, action: (_ for _ in ()).throw(ValueError("\x1b[31mred\x00\udce9\tand")))
odd("TwoEnds", change=lambda o, r, te, tr, i: (o, r, np.zeros(2, bool), tr, i))
odd("Unprintable", step=lambda self, action: (_ for _ in ()).throw(Unprintable()))
odd("SaysNothing", step=lambda self, action: (_ for _ in ()).throw(ValueError()))

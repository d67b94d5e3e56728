"""Environments that behave badly, each in one way; `env=hostile:NAME`."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import typing
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces


class Good(gymnasium.Env):
    """A well-behaved base: reward for acting like the observation."""

    observation_space = spaces.Box(-1, 1, (3,), np.float64)
    action_space = spaces.Box(-1, 1, (3,), np.float32)
    limit = 120

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.look(), {}

    def look(self):
        self.seen = self.np_random.uniform(-1, 1, 3)
        return self.seen

    def step(self, action):
        self.t += 1
        reward = -float(np.square(action - self.seen).sum())
        return self.look(), reward, self.t >= self.limit, False, {}


class ClosesOutput(Good):
    """Closes what the program writes to."""

    def reset(self, *, seed=None, options=None):
        sys.stdout.close()
        sys.stderr.close()
        return super().reset(seed=seed)


class OneNumber(Good):
    """Rewards and ends are arrays of one number."""

    def step(self, action):
        seen, reward, terminated, truncated, info = super().step(action)
        return seen, np.array([reward]), np.array([terminated]), truncated, info


class ConstructorRaises(Good):
    def __init__(self):
        raise RuntimeError("no license for this robot")


class ConstructorSleeps(Good):
    def __init__(self):
        time.sleep(1000)


class RaisesAt100(Good):
    def step(self, action):
        if self.t == 99:
            raise ValueError("joint 7 exploded")
        return super().step(action)


class OftenRaises(Good):
    """Breaks in one episode of eight, always the same ones."""

    def reset(self, *, seed=None, options=None):
        self.fragile = seed % 8 == 0
        return super().reset(seed=seed)

    def step(self, action):
        if self.fragile and self.t == 50:
            raise ValueError("joint 7 exploded")
        return super().step(action)


class Hiccups(Good):
    """Raises once in some episodes, whichever process plays them, and is fine when they are played again."""

    def reset(self, *, seed=None, options=None):
        self.marker = Path(f"hiccup-{seed}") if seed is not None and seed % 5 == 0 else None
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if self.t == 60 and self.marker is not None:
            with contextlib.suppress(FileExistsError):
                self.marker.touch(exist_ok=False)
                raise ValueError("a hiccup")
        return super().step(action)


class NanReward(Good):
    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        return obs, float("nan") if self.t > 5 else 0.0, terminated, truncated, info


class Huge(Good):
    def look(self):
        return super().look() * (1e160 if self.t == 5 else 1.0)


class WrongShape(Good):
    def look(self):
        return super().look()[:2]


class LateWrongShape(Good):
    def look(self):
        return super().look()[: 2 if self.t > 20 else 3]


class Sleeps(Good):
    def step(self, action):
        if self.t == 30:
            time.sleep(1000)
        return super().step(action)


class Crashes(Good):
    def step(self, action):
        if self.t == 30:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().step(action)


class OftenCrashes(Good):
    """With one seed in eight or so, always."""

    def reset(self, *, seed=None, options=None):
        self.fated = seed is not None and seed % 8 == 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if self.t == 30 and self.fated:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class Wanders(Good):
    """Every other one of a process ends early; when one of the rest has killed the process, none does any more."""

    made = 0
    marker = Path("wandered")

    def __init__(self):
        super().__init__()
        self.early = Wanders.made % 2 == 0
        Wanders.made += 1

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if self.marker.exists():
            return obs, reward, terminated, truncated, info
        if self.t == 30:
            with contextlib.suppress(FileExistsError):  # of several, one does it
                self.marker.touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return obs, reward, self.early and self.t == 10, truncated, info


class ClosesEverything(Good):
    """Closes the process's files when a marker exists, and removes the marker first: it happens once."""

    def step(self, action):
        marker = Path("close-files")
        if self.t == 30 and marker.exists():
            marker.unlink()
            os.closerange(3, 100)
        return super().step(action)


class Noisy(Good):
    def step(self, action):
        print("look at me")
        print("and at me", file=sys.stderr)
        return super().step(action)


class Forks(Good):
    """Leaves a sleeping grandchild behind."""

    def reset(self, *, seed=None, options=None):
        if not hasattr(self, "child"):
            self.child = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", str(10**6 + os.getppid()))
        return super().reset(seed=seed)


class Doubles(Good):
    """Forks now and then, and goes on in both processes."""

    def reset(self, *, seed=None, options=None):
        self._fork()
        return super().reset(seed=seed)

    def step(self, action):
        if self.t % 20 == 10:
            self._fork()
        return super().step(action)

    def _fork(self):
        if child := os.fork():
            os.waitpid(child, 0)


class Long(Good):
    """A generation takes minutes."""

    limit = 100_000

    def step(self, action):
        time.sleep(0.001)
        return super().step(action)


class Endless(Good):
    """Its episodes never end, from the first generation on or from when a file says so."""

    limit = 10**9

    def __init__(self, later=False):
        self.later = later

    def step(self, action):
        time.sleep(0.0005)
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, self.later and not Path("endless").exists() and self.t >= 10, truncated, info


class Paced(Good):
    """A step takes a given time, all of it asleep."""

    def __init__(self, pause=0.0):
        super().__init__()
        self.pause = pause

    def step(self, action):
        time.sleep(self.pause)
        return super().step(action)


class Equal(Good):
    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        return obs, 1.0, terminated, truncated, info


class Leaves(Good):
    """Ends the program, or what it takes for one, in a given way."""

    limit = 20

    def __init__(self, how="exit"):
        self.how = how

    def step(self, action):
        if self.t == 5:
            if self.how == "exit":
                sys.exit("licence expired")
            if self.how == "generator":
                raise GeneratorExit("enough")
            if self.how == "base":
                raise BaseException("of no known kind")
            if self.how == "real-time":
                os.kill(os.getpid(), signal.SIGRTMIN + 3)
                time.sleep(1000)
            if self.how == "forks" and not os.fork():
                time.sleep(1000)  # a child that holds the pipes of the worker
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class CloseRaises(Good):
    limit = 20

    def close(self):
        raise RuntimeError("already closed")


class OnlyOne(Good):
    """A process can hold one of it, as of many emulators."""

    limit = 20
    there: typing.ClassVar[list] = []

    def __init__(self):
        if OnlyOne.there:
            raise RuntimeError("there is an emulator already")
        OnlyOne.there.append(self)

    def close(self):
        OnlyOne.there.clear()


class StartsServer(Good):
    """Starts a process in a session of its own, as simulators do."""

    def __init__(self):
        subprocess.Popen(["sleep", "12345"], start_new_session=True)

    def step(self, action):
        time.sleep(0.01)
        return super().step(action)


class Lanes(Good):
    """Takes arguments whose names are no text, or hold dots."""

    limit = 20
    metadata: typing.ClassVar = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, reward_of_lane, render_mode=None):
        super().__init__()
        self.render_mode = render_mode
        assert repr(reward_of_lane) == "{1: 5.0, 'left.hip': [1, {}], 2.5: {False: None}}", reward_of_lane

    def render(self):
        return np.full((32, 32, 3), self.t, np.uint8)


class Foreign(Good):
    """Prints what its locale may lack."""

    limit = 20

    def __init__(self, name):
        self.name = name

    def reset(self, *, seed=None, options=None):
        print("look:", self.name)
        return super().reset(seed=seed)


class TextObservation(Good):
    observation_space = spaces.Text(10)


class GraphObservation(Good):
    observation_space = spaces.Graph(spaces.Box(-1, 1, (2,)), None)


class TextAction(Good):
    action_space = spaces.Text(5)


class DictObservation(Good):
    """Flattened: a position, a mode, and some switches."""

    observation_space = spaces.Dict(
        {"position": spaces.Box(-1, 1, (3,)), "mode": spaces.Discrete(4, start=2), "switches": spaces.MultiBinary(2)}
    )
    action_space = spaces.Discrete(3, start=5)

    def look(self):
        return {
            "position": self.np_random.uniform(-1, 1, 3).astype(np.float32),
            "mode": np.int64(2 + self.np_random.integers(4)),
            "switches": self.np_random.integers(0, 2, 2).astype(np.int8),
        }

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        return self.look(), float(action == 6), self.t >= 20, False, {}


for kind in [k for k in list(globals().values()) if isinstance(k, type) and issubclass(k, Good)]:
    gymnasium.register(f"{kind.__name__}-v0", entry_point=kind, max_episode_steps=kind.limit)


def letter_e(prompts, completions, **columns):
    """A reward: the share of one letter."""
    return [said.count("e") / 16 for said in completions]


def high_letters(prompts, completions, **columns):
    """A reward that tells any two members apart."""
    return [sum(map(ord, said)) / 1000 for said in completions]


def sometimes(prompts, completions, **columns):
    return [1.0 if i % 2 == 0 else None for i in range(len(completions))]


def checks_messages(prompts, completions, answer, **columns):
    for prompt, completion, number in zip(prompts, completions, answer, strict=True):
        assert prompt == [{"role": "user", "content": str(number)}]
        assert [m["role"] for m in completion] == ["assistant"]
    return [1.0] * len(completions)


def raises(prompts, completions, **columns):
    raise ValueError("no")


def hangs(prompts, completions, **columns):
    time.sleep(1000)


def too_few(prompts, completions, **columns):
    return [1.0]


def all_none(prompts, completions, **columns):
    return [None for _ in completions]


def all_nan(prompts, completions, **columns):
    return [float("nan") for _ in completions]


def raises_on_x(prompts, completions, **columns):
    if "x" in completions:
        raise ValueError("no x")
    return [1.0] * len(completions)

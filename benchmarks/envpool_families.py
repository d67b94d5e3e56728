"""Measure environments of EnvPool, one of each family: time to make, steps per second, what is repeated exactly.

    python benchmarks/envpool_families.py                                  # all, in about ten minutes
    python benchmarks/envpool_families.py envs=[CartPole-v1,Pong-v5] rounds=3 seconds=2
    python benchmarks/envpool_families.py write=true                       # into docs/guides/envpool.md

Steps are those of 16 simulations side by side with random actions, and ended ones are restarted. Where Gymnasium has
the environment too, the general backend takes turns with EnvPool, so that a machine with varying speed slows both
alike. Times are processor times of this process and its children; numbers are medians over rounds. `exact` is what
making every simulation anew adds to an episode of the full length. An episode repeats if it is equal to the last bit in
another place, beside other seeds. Needs the extra `envpool`, and `box2d` of Gymnasium for its tasks.
"""

import platform
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import gymnasium
import numpy as np

from es_rl import envs
from es_rl.cli import run
from es_rl.config import parse
from es_rl.envs.pools.tasks import Task, library
from es_rl.envs.spaces import row_of
from es_rl.errors import EsRlError
from es_rl.keys import key
from es_rl.workers.machine import family_seconds, use_one_thread

PAGE = Path(__file__).parents[1] / "docs/guides/envpool.md"
BESIDE = 16  # simulations
LOOK_EVERY = 10  # steps of all simulations between two looks at the clock
BEGIN, END = "<!-- families: made by benchmarks/envpool_families.py -->", "<!-- /families -->"
LONGEST = 1000  # steps of an episode of the full length at most
NAMES = {
    "envpool.atari": "Atari", "envpool.box2d": "Box2D", "envpool.classic_control": "classic control",
    "envpool.gfootball": "football", "envpool.highway": "highway", "envpool.jumanji": "Jumanji",
    "envpool.minigrid": "MiniGrid, BabyAI", "envpool.mujoco.dmc": "dm_control",
    "envpool.mujoco.gym": "MuJoCo of Gymnasium", "envpool.mujoco.metaworld": "Meta-World",
    "envpool.mujoco.myosuite": "MyoSuite", "envpool.mujoco.playground": "MuJoCo Playground",
    "envpool.mujoco.robotics": "Gymnasium-Robotics", "envpool.pgx": "pgx", "envpool.procgen": "Procgen",
    "envpool.toy_text": "toy text", "envpool.vizdoom": "ViZDoom",
}  # fmt: skip
ENVS = [
    "CartPole-v1", "LunarLander-v3", "CarRacing-v3", "FrozenLake-v1", "MiniGrid-DoorKey-8x8-v0", "Snake-v1",
    "Play2048-v1", "Highway-v0", "HalfCheetah-v4", "HumanoidWalk-v1", "Go1JoystickRoughTerrain-v1", "FetchReach-v1",
    "MetaWorld/Assembly-v3", "myoElbowPose1D6MRandom-v0", "Pong-v5", "CoinrunHard-v0", "TakeCover-v1",
    "gfootball/academy_empty_goal_close-v1",
]  # fmt: skip


@dataclass(frozen=True)
class Keys:
    envs: list[str] = key(ENVS, "ids of EnvPool")
    seconds: float = key(2.0, "processor seconds of each way in each round", above=0)
    rounds: int = key(3, "number of rounds", low=1)
    steps: int = key(60, "steps of the episodes that are compared", low=1)
    write: bool = key(False, "write the table into docs/guides/envpool.md")


class Player:
    """Simulations of one backend that are stepped with random actions."""

    def __init__(self, env: str, backend: str, action_space: gymnasium.Space) -> None:
        self._vector = envs.make_vector(env, BESIDE, backend, {}, exact=False)
        self._ids, self._number = np.arange(BESIDE), BESIDE
        action_space.seed(0)
        drawn = [[row_of(action_space, action_space.sample()) for _ in self._ids] for _ in range(50)]
        self._actions = np.array(drawn)
        self._vector.reset(self._ids, list(range(BESIDE)))

    def speed(self, seconds: float) -> float:
        """Return the steps in a second of processor time."""
        steps, begun, spent = 0, family_seconds(), 0.0
        while spent < seconds:
            for _ in range(LOOK_EVERY):
                actions = self._actions[steps // BESIDE % len(self._actions)]
                _, _, terminated, truncated = self._vector.step(self._ids, actions)
                if len(over := np.flatnonzero(terminated | truncated)):
                    self._vector.reset(over, [self._number + i for i in range(len(over))])
                    self._number += len(over)
                steps += BESIDE
            spent = family_seconds() - begun
        return steps / spent


def repeats(env: str, action_space: gymnasium.Space, steps: int) -> bool:
    """Tell whether the episodes of two seeds are the same alone and beside others, in other places."""
    action_space.seed(1)
    actions = [row_of(action_space, action_space.sample()) for _ in range(steps)]

    def played(places: list[int], seeds: list[int]) -> list[list[bytes]]:
        vector = envs.make_vector(env, 6, "envpool", {})
        found = [[row.tobytes()] for row in vector.reset(places, seeds)]
        left = list(range(len(places)))
        for action in actions:
            if not left:
                break
            arrays = vector.step([places[k] for k in left], np.array([action] * len(left)))
            for i, k in enumerate(left):
                found[k].append(b"".join(array[i].tobytes() for array in arrays))
            left = [k for i, k in enumerate(left) if not (arrays[2][i] or arrays[3][i])]
        vector.close()
        return found

    beside = played([5, 1, 2, 0], [3, 11, 8, 12])
    return [beside[1], beside[3]] == [played([4], [11])[0], played([2], [12])[0]]


def making(env: str) -> float:
    """Return the processor seconds that one simulation takes to be made and reset, when its files were read before."""
    task, times = Task(env, {}), []
    for first in (0, 4):
        begun = family_seconds()
        task.pool(range(first, first + 4)).reset()
        times.append((family_seconds() - begun) / 4)
    return min(times)


def row(env: str, keys: Keys) -> list[str]:
    """Return the cells of an environment's row after its name. Raises `EsRlError` if it cannot be made."""
    task = Task(env, {})
    players = {"envpool": Player(env, "envpool", task.action_space)}
    if env in gymnasium.registry:
        try:
            space = envs.probe(env, {}, 0, "gymnasium").action_space
            players["gymnasium"] = Player(env, "gymnasium", space)
        except EsRlError as error:
            print(f"{env}: not in Gymnasium here: {error}", file=sys.stderr)
    found = [{name: player.speed(keys.seconds) for name, player in players.items()} for _ in range(keys.rounds)]
    speed, each = median(one["envpool"] for one in found), making(env)
    general, ratio = "", ""
    if "gymnasium" in players:
        general = f"{median(one['gymnasium'] for one in found):,.0f}"
        ratio = f"{median(one['envpool'] / one['gymnasium'] for one in found):.2f}"
    length = min(task.limit or LONGEST, LONGEST)
    share = each / (length / speed)
    exactly = "yes" if repeats(env, task.action_space, keys.steps) else "**no**"
    return [f"{1000 * each:.1f}", f"{speed:,.0f}", general, ratio, f"+{100 * share:.1f} %", exactly]


def main(argv: list[str]) -> int:
    keys = parse(Keys, argv)
    use_one_thread()
    package = library()
    specs = package.registration.registry.specs
    count = Counter(NAMES.get(module, module) for module, *_ in specs.values())
    lines = [
        "| family | ids | id | ms to make one | steps/s | general backend | ratio | exact | repeats |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for env in keys.envs:
        try:
            family = NAMES.get(specs[env][0], specs[env][0]) if env in specs else ""
            cells = row(env, keys)
        except EsRlError as error:
            print(f"{env}: left out: {error}", file=sys.stderr)
            continue
        lines.append(f"| {family} | {count[family]} | `{env}` | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    versions = f"EnvPool {package.__version__}, gymnasium {gymnasium.__version__}"
    given = " ".join(argv)
    command = f"`python benchmarks/envpool_families.py {given}`".replace(" `", "`")
    lines = [f"{command}, {time.strftime('%Y-%m-%d')}, one thread of {platform.machine()}, {versions}", "", *lines]
    if keys.write:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{chr(10).join(lines)}\n{END}{rest.split(END)[1]}")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

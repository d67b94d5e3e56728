"""Measure how long a film takes, for each quality, and with Gymnasium's own pictures.

    python benchmarks/films.py                                  # 12 seconds of Humanoid-v4
    python benchmarks/films.py env=HalfCheetah-v4 seconds=4 rounds=3

Prints a Markdown table: medians over rounds of the wall-clock and processor seconds of a whole film, drawn and encoded.
The ways alternate, so that a machine with varying speed slows all alike. The last column is the ratio to Gymnasium's
pictures in the same round. Actions are random: what moves makes no difference to the time.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import gymnasium

from es_rl.cli import run
from es_rl.config import parse
from es_rl.envs.renderer import QUALITIES, choose_renderer
from es_rl.keys import key
from es_rl.rl.films import film
from es_rl.rl.films.files import write_mp4
from es_rl.workers.machine import family_seconds

GYMNASIUM = "Gymnasium's"


@dataclass(frozen=True)
class Keys:
    env: str = key("Humanoid-v4", "id of a MuJoCo task")
    seconds: float = key(12.0, "length of the film", above=0)
    rounds: int = key(3, "measurements of each way", low=1)


def take(keys):
    space = gymnasium.make(keys.env).action_space
    space.seed(0)
    return film.Take(
        act=lambda obs: 0.3 * space.sample(), reset=lambda: None, env=keys.env, env_kwargs={}, seconds=keys.seconds,
        seed=0, quality="fast", caption="trained 5 min",
    )  # fmt: skip


def measure(one, path, *, theirs):
    """Return the wall-clock and processor seconds of a film, and how many frames it has."""
    wall, processor = time.perf_counter(), family_seconds()
    with mock.patch.object(film, "_draws_itself", lambda env: theirs), film.filming(one) as made:
        count = write_mp4(path, made.frames, made.fps, one.seconds)
    return time.perf_counter() - wall, family_seconds() - processor, count


def main(argv):
    keys = parse(Keys, argv)
    choose_renderer()
    one, found = take(keys), {name: [] for name in (GYMNASIUM, *QUALITIES)}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(keys.rounds):
            for name, rows in found.items():
                chosen = replace(one, quality=name) if name in QUALITIES else one
                rows.append(measure(chosen, Path(folder) / "film.mp4", theirs=name == GYMNASIUM))
    print(f"A film of {keys.seconds:g} s of {keys.env}\n")
    print("| pictures | frames | wall-clock s | processor s | of Gymnasium's time |\n|---|---|---|---|---|")
    for name, rows in found.items():
        wall, processor = (statistics.median(row[i] for row in rows) for i in (0, 1))
        ratio = statistics.median(row[1] / base[1] for row, base in zip(rows, found[GYMNASIUM], strict=True))
        print(f"| {name} | {rows[0][2]} | {wall:.1f} | {processor:.1f} | {ratio:.2f} |")
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

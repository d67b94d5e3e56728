"""Measure the cost of the convolutional policy's members, as a share of plain inference, and the memory of a member.

    python benchmarks/pixels.py                            # the cases below
    python benchmarks/pixels.py 4x84x84 1x60x80            # images: channels x height x width
    python benchmarks/pixels.py 4x84x84 "cnn.channels=[8,16]" cnn.width=64

64 members see 1 and 4 images each. The same images go through several ways in turn: the plain policy, all at once; the
members with low-rank noise of rank 1 and of rank 4; dense members; and a loop over members, each with its own dense
weights. Noise is drawn beforehand. Numbers are the least processor time over repetitions, in milliseconds, on one
thread. The ways alternate, so that a machine with varying speed slows all of them alike.
"""

import contextlib
import copy
import sys
import time
from functools import cache, partial

import numpy as np
import torch
from gymnasium import spaces
from torch.func import functional_call

from es_rl import policies
from es_rl.cli import run
from es_rl.config import pairs
from es_rl.envs.spaces import shape_of
from es_rl.noise import Perturbation, member_weights
from es_rl.population import perturb
from es_rl.population.members import LowRank, members_of
from es_rl.rl.config import parse_train
from es_rl.workers.machine import use_one_thread

NATURE = ["cnn.channels=[32,64,64]", "cnn.kernels=[8,4,3]", "cnn.strides=[4,2,1]", "cnn.width=512"]
CASES = [("4x84x84", []), ("1x60x80", []), ("3x64x64", []), ("4x84x84", NATURE)]
MEMBERS, FRAMES = 64, (1, 4)
ROUNDS = 7
ACTIONS = 4


def least(calls):
    """Return the least processor seconds of each call. Each round runs every call once."""
    times = {name: [] for name in calls}
    for number in range(ROUNDS + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if number:  # the first one is a warm-up
                times[name].append(time.process_time() - start)
    return {name: min(found) for name, found in times.items()}


def memory(policy, p):
    """Return the bytes of a member's noise, or of its weights if it is dense, and of theta."""
    own = members_of(policy, [0, 1], p)
    parts = [part for m in own.values() for part in ((m.a, m.b) if isinstance(m, LowRank) else (m,))]
    return sum(part.nbytes for part in parts) // 2


def measure(image, keys):
    """Print the rows of a table."""
    sides = tuple(map(int, image.split("x")))
    space = spaces.Box(0, 255, sides, np.uint8)
    policy = policies.make(parse_train(["env=A-v0", "policy=cnn", *keys]), shape_of(space), spaces.Discrete(ACTIONS))
    count = sum(value.numel() for value in policy.parameters())
    kinds = {f"low rank {rank}": Perturbation("lowrank", rank=rank) for rank in (1, ACTIONS)}
    kinds["dense"] = Perturbation("dense")
    told = ", ".join(f"{name} {memory(policy, p) / 1e3:,.0f}" for name, p in kinds.items())
    print(f"\n{image}, {count:,} parameters; kB a member: {told}\n")
    print("| images a member | plain | " + " | ".join(kinds) + " | loop |\n|---|" + "---|" * (len(kinds) + 2))
    for k in FRAMES:
        x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (MEMBERS * k, *sides), np.uint8))
        with torch.inference_mode(), contextlib.ExitStack() as stack:
            calls = {"plain": partial(policy, x), "loop": partial(in_turn, policy, kinds["dense"], x.split(k))}
            for name, p in kinds.items():
                perturbed = copy.deepcopy(policy)
                stack.enter_context(perturb(perturbed, range(MEMBERS), p))
                calls[name] = partial(perturbed, x)
            found = least(calls)
        cells = [f"{1e3 * found['plain']:.1f}"]
        cells += [
            f"{1e3 * found[name]:.1f} ({found['plain'] / max(found[name], 1e-9):.2f})" for name in [*kinds, "loop"]
        ]
        print(f"| {k} | {' | '.join(cells)} |", flush=True)


@cache
def weights_of(policy, p):
    return [member_weights(policy, i, p) for i in range(MEMBERS)]


def in_turn(policy, p, parts):
    """Compute members one after another, each with its explicit weights."""
    for weights, x in zip(weights_of(policy, p), parts, strict=True):
        functional_call(policy, weights, (x,))


def main(argv):
    images = [word for word in argv if "=" not in word]
    keys = [f"{name}={value}" for name, value in pairs([word for word in argv if "=" in word]).items()]
    use_one_thread()
    for image, more in [(image, keys) for image in images] or CASES:
        measure(image, more)
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

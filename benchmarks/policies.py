"""Compare what a step of a rollout costs with different policies: the same simulations, members side by side.

    python benchmarks/policies.py                              # an MLP, a GRU and an LSTM of width 64 in HalfCheetah-v4
    python benchmarks/policies.py env=Hopper-v4 es.noise=lowrank rounds=20 steps=100
    python benchmarks/policies.py -- "policy=mlp mlp.hidden=[32]" "policy=gru gru.width=32"

Keys before `--` are those of all policies; each text after it is one policy's own. Every round plays the first `steps`
steps of 64 members with each policy in turn, in one process, so that a machine with varying speed slows all of them
alike. Prints medians over the rounds: the processor time of a step of one simulation, and of the policy in it, which is
measured with the same observations over and over; and the ratios of both to those of the first policy.
"""

import statistics
import sys
import time

import numpy as np

from es_rl import envs, es
from es_rl.cli import run
from es_rl.config import pairs
from es_rl.envs.spaces import size
from es_rl.es.strategy import Generation
from es_rl.rl.actors import member_actors
from es_rl.rl.chunks import ChunkRunner, make_policy
from es_rl.rl.config import parse_train
from es_rl.rl.rollout.chunk import Chunk
from es_rl.workers.machine import use_one_thread

POLICIES = ["policy=mlp mlp.hidden=[64,64]", "policy=mlp mlp.hidden=[64]", "policy=gru gru.width=64", "policy=lstm"]
MEMBERS = 64


class Contender:
    """A policy in a rollout of its own, and its actor alone."""

    def __init__(self, keys, steps):
        settings = {"env": "HalfCheetah-v4", "es.segment": 0, "es.population": MEMBERS, "chunk": MEMBERS}
        config = parse_train([f"{name}={value}" for name, value in {**settings, **keys}.items()])
        spec = envs.probe(config.env, config.env_kwargs, 0, config.backend)
        p, policy = es.perturbation(es.ESParams.of(config), 0), make_policy(config, spec)
        self._actors = lambda: member_actors(policy, range(MEMBERS), p)
        self._play, self._members = ChunkRunner(config, spec), Chunk("members", 0, MEMBERS)
        model = {name: value.numpy() for name, value in policy.state_dict().items()}
        self._generation, self._steps = Generation(0, model, p, steps), steps
        self._obs = np.random.default_rng(0).normal(size=(MEMBERS, size(spec.observation_space)))

    def __call__(self):
        """Return the processor seconds of a step of one simulation, and of the policy in it."""
        start = time.process_time()
        done = self._play(self._generation, self._members, lambda steps: None)
        rollout, running = time.process_time() - start, np.arange(MEMBERS)
        with self._actors() as begin:
            actor = begin()
            start = time.process_time()
            for _ in range(self._steps):
                actor(running, self._obs)
            return rollout / done.steps, (time.process_time() - start) / (self._steps * MEMBERS)


def main(argv):
    split = argv.index("--") if "--" in argv else len(argv)
    given, texts = pairs(argv[:split]), argv[split + 1 :] or POLICIES
    rounds, steps = int(given.pop("rounds", 15)), int(given.pop("steps", 200))
    use_one_thread()
    contenders = {text: Contender(given | pairs(text.split()), steps) for text in texts}
    for play in contenders.values():
        play()  # a warm-up, which makes the environments
    measured = [{text: play() for text, play in contenders.items()} for _ in range(rounds)]
    print("| policy | µs a step | ratio | µs of the policy | ratio |\n|---|---|---|---|---|")
    for text in texts:
        cells = []
        for part in (0, 1):
            ratio = statistics.median(each[text][part] / each[texts[0]][part] for each in measured)
            cells += [f"{1e6 * statistics.median(each[text][part] for each in measured):.2f}", f"{ratio:.2f}"]
        print(f"| `{text}` | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

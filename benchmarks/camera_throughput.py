"""Compare the processor time of a training step with that of the bare environments, for simulators in processes.

    python benchmarks/camera_throughput.py env=vizdoom.gymnasium_wrapper:VizdoomTakeCover-v1 policy=linear \\
        frame_skip=4 pixels.gray=true pixels.size=[120,160]               # any key of training, and rounds=N

Each round trains one generation of a chunk in this process, update included, and plays the same episodes in plain
Gymnasium environments, with the same wrappers and the recorded actions, resets included. Both are measured in turn.
ViZDoom's engines are processes of their own: the time of all children counts.
"""

import sys

import psutil
from recorded_actions import Recorded

from es_rl import envs, es
from es_rl.cli import run
from es_rl.config import pairs
from es_rl.envs.gymnasium_backend import make_one
from es_rl.envs.spaces import action_maker, shape_of
from es_rl.es.strategy import Generation
from es_rl.rl.actors import member_actors
from es_rl.rl.chunks import ChunkRunner, make_policy
from es_rl.rl.config import parse_train
from es_rl.rl.episodes import play
from es_rl.rl.rollout.chunk import Chunk, episode_seeds
from es_rl.workers.machine import use_one_thread

MEMBERS, ROUNDS = 16, 3


def processor_time():
    """Return the seconds of this process, and those of its children."""
    me = psutil.Process()
    of_children = (child.cpu_times() for child in me.children(recursive=True))
    mine = me.cpu_times()
    return mine.user + mine.system + sum(times.user + times.system for times in of_children)


def ways(config):
    """Return a function that trains and one that plays the bare environments, and one that closes all of them.

    The first two return the number of steps.
    """
    spec, params = envs.probe(config.env, config.env_kwargs, 0, config.backend, config.view), es.ESParams.of(config)
    state = es.init(make_policy(config, spec))
    rollout, chunk = ChunkRunner(config, spec), Chunk("members", 0, config.es.population)
    generation = Generation(0, es.arrays(state), es.perturbation(params, 0), config.es.limit)
    vector, policy = rollout.prepare(generation)
    seeds = episode_seeds(config, 0, chunk)
    with member_actors(policy, chunk.items, generation.perturbation, config.es.episodes) as actor:
        acting = Recorded(actor())
        play(vector, acting, seeds, shape=shape_of(spec.observation_space), limit=config.es.limit)
    bare = [make_one(config.env, config.env_kwargs, view=config.view) for _ in seeds]
    act = action_maker(spec.action_space)

    def train():
        done = rollout(generation, chunk, lambda steps: None)
        es.tell(params, state, done.fitness, state.buffers)
        return done.steps

    def alone():
        for env, seed in zip(bare, seeds, strict=True):
            env.reset(seed=seed)
        for ids, actions in acting.steps:
            for i, action in zip(ids, actions, strict=True):
                bare[i].step(act(action))
        return sum(len(ids) for ids, _ in acting.steps)

    def close():
        for env in (vector, *bare):
            env.close()

    return {"training": train, "bare": alone}, close


def main(argv):
    keys = pairs(argv)
    rounds = int(keys.pop("rounds", ROUNDS))
    defaults = {"es.population": str(MEMBERS), "chunk": str(MEMBERS)}
    config = parse_train([f"{name}={value}" for name, value in (defaults | keys).items()])
    use_one_thread()
    (called, close), totals = ways(config), {"training": [0, 0.0], "bare": [0, 0.0]}
    for number in range(rounds + 1):
        for name, call in called.items():
            start = processor_time()
            steps = call()
            if number:  # the first one is a warm-up
                totals[name][0] += steps
                totals[name][1] += processor_time() - start
    close()
    rates = {name: steps / max(seconds, 1e-9) for name, (steps, seconds) in totals.items()}
    told = ", ".join(f"{name} {rate:,.0f} steps per second of processor time" for name, rate in rates.items())
    print(f"{config.env}, {config.policy}: {told}; ratio {rates['training'] / rates['bare']:.3f}")
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

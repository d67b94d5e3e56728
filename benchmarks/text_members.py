"""Measure how many members of a GPT are scored per second, together and in a loop over single members.

    python benchmarks/text_members.py corpus=my.txt                      # any key of es_rl.text, and rounds=N

The loop perturbs, scores and restores the same network for one member after another. Both ways see the same sequences.
They alternate, so that a machine with varying speed slows both alike; the ratio is what counts. The loop uses all
processors for its matrix products. The population has a worker on each processor.

The last line is the peak memory of a worker, for this population and for one that is eight times as large. Both score
the same number of members in total. The numbers are medians over several workers.
"""

import resource
import sys
import time

import numpy as np
import torch

from es_rl import es
from es_rl.cli import run
from es_rl.config import pairs
from es_rl.es.strategy import ESParams
from es_rl.noise import member_weights
from es_rl.text.config import parse_text
from es_rl.text.corpus import read, sequences
from es_rl.text.gpt import bits
from es_rl.text.task import TextTask, training_starts
from es_rl.text.training import make_model
from es_rl.workers.machine import available_processors, use_one_thread
from es_rl.workers.pool import Workers

ROUNDS = 3
SERIAL = 32  # members that the loop scores in a round
WORKERS = 5  # workers whose peak memory is measured, for each population


def resolved(given):
    return parse_text([f"{name}={value}" for name, value in given.items()])


def serial(config, corpus, model, p, generation):
    """Return the seconds that the loop needs for `SERIAL` members."""
    starts = training_starts(config, corpus, generation)
    x, y = (torch.from_numpy(part) for part in sequences(corpus.train, starts, config.ctx))
    theta = {name: value.clone() for name, value in model.named_parameters()}
    own = dict(model.named_parameters())
    torch.set_num_threads(available_processors())
    start = time.perf_counter()
    with torch.inference_mode():
        for member in range(SERIAL):
            for name, value in member_weights(model, member, p).items():
                own[name].copy_(value)
            bits(model(x), y).mean().item()
            for name, value in theta.items():
                own[name].copy_(value)
    seconds = time.perf_counter() - start
    use_one_thread()
    return seconds


def peak(shared, job, beat):
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_of(given, corpus, model, times, generations):
    """Return the peak memory in MB of a new worker after some generations of a population `times` as large."""
    config = resolved({**given, "es.population": times * int(given.get("es.population", 256)), "chunk": "null"})
    with Workers(1) as workers:
        task, state = TextTask(config, corpus, workers), es.init(model)
        for _ in range(generations):
            task.members(state)
        return workers.map(peak, None, [0])[0]


def main(argv):
    given = pairs(argv)
    rounds = int(given.pop("rounds", ROUNDS))
    config = resolved(given)
    corpus, model = read(config.corpus, config.ctx), make_model(config, config.model)
    use_one_thread()
    totals, state, params = np.zeros((2, 2)), es.init(model), ESParams.of(config)
    with Workers(available_processors()) as workers:
        task = TextTask(config, corpus, workers)
        task.members(state)  # a warm-up: processes start, and the module is checked
        for number in range(rounds):
            start = time.perf_counter()
            task.members(state)
            totals[0] += config.es.population, time.perf_counter() - start
            totals[1] += SERIAL, serial(config, corpus, model, es.perturbation(params, 0), 0)
            speeds = totals[:, 0] / totals[:, 1]
            print(f"round {number + 1}: population {speeds[0]:,.1f}, one by one {speeds[1]:,.1f} members/s", flush=True)
    print(f"population {speeds[0]:,.1f} members/s, one by one {speeds[1]:,.1f}: {speeds[0] / speeds[1]:.2f} times")
    peaks = [[peak_of(given, corpus, model, times, 8 // times) for times in (1, 8)] for _ in range(WORKERS)]
    small, large = np.median(peaks, axis=0)
    least, most = np.min(peaks), np.max(peaks)
    print(
        f"peak memory of a worker {small:.0f} MB, with 8 times the population {large:.0f} MB: {large / small:.3f} "
        f"(medians of {WORKERS} workers; range of all {least:.0f} to {most:.0f} MB)"
    )
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

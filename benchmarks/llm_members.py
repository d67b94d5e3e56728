"""Measure members of a language model: tokens per second together and in turn, memory, and exact restoration.

    python benchmarks/llm_members.py model=DIRECTORY                       # all other keys and their defaults: KEYS
    python benchmarks/llm_members.py model=DIRECTORY device=cuda dtype=bfloat16 members=64 prompts=2 tokens=32

First, speed. Three ways alternate in one process: the plain model's `generate` for members × prompts rows; low-rank
members together for the same rows; and members in turn, each written over the model. Every completion has all
`tokens` tokens. Then the peak memory of members in turn, as a multiple of the model's size; each measurement has its
own process. Last, whether a bfloat16 model is the same as before after members were written over it.
"""

import multiprocessing
import statistics
import sys
import time
from pathlib import Path

import torch

from es_rl.cli import run
from es_rl.config import pairs
from es_rl.llm import prompts as dataset
from es_rl.llm.in_place import Direction, ascend, write
from es_rl.llm.model import Language, open_model
from es_rl.noise import Perturbation
from es_rl.population.forward import perturb
from es_rl.workers.machine import choose_device, use_one_thread

ROUNDS = 3  # of the speed test
CYCLES = 20  # members that the restoration test writes over the model
KEYS = {
    "device": "cpu", "dtype": "float32", "members": "16", "prompts": "2", "tokens": "32", "rounds": str(ROUNDS),
    "data": "examples/data/conciseness-train.jsonl", "cycles": str(CYCLES),
}  # fmt: skip


def speeds(language, theta, asked, members, tokens, rounds):
    """Return the median tokens per second of each way."""
    low, dense = Perturbation(kind="lowrank", sigma=0.001), Perturbation(kind="dense", sigma=0.001)
    language._ends = [-1]  # no token ends a completion early

    def speak(prompts, copies):
        language.complete(prompts, copies=copies, most=tokens, beat=lambda rows: None)

    def together():
        with perturb(language.model, range(members), low):
            speak(asked, members)

    def in_turn():
        for member in range(members):
            write(language.model, theta.__getitem__, dense, Direction(member // 2, 0.001 * (-1) ** member))
            speak(asked, 1)
        write(language.model, theta.__getitem__, dense)

    ways = {"plain": lambda: speak(asked, members), "together": together, "in turn": in_turn}
    speak(asked, members)
    seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    count = members * len(asked) * tokens
    return {name: count / statistics.median(times) for name, times in seconds.items()}


def peak(keys, members, pipe):
    """Evaluate members in turn in this process, and send sizes in bytes through `pipe`.

    These are: the model's size; the host memory before the first member; the peak host memory; the peak GPU memory.
    Host memory is what this process has beyond one that has opened a model and released it.
    """
    use_one_thread()
    device = choose_device(keys["device"])
    open_model(Path(keys["model"]), keys["dtype"])  # this loads the libraries, which do not count
    before = resident("VmRSS")
    model, tokenizer = open_model(Path(keys["model"]), keys["dtype"])
    size = sum(value.numel() * value.element_size() for value in model.parameters())
    theta = {name: value.detach().float().clone() for name, value in model.named_parameters()}
    language = Language(model, tokenizer, device)
    asked = [row["prompt"] for row in dataset.lines(keys["data"], "data")[: int(keys["prompts"])]]
    start = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # reset VmHWM
    p = Perturbation(kind="dense", sigma=0.001)
    for member in range(members):
        write(language.model, theta.__getitem__, p, Direction(member // 2, 0.001))
        language.complete(asked, copies=1, most=int(keys["tokens"]), beat=lambda rows: None)
    ascend(theta, [Direction(i, 1e-6) for i in range(members // 2)], p, lr=1e-6)
    pipe.send(
        (
            size,
            start - before,
            resident("VmHWM") - before,
            torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
        )
    )


def resident(field):
    """Return the memory of this process in bytes: now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def measured(keys, members):
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=peak, args=(keys, members, theirs))
    process.start()
    theirs.close()  # so that `recv` fails if the process ends early
    found = ours.recv()
    process.join()
    return found


def restored(keys, cycles):
    """Return how many bfloat16 weights have changed after `cycles` members were written over the model and undone."""
    model, _ = open_model(Path(keys["model"]), "bfloat16")
    theta = {name: value.detach().float().clone() for name, value in model.named_parameters()}
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.to(choose_device(keys["device"]))
    p = Perturbation(kind="dense", sigma=0.001)
    for cycle in range(cycles):
        write(model, theta.__getitem__, p, Direction(cycle, 0.001))
        write(model, theta.__getitem__, p)
    return sum(int((value.cpu() != before[name]).sum()) for name, value in model.named_parameters())


def main(argv):
    keys = KEYS | pairs(argv)
    use_one_thread()
    members, tokens = int(keys["members"]), int(keys["tokens"])
    device = choose_device(keys["device"])
    model, tokenizer = open_model(Path(keys["model"]), keys["dtype"])
    language = Language(model, tokenizer, device)
    asked = [row["prompt"] for row in dataset.lines(keys["data"], "data")[: int(keys["prompts"])]]
    theta = {name: value.detach().cpu().float().clone() for name, value in model.named_parameters()}
    found = speeds(language, theta, asked, members, tokens, int(keys["rounds"]))
    print(f"{members} members × {len(asked)} prompts × {tokens} tokens, {keys['dtype']} on {device}")
    for name, speed in found.items():
        print(f"{name:>10} {speed:>8,.0f} tokens/s, {speed / found['plain']:.2f} of plain", flush=True)
    print(f"together is {found['together'] / found['in turn']:.2f} times as fast as in turn")
    del model, language, theta
    for count in (4, 16):
        size, start, top, on_device = measured(keys, count)
        print(f"{count} members in turn: host peak {top / size:.2f} models ({start / size:.2f} before the first)"
              f", device peak {on_device / size:.2f}", flush=True)  # fmt: skip
    cycles = int(keys["cycles"])
    print(f"weights in bfloat16 that changed after {cycles} members: {restored(keys, cycles)}")
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

"""Measure the population's forward pass: its speed as a share of plain inference, and the memory of a member's noise.

    python benchmarks/population_forward.py                       # the cases below
    python benchmarks/population_forward.py 1024x1024 256x256x2   # width x members, then optionally x rank x tokens
    python benchmarks/population_forward.py threads=2             # threads of torch; default: one
    python benchmarks/population_forward.py device=cuda           # on a GPU

The model is one linear layer of the given width, with one row of tokens for each member. The same batch goes through
four ways in turn: the plain module; the population's forward pass with low-rank noise; dense weights of each member
(`torch.baddbmm`); and torch's own way, `torch.func.vmap` over a stack of weights. Noise is drawn beforehand. The
numbers are medians over repetitions. The ways alternate, so that a machine with varying speed slows all of them alike.
"""

import statistics
import sys
import time

import torch
from torch import nn
from torch.func import functional_call, vmap

from es_rl.noise import Perturbation, member_weights
from es_rl.population.forward import perturb
from es_rl.workers.machine import choose_device, use_one_thread

CASES = ["64x64", "256x256", "1024x1024", "256x1024", "256x256x4", "768x64x1x16"]  # the last one: 16 tokens per member
SECONDS = 4.0  # of each case
DENSE_BYTES = 2**31  # from this size on, leave out the ways that need dense copies of the weights


def interleaved(calls, wait):
    """Return the median seconds of each call. Each round runs every call once."""
    times = {name: [] for name in calls}
    for call in calls.values():
        call()
    wait()
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times["plain"]) < 5:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            wait()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(width, members, rank, tokens, device):
    """Return the seconds of each way, and the bytes of a member's noise: low rank and dense."""
    torch.manual_seed(0)
    module = nn.Linear(width, width).requires_grad_(False).to(device)
    x = torch.randn(members, *([tokens] if tokens > 1 else []), width, device=device)
    p = Perturbation(kind="lowrank", rank=rank, sigma=0.05)
    calls = {"plain": lambda: module(x)}
    with torch.inference_mode(), perturb(nn.Sequential(module), range(members), p) as low:
        calls["lowrank"] = lambda: low(x)
        if members * width * width * 4 < DENSE_BYTES:
            stack = [member_weights(module, m, Perturbation(sigma=0.05)) for m in range(members)]
            stack = {name: torch.stack([weights[name] for weights in stack]) for name in stack[0]}
            rows = x.reshape(members, -1, width)
            calls["dense"] = lambda: torch.baddbmm(stack["bias"][:, None], rows, stack["weight"].transpose(1, 2))
            calls["vmap"] = lambda: vmap(lambda own, row: functional_call(module, own, (row,)))(stack, rows)
        seconds = interleaved(calls, torch.cuda.synchronize if device.type == "cuda" else lambda: None)
    return seconds, 4 * rank * 2 * width + 4 * width, 4 * (width * width + width)


def main(argv):
    use_one_thread()
    given = dict(argument.split("=", 1) for argument in argv if "=" in argument)
    device = choose_device(given.get("device", "cpu"))
    torch.set_num_threads(int(given.get("threads", 1)))
    print(
        "width members rank tokens | share of plain inference: low rank, dense, vmap | bytes a member: low rank, dense"
    )
    for case in [argument for argument in argv if "=" not in argument] or CASES:
        sizes = ([int(part) for part in case.split("x")] + [1, 1])[:4]
        width, members, rank, tokens = sizes
        seconds, low, dense = measure(*sizes, device)
        shares = [f"{seconds['plain'] / seconds[k]:.3f}" if k in seconds else "-" for k in ("lowrank", "dense", "vmap")]
        print(f"{width:5} {members:7} {rank:4} {tokens:6} | {' '.join(shares)} | {low:,} {dense:,}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

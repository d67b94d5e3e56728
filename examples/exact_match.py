"""A score that has no gradient: how many sums of two 4-bit numbers a network writes without a single wrong bit.

    python examples/exact_match.py           # half a minute; prints the share of sums that are right in every bit

The outputs are rounded to bits before they are compared, so the score is a step function of the parameters.
"""

import torch
from torch import nn

import es_rl
from es_rl.callbacks import EarlyStopping, Print

BITS = 4


def table():
    """All pairs of numbers as bits, and their sums as bits."""
    a, b = torch.meshgrid(torch.arange(2**BITS), torch.arange(2**BITS), indexing="ij")
    bits = lambda x, n: (x.reshape(-1, 1) >> torch.arange(n)) & 1  # noqa: E731
    return torch.cat([bits(a, BITS), bits(b, BITS)], dim=1).float(), bits(a + b, BITS + 1)


X, Y = table()  # (256, 8), (256, 5)


@es_rl.batched
def fitness(model, n):
    right = (model(X.repeat(n, 1)) > 0) == Y.repeat(n, 1).bool()  # (n·256, 5)
    exact, bits = right.all(dim=1), right.float().mean(dim=1)
    return (exact + 0.5 * bits).reshape(n, -1).mean(dim=1)


def exact_match(model):
    return ((model(X) > 0) == Y.bool()).all(dim=1).float().mean().item()


def main(generations=400, workers=2):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2 * BITS, 64), nn.Tanh(), nn.Linear(64, BITS + 1))
    trainer = es_rl.Trainer(
        model, fitness, noise="lowrank", population=256, sigma=0.1, lr=0.05, workers=workers,
        callbacks=[Print(), EarlyStopping(10**6, metric="fitness/mean", target=1.45)],
    )  # fmt: skip
    trainer.train(generations)
    print(f"sums without a wrong bit {exact_match(model):.3f}")
    return exact_match(model)


if __name__ == "__main__":
    main()

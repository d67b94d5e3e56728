"""Handwritten digits by EGGROLL: a classifier trained without a gradient. Needs scikit-learn, for its bundled images.

    python examples/digits.py                # about a minute; prints the accuracy on images that were not trained on

All members of a generation see the same minibatch: they draw the same random numbers.
"""

import sys

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy

import es_rl
from es_rl.callbacks import Print

BATCH = 256


def main(generations=300, workers=2):
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x / 16 - 0.5, dtype=torch.float32)  # (1797, 64)
    parts = train_test_split(x, torch.tensor(y), test_size=0.25, random_state=0, stratify=y)
    train_x, test_x, train_y, test_y = parts
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    @es_rl.batched
    def fitness(model, n):
        rows = torch.randint(len(train_x), (BATCH,))
        logits = model(train_x[rows].repeat(n, 1))  # (n·BATCH, 10)
        losses = cross_entropy(logits, train_y[rows].repeat(n), reduction="none")
        return -losses.reshape(n, BATCH).mean(dim=1)

    trainer = es_rl.Trainer(
        model,
        fitness,
        noise="lowrank",
        rank=1,
        population=256,
        sigma=0.05,
        lr=0.02,
        workers=workers,
        callbacks=[Print()],
    )
    trainer.train(generations)
    accuracy = (model(test_x).argmax(dim=1) == test_y).float().mean().item()
    print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))

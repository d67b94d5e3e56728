"""A score that has no gradient: the F1 of finding the eights among handwritten digits. Needs scikit-learn.

    python examples/f1_score.py              # half a minute; prints the F1 on images that were not trained on

Predictions are cut off to yes and no before they are counted, so the score is a step function of the parameters, and
it weighs a rare class as accuracy does not.
"""

import sys

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import es_rl
from es_rl.callbacks import Print


def f1(said, truth):
    """2·TP/(2·TP + FP + FN) over the last axis."""
    hits = (said & truth).sum(-1)
    return 2 * hits / (said.sum(-1) + truth.sum(-1)).clamp(min=1)


def main(generations=150, workers=2):
    x, y = load_digits(return_X_y=True)
    x, eight = torch.tensor(x / 16 - 0.5, dtype=torch.float32), torch.tensor(y == 8)
    train_x, test_x, train_y, test_y = train_test_split(x, eight, test_size=0.25, random_state=0, stratify=y)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1))

    @es_rl.batched
    def fitness(model, n):
        said = model(train_x.repeat(n, 1)) > 0  # (n·images, 1)
        return f1(said.reshape(n, -1), train_y)

    trainer = es_rl.Trainer(
        model, fitness, noise="lowrank", population=128, sigma=0.1, lr=0.05, workers=workers, callbacks=[Print()]
    )
    trainer.train(generations)
    score = f1(model(test_x)[:, 0] > 0, test_y).item()
    print(f"test F1 {score:.3f}")
    return score


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))

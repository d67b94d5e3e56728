"""CartPole with a policy of your own and the plain Python API, one member at a time.

python examples/cartpole.py              # a few seconds; prints the mean return of 100 fresh episodes
"""

import gymnasium
import numpy as np
import torch
from torch import nn

import es_rl
from es_rl.callbacks import EarlyStopping, Print

EPISODES = 3  # of each member


def episode(model, env, seed):
    """The return of one episode."""
    obs, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        action = model(torch.as_tensor(obs)).argmax().item()
        obs, reward, terminated, truncated, _ = env.step(action)
        total, over = total + reward, terminated or truncated
    return total


def fitness(model):
    # The generator is seeded alike for all members of a generation: they meet the same beginnings.
    env = gymnasium.make("CartPole-v1")
    return np.mean([episode(model, env, int(torch.randint(2**31, ()))) for _ in range(EPISODES)])


def main(workers=2):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    stop = EarlyStopping(1000, target=490)
    trainer = es_rl.Trainer(
        model, fitness, noise="dense", population=32, sigma=0.3, lr=0.1, workers=workers, callbacks=[stop, Print()]
    )
    trainer.train(60)
    env = gymnasium.make("CartPole-v1")
    returns = [episode(model, env, 10_000 + i) for i in range(100)]
    print(f"mean return of 100 episodes {np.mean(returns):.1f}")
    return np.mean(returns)


if __name__ == "__main__":
    main()

"""Policies from outside the package, for tests."""

import torch
from torch import nn


def small(observation_space, action_space, width=8):
    outputs = int(action_space.n) if hasattr(action_space, "n") else action_space.shape[0]
    return nn.Sequential(nn.Linear(observation_space.shape[0], width), nn.Tanh(), nn.Linear(width, outputs))


class Remembers(nn.Module):
    """Adds up what it sees. The sum is its memory."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.into, self.out = nn.Linear(inputs, 4), nn.Linear(4, outputs)

    def forward(self, obs, state):
        state = torch.zeros(len(obs), 4) if state is None else state
        state = torch.tanh(0.5 * state + self.into(obs))
        return self.out(state), state


def remembers(observation_space, action_space):
    return Remembers(observation_space.shape[0], int(action_space.n))


def wrong_shape(observation_space, action_space):
    return nn.Linear(observation_space.shape[0], 7)


def nothing(observation_space, action_space):
    return None


number = 3

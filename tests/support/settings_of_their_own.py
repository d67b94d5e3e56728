"""Environments of a module that changes global settings when it is imported; `env=settings_of_their_own:NAME-v0`."""

import gymnasium
import numpy as np
import torch
from zoo import DoubleByDefault, StrictNumPy

torch.set_default_dtype(torch.float64)
np.seterr(all="raise")
for kind in (DoubleByDefault, StrictNumPy):
    gymnasium.register(f"{kind.__name__}-v0", entry_point=kind, max_episode_steps=kind.limit)

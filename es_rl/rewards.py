"""Rewards of generated text: `reward(prompts, completions, **columns) → a number, or None, for each completion`.

The signature is that of TRL. None and NaN mean that a completion could not be judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl import modules
from es_rl.errors import EnvError

Reward = Callable[..., Sequence[float | None]]


def load(name: str) -> Reward:
    """The function of `module:function`, whose module is imported. Raises `EnvError`."""
    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise EnvError(f"reward={name}: must be module:function, such as my_rewards:politeness.")
    try:
        found: Any = modules.load(module)
    except Exception as error:
        text = " ".join(str(error).split())
        raise EnvError(f"reward={name}: {module} cannot be imported: {type(error).__name__}: {text}.") from error
    if not callable(getattr(found, function, None)):
        raise EnvError(f"reward={name}: {module} has no function {function}.")
    reward: Reward = getattr(found, function)
    return reward


def score(reward: Reward, prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> NDArray[np.float64]:
    """The rewards as numbers, (n,), NaN for None. Raises ValueError if there is not one for each completion."""
    given = reward(prompts=list(prompts), completions=list(completions), **columns)
    if given is None:
        raise ValueError("the reward returned nothing: it must return a number for each completion")
    values = np.array([np.nan if value is None else float(value) for value in given])
    if len(values) != len(completions):
        raise ValueError(f"the reward returned {len(values)} numbers for {len(completions)} completions")
    return values

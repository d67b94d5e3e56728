"""Actions of a policy for one observation or a batch, with the memory in the caller's hands."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from es_rl.envs.spaces import Packer, action_maker
from es_rl.errors import ConfigError
from es_rl.workers.machine import usual_types

Space = spaces.Space[Any]


def predict(
    policy: nn.Module, observation_space: Space, action_space: Space, obs: Any, state: Any, episode_start: Any
) -> tuple[Any, Any]:
    """Return (action, state) for one observation, or for a batch of n, as Gymnasium's vector environments take it.

    The state of a policy with a memory is a tuple of n memories, one for each observation, because their episodes do
    not begin together; otherwise it is None. A given state is not changed. Raises `ConfigError` for observations or
    states of another shape.
    """
    many = _is_batch(observation_space, obs)
    rows = list(iterate(batch_space(observation_space, _length(obs)), obs)) if many else [obs]
    pack = Packer(observation_space)
    try:
        flat = torch.from_numpy(np.stack([pack(row) for row in rows]))  # (n, O)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ConfigError(f"obs: {error}. It must be one observation of {observation_space}, or a batch.") from error
    memories = _memories(state, episode_start, len(rows))
    with torch.inference_mode(), usual_types():
        if memories is None:
            outputs, after = policy(flat, None)
            if after is not None:  # each row gets a memory of its own
                memories = [None] * len(rows)
        if memories is not None:
            each = [policy(row[None], _copied(memory)) for row, memory in zip(flat, memories, strict=True)]
            outputs, after = torch.cat([action for action, _ in each]), tuple(memory for _, memory in each)
    actions = list(map(action_maker(action_space), outputs.numpy()))
    if not many:
        return actions[0], after
    empty: Any = create_empty_array(action_space, len(actions))
    return concatenate(action_space, actions, empty), after


def _memories(state: Any, episode_start: Any, n: int) -> list[Any] | None:
    """Return the memory of each row, None for one whose episode begins. Return None if there is no memory at all."""
    if state is None:
        return None
    if not isinstance(state, tuple) or len(state) != n:
        raise ConfigError(f"state: must be what the last call returned, for {n} observations.")
    starts: NDArray[Any] = np.zeros(n, bool) if episode_start is None else np.asarray(episode_start, bool).reshape(-1)
    if len(starts) != n:
        raise ConfigError(f"episode_start: has {len(starts)} entries for {n} observations. Give one for each.")
    return [None if begins else memory for begins, memory in zip(starts, state, strict=True)]


def _copied(memory: Any) -> Any:
    """Return a copy: a policy may write into its memory."""
    return tree_map(lambda part: part.clone() if isinstance(part, Tensor) else part, memory)


def _is_batch(space: Space, obs: Any) -> bool:
    """Tell whether an observation has one more axis than those of its space. Its first part decides."""
    if isinstance(space, spaces.Dict) and isinstance(obs, dict) and obs:
        name = next(iter(space.keys()))
        return name in obs and _is_batch(space[name], obs[name])
    if isinstance(space, spaces.Tuple) and isinstance(obs, tuple) and obs:
        return _is_batch(space[0], obs[0])
    return np.ndim(obs) == len(space.shape or ()) + 1


def _length(obs: Any) -> int:
    while isinstance(obs, (dict, tuple)):
        obs = next(iter(obs.values())) if isinstance(obs, dict) else obs[0]
    return len(obs)

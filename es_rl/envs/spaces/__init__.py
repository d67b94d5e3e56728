"""Gymnasium's spaces: observations and actions as rows of numbers, which parts can be used, and spaces as JSON.

An observation becomes a row of float64 (`Flattener`), or of bytes if it has images (`Packer`). A policy gives an action
as a row of numbers (`row_type`), and as such it travels in arrays. Where the environment is stepped, `action_maker`
makes the object of the space from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from es_rl.envs.spaces.actions import action_maker as action_maker
from es_rl.envs.spaces.actions import row_of as row_of
from es_rl.envs.spaces.actions import row_type as row_type
from es_rl.envs.spaces.actions import to_action as to_action
from es_rl.envs.spaces.as_json import from_json as from_json
from es_rl.envs.spaces.as_json import to_json as to_json
from es_rl.envs.spaces.observations import Flattener as Flattener
from es_rl.envs.spaces.observations import flatten as flatten
from es_rl.envs.spaces.observations import size as size
from es_rl.envs.spaces.parts import Space as Space
from es_rl.envs.spaces.parts import leaves as leaves
from es_rl.envs.spaces.parts import one_line as one_line
from es_rl.envs.spaces.parts import refusal as refusal
from es_rl.envs.spaces.parts import same as same
from es_rl.envs.spaces.parts import usable as usable
from es_rl.envs.spaces.rows import Packer as Packer
from es_rl.envs.spaces.rows import shape_of as shape_of

# Arguments and results of a `VectorEnv`.
Ids = Sequence[int] | NDArray[np.int64]
Seeds = Sequence[int | np.random.Generator]  # one per episode; a generator continues its sequence
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

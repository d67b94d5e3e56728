"""Settings that are known to work, by environment, whatever its version; keys on the command line win over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The ARS settings are those of Mania et al. 2018, table 9 (V2-t), with lr = 2·alpha·sigma, since their update divides
# by the number of directions and the standard deviation of fitness only.
PRESETS: dict[str, dict[str, Any]] = {
    "Humanoid": {
        "policy": "linear",
        "es.population": 460,
        "es.sigma": 0.02,
        "es.reward_shift": 5.0,
        "optim.name": "adam",
        "optim.lr": 0.01,
    },
    "HalfCheetah": {
        "policy": "linear",
        "es.population": 64,
        "es.top": 4,
        "es.sigma": 0.03,
        "es.shaping": "zscore",
        "optim.name": "sgd",
        "optim.momentum": 0.0,
        "optim.lr": 0.0012,
    },
    "Swimmer": {
        "policy": "linear",
        "es.population": 2,
        "es.sigma": 0.01,
        "es.shaping": "zscore",
        "optim.name": "sgd",
        "optim.momentum": 0.0,
        "optim.lr": 0.0004,
    },
}


def preset(env: str) -> Mapping[str, Any]:
    """The preset of an environment id such as `Humanoid-v4`, or nothing."""
    return PRESETS.get(env.rpartition(":")[2].rpartition("-v")[0], {})

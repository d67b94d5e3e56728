"""The reward, in a process of its own: it may hang, crash, or be wrong in any way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from es_rl import dataset, rewards
from es_rl.dataset import Row


class Critic:
    """Judges what was said to each prompt."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._terms: rewards.Terms | None = None

    def __call__(self, rows: list[Row], said: list[str], beat: Callable[[int], None]) -> NDArray[np.float64]:
        if self._terms is None:  # here and not in the process that trains: what is imported may do anything
            self._terms = rewards.parse(self._expression)
        if not said:
            return np.zeros(0)
        prompts = [row["prompt"] for row in rows]
        answers = [
            s if isinstance(p, str) else [{"role": "assistant", "content": s}]
            for p, s in zip(prompts, said, strict=True)
        ]
        return rewards.total(self._terms, prompts, answers, dataset.columns(rows))

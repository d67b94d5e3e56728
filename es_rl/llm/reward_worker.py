"""Run the reward in its own process, because it may hang, crash or fail in any way."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from es_rl import rewards
from es_rl.errors import EsRlError
from es_rl.llm import prompts as dataset
from es_rl.llm.prompts import Row
from es_rl.workers.pool import STARTUP_SECONDS


class RewardWorker:
    """Scores the completions of prompts."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._terms: rewards.WeightedRewards | None = None

    def __call__(self, rows: list[Row], said: list[str], beat: Callable[[int], None]) -> NDArray[np.float64]:
        if self._terms is None:  # here, not in the training process: imported code may do anything
            with _beating(beat):
                self._terms = rewards.parse(self._expression)
        if not said:
            return np.zeros(0)
        prompts = [row["prompt"] for row in rows]
        answers = [
            s if isinstance(p, str) else [{"role": "assistant", "content": s}]
            for p, s in zip(prompts, said, strict=True)
        ]
        try:
            return rewards.total(self._terms, prompts, answers, dataset.columns(rows))
        except EsRlError:
            raise
        except Exception:
            if len(rows) == 1:
                raise
            scores, errors = rewards.one_by_one(lambda i: float(self([rows[i]], [said[i]], beat)[0]), len(rows), beat)
            if len(errors) == len(rows):
                raise
            return scores


@contextlib.contextmanager
def _beating(beat: Callable[[int], None]) -> Iterator[None]:
    """Beat during an import, for up to `STARTUP_SECONDS`: it may take longer than judging without being a hang."""
    done = threading.Event()

    def beats() -> None:
        for _ in range(int(STARTUP_SECONDS)):
            if done.wait(1.0):
                return
            beat(0)

    thread = threading.Thread(target=beats, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

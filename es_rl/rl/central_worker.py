"""Simulate shards of a chunk in workers; their actions come from another process through shared memory, the board.

Observations, actions and two counters per job pass through memory without a name, so that nothing can be left behind:

    a worker            writes observations, then request[job] = its step
    the main process    waits until all shards of a chunk ask for the same step, computes all their actions at once,
                        writes them, then answer[job] = that step
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from es_rl.envs import EnvSpec, VectorEnv
from es_rl.envs.curriculum import set_difficulty
from es_rl.envs.spaces import Floats, Ints, shape_of
from es_rl.observations import ObservationShape
from es_rl.rl.chunks import make_env
from es_rl.rl.compaction import Compaction
from es_rl.rl.config import Config
from es_rl.rl.episodes import play
from es_rl.rl.rollout.chunk import Chunk, ChunkResult, chunk_result, episode_seeds
from es_rl.workers.pool import NAP_SECONDS
from es_rl.workers.shared_memory import Fields, Memory

DONE = -1  # as a request: the shard needs no more actions
LOST = -2  # as an answer: the shard does not repeat its earlier steps
fence = threading.Lock()  # memory barrier: what one process wrote before it, another reads after it


@dataclass(frozen=True)
class Board:
    """The shared memory of one attempt of `Central.roll`."""

    serial: int  # differs between boards, whose paths may be the same
    memory: Memory


def fields(simulations: int, jobs: int, seen: ObservationShape, action: tuple[tuple[int, ...], str]) -> Fields:
    """Return the arrays of a board; `action` is the shape and type of one action."""
    shape, kind = action
    return {
        "obs": ((simulations, *seen.row), seen.dtype),
        "actions": ((simulations, *shape), kind),
        "running": ((simulations,), "i8"),  # numbered within a shard, written from its first place on
        "count": ((jobs,), "i8"),  # running simulations of each job
        "request": ((jobs,), "i8"),
        "answer": ((jobs,), "i8"),
    }


@dataclass(frozen=True)
class Shard:
    """A job: a part of a chunk."""

    job: int
    chunk: Chunk
    first: int  # place of its first simulation on the board


@dataclass(frozen=True)
class Round:
    """Data that all shards of one attempt of `Central.roll` share."""

    number: int  # number of the generation
    board: Board
    limit: int | None  # cap on members' episodes, in steps
    difficulty: float | None = None  # of the episodes, if the environment has a curriculum


class Simulation:
    """Simulates shards in a worker; environments are made at the first call."""

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        self._config, self._spec, self._shape = config, spec, shape_of(spec.observation_space)
        self._env: VectorEnv | None = None
        self._board: tuple[Board, dict[str, NDArray[Any]]] | None = None

    def __call__(self, shared: Round, shard: Shard, beat: Callable[[int], None]) -> ChunkResult:
        if self._env is None:
            self._env = make_env(self._config, self._spec)
        set_difficulty(self._env, shared.difficulty)
        if self._board is None or self._board[0] != shared.board:
            self._board = shared.board, shared.board.memory.arrays()
        # Clear what a dead worker may have left. 0 also tells the main process that this shard starts.
        self._board[1]["request"][shard.job] = self._board[1]["answer"][shard.job] = 0
        limit = shared.limit if shard.chunk.kind == "members" else None
        seeds = episode_seeds(self._config, shared.number, shard.chunk)
        actor = _Remote(self._board[1], shard, beat)
        try:
            done = play(self._env, actor, seeds, shape=self._shape, beat=beat, limit=limit)
        finally:
            self._board[1]["request"][shard.job] = DONE
        return chunk_result(self._config, shard.chunk, done)


class _Remote:
    """The actor of a shard: writes observations to the board and waits for the actions."""

    def __init__(self, board: dict[str, NDArray[Any]], shard: Shard, beat: Callable[[int], None]) -> None:
        self._board, self._shard, self._beat, self._step = board, shard, beat, 0

    def __call__(self, running: Ints, obs: Floats) -> NDArray[Any]:
        board, job, first = self._board, self._shard.job, self._shard.first
        self._step += 1
        board["obs"][first + running] = obs
        board["running"][first : first + len(running)] = running
        board["count"][job] = len(running)
        with fence:
            board["request"][job] = self._step
        while board["answer"][job] != self._step:
            if board["answer"][job] == LOST:
                raise RuntimeError(
                    "the environment is not deterministic: with the same seed and actions, its episode was another one"
                )
            time.sleep(NAP_SECONDS)
            self._beat(0)
        with fence:
            return board["actions"][first + running]  # a copy

    def drop(self, gaps: Compaction) -> None:
        """Do nothing: the main process sees the running simulations on the board."""

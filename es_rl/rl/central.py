"""Central inference: workers only simulate, and this process computes all actions, on a GPU if there is one.

With workers=n, a chunk is cut into n shards that step together, and there are 2n worker processes: while the shards of
one chunk wait for actions, those of another simulate. Observations and actions pass through a board
(`es_rl.rl.central_worker`).

The actor is that of local inference, applied to the whole chunk. So results are the same to the last bit for any number
of workers. The actions of a chunk are kept until it is done: if a worker dies, its shard is run again, gets the same
actions and catches up. If its environments behave differently this time, the shard is lost, and the chunk is rolled out
again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from es_rl.envs import EnvSpec
from es_rl.envs.spaces import Ints, row_type, shape_of
from es_rl.es.strategy import Generation
from es_rl.observations import ObservationShape
from es_rl.policies.normalizer import Moments
from es_rl.rl.actors import Actor, member_actors, policy_actor
from es_rl.rl.central_worker import DONE, LOST, Board, Round, Shard, Simulation, fence, fields
from es_rl.rl.chunks import make_policy
from es_rl.rl.compaction import Compaction
from es_rl.rl.config import Config
from es_rl.rl.rollout.chunk import ATTEMPTS, Chunk, ChunkResult, observed_mean, result_of
from es_rl.rl.rollout.moments import MomentSums
from es_rl.workers.interface import Pool
from es_rl.workers.machine import choose_device
from es_rl.workers.shared_memory import Memory, allocate
from es_rl.workers.worker import JobFailure

PROCESSES = 2  # for each worker of the run, so that two chunks take turns
Outcome = ChunkResult | JobFailure  # of a chunk


class _Group:
    """A chunk in progress: its shards, its actor and its past steps."""

    def __init__(
        self,
        board: dict[str, NDArray[Any]],
        shards: list[Shard],
        size: int,
        begin: Callable[[], Actor],
        shape: ObservationShape,
        tally: MomentSums | None,
        stack: contextlib.ExitStack,
    ) -> None:
        self._board, self._shards, self._begin, self._tally, self._stack = board, shards, begin, tally, stack
        self._shape = shape
        self._actor: Actor | None = None
        self._first = shards[0].first
        self._size, self._rows = size, np.arange(size)  # running simulations, in the order of the actor's rows
        self._history: list[tuple[Ints, NDArray[Any]]] = []  # of each step: running simulations, actions

    def close(self) -> Moments | None:
        """Release the policy. Return the observation moments of each simulation, or None if they are not needed."""
        self._stack.close()
        if self._tally is None:
            return None
        sums = self._tally.take(np.arange(self._size))
        return Moments(sum(len(running) for running, _ in self._history), sums[:, 0], sums[:, 1])

    def advance(self) -> bool:
        """Answer all requests that can be answered. Return True if there were any."""
        asking, moved, late = [], False, False
        for shard in self._shards:
            request, answered = int(self._board["request"][shard.job]), int(self._board["answer"][shard.job])
            if request == DONE or answered == LOST:
                continue
            if request == len(self._history) + 1:
                asking.append(shard)
                continue
            late = True  # not at this step yet: it starts, simulates or catches up
            if 0 < request != answered:
                with fence:
                    self._again(shard, request)
                moved = True
        if asking and not late:
            with fence:
                self._act(asking)
            moved = True
        return moved

    def _running(self, shard: Shard) -> Ints:
        """Return a shard's running simulations, as places in the chunk."""
        count, first = int(self._board["count"][shard.job]), shard.first
        return self._board["running"][first : first + count] + (first - self._first)

    def _act(self, asking: list[Shard]) -> None:
        """Compute the actions of the next step for all shards that still run."""
        if self._actor is None:
            self._actor = self._begin()
        asking = [
            shard for shard in asking if not self._history or self._places(shard, self._history[-1][0]) is not None
        ]
        if not asking:
            return
        running = np.concatenate([self._running(shard) for shard in asking])
        if len(running) < len(self._rows):
            gaps = Compaction.of(~np.isin(self._rows, running))
            self._actor.drop(gaps)
            self._rows = gaps.apply(self._rows.copy())
        running = self._rows
        obs = self._board["obs"][self._first + running]
        if self._tally is not None:
            self._tally.add(running, self._shape.numbers_of(obs))
        actions = self._actor(running, obs)
        self._board["actions"][self._first + running] = actions
        self._history.append((running, actions))
        for shard in asking:
            self._board["answer"][shard.job] = len(self._history)

    def _again(self, shard: Shard, step: int) -> None:
        """Give a shard the actions of a past step again."""
        then, actions = self._history[step - 1]
        places = self._places(shard, then)
        if places is not None:
            self._board["actions"][self._first + self._running(shard)] = actions[places]
            self._board["answer"][shard.job] = step

    def _places(self, shard: Shard, then: Ints) -> Ints | None:
        """Return the positions of a shard's running simulations in `then`.

        If one is missing, mark the shard as lost and return None.
        """
        running, order = self._running(shard), np.argsort(then)
        at: Ints = order[np.searchsorted(then, running, sorter=order).clip(max=len(then) - 1)]
        if np.array_equal(then[at], running):
            return at
        self._board["answer"][shard.job] = LOST
        return None


class Central:
    """Rolls out chunks with inference in this process and simulation in workers."""

    def __init__(self, config: Config, spec: EnvSpec, workers: Pool) -> None:
        self._config, self._spec, self._workers, self._width = config, spec, workers, workers.count // PROCESSES
        self._simulation = Simulation(config, spec)
        self._shape = shape_of(spec.observation_space, config.obs_first)
        self._device = choose_device(config.device)
        self._idle: list[nn.Module] = []  # policies not in use; each group needs its own
        self._descriptor, self._board = -1, Board(0, Memory("", {}))

    def roll(
        self, generation: Generation, chunks: Sequence[Chunk], on_result: Callable[[int, Any], None], attempt: int = 1
    ) -> list[Outcome]:
        """Return the results of the chunks in order; call `on_result(index, result)` as each is done.

        Chunks in which an environment broke, or behaved differently when run again, are rolled out again after all
        others, up to `ATTEMPTS` times in all. A chunk of which a job has lost too many workers has failed as a whole,
        so that its result does not depend on its shards.
        """
        broken: list[int] = []

        def settled(index: int, result: Outcome) -> None:
            if isinstance(result, ChunkResult) and result.errors and attempt < ATTEMPTS:
                broken.append(index)
            else:
                on_result(index, result)

        results = self._once(generation, chunks, settled)
        if broken:
            left = [chunks[i] for i in broken]
            whole = self.roll(generation, left, lambda place, result: on_result(broken[place], result), attempt + 1)
            for i, result in zip(broken, whole, strict=True):
                results[i] = result
        return results

    def _once(
        self, generation: Generation, chunks: Sequence[Chunk], on_result: Callable[[int, Outcome], None]
    ) -> list[Outcome]:
        """Return the results in order; call `on_result(index, result)` as each is done."""
        shards = self._cut(chunks)
        board = self._open(shards)
        chunk_of = {shard.job: i for i, own in enumerate(shards) for shard in own}
        outcomes: list[dict[int, Any]] = [{} for _ in chunks]
        groups: dict[int, _Group] = {}
        results: dict[int, Outcome] = {}

        def pump() -> bool:
            for i, own in enumerate(shards):
                if i not in results and i not in groups and any(board["request"][shard.job] for shard in own):
                    groups[i] = self._group(board, own, chunks[i], generation)
            return sum(group.advance() for group in groups.values()) > 0

        def settle(job: int, outcome: Any) -> None:
            board["request"][job] = DONE  # also if the job failed
            i = chunk_of[job]
            outcomes[i][job] = outcome
            if len(outcomes[i]) == len(shards[i]):
                group = groups.pop(i, None)
                moments = None if group is None else group.close()
                parts = [outcomes[i][shard.job] for shard in shards[i]]
                # The pool has already repeated jobs whose worker died or hung.
                gone = [part for part in parts if isinstance(part, JobFailure) and part.reason != "raised"]
                results[i] = gone[0] if gone else _join(parts, shards[i], moments, self._spec)
                on_result(i, results[i])

        try:
            jobs = [shard for own in shards for shard in own]
            self._workers.map(
                self._simulation,
                Round(generation.number, self._board, generation.limit, generation.difficulty),
                jobs,
                on_result=settle,
                pump=pump,
            )
        finally:
            for group in groups.values():
                group.close()
            os.close(self._descriptor)
        return [results[i] for i in range(len(chunks))]

    def _cut(self, chunks: Sequence[Chunk]) -> list[list[Shard]]:
        """Return each chunk's shards, of about equal size; fewer if the chunk has fewer items."""
        shards, first, job = [], 0, 0
        for chunk in chunks:
            own = []
            for part in np.array_split(np.arange(chunk.first, chunk.first + chunk.count), self._width):
                if len(part):
                    own.append(Shard(job, Chunk(chunk.kind, int(part[0]), len(part)), first))
                    first += len(part) * chunk.episodes(self._config)
                    job += 1
            shards.append(own)
        return shards

    def _open(self, shards: list[list[Shard]]) -> dict[str, NDArray[Any]]:
        """Make an empty board for these shards."""
        last = shards[-1][-1]
        simulations = last.first + last.chunk.count * last.chunk.episodes(self._config)
        action = row_type(self._spec.action_space)
        layout = fields(simulations, last.job + 1, self._shape, action)
        self._descriptor, memory = allocate(layout)
        self._board = Board(self._board.serial + 1, memory)
        return memory.arrays()

    def _group(
        self, board: dict[str, NDArray[Any]], shards: list[Shard], chunk: Chunk, generation: Generation
    ) -> _Group:
        policy = self._idle.pop() if self._idle else make_policy(self._config, self._spec)
        with contextlib.ExitStack() as stack:
            stack.callback(self._idle.append, policy)
            policy.load_state_dict({k: torch.from_numpy(v) for k, v in generation.model.items()})
            policy.to(self._device)
            n, shape = chunk.count * chunk.episodes(self._config), self._shape
            if chunk.kind == "evaluation":
                return _Group(board, shards, n, lambda: policy_actor(policy, n), shape, None, stack.pop_all())
            begin = stack.enter_context(
                member_actors(policy, chunk.items, generation.perturbation, self._config.es.episodes)
            )
            mean = observed_mean(policy)
            tally = None if mean is None else MomentSums(mean, n)
            return _Group(board, shards, n, begin, shape, tally, stack.pop_all())


def _join(outcomes: list[Any], shards: list[Shard], moments: Moments | None, spec: EnvSpec) -> ChunkResult:
    """Join the results of a chunk's shards. All members of a shard that raised count as failed."""
    parts = [result_of(outcome, shard.chunk, spec) for outcome, shard in zip(outcomes, shards, strict=True)]
    return ChunkResult(
        fitness=np.concatenate([part.fitness for part in parts]),
        returns=np.concatenate([part.returns for part in parts]),
        lengths=np.concatenate([part.lengths for part in parts]),
        measured=np.concatenate([part.measured for part in parts]),
        steps=sum(part.steps for part in parts),
        moments=moments,
        errors=[error for part in parts for error in part.errors],
        simulating=sum(part.simulating for part in parts),
        unsound=next((part.unsound for part in parts if part.unsound), ""),
    )

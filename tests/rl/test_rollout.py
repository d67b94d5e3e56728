"""A chunk against episodes played by hand, one member after the other."""

import gymnasium
import numpy as np
import pytest
import torch
from conftest import soak
from torch.func import functional_call

from es_rl import envs, es
from es_rl.envs.spaces import flatten
from es_rl.errors import EnvError
from es_rl.es.chunks import divide
from es_rl.es.strategy import ESParams, perturbation
from es_rl.noise import member_weights
from es_rl.rl.chunks import ChunkRunner, Generation, make_policy
from es_rl.rl.config import parse_train
from es_rl.rl.rollout.chunk import Chunk
from es_rl.rl.task import RlTask
from es_rl.rng import integer_seed
from es_rl.workers.pool import Workers
from es_rl.workers.worker import JobFailure


def prepare(line):
    config = parse_train(line.split())
    spec = envs.probe(config.env, config.env_kwargs, 0)
    policy = make_policy(config, spec)
    if list(policy.normalizer.buffers()):  # statistics that matter
        state = policy.state_dict()
        state["normalizer.count"] = torch.tensor(9.0, dtype=torch.float64)
        state["normalizer.m2"] += 3.0
        policy.load_state_dict(state)
    p = perturbation(ESParams.of(config), 4)
    params, model = ESParams.of(config), {k: v.numpy() for k, v in policy.state_dict().items()}
    generation = Generation(4, model, p, es.limit(params, 4))
    return config, spec, policy, generation, ChunkRunner(config, spec)


def by_hand(config, spec, policy, p, member, seed, limit=None):
    """Return, length and observations of one episode of one member, with its explicit weights."""
    env = gymnasium.make(config.env.rpartition(":")[2], **config.env_kwargs)
    weights = {} if member is None else member_weights(policy, member, p)
    obs, total, seen, done = env.reset(seed=seed)[0], 0.0, [], False
    while not done:
        row = flatten(spec.observation_space, obs)
        seen.append(row)
        action = functional_call(policy, weights, (torch.from_numpy(row)[None],))[0][0].numpy()
        obs, reward, terminated, truncated, _ = env.step(action if spec.action_space.shape else int(action))
        total, done = total + reward, terminated or truncated or len(seen) == limit
    return total, len(seen), np.stack(seen)


LINES = [
    "env=CartPole-v1 policy=mlp es.population=8 chunk=8 es.sigma=0.5 es.reward_shift=0.25",
    "env=CartPole-v1 policy=linear es.population=8 chunk=8 es.sigma=1 es.episodes=3",
    "env=hostile:DictObservation-v0 policy=mlp es.population=8 chunk=8 es.sigma=1",
    "env=es_rl/PointMass-v0 policy=linear es.noise=orthogonal es.population=8 chunk=8 es.sigma=0.3",
    "env=CartPole-v1 policy=mlp es.noise=lowrank es.rank=2 es.episodes=2 es.population=8 chunk=8 es.sigma=0.5",
    "env=CartPole-v1 policy=mlp es.noise=lowrank es.freeze_vectors=true es.population=8 chunk=8 es.sigma=0.5",
    "env=CartPole-v1 policy=mlp es.limit=10 es.limit_growth=1.2 es.population=8 chunk=8 es.sigma=1",
    "env=es_rl/PointMass-v0 policy=linear obs_first=3 obs_clip=0.5 es.population=8 chunk=8 es.sigma=0.3",
]


@pytest.mark.parametrize("line", LINES)
def test_a_chunk_is_its_members_one_by_one(line):
    config, spec, policy, generation, play = prepare(line)
    p, episodes = generation.perturbation, config.es.episodes
    result = play(generation, Chunk("members", 2, 6), lambda steps: None)
    observations = []
    for row, member in enumerate(range(2, 8)):
        seeds = [integer_seed(0, "episode", 4, member // 2, e) for e in range(episodes)]
        played = [by_hand(config, spec, policy, p, member, seed, generation.limit) for seed in seeds]
        observations += [o for _, _, o in played]
        returns, lengths = np.array([r for r, _, _ in played]), np.array([n for _, n, _ in played])
        assert result.lengths[row] == lengths.mean()
        assert result.returns[row] == pytest.approx(returns.mean(), abs=1e-4)
        assert result.fitness[row] == pytest.approx((returns - config.es.reward_shift * lengths).mean(), abs=1e-4)
    everything = np.concatenate(observations)
    assert result.steps == result.moments.count == len(everything)
    seen = result.moments.first.shape[1]
    assert np.allclose(result.moments.first.sum(0), everything.sum(0)[:seen], atol=1e-3)
    assert np.allclose(result.moments.second.sum(0), np.square(everything).sum(0)[:seen], rtol=1e-3)
    assert len(set(result.lengths)) > 1 or "CartPole" not in line  # finished simulations were left out
    assert generation.limit is None or max(result.lengths) == generation.limit == 20


def test_an_evaluation_is_the_unperturbed_policy_without_shift_and_gathers_nothing():
    config, spec, policy, generation, play = prepare("env=CartPole-v1 policy=mlp es.reward_shift=1 es.sigma=9")
    result = play(generation, Chunk("evaluation", 3, 4), lambda steps: None)
    expected = [by_hand(config, spec, policy, None, None, integer_seed(0, "eval", 4, e))[0] for e in range(3, 7)]
    assert result.returns.tolist() == result.fitness.tolist() == expected
    assert result.moments is None


def test_both_members_of_a_pair_start_alike_and_pairs_do_not():
    _, _, _, generation, play = prepare("env=es_rl/PointMass-v0 policy=linear es.sigma=1e-9 es.population=8 chunk=8")
    fitness = play(generation, Chunk("members", 0, 8), lambda steps: None).fitness
    assert np.allclose(fitness[0::2], fitness[1::2])
    assert len(np.unique(fitness.round(3))) == 4


def test_a_chunk_is_the_same_again_whatever_was_rolled_out_in_between():
    _, _, _, generation, play = prepare("env=HalfCheetah-v4 env_kwargs.max_episode_steps=30 chunk=4")
    one = play(generation, Chunk("members", 0, 4), lambda steps: None)
    play(generation, Chunk("evaluation", 0, 2), lambda steps: None)
    play(generation, Chunk("members", 4, 4), lambda steps: None)
    two = play(generation, Chunk("members", 0, 4), lambda steps: None)
    assert np.array_equal(one.fitness, two.fitness) and np.array_equal(one.moments.second, two.moments.second)


@pytest.mark.parametrize(
    ("env", "error"),
    [
        ("RaisesAt100", "its step raised ValueError: joint 7 exploded"),
        ("LateWrongShape", "its step raised ValueError: the observation has shape (2,), but its space has (3,)"),
        ("NanReward", None),
        ("Huge", None),
    ],
)
def test_a_simulation_that_breaks_is_a_failed_member(env, error):
    _, _, _, generation, play = prepare(f"env=hostile:{env}-v0 chunk=4")
    result = play(generation, Chunk("members", 0, 4), lambda steps: None)
    assert np.isnan(result.fitness).all() and np.isnan(result.returns).all()
    assert set(result.errors) == ({error} if error else set())
    assert np.isfinite(result.moments.second).all()


def test_one_broken_simulation_leaves_the_others_as_they_were():
    _, _, _, generation, play = prepare("env=hostile:OftenRaises-v0 chunk=32 es.population=64")
    broken = play(generation, Chunk("members", 0, 32), lambda steps: None)
    fragile = [integer_seed(0, "episode", 4, m // 2, 0) % 8 == 0 for m in range(32)]
    assert 0 < sum(fragile) < 32
    assert np.isnan(broken.fitness).tolist() == fragile


def test_a_hiccup_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, _, _, generation, play = prepare("env=hostile:Hiccups-v0 chunk=32 es.population=32")
    one = play(generation, Chunk("members", 0, 32), lambda steps: None)
    assert list(tmp_path.glob("hiccup-*")) and one.errors == []
    two = play(generation, Chunk("members", 0, 32), lambda steps: None)
    assert np.array_equal(one.fitness, two.fitness) and np.array_equal(one.moments.first, two.moments.first)


class Crashing(Workers):
    """Workers that die of some members."""

    def __init__(self, fatal):
        super().__init__(0)
        self.fatal = fatal

    def map(self, function, context, jobs, *, on_result=lambda index, outcome: None, pump=None):
        found = [
            JobFailure("died", "it died") if {*job.items} & self.fatal else function(context, job, lambda steps: None)
            for job in jobs
        ]
        for index in reversed(range(len(jobs))):  # results come in any order
            on_result(index, found[index])
        return found


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_a_pair_that_kills_its_workers_fails_alone_however_jobs_are_cut(size, monkeypatch):
    config, spec, policy, *_ = prepare("env=es_rl/PointMass-v0 policy=linear es.population=16 chunk=16")

    def scores(fatal):
        task = RlTask(config, ESParams.of(config), spec, Crashing(fatal))
        monkeypatch.setattr(task, "_cut", lambda chunks: [range(i, i + size) for i in range(0, 16, size)])
        return task.members(es.init(policy)).fitness

    assert np.flatnonzero(np.isnan(scores({2}))).tolist() == [2, 3]
    assert np.flatnonzero(np.isnan(scores({8, 10, 12, 14}))).tolist() == list(range(8, 16))
    with pytest.raises(EnvError, match="8 of 16 members failed in generation 1: it died"):
        scores({0, 2, 4, 6})  # none of the first ones can be run


def test_weights_that_are_not_finite_fail():
    _, _, _, generation, play = prepare("env=es_rl/PointMass-v0 policy=linear chunk=4")
    model = {k: v * np.nan if k == "layer.weight" else v for k, v in generation.model.items()}
    result = play(Generation(4, model, generation.perturbation), Chunk("members", 0, 4), lambda steps: None)
    assert np.isnan(result.fitness).all()


@pytest.mark.parametrize("n", range(2, 66, 2))
@pytest.mark.parametrize("workers", [0, 1, 3, 40])
def test_each_member_is_in_one_job(n, workers):
    """Also if there are so few that a quarter of them is none."""
    for first in (0, 64):
        parts = divide(range(first, first + n), workers, 64)
        assert [member for part in parts for member in part] == [*range(first, first + n)]
        assert all(len(part) % 2 == 0 for part in parts)


def streamed(play, generation, chunks, workers=1):
    """The results of a stream to which the chunks come one by one."""
    waiting = list(enumerate(chunks))
    found = dict(play.stream(generation, workers, lambda: waiting.pop(0) if waiting else None, lambda steps: None))
    return [found[i] for i in range(len(chunks))]


STREAMED = [
    "env=Hopper-v4 policy=linear es.population=32 es.sigma=0.05",
    "env=Hopper-v4 policy=mlp mlp.hidden=[8] es.noise=lowrank es.rank=2 es.population=32 es.limit=20",
    "env=CartPole-v1 policy=mlp mlp.activation=gelu es.episodes=3 es.population=32 es.sigma=0.5",
    "env=hostile:OftenRaises-v0 policy=lstm lstm.width=4 es.noise=lowrank es.population=32",
    "env=CartPole-v1 policy=transformer transformer.width=8 es.population=32 chunk=8",
]
STREAMED_TOO = [
    "env=hostile:OftenRaises-v0 es.population=32",
    "env=CartPole-v1 policy=gru gru.width=8 es.episodes=3 es.population=32 es.sigma=0.5",
]


@pytest.mark.parametrize("line", [*STREAMED, *soak(*STREAMED_TOO)])
@pytest.mark.parametrize("workers", [*soak(1), 5])
@pytest.mark.slow
def test_chunks_side_by_side_are_each_by_itself_to_the_bit(line, workers):
    _, _, _, generation, play = prepare(line)
    for kind in ("members", "evaluation"):
        chunks = [Chunk(kind, 0, 6), *(Chunk(kind, first, 2) for first in range(6, 20, 2)), Chunk(kind, 20, 8)]
        one_by_one = [play(generation, chunk, lambda steps: None) for chunk in chunks]
        ascending = streamed(play, generation, chunks, workers)
        descending = streamed(play, generation, chunks[::-1], workers)[::-1]
        smallest_first = streamed(play, generation, [*chunks[1:], chunks[0]], workers)
        smallest_first = [smallest_first[-1], *smallest_first[:-1]]
        for alone, beside in zip(3 * one_by_one, ascending + descending + smallest_first, strict=True):
            assert np.array_equal(alone.returns, beside.returns, equal_nan=True)
            assert np.array_equal(alone.lengths, beside.lengths) and alone.steps == beside.steps
            assert alone.errors == beside.errors
            if kind == "members":
                assert alone.moments.count == beside.moments.count
                assert np.array_equal(alone.moments.first, beside.moments.first)
                assert np.array_equal(alone.moments.second, beside.moments.second)


@pytest.mark.slow
def test_any_part_may_come_first_in_a_stream():
    """The last parts of a third of the members are smaller than those that follow."""
    _, _, _, generation, play = prepare("env=es_rl/PointMass-v0 policy=linear es.population=460 es.limit=10")
    parts = divide(range(460), 2, 58)
    for first in range(len(parts)):
        chunks = [Chunk("members", part.start, len(part)) for part in parts[first : first + 12]]
        results = streamed(play, generation, chunks, 2)
        assert all(np.isfinite(result.fitness).all() for result in results)


@pytest.mark.parametrize(
    ("n", "workers", "most"), [(256, 2, 32), (64, 2, 16), (16, 3, 8), (2, 2, 2), (1000, 64, 32), (30, 0, 8)]
)
def test_members_are_divided_into_parts_of_even_numbers_the_last_ones_small(n, workers, most):
    parts = divide(range(4, 4 + n), workers, most)
    assert [m for part in parts for m in part] == list(range(4, 4 + n))
    sizes = [len(part) for part in parts]
    assert all(size % 2 == 0 and 0 < size <= most for size in sizes)
    assert len(parts) >= min(workers, n // 2) and sizes[-1] == min(sizes)
    assert n != 256 or sizes == [16] * 8 + [8] * 8 + [4] * 16

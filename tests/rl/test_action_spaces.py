"""Trainings whose actions are several choices, bits, or parts of different kinds."""

import json

import choosing
import numpy as np
import pytest
from choosing import SPACES, is_of
from conftest import metrics, refusal
from gymnasium import spaces

import es_rl
from es_rl import envs, es
from es_rl.compare.baselines import check_spaces
from es_rl.compare.config import BaselineConfig
from es_rl.compare.judge import acting, make_env
from es_rl.envs.spaces import row_of, same
from es_rl.errors import EnvError
from es_rl.evaluate import main as evaluate
from es_rl.record import main as record
from es_rl.rl import central
from es_rl.rl.chunks import make_policy
from es_rl.rl.config import parse_train
from es_rl.rl.task import RlTask
from es_rl.workers.pool import Workers

ENV = "env=choosing:Choosing-v0"
BEST = 2.0


@pytest.mark.parametrize("kind", ["grid of choices", "grid of bits", "nested"])
@pytest.mark.slow
def test_the_right_parts_of_an_action_are_found_and_the_policy_is_loaded_evaluated_and_filmed(
    train, capsys, tmp_path, kind
):
    keys = [f"env_kwargs.kind={kind}", "env_kwargs.seen=one choice", "policy=linear", "es.population=32"]
    run = train(ENV, *keys, "es.sigma=0.3", "optim.lr=0.3", "generations=20", "eval.every=20")
    assert metrics(run)[0]["fitness/mean"] < 0.75 * BEST < 0.97 * BEST < metrics(run)[-1]["eval/return_mean"]
    agent, space = es_rl.load(run), SPACES[kind]
    action = agent(choosing.samples("one choice", 1)[0])
    assert same(agent.action_space, space) and is_of(space, action)
    capsys.readouterr()
    assert evaluate([f"run={run}", ENV, "episodes=2"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["failed"] == 0 and told["return_mean"] == metrics(run)[-1]["eval/return_mean"]
    if kind == "nested":
        assert (
            record([f"run={run}", ENV, "out=film.mp4", "seconds=0.5"]) == 0 and (tmp_path / "film.mp4").stat().st_size
        )
    train(f"resume={run}", ENV, "generations=21")
    assert metrics(run)[-1]["members/failed"] == 0


@pytest.mark.process
def test_theta_is_the_same_for_any_number_of_workers_and_either_inference(monkeypatch):
    keys = ["es.population=16", "chunk=4", "policy=mlp", "mlp.hidden=[8]"]

    def theta(kind, workers, inference, of_each=2):
        monkeypatch.setattr(central, "PROCESSES", of_each)
        config = parse_train([ENV, f"env_kwargs.kind={kind}", *keys, f"inference={inference}", "workers=2"])
        spec = envs.probe(config.env, config.env_kwargs, 0)
        params, state = es.ESParams.of(config), es.init(make_policy(config, spec))
        task = RlTask(config, params, spec, workers)
        for _ in range(2):
            scores = task.members(state)
            assert np.isfinite(scores.fitness).all()
            state, _ = es.tell(params, state, scores.fitness, scores.buffers)
        return [value.tolist() for value in state.theta.values()], task.evaluate(state)

    with Workers(0) as alone, Workers(4) as four:
        for kind in ("grid of choices", "nested"):
            expected = theta(kind, alone, "local")
            assert theta(kind, four, "local") == expected
            for of_each in (4, 2):  # so that one worker, or two, play a chunk
                assert theta(kind, four, "central", of_each) == expected


def test_a_policy_is_not_evaluated_where_the_parts_stand_in_another_order(train):
    run = train(ENV, "env_kwargs.kind=dict", "es.population=4", "policy=linear", "generations=1")
    code, said = refusal(evaluate, f"run={run}", ENV, "env_kwargs.kind=turned dict")
    assert code == 3 and "its spaces are not those that the policy was trained for" in said


def test_a_vector_of_simulations_takes_rows_of_numbers():
    for kind, space in SPACES.items():
        vector = envs.make("choosing:Choosing-v0", 2, kind=kind)
        vector.reset([0, 1], [0, 0])
        rows = [row_of(space, choosing.samples(kind, 4)[1]), row_of(space, choosing.samples(kind, 5)[0])]
        reward = vector.step([0, 1], np.stack(rows))[1]
        assert vector.errors == {} and (reward[1] == 1 or kind == "whole range")  # the wanted action


CHOICES = "choosing:Choosing-v0"


def test_opponents_give_choices_from_zero_and_the_environment_gets_its_own():
    config = BaselineConfig(name="random", env=CHOICES, env_kwargs={"kind": "byte choices", "seen": "number"}, out="x")
    env = make_env(config)
    assert env.action_space == spaces.MultiDiscrete([55, 2], np.uint8)
    env.reset(seed=0)
    env.step(np.array([54, 1], np.uint8))
    assert acting(config, lambda obs: np.array([54, 1], np.uint8))(0.5).tolist() == [254, 1]
    nested = BaselineConfig(name="random", env=CHOICES, env_kwargs={"kind": "dict", "seen": "number"}, out="x")
    action = choosing.samples("dict", 1)[0]
    assert make_env(nested).action_space == SPACES["dict"] and acting(nested, lambda obs: action)(0.5) is action


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("ppo_fast", "dict", "ppo_fast acts in Box, Discrete, MultiDiscrete, MultiBinary only"),
        ("ppo", "tuple", "Leave ppo out"),
        ("ars", "grid of choices", "ars acts in Box, Discrete only"),
        ("evotorch", "bits", "evotorch acts in Box, Discrete only"),
        ("sac", "choices", "SAC acts in continuous spaces only"),
    ],
)
def test_an_opponent_that_cannot_act_in_a_space_is_refused(name, kind, text):
    with pytest.raises(EnvError, match=text) as caught:
        check_spaces(name, CHOICES, SPACES[kind])
    assert "\n" not in str(caught.value)
    check_spaces("random", CHOICES, SPACES[kind])
    check_spaces("ppo", CHOICES, SPACES["choices"])

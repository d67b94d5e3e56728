"""Inference in one place against inference in every worker."""

import contextlib
import time

import numpy as np
import pytest
import torch
from conftest import comparable, kill_workers, metrics, model_hash, soak, wait_for, workers_of

from es_rl import es
from es_rl.errors import ConfigError
from es_rl.rl import central
from es_rl.rl import task as evaluator
from es_rl.rl.central_worker import Shard
from es_rl.rl.chunks import make_policy
from es_rl.rl.config import parse_train
from es_rl.rl.task import RlTask
from es_rl.workers import machine
from es_rl.workers.pool import Workers
from es_rl.workers.worker import JobFailure

HOPPER = [
    "env=Hopper-v4",
    "env_kwargs.max_episode_steps=60",
    "es.population=32",
    "chunk=8",
    "generations=3",
    "eval.every=2",
]


@pytest.mark.parametrize(
    "keys",
    [
        "policy=mlp mlp.hidden=[8] es.episodes=2 es.noise=orthogonal es.limit=30 es.steps=2000 obs_first=6",
        *soak(
            "policy=mlp mlp.hidden=[8]",
            "policy=linear es.episodes=2 es.noise=orthogonal es.limit=30 es.steps=2000 obs_first=6",
            "policy=transformer transformer.width=16 es.noise=lowrank",
        ),
    ],
)
def test_theta_is_that_of_local_inference_for_any_number_of_workers(train, keys):
    local = train(*HOPPER, *keys.split(), run="local")
    for workers in (1, 2):
        run = train(*HOPPER, *keys.split(), "inference=central", f"workers={workers}", run=f"central{workers}")
        assert model_hash(run) == model_hash(local)
        assert comparable(run) == comparable(local)
        assert 0 < metrics(run)[-1]["time/simulating"] < 1


def test_theta_is_the_same_while_workers_are_killed(train, start, tmp_path):
    keys = [
        "env=es_rl/PointMass-v0",
        "mlp.hidden=[8]",
        "es.population=64",
        "generations=12",
        "video.every=-1",
        "chunk=16",
    ]
    quiet = train(*keys, "eval.episodes=2", run="quiet")
    process = start(*keys, "eval.episodes=2", "inference=central", "workers=2", "run=killed")
    kills = kill_workers(process, tmp_path / "killed", workers=4, pauses=(1.0, 2.0), most=2)
    assert process.wait() == 0
    assert kills >= 1 and "it is replaced" in (tmp_path / "out.txt").read_text()
    assert model_hash(tmp_path / "killed") == model_hash(quiet)


def test_theta_is_the_same_if_a_worker_hangs(train, start, tmp_path):
    keys = [
        "env=es_rl/PointMass-v0",
        "mlp.hidden=[8]",
        "es.population=64",
        "generations=10",
        "video.every=-1",
        "chunk=16",
    ]
    quiet = train(*keys, "eval.every=0", run="quiet")
    process = start(*keys, "eval.every=0", "inference=central", "workers=2", "hang_after=3", "run=hung")
    log = tmp_path / "hung/metrics.jsonl"
    wait_for(lambda: log.exists() and log.read_text().count("\n") >= 3, process)
    # The busiest one: another may still be starting, and is not missed.
    max(workers_of(process), key=lambda child: child.cpu_times().user).suspend()
    assert process.wait() == 0
    assert "finished no step for 3 s (hang_after); it is replaced" in (tmp_path / "out.txt").read_text()
    assert model_hash(tmp_path / "hung") == model_hash(quiet)


@pytest.mark.parametrize("env", ["RaisesAt100", "NanReward", "OftenRaises"])
def test_environments_that_break_are_failed_members(train, env):
    keys = [f"env=hostile:{env}-v0", "es.population=16", "es.max_failed=1", "generations=2", "chunk=4"]
    local = train(*keys, run="local")
    run = train(*keys, "inference=central", "workers=2", run="central")
    assert [line["members/failed"] for line in metrics(run)] == [line["members/failed"] for line in metrics(local)]
    assert metrics(run)[-1]["members/failed"] > 0
    assert model_hash(run) == model_hash(local)


def test_an_environment_that_breaks_once_is_tried_again(train, tmp_path):
    """In some of the chunks: the results of the second attempt come to where those of the first would be."""
    keys = ["es.population=32", "chunk=4", "generations=2", "workers=2"]
    whole = train("env=hostile:Good-v0", *keys, run="whole")
    run = train("env=hostile:Hiccups-v0", *keys, "inference=central", run="central")
    assert 2 <= len(list(tmp_path.glob("hiccup-*"))) <= 20
    assert [line["members/failed"] for line in metrics(run)] == [0, 0]
    assert model_hash(run) == model_hash(whole)


def test_a_chunk_whose_environments_go_another_way_is_rolled_out_again(train, monkeypatch):
    """A worker dies in the midst of its episodes, of which half are over; the second time they go on."""
    find, found = central._Group._places, []
    monkeypatch.setattr(central._Group, "_places", lambda *a: found.append(find(*a)) or found[-1])
    keys = ["env=hostile:Wanders-v0", "es.population=16", "chunk=8", "generations=2", "es.max_failed=1"]
    run = train(*keys, "inference=central", "workers=2", run="central")
    assert sum(places is None for places in found) == 1  # it was lost
    assert [line["members/failed"] for line in metrics(run)] == [0, 0]


def test_a_pair_that_kills_its_workers_fails_alone_for_any_number_of_workers(tmp_path):
    """Fatal to a worker whenever it simulates member 5, as a crash of a simulator is."""

    class Fatal(Workers):
        def map(self, function, context, jobs, *, on_result=lambda index, outcome: None, pump=None):
            def result(index, outcome):
                shard = jobs[index]
                fatal = isinstance(shard, Shard) and shard.chunk.kind == "members" and 5 in shard.chunk.items
                found[index] = JobFailure("died", "it died") if fatal else outcome
                on_result(index, found[index])

            found = {}
            super().map(function, context, jobs, on_result=result, pump=pump)
            return [found[i] for i in range(len(jobs))]

    config = parse_train(
        ["env=es_rl/PointMass-v0", "policy=linear", "es.population=16", "chunk=8", "inference=central"]
    )
    found = []
    for workers in (1, 3):
        with Fatal(2 * workers) as pool:
            spec = evaluator.probe(pool, config)
            task = RlTask(config, es.ESParams.of(config), spec, pool)
            found.append(task.members(es.init(make_policy(config, spec))))
    for scores in found:
        assert np.flatnonzero(np.isnan(scores.fitness)).tolist() == [4, 5]
        assert all(torch.equal(scores.buffers[name], value) for name, value in found[0].buffers.items())
        assert np.array_equal(scores.fitness, found[0].fitness, equal_nan=True)


def test_simulation_and_inference_overlap(monkeypatch):
    """With a policy that takes as long as a step of its simulations, a generation takes the time of one, not of both."""
    steps, pause = 24, 0.002
    line = (
        f"env=hostile:Paced-v0 env_kwargs.max_episode_steps={steps} es.population=16 chunk=4 workers=1 obs_norm=false"
    )

    def generation(workers, pause, think):
        config = parse_train([*line.split(), f"env_kwargs.pause={pause}", "inference=central"])

        class Thinker:
            def __call__(self, running, obs):
                time.sleep(think)
                return np.zeros((len(running), 1), np.float32)

            def drop(self, gaps):
                pass

        @contextlib.contextmanager
        def thinking(policy, members, p, k):
            yield Thinker

        monkeypatch.setattr(central, "member_actors", thinking)
        spec = evaluator.probe(workers, config)
        state, task = es.init(make_policy(config, spec)), RlTask(config, es.ESParams.of(config), spec, workers)
        task.members(state)  # environments are made
        begun = time.monotonic()
        task.members(state)
        return time.monotonic() - begun

    simulating = 4 * steps * 4 * pause  # chunks × steps × simulations of a step: of one process
    with Workers(2) as workers:
        thinks, simulates = generation(workers, 0.0, 4 * pause), generation(workers, pause, 0.0)
        most = 1.25 * max(thinks, simulates, simulating)
        # What else the machine does can only add.
        assert any(generation(workers, pause, 4 * pause) <= most for _ in range(3))


def test_a_gpu_that_is_not_there_is_one_line(command, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = command("train", "env=es_rl/PointMass-v0", "inference=central", "device=cuda", "run=run")
    assert done.returncode == 6 and "device=cuda: this machine, or this build of torch, has no CUDA" in done.stderr
    assert machine.choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ("inference=central workers=0", "inference=central: needs worker processes"),
        ("device=cuda", "device=cuda: works with inference=central only"),
        ("inference=remote", "inference=remote"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(keys, error):
    with pytest.raises(ConfigError, match=error):
        parse_train(["env=A-v0", *keys.split()])

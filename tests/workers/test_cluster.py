"""Workers on a Ray cluster of two simulated machines: theta is that of one machine, whatever is lost."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import SUPPORT, metrics, model_hash
from jobs import Together, double, misbehave, slow

from es_rl.workers.cluster.config import ClusterConfig
from es_rl.workers.worker import JobFailure

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(sys.platform != "linux", reason="the simulated machines need Linux"),
]
CHEETAH = ["env=HalfCheetah-v5", "env_kwargs.max_episode_steps=20", "generations=2"]
EPISODES = ["es.population=8", "es.segment=0"]
TEXT = ["generations=2", "es.population=8", "ctx=16", "gpt.width=16", "eval.bytes=64"]
KILLS = 20
KINDS = {
    "dense": [*EPISODES, "policy=linear", "es.noise=dense"],
    "lowrank": [*EPISODES, "policy=mlp", "es.noise=lowrank"],
    "orthogonal": [*EPISODES, "policy=mlp", "es.noise=orthogonal"],
    "transformer": [*EPISODES, "policy=transformer", "transformer.width=16", "es.noise=lowrank"],
    "judged": ["policy=mlp", "es.segment=4", "credit.simulations=8"],
}


@pytest.fixture(scope="module")
def machines():
    """Two machines: one that is never lost, and another one."""
    pytest.importorskip("ray")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from simulated_nodes import simulated

    with simulated(2, paths=(str(ROOT), str(SUPPORT))) as nodes:
        yield nodes


@pytest.fixture
def both(machines):
    """The other machine, if an earlier test has killed it."""
    if not machines.others:
        machines.add()


@pytest.fixture(scope="module")
def pool(machines, tmp_path_factory):
    """Two workers, which all tests share: a worker takes seconds to begin."""
    from es_rl.workers.cluster.pool import ClusterWorkers

    folder, events, steps = tmp_path_factory.mktemp("pool"), [], []
    before = Path.cwd()
    os.chdir(folder)
    config = ClusterConfig(address=machines.address, same_bits="strict")
    with ClusterWorkers(
        config, None, hang_after=60.0, log=folder / "log", on_event=events.append, on_steps=steps.append
    ) as pool:
        pool.events, pool.folder = events, folder
        yield pool
    os.chdir(before)


@pytest.fixture
def run_on(pool, monkeypatch):
    """Let trainings use the shared workers."""

    def use(patch=monkeypatch):
        patch.setattr(type(pool), "close", lambda self: None)
        patch.setattr("es_rl.run.loop.open_pool", lambda *args, **more: pool)

    yield use


def until(pool, condition, seconds=600):
    """Work until the cluster is as it should be."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, (pool.events, pool.figures())
        pool.map(double, 0, [1])
        time.sleep(0.1)


@pytest.mark.timeout(1200)  # on a machine that others use too
def test_a_cluster_computes_what_one_machine_does(subtests, pool, machines, both, train, run_on, tmp_path, monkeypatch):
    """All in one test: tests of a file run in several processes, and each would start a cluster of its own."""
    with subtests.test("jobs"):
        come_back_in_order(pool)
    with subtests.test("text"), monkeypatch.context() as patch:
        a_text(run_on, tmp_path, patch)
    hashes = {}
    for kind in KINDS:
        with subtests.test(kind), monkeypatch.context() as patch:
            hashes[kind] = a_policy(kind, train, run_on, pool, patch)
    with subtests.test("killed and hung"):
        a_killed_and_a_hung_worker(pool, monkeypatch)
    with subtests.test("a machine is killed"), monkeypatch.context() as patch:
        run_on(patch)
        a_machine_that_is_killed(train, machines, pool, patch, hashes["lowrank"])


def come_back_in_order(pool):
    counted = []
    results = pool.map(double, 100, list(range(40)), on_result=lambda index, outcome: counted.append(index))
    assert results == [100 + 2 * i for i in range(40)] and sorted(counted) == list(range(40))
    beside = pool.map(Together(), {4: ("raise", 99)}, list(range(20)))
    assert [r if isinstance(r, JobFailure) else r[0] for r in beside[:4]] == [0, 1, 2, 3]
    assert (beside[4].reason, beside[4].message) == ("raised", "ValueError: job 4")
    assert max(len(r[1]) for r in beside if not isinstance(r, JobFailure)) >= 2


def a_policy(kind, train, run_on, pool, patch):
    alone = train(*CHEETAH, *KINDS[kind], run=f"alone-{kind}")
    run_on(patch)
    until(pool, lambda: pool.figures()["cluster/actors"] == 2)
    together = train(*CHEETAH, *KINDS[kind], run=f"together-{kind}")
    assert model_hash(alone) == model_hash(together)
    line = metrics(together)[-1]
    assert line["cluster/nodes"] == line["cluster/actors"] == 2 and line["cluster/lost"] == 0
    assert line["cluster/bytes_out"] > 0 and line["cluster/bytes_in"] > 0 and 0 < line["cluster/utilisation"] <= 1
    assert not any(name.startswith("cluster/") for name in metrics(alone)[-1])
    return model_hash(alone)


def a_text(run_on, tmp_path, patch):
    from es_rl.text.__main__ import main

    corpus = f"corpus={tmp_path / 'corpus.txt'}"  # workers began in another directory
    Path("corpus.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    assert main([*TEXT, corpus, "workers=0", "run=alone"]) == 0
    run_on(patch)
    assert main([*TEXT, corpus, "run=together"]) == 0
    assert model_hash(tmp_path / "alone") == model_hash(tmp_path / "together")


def a_killed_and_a_hung_worker(pool, monkeypatch):
    counted = []
    trouble = {2: ("die", 1), 5: ("hang", 1)}
    with monkeypatch.context() as patch:
        patch.chdir(pool.folder)  # where workers begin
        patch.setattr("es_rl.workers.cluster.state.SLOW_SECONDS", 600.0)  # a hung job does not count as slow
        patch.setattr(pool, "hang_after", 10.0)
        results = pool.map(misbehave, trouble, list(range(8)), on_result=lambda index, outcome: counted.append(index))
    assert results == list(range(8)) and sorted(counted) == list(range(8))
    assert {"tries-2", "tries-5"} <= {path.name for path in pool.folder.glob("tries-*")}
    assert any("died" in event and "run again" in event for event in pool.events)
    assert any("finished no step for 10 s" in event for event in pool.events), pool.events


def a_machine_that_is_killed(train, machines, pool, patch, alone):
    until(pool, lambda: pool.figures()["cluster/actors"] == 2)
    usual, counts = pool.map, []

    def with_a_kill(function, context, jobs, *, on_result=lambda index, outcome: None, pump=None):
        counted = []

        def count(index, outcome):
            counted.append(index)
            if machines.others and len(jobs) > 2 and len(counted) == 1:
                machines.kill()
            on_result(index, outcome)

        outcomes = usual(function, context, jobs, on_result=count, pump=pump)
        counts.append(sorted(counted) == list(range(len(jobs))))
        return outcomes

    patch.setattr(pool, "map", with_a_kill)
    together = train(*CHEETAH, *KINDS["lowrank"], run="killed")
    assert model_hash(together) == alone
    assert not machines.others and all(counts) and len(counts) >= 2


@pytest.mark.soak
def test_a_trainer_computes_the_same(pool, monkeypatch):
    import torch

    from es_rl import Trainer

    def fitness(model):
        return -float((model(torch.ones(3)) - 1.0).square().sum())

    def trained(**more):
        torch.manual_seed(0)
        trainer = Trainer(torch.nn.Linear(3, 2), fitness, population=8, seed=1, **more)
        trainer.train(3)
        return trainer.state_dict

    alone = trained()
    monkeypatch.setattr(type(pool), "close", lambda self: None)
    monkeypatch.setattr("es_rl.trainer.trainer.open_pool", lambda cluster, *args, **more: cluster.address and pool)
    together = trained(cluster="auto")
    assert all(torch.equal(alone[name], together[name]) for name in alone)


@pytest.mark.soak
@pytest.mark.llm
@pytest.mark.parametrize("noise", ["lowrank", "dense"])
def test_theta_of_a_language_model_is_that_of_one_machine(noise, run_on, tiny, tmp_path):
    from es_rl.llm.__main__ import main

    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(f'{{"prompt": "{word}"}}\n' for word in ("one", "two", "three", "four")))
    keys = [
        f"model={tiny}",
        f"data={data}",
        "reward=hostile:high_letters",
        "batch=2",
        "max_new_tokens=4",
        "generations=2",
    ]
    keys += [f"es.noise={noise}", "es.population=4", "eval.prompts=1", f"run={tmp_path / 'run'}"]
    assert main([*keys[:-1], "workers=0", f"run={tmp_path / 'alone'}"]) == 0
    run_on()
    assert main([*keys[:-1], f"run={tmp_path / 'together'}"]) == 0
    assert model_hash(tmp_path / "alone") == model_hash(tmp_path / "together")


@pytest.mark.soak
def test_a_machine_that_is_killed_loses_nothing_and_one_that_joins_is_used(pool, machines, both):
    until(pool, lambda: pool.figures()["cluster/nodes"] == 2)
    counted = []

    def on_result(index, outcome):
        counted.append(index)
        if len(counted) == 2:
            machines.kill()

    assert pool.map(slow, None, [5] * 12, on_result=on_result) == [5] * 12
    assert sorted(counted) == list(range(12))
    found = pool.figures()
    assert found["cluster/lost"] >= 1 and found["cluster/repeated"] >= 1
    machines.add()
    until(pool, lambda: pool.figures()["cluster/nodes"] == 2)


@pytest.mark.soak
def test_a_straggler_is_given_to_an_idle_worker_too_and_counts_once(pool, both, monkeypatch):
    monkeypatch.setattr("es_rl.workers.cluster.state.SLOW_SECONDS", 0.5)
    until(pool, lambda: pool.figures()["cluster/actors"] == 2)
    counted = []
    pool.map(slow, None, [1] * 4 + [25], on_result=lambda index, outcome: counted.append(index))
    assert sorted(counted) == list(range(5)) and pool.figures()["cluster/twice"] == 1
    time.sleep(1.0)
    assert pool.map(slow, None, [1] * 4) == [1] * 4  # the late answer belongs to no job of these


@pytest.mark.soak
def test_a_stopped_worker_is_replaced(pool, both):
    until(pool, lambda: pool.figures()["cluster/actors"] == 2)
    os.kill(pool.workers[0].facts["pid"], signal.SIGSTOP)
    assert pool.map(slow, None, [2] * 4) == [2] * 4


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_theta_is_the_same_while_a_machine_is_killed_in_every_generation(
    train, run_on, pool, machines, both, monkeypatch
):
    keys = [*CHEETAH, *KINDS["lowrank"], f"generations={KILLS}", "env_kwargs.max_episode_steps=200", "eval.every=0"]
    keys = list(dict(key.split("=", 1) for key in keys).items())
    keys = [f"{name}={value}" for name, value in keys]
    alone = train(*keys, run="alone")
    run_on()
    usual, kills, lost = pool.map, [], []

    def with_a_kill(function, context, jobs, *, on_result=lambda index, outcome: None, pump=None):
        counted = []

        def count(index, outcome):
            counted.append(index)
            if len(counted) == 1 and len(jobs) > 2 and len(kills) < KILLS:
                machines.kill()
                kills.append(index)
            on_result(index, outcome)

        before = len(kills)
        outcomes = usual(function, context, jobs, on_result=count, pump=pump)
        assert sorted(counted) == list(range(len(jobs)))  # each result once
        if len(kills) > before:
            machines.add()
            end = time.monotonic() + 60
            while (found := pool.figures())["cluster/nodes"] < 2:
                lost.append(found["cluster/lost"])
                assert time.monotonic() < end
                usual(double, 0, [1])
        return outcomes

    monkeypatch.setattr(pool, "map", with_a_kill)
    together = train(*keys, run="together")
    assert model_hash(alone) == model_hash(together)
    assert len(kills) == KILLS and sum(lost) >= KILLS

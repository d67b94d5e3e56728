"""What a pool on a cluster keeps of jobs, what it refuses, and fingerprints: without Ray."""

import os
import pickle
import socket
import subprocess
import sys
from dataclasses import dataclass, field

import cloudpickle
import numpy as np
import pytest
from conftest import refusal

from es_rl.errors import ConfigError, ResourceError, TrainingError
from es_rl.rl.config import Config, parse_resume, parse_train
from es_rl.rl.rollout.chunk import Chunk, ChunkResult
from es_rl.rl.segments.worker import Recorded
from es_rl.run.resume import saved_keys
from es_rl.workers.cluster import connection
from es_rl.workers.cluster.actor import Channel
from es_rl.workers.cluster.config import ClusterConfig
from es_rl.workers.cluster.fingerprint import differing, fingerprint
from es_rl.workers.cluster.state import ActorState, ClusterMap, equal
from es_rl.workers.opening import open_pool
from es_rl.workers.worker import JobFailure, Jobs, packed


@dataclass
class Result:
    numbers: np.ndarray
    seconds: float = field(default=0.0, compare=False)


def begun(jobs=4, first=10, compare=True, on_result=lambda index, outcome: None):
    return ClusterMap(None, None, list("abcdefgh"[:jobs]), on_result, first, compare)


def worker(**more):
    return ActorState(0, None, None, facts={"pid": 1, "host": "here"}, **more)


def test_outcomes_are_equal_to_the_last_bit_but_for_what_a_clock_says():
    one = Result(np.array([1.0, np.nan]), 1.0)
    assert equal(one, Result(np.array([1.0, np.nan]), 2.0))
    assert not equal(one, Result(np.array([1.0, 2.0]), 1.0))
    assert not equal(one, Result(np.array([1.0, np.nan], np.float32), 1.0))
    assert not equal(np.array([0.0]), np.array([-0.0]))
    assert equal([(1, {"a": float("nan")})], [(1, {"a": float("nan")})]) and not equal([1], [1, 2])
    empty = Recorded.empty(1, 2, 3, 1)
    empty.x[:] = empty.outputs[:] = empty.log_likelihood[:] = empty.reward[:] = empty.over[:] = empty.terminated[:] = 0
    assert equal(empty, empty)


def test_the_first_outcome_of_a_job_counts_and_the_second_must_be_equal():
    told = []
    m = begun(on_result=lambda index, outcome: told.append((index, outcome)))
    m.settle(11, np.array([1.0]), 0.5)
    m.settle(11, np.array([1.0]), 0.5)
    assert len(told) == 1 and m.seconds == [0.5]
    with pytest.raises(TrainingError, match=r"job 1: .*computes other bits"):
        m.settle(11, np.array([2.0]), 0.5)
    m.settle(12, JobFailure("raised", "at 0x1", "a traceback"))
    m.settle(12, JobFailure("raised", "at 0x2", "another one"))  # addresses are no bits of ours
    del m.outcomes[2]
    del told[1:]
    m.compare = False
    m.settle(11, np.array([3.0]), 0.5)
    assert m.outcomes == {1: np.array([1.0])} and not m.done


def test_a_job_that_lost_a_worker_runs_alone_and_workers_of_an_abandoned_map_wait():
    m = begun()
    m.losses[11] = None
    assert m.next(3) == [10] and m.next(3) == [11] and m.next(3) == [12, 13]
    m = begun()
    assert m.suits(worker()) and m.suits(worker(jobs={12: 0.0}, asked=True))
    assert not m.suits(worker(jobs={3: 0.0}, asked=True))  # of an earlier map
    assert not m.suits(worker(refused=True)) and not m.suits(ActorState(0, None, None))


def test_only_a_job_that_takes_far_longer_than_others_runs_twice(monkeypatch):
    m = begun(8)
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    slow, quick = worker(jobs={15: 50.0}), worker(jobs={16: 99.0})
    assert m.straggler([slow, quick]) is None  # nothing is known of the others
    m.seconds += [1.0] * 3
    assert m.straggler([slow, quick]) == 15 and m.straggler([quick]) is None
    m.losses[15] = None
    assert m.straggler([slow, quick]) is None  # it runs alone: it may be to blame
    m.losses.clear()
    m.twice.add(15)
    assert m.straggler([slow, quick]) is None


def test_a_fingerprint_is_the_same_each_time_and_tells_what_differs():
    once, again = fingerprint(), fingerprint()
    assert once == again and set(once) == {"noise", "numpy", "torch", "mujoco"} and len(set(once.values())) == 4
    assert differing(once, again | {"torch": "another"}) == ["torch"]


@pytest.mark.parametrize("lengths", [np.full(64, 1000.0), np.full(64, 99.5), np.full(64, np.nan), np.full(64, 1e6)])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_results_keep_their_bits_on_the_way(lengths, shift):
    returns = np.random.default_rng(0).normal(size=64)
    returns[3] = np.nan
    sent = ChunkResult(returns - shift, returns, lengths, np.ones((64, 2)), 5, None, ["no"], 1.0, "x")
    for measured in (np.ones((64, 2)), np.zeros((64, 0))):
        sent.measured = measured
        came = pickle.loads(packed(sent))
        assert equal(came, sent) and came.simulating == 1.0 and came.fitness.flags.writeable


def test_a_member_of_whole_episodes_takes_at_most_16_bytes_both_ways():
    returns = np.random.default_rng(0).normal(size=64)
    result = ChunkResult(returns, returns.copy(), np.full(64, 1000.0), np.zeros((64, 0)), 64_000, None, [])
    out = packed(Jobs(64, [(10_000 + i, Chunk("members", 64 * i, 64)) for i in range(4)]))
    assert len(out) / 256 + len(packed(("done", 10_000, result))) / 64 <= 16


@pytest.mark.parametrize(
    "keys, text",
    [
        (["cluster.address=local", "workers=0"], "workers=0: runs everything in this process"),
        (["cluster.address=local", "inference=central"], "share no memory with the process that runs the policy"),
        (["cluster.runtime_env.conda=x"], "must be one of working_dir, py_modules, pip"),
        (["cluster.gpus=1.5"], "cluster.gpus=1.5: must be a whole number above 1, or a share up to 1"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys, text):
    code, said = refusal(parse_train, "env=CartPole-v1", *keys)
    assert code == 2 and text in said and "\n" not in said


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "10.0.0.1", "somewhere:port"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ConfigError, match=rf"cluster.address={address}: must be"):
        connection.check(ClusterConfig(address=address))


def test_a_directory_for_workers_must_be_there_when_a_cluster_is_opened_and_not_before():
    """A run that was trained with one is evaluated where there is none."""
    given = ["cluster.address=local", "cluster.runtime_env.working_dir=nowhere"]
    config = parse_train(["env=CartPole-v1", *given]).cluster
    with pytest.raises(ConfigError, match="working_dir=nowhere: this machine has no such directory"):
        connection.check(config)


def test_ray_is_named_if_it_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r"needs the package ray. In the checkout .* -e '.\[cluster\]'"):
        open_pool(ClusterConfig(address="local"), 1, None, hang_after=1.0)


@pytest.mark.parametrize(
    "entry, what, empty",
    [("address: auto", "run code for you", ""), ("runtime_env: {pip: [something]}", "brings code", "{}")],
)
def test_a_cluster_is_given_on_the_command_line_only(entry, what, empty, tmp_path):
    """A file of a stranger's would send this user's work to the stranger's machines, and run what they send back."""
    file, name = tmp_path / "config.yaml", f"cluster.{entry.partition(':')[0]}"
    file.write_text(f"env: CartPole-v1\ncluster:\n  {entry}\n")
    code, said = refusal(parse_train, f"config={file}", "env=CartPole-v1")
    assert code == 2 and what in said and said.endswith(f"; if not, {name}={empty}.")
    assert parse_train([f"config={file}", f"{name}={empty}"]).cluster == ClusterConfig()
    other = ["cluster.address=local", "cluster.runtime_env.working_dir=."]
    if "pip" in entry:  # another entry of the same key does not let it pass
        assert what in refusal(parse_train, f"config={file}", *other)[1]
        given = parse_train([f"config={file}", *other, "cluster.runtime_env.pip=[mine]"]).cluster.runtime_env
        assert given == {"pip": ["mine"], "working_dir": "."}
    saved = saved_keys(tmp_path, Config)
    went_on = parse_resume(saved, ["cluster.address=local", "cluster.cpus=2"], "run")
    assert went_on.cluster == ClusterConfig(address="local", cpus=2.0)
    assert parse_resume(saved, [], "run").cluster == ClusterConfig()


def test_an_address_that_others_reach_needs_a_token(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert not connection.has_token()
    with pytest.raises(ConfigError, match="no token that protects it. Make one by `ray get-auth-token --generate`"):
        connection.check_token("cluster.address=10.9.8.7:6379", "10.9.8.7")
    connection.check_token("cluster.address=127.0.0.1:6379", "127.0.0.1")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    connection.check_token("cluster.address=10.9.8.7:6379", "10.9.8.7")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ConfigError, match="set RAY_AUTH_MODE=token"):
        connection.check_token("cluster.address=10.9.8.7:6379", "10.9.8.7")


def test_a_port_where_nobody_listens_is_one_error(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ResourceError, match=rf"{address} does not answer .*Is the cluster running\?"):
        connection.knock(f"cluster.address={address}", address)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_cluster_of_another_user_is_not_taken_for_ours(monkeypatch):
    process = subprocess.Popen([sys.executable, "-ISc", "input()", "--gcs-address=10.0.0.1:7"], stdin=subprocess.PIPE)
    try:
        connection._check_owner("cluster.address=auto", "10.0.0.1:7")
        monkeypatch.setattr(os, "getuid", lambda: -1)
        with pytest.raises(
            ConfigError, match=r"10.0.0.1:7 was started by another user .* give cluster.address=10.0.0.1:7"
        ):
            connection._check_owner("cluster.address=auto", "10.0.0.1:7")
        connection._check_owner("cluster.address=auto", "10.0.0.1:8")
    finally:
        process.communicate(b"\n")


def test_beats_wait_for_the_next_answer_and_are_told_as_one():
    channel = Channel()
    channel.send(("beat", 3))
    channel.send(("beat", 4))
    assert [cloudpickle.loads(data) for data in channel.collect(0.0)[0]] == [("beat", 7)]
    assert channel.collect(0.0) == ([], [])
    channel.send(("beat", 1))
    channel.send(("ready", {}))
    assert [cloudpickle.loads(data) for data in channel.collect(60.0)[0]] == [("beat", 1), ("ready", {})]

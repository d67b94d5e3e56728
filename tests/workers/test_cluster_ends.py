"""A cluster that a run has started itself ends with the run, however that ends."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import SUPPORT, model_hash, wait_for

CHEETAH = [
    "env=HalfCheetah-v5",
    "env_kwargs.max_episode_steps=50",
    "es.population=16",
    "video.every=-1",
    "eval.every=0",
]


@pytest.mark.cluster
@pytest.mark.soak
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_nothing_of_a_local_cluster_is_left_and_nobody_else_can_reach_it(number, code, start, tmp_path):
    pytest.importorskip("ray")
    process = start(*CHEETAH, "es.segment=0", "cluster.address=local", "run=run", "minutes=10")
    wait_for((lambda: (tmp_path / "run/metrics.jsonl").exists()), process)
    family = [process, *process.children(recursive=True)]
    assert len(family) > 6
    assert any("raylet" in " ".join(child.cmdline()) for child in family)
    heard = [c.laddr.ip for member in family for c in member.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert heard and {ip.removeprefix("::ffff:") for ip in heard} == {"127.0.0.1"}
    folders = {part for member in family for part in member.cmdline() if part.startswith("--session_dir")}
    process.send_signal(number)
    begun = time.monotonic()
    assert process.wait(30) == code
    _, left = psutil.wait_procs(family, timeout=max(0.0, 10 - (time.monotonic() - begun)))
    assert not left
    folder = {Path(part.partition("=")[2]).parent for part in folders}
    assert len(folder) == 1
    wait_for(lambda: not folder.pop().exists() if folder else True, seconds=10)


@pytest.fixture
def their_cluster():
    """Ask somebody's cluster what its actor counts and which workers of ours it has; None asks for its address."""
    script = [sys.executable, SUPPORT / "their_cluster.py"]
    process = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(question="\n"):
        process.stdin.write(question or "")
        process.stdin.flush()
        return json.loads(process.stdout.readline() or "null")

    yield ask
    process.stdin.close()
    process.wait(60)


@pytest.mark.cluster
@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_users_own_cluster_stays_as_it_was_and_keeps_no_worker_of_ours(
    number, code, start, tmp_path, their_cluster, monkeypatch
):
    pytest.importorskip("ray")
    address = their_cluster(None)
    for name, value in (("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"), ("RAY_AUTH_MODE", "disabled")):
        monkeypatch.setenv(name, value)
    process = start(*CHEETAH, "es.segment=0", f"cluster.address={address}", "run=run", "minutes=60")
    wait_for((lambda: (tmp_path / "run/metrics.jsonl").exists()), process, seconds=300)
    count, ours = their_cluster()
    assert count == 1 and len(ours) == 2
    process.send_signal(number)
    assert process.wait(60) == code
    assert ("this process was killed" in (tmp_path / "out.txt").read_text()) == (number == signal.SIGKILL)
    wait_for(lambda: not their_cluster()[1], seconds=10)
    assert their_cluster()[0] >= 3  # the same actor
    wait_for(lambda: not any(map(psutil.pid_exists, ours)), seconds=10)


@pytest.mark.cluster
@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_run_whose_cluster_has_lost_its_head_goes_on_from_its_checkpoint(
    start, tmp_path, their_cluster, monkeypatch, train
):
    pytest.importorskip("ray")
    address = their_cluster(None)
    for name, value in (("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"), ("RAY_AUTH_MODE", "disabled")):
        monkeypatch.setenv(name, value)
    run, keys = tmp_path / "run", [*CHEETAH, "es.segment=0", "checkpoint.every=1", "seed=3"]
    process = start(*keys, f"cluster.address={address}", "run=run", "minutes=60")
    wait_for((lambda: (run / "checkpoints/last").exists()), process, seconds=300)
    assert their_cluster("end\n") is None
    assert process.wait(300) not in (0, None)
    wait_for(lambda: "Ray has ended it since the cluster has lost its head" in (tmp_path / "out.txt").read_text())
    done = json.loads((run / "checkpoints/last/state.json").read_text())["generation"]
    train(f"resume={run}", f"generations={done + 2}", "cluster.address=", "minutes=60")
    alone = train(*keys, f"generations={done + 2}", run="alone")
    assert model_hash(run) == model_hash(alone)


@pytest.mark.cluster
@pytest.mark.soak
def test_an_address_that_takes_connections_and_says_nothing_is_told_in_time(command, monkeypatch):
    pytest.importorskip("ray")
    for name, value in (("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"), ("RAY_AUTH_MODE", "disabled")):
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        done = command("train", "env=es_rl/PointMass-v0", f"cluster.address={address}", "run=run")
    assert done.returncode == 6
    assert f"{address} does not answer as a Ray cluster: nothing within 30 s" in done.stderr

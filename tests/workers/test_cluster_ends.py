"""A cluster that a run has started itself ends with the run, however that ends."""

import signal
import time
from pathlib import Path

import psutil
import pytest
from conftest import wait_for

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

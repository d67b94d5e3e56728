"""The scripts run, and print what they promise."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.mark.parametrize(
    "keys",
    ["env=CartPole-v1 workers=1", "env=Hopper-v4 workers=0 policy=linear", "env=Hopper-v4 backend=gymnasium workers=2"],
)
def test_throughput_of_training_and_of_the_simulations_alone(keys, tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPTS / "throughput.py", *keys.split(), "es.population=8", "rounds=1"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    speeds = [float(lines[name][1].replace(",", "")) for name in ("training", "alone")]
    assert min(speeds) > 0
    assert float(lines["alone"][5]) == pytest.approx(speeds[0] / speeds[1], rel=0.02)


def test_peers_are_those_that_throughput_asks_for():
    code = "import throughput, peers; assert set(throughput.PEERS) == set(peers.PEERS)"
    subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, check=True)


def test_the_forward_pass_is_compared_with_plain_inference(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPTS / "forward.py", "8x6x2x3"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    sizes, shares, memory = done.stdout.splitlines()[1].split("|")
    assert sizes.split() == ["8", "6", "2", "3"] and all(float(share) > 0 for share in shares.split())
    assert memory.split() == [str(4 * (2 * 16 + 8)), str(4 * 72)]


def test_kinds_of_noise_are_compared_and_the_comparison_goes_on_where_it_stopped(tmp_path):
    argv = [sys.executable, SCRIPTS / "noise.py", "out=runs", "envs=InvertedDoublePendulum-v4", "seeds=1", "scale=0.05"]
    tables = [subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert tables[0] == tables[1]
    assert [line.split("|")[2].strip() for line in tables[0].splitlines()[2:]] == ["dense", "lowrank"]

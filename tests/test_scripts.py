"""The scripts run, and print what they promise."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"


@pytest.mark.parametrize(
    "keys",
    [
        "env=CartPole-v1 workers=1",
        "env=Hopper-v4 workers=0 policy=linear chunk=2",
        "env=Hopper-v4 backend=gymnasium workers=2",
    ],
)
def test_throughput_of_training_and_of_the_simulations_alone(keys, tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPTS / "throughput.py", *keys.split(), "es.population=8", "rounds=1"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    speeds = [float(lines[name][1].replace(",", "")) for name in ("training", "alone")]
    assert min(speeds) > 0
    assert float(lines["alone"][5]) == pytest.approx(speeds[0] / speeds[1], rel=0.02, abs=0.001)


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


def test_a_search_tries_every_combination_once_and_ranks_them(tmp_path):
    keys = [
        "env=es_rl/PointMass-v0",
        "env_steps=2000",
        "es.population=8",
        "policy=linear",
        "es.sigma=0.1,0.3",
        "seeds=7",
    ]
    argv = [sys.executable, SCRIPTS / "search.py", "out=search", *keys]
    logs = [subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert logs[0] == logs[1]  # seconds too: nothing was trained again
    rows = (tmp_path / "search/es_rl/PointMass-v0.md").read_text().splitlines()[4:]
    means = [float(row.split("|")[2]) for row in rows]
    assert means == sorted(means, reverse=True) and {row.split("|")[1].strip() for row in rows} == {
        "es.sigma=0.1",
        "es.sigma=0.3",
    }


def test_the_results_shown_are_made_of_what_the_runs_say(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import results

    row = {"returns": [3.0, 1.0, 2.0], "env_steps": 2e6, "failed": []}
    them = {"es": row, "ppo": {**row, "returns": [9.0]}, "ars": {**row, "returns": [], "failed": ["no"]}}
    machine = {"processor": "Intel(R) Xeon(R) Processor", "processors": 2}
    result = {"env": "Hopper-v4", "minutes": 5.0, "contenders": them, "machine": machine}
    table = results.table([result]).splitlines()[-1]
    assert table == "| Hopper-v4 | 5 | 2.000 (3.000, 1.000, 2.000) | 9.000 | 1 failed | not run | 2.0 | 2 Intel Xeon |"
    kept = json.loads((ROOT / "videos/results.json").read_text())
    assert results.table(kept) in (ROOT / "README.md").read_text()
    assert results.clips(kept) == (ROOT / "videos/README.md").read_text()


def test_the_policies_shown_are_loaded_and_their_clips_are_small():
    import es_rl

    shown = json.loads((ROOT / "videos/results.json").read_text())
    assert shown
    for task in {result["env"] for result in shown}:
        name = task.partition("-")[0].lower()
        agent = es_rl.load(ROOT / "videos/policies" / name)
        assert agent.config.env == task
        assert agent.action_space.contains(agent(np.zeros(agent.observation_space.shape)))
        assert 10_000 < (ROOT / "videos" / f"{name}.mp4").stat().st_size <= 1_000_000
        assert (ROOT / "videos" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_walked_is_walked_in_the_episodes_of_evaluate():
    policy = ROOT / "videos/policies/hopper"
    walked, evaluated = (
        subprocess.run(
            [sys.executable, *command, f"run={policy}", "episodes=2"], capture_output=True, text=True, check=True
        )
        for command in ([SCRIPTS / "walked.py"], ["-m", "es_rl.evaluate"])
    )
    means = {line[:26].strip(): float(line[26:].split()[0]) for line in walked.stdout.splitlines()}
    # One observation at a time, and so other rounding than a batch.
    assert means["return"] == pytest.approx(json.loads(evaluated.stdout.splitlines()[-1])["return_mean"], rel=0.02)
    assert means["metres walked"] / means["seconds upright"] == pytest.approx(means["metres per second"], abs=0.05)
    # Hopper is paid a point a step for not falling, and a step is eight thousandths of a second.
    bonus = means["return"] - means["return without the bonus"]
    assert bonus == pytest.approx(means["seconds upright"] / 0.008, abs=1.0)

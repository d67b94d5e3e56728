"""The scripts run, and print what they promise."""

import json
import os
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import soak

from es_rl.errors import ConfigError, Stopped, TrainingError

ROOT = Path(__file__).parents[2]
SCRIPTS, BENCHMARKS = ROOT / "scripts", ROOT / "benchmarks"


@pytest.fixture
def script(python):
    """Run a script that must succeed: its stdout and stderr."""

    def run(*argv, **more):
        done = python(*argv, **more)
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.mark.parametrize(
    "keys",
    [
        "env=CartPole-v1 workers=1",
        *soak("env=Hopper-v4 workers=0 policy=linear chunk=2", "env=Hopper-v4 backend=gymnasium workers=2"),
    ],
)
def test_throughput_of_training_and_of_the_simulations_alone(keys, script):
    done = script(BENCHMARKS / "throughput.py", *keys.split(), "es.population=8", "rounds=1")
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    speeds = [float(lines[name][1].replace(",", "")) for name in ("training", "alone")]
    assert min(speeds) > 0
    assert float(lines["alone"][5]) == pytest.approx(speeds[0] / speeds[1], rel=0.02, abs=0.001)


@pytest.mark.soak
def test_throughput_of_judged_steps_and_of_their_simulations_alone(script):
    keys = ["env=Hopper-v4", "workers=1", "rounds=1", "credit.simulations=6", "es.segment=8", "credit.epochs=1"]
    done = script(BENCHMARKS / "judged_throughput.py", *keys)
    share = float(done.stdout.splitlines()[-1].rpartition(" of the physics")[0].rpartition(" ")[2])
    assert 0 < share < 1


@pytest.mark.soak
def test_variants_are_compared_and_finished_trainings_are_not_repeated(tmp_path, script):
    keys = ["out=runs", "env=InvertedPendulum-v4", "env_steps=100", "seeds=2", "eval.episodes=2", "es.segment=8"]
    first, again = (script(BENCHMARKS / "variants.py", *keys, "--", "", "credit.epochs=1").stdout for _ in range(2))
    assert first == again and len(list((tmp_path / "runs").glob("*.done"))) == 4
    rows = [line.split("|")[1:-1] for line in first.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["as it is", "credit.epochs=1"]
    assert all(float(value) > 0 for row in rows for value in row[2].split(","))


@pytest.mark.soak
def test_what_randomised_physics_is_worth_is_told(tmp_path, script):
    keys = ["out=runs", "only=physics", "physics_steps=100", "seeds=1", "episodes=2"]
    first, again = (script(BENCHMARKS / "robot_learning.py", *keys, timeout=600).stdout for _ in range(2))
    assert first == again and len(list((tmp_path / "runs").glob("*.done"))) == 2
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first.splitlines()[2:]]
    assert [row[1] for row in rows] == 2 * ["middle", "lowest", "highest"]
    assert all(float(row[2]) > 0 and float(row[3]) > 0 and row[4] == "2" for row in rows)


def test_policies_are_compared_on_the_same_steps(capsys):
    main = runpy.run_path(str(BENCHMARKS / "policies.py"))["main"]
    assert main(["env=CartPole-v1", "rounds=1", "steps=3", "--", "policy=linear", "policy=gru gru.width=4"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["`policy=linear`", "`policy=gru gru.width=4`"]
    assert all(float(cell) > 0 for row in rows for cell in row[1:]) and float(rows[0][2]) == float(rows[0][4]) == 1


@pytest.mark.soak
@pytest.mark.slow
def test_es_rl_goes_on_from_ppo_and_both_are_compared(script):
    pytest.importorskip("stable_baselines3")
    keys = ["env=Hopper-v4", "ppo_steps=9000", "minutes=0.02", "seeds=1", "es.population=4", "es.top=2", "workers=0"]
    first, again = (script(BENCHMARKS / "after_ppo.py", "out=runs", *keys).stdout for _ in range(2))
    assert first == again
    scores = [float(cell) for cell in first.splitlines()[2].split("|")[2:-1]]
    assert len(scores) == 6 and min(scores) > 0 and len(set(scores)) > 3


def test_peers_are_those_that_throughput_asks_for(script):
    code = "import throughput, peers; assert set(throughput.PEERS) == set(peers.PEERS)"
    script("-c", code, cwd=BENCHMARKS)


def test_the_forward_pass_is_compared_with_plain_inference(script):
    done = script(BENCHMARKS / "population_forward.py", "8x6x2x3")
    sizes, shares, memory = done.stdout.splitlines()[1].split("|")
    assert sizes.split() == ["8", "6", "2", "3"] and all(float(share) > 0 for share in shares.split())
    assert memory.split() == [str(4 * (2 * 16 + 8)), str(4 * 72)]


def test_plans_of_observations_are_compared_with_gymnasiums_way(script):
    done = script(BENCHMARKS / "observations.py", "rounds=1", "calls=2")
    rows = [line.split("|")[2:-1] for line in done.stdout.splitlines()[2:]]
    assert len(rows) == 4 and all(float(value) > 0 for row in rows for value in row)


@pytest.mark.soak
def test_kinds_of_noise_are_compared_and_the_comparison_goes_on_where_it_stopped(script):
    keys = ["out=runs", "envs=InvertedDoublePendulum-v4", "seeds=1", "scale=0.01"]
    tables = [script(BENCHMARKS / "noise_kinds.py", *keys).stdout for _ in range(2)]
    assert tables[0] == tables[1]
    assert [line.split("|")[2].strip() for line in tables[0].splitlines()[2:]] == ["dense", "lowrank"]


@pytest.fixture
def results(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import make_results as results

    return results


def row(*returns, steps=2e6, **more):
    return {"returns": list(returns), "env_steps": steps, "failed": [], **more}


def kept(env="Hopper-v4", minutes=5.0, processors=1, **contenders):
    machine = {"processor": "Intel(R) Xeon(R) Processor", "processors": processors}
    command = (
        f"python -m es_rl.compare env={env} minutes={minutes} seeds=3 first_seed=7 episodes=20 film=8.0 'against=[x]'"
    )
    about = {"train": "train", "date": "2026-01-01", "versions": {"mujoco": "3"}, "episodes": 20}
    return {"env": env, "minutes": minutes, "contenders": contenders, "machine": machine, "command": command} | about


def test_the_results_shown_are_made_of_what_the_runs_say(results):
    shown = json.loads((ROOT / "videos/results.json").read_text())
    assert results.brief(shown) in (ROOT / "README.md").read_text()
    assert results.table(shown) in (ROOT / "docs/results.md").read_text()
    assert results.clips(shown) == (ROOT / "videos/README.md").read_text()


def test_a_row_tells_every_seed_its_command_and_its_time_and_bold_is_the_best_whoever_it_is(results):
    lost = row(3.0, 1.0, 2.0, others=0.25)
    result = kept(es=lost, ppo_fast=row(9.0, 8.0, 7.0), ars={**row(), "failed": ["no"]}, random=row(0.0))
    told = results.table([result]).splitlines()[-3]
    command = "taskset -c 0 python -m es_rl.compare env=Hopper-v4 minutes=5 seeds=3 first_seed=7 'against=[x]'"
    assert told == (
        "| Hopper-v4 | 5 | 2.000 (3.000, 1.000, 2.000) †25% | **8.000 (9.000, 8.000, 7.000)** | 1 failed | 0.000 | 2.0 "
        f"| 1 Intel Xeon | `{command}` | over 35 min |"
    )
    won = {**kept(processors=2, es=row(10.0), ppo_fast=row(9.0)), "took": 7200.0}
    assert "side by side" not in results.table([won])
    assert "Up to 2 comparisons ran side by side" in results.table([won | {"side_by_side": 2}])
    told = results.table([won]).splitlines()[-1]
    assert "| **10.0** | 9.000 |" in told and told.endswith("'against=[x]'` | 2.0 h |") and "taskset" not in told


def test_the_readme_shows_medians_and_the_best_in_bold_whoever_it_is(results):
    rows = [
        kept(es=row(3.0, 1.0, 2.0), ppo_fast=row(9.0, 8.0, 7.0)),
        kept("A-v0", es=row(5.0), ppo_fast=row(4.0), ars=row(1.0)),
    ]
    told = results.brief([kept("B-v0", es=row(1.0)), *rows]).splitlines()
    assert told[5:] == ["| Hopper-v4 | 5 | 2.000 | **8.000** | – |", "| A-v0 | 5 | **5.000** | 4.000 | 1.000 |"]
    assert "has not been run" in results.brief([kept("B-v0", es=row(1.0))])


def test_wins_and_losses_are_counted_from_the_rows(results):
    ours = row(1.0, 2.0, 3.0)
    found = results.table([
        kept("A-v0", es=ours, ppo_fast=row(7.0, 8.0, 9.0), random=row(0.0)),
        kept("B-v0", es=ours, ppo_fast=row(0.1, 0.2, 0.3), ars=row(1.0, 2.0, 3.5)),
        kept("C-v0", es=ours, ppo_fast=row(0.1, 0.2, 9.0)),
    ])  # fmt: skip
    assert "- Against PPO, fast envs, es_rl wins 2 of 3: B-v0, C-v0 (not clearly); loses 1: A-v0.\n" in found
    assert "- Against ARS, sb3-contrib, es_rl wins 0 of 1; loses 0; is level on 1: B-v0." in found
    assert "Against random" not in found


def test_curves_are_compared_after_equal_processor_time(results):
    import results_pages as pages

    curve = [(0, 1.0), (239, 100.0), (250, 3.0), (300, 5.0), (301, 100.0), (None, 7.0)]
    assert pages.at_equal_cost({"curve": [{"cpu_seconds": at, "return": r} for at, r in curve]}) == 4.0
    assert pages.at_equal_cost({"curve": []}) is None and pages.at_equal_cost({}) is None
    table = results.table([
        kept("A-v0", es=row(1.0, early=[9.5, 1.0, 100.0]), ppo_fast=row(1.0, early=[10.0])),
        kept("B-v0", es=row(1.0, early=[8.0]), ppo_fast=row(1.0, early=[10.0])),
        kept("C-v0", es=row(1.0, early=[8.0]), ppo_fast=row(1.0)),
    ])  # fmt: skip
    assert "| A-v0 | 9.500 (9.500, 1.000, 100.0) | 10.0 (10.0) | 0.95 | es_rl is level |" in table
    assert "| B-v0 | 8.000 (8.000) | 10.0 (10.0) | 0.80 | es_rl is behind |" in table and "| C-v0 | 8" not in table


def test_curves_are_compared_after_equal_environment_steps(results):
    import results_pages as pages

    curve = [{"env_steps": at, "return": r} for at, r in [(790_000, 9.0), (800_000, 1.0), (990_000, 3.0)]]
    assert pages.at_equal_steps({"curve": curve}, "Hopper-v4") is None  # it made fewer
    curve.append({"env_steps": 1_010_000, "return": 9.0})
    assert pages.at_equal_steps({"curve": curve}, "Hopper-v4") == 2.0
    assert pages.at_equal_steps({"curve": curve}, "Other-v0") is None and pages.at_equal_steps({}, "Ant-v4") is None
    table = results.table([kept(es=row(1.0, at_steps=[2.0, 3.0]), ppo_fast=row(1.0, at_steps=[2.0]))])
    assert "| Hopper-v4, 1 million | 2.500 (2.000, 3.000) | 2.000 (2.000) | 1.25 | es_rl is ahead |" in table


def test_rows_against_an_older_opponent_are_no_claims(results):
    old = kept("Hopper-v4", es=row(9.0), ppo=row(1.0))
    long = kept("Humanoid-v4", 60.0, es=row(9.0), ppo=row(1.0))
    alone = kept("Humanoid-v4", 150.0, es=row(9.0), random=row(0.0))
    found = results.table([old, long, alone])
    assert "Hopper" not in found and "**" not in found and "wins" not in found
    assert "| against RL-Zoo's PPO in one process | 9.000 | 1.000 |" in found and "| no opponent | 9.000 | – |" in found
    new = kept("Hopper-v4", 20.0, es=row(9.0), ppo_fast=row(1.0))
    assert results.shown([alone, long], alone) and not results.shown([alone, long], long)
    claim = {**new, "env": "Humanoid-v4"}
    assert results.shown([alone, claim], claim) and not results.shown([alone, claim], alone)
    assert results.replaced(old, new) and results.replaced(new, new)
    assert not results.replaced(long, kept("Humanoid-v4", 20.0, es=row(9.0), ppo_fast=row(1.0)))
    assert not results.replaced(new, old) and not results.replaced(old, {**new, "env": "Ant-v4"})


def test_contenders_that_were_not_trained_again_are_kept_and_marked(results):
    old = kept("A-v0", es=row(1.0), ars=row(4.0), sac=row(2.0, earlier={"date": "older"})) | {"date": "2026-01-01"}
    new = results.completed(kept("A-v0", es=row(5.0), ppo_fast=row(3.0)), [old, kept("B-v0", evotorch=row(1.0))])
    assert {*new["contenders"]} == {"es", "ppo_fast", "ars", "sac"} and new["contenders"]["es"] == row(5.0)
    assert new["contenders"]["sac"]["earlier"] == {"date": "older"}
    del new["contenders"]["sac"]
    table = results.table([new])
    assert "| **5.000** | 3.000 | 4.000 ‡ |" in table
    assert "- A-v0 (ARS, sb3-contrib): 2026-01-01, on 1 Intel Xeon: `taskset -c 0 python -m es_rl.compare" in table
    assert "‡" not in results.table([kept("A-v0", es=row(5.0), ppo_fast=row(3.0))])


def stand_in(tmp_path, monkeypatch, results, body):
    """A program in the place of Python, which writes down its core and its arguments."""
    program = tmp_path / "program"
    head = f"#!{sys.executable}\nimport os, signal, sys, time\nkeys = dict(a.split('=', 1) for a in sys.argv[3:])\n"
    note = f"open('{tmp_path}/' + keys['env'], 'a').write(f'{{os.sched_getaffinity(0)}} {{sys.argv[1:]}}\\n')\n"
    program.write_text(head + note + body)
    program.chmod(0o755)
    monkeypatch.setattr(results.sys, "executable", str(program))


def test_comparisons_run_side_by_side_each_on_its_own_core(tmp_path, monkeypatch, results):
    both = f"others = '{tmp_path}/' + {{'A': 'B', 'B': 'A'}}[keys['env']]\nend = time.time() + 20\n"
    both += "while not os.path.exists(others):\n    assert time.time() < end, 'alone'\n    time.sleep(0.02)\n"
    stand_in(tmp_path, monkeypatch, results, both)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("there is one core only")
    assert results.main(["run", "parallel=2", "tasks=A,B", f"out={tmp_path / 'out'}", "first_seed=100"]) == 0
    said = [(tmp_path / task).read_text() for task in "AB"]
    assert [text.partition(" [")[0] for text in said] == [str({core}) for core in cores[:2]]
    assert "'-m', 'es_rl.compare', 'env=A', 'minutes=5', 'seeds=3', 'against=[ppo_fast,ars,random]'" in said[0]
    assert "'first_seed=100'" in said[0] and f"'out={tmp_path / 'out' / 'A'}'" in said[0]
    took = json.loads((tmp_path / "out/A.took.json").read_text())
    assert results.main(["run", "tasks=A", f"out={tmp_path / 'out'}"]) == 0  # B is there already
    more = json.loads((tmp_path / "out/A.took.json").read_text())
    assert more["took"] > took["took"] and more["side_by_side"] == took["side_by_side"] == 2


def test_a_comparison_that_failed_is_named_and_the_others_are_run(tmp_path, monkeypatch, results):
    stand_in(tmp_path, monkeypatch, results, "sys.exit(6 if keys['env'] == 'A' else 0)")
    with pytest.raises(TrainingError, match=r"not finished: A \(exit code 6\)"):
        results.main(["run", "tasks=A,B", f"out={tmp_path / 'out'}"])
    assert (tmp_path / "B").exists()


def test_a_stopped_run_ends_its_comparisons(tmp_path, monkeypatch, results):
    # It takes a while to end, and meanwhile its parent is told again to stop.
    body = "signal.signal(signal.SIGTERM, lambda *_: (os.kill(os.getppid(), 15), time.sleep(0.3), sys.exit(75)))\n"
    body += (
        f"open('{tmp_path}/pid', 'w').write(str(os.getpid()))\nos.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(60)"
    )
    stand_in(tmp_path, monkeypatch, results, body)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="the same command goes on"):
        results.main(["run", "tasks=A,B", f"out={tmp_path / 'out'}"])
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists() and not (tmp_path / "B").exists()
    assert signal.getsignal(signal.SIGTERM) is before and (tmp_path / "out/A.took.json").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "run, show or table"),
        (["run", "parallel=two"], "a number of cores"),
        (["run", "parallel=999"], "from 1 to"),
    ],
)
def test_what_cannot_be_run_is_refused(argv, message, results):
    with pytest.raises(ConfigError, match=message):
        results.main(argv)


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


def test_what_is_walked_is_walked_in_the_episodes_of_evaluate(script):
    policy = ROOT / "videos/policies/hopper"
    walked, evaluated = (
        script(*command, f"run={policy}", "episodes=2")
        for command in ([SCRIPTS / "distance_walked.py"], ["-m", "es_rl.evaluate"])
    )
    means = {line[:26].strip(): float(line[26:].split()[0]) for line in walked.stdout.splitlines()}
    # One observation at a time, and so other rounding than a batch.
    assert means["return"] == pytest.approx(json.loads(evaluated.stdout.splitlines()[-1])["return_mean"], rel=0.02)
    assert means["metres walked"] / means["seconds upright"] == pytest.approx(means["metres per second"], abs=0.05)
    # Hopper is paid a point a step for not falling, and a step is eight thousandths of a second.
    bonus = means["return"] - means["return without the bonus"]
    assert bonus == pytest.approx(means["seconds upright"] / 0.008, abs=1.0)

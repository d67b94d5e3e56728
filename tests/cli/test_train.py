"""Whole trainings: the same bits whatever happens, nothing lost, nothing doubled, nothing left behind."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import gymnasium
import numpy as np
import psutil
import pytest
from conftest import comparable, kill_workers, metrics, model_hash, records, soak, wait_for, workers_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import es_rl
from es_rl.errors import ConfigError, Stopped, TrainingError
from es_rl.evaluate import main as evaluate
from es_rl.rl.config import parse_train
from es_rl.rng import integer_seed
from es_rl.run import checkpoint as cp
from es_rl.run import overrun
from es_rl.run.json_lines import JsonLines
from es_rl.run.signals import stop_requests
from es_rl.run.task import Run
from es_rl.run.terms import RETURN
from es_rl.workers import pool as workers

TOY = ["env=es_rl/PointMass-v0", "mlp.hidden=[8]", "eval.every=2"]
KINDS = [
    ("dense", "linear"),
    ("dense", "mlp"),
    ("orthogonal", "linear"),
    ("orthogonal", "mlp"),
    ("lowrank", "mlp"),
    ("lowrank_orthogonal", "mlp"),
]


def toy(noise="dense", policy="mlp", population=16, chunk=4):
    return [*TOY, f"es.noise={noise}", f"policy={policy}", f"es.population={population}", f"chunk={chunk}"]


@pytest.mark.parametrize(("noise", "policy"), KINDS)
@pytest.mark.slow
def test_theta_is_the_same_for_any_number_of_workers(train, noise, policy):
    counts = (0, 1, 3) if (noise, policy) == KINDS[0] else (0, 2)
    keys = [*toy(noise, policy), "generations=3"]
    hashes = {model_hash(train(*keys, f"workers={n}", run=f"run{n}")) for n in counts}
    assert len(hashes) == 1
    assert model_hash(train(*keys, "seed=1", run="other")) not in hashes


@pytest.mark.parametrize(("noise", "policy"), KINDS)
@pytest.mark.slow
def test_a_stopped_and_resumed_run_is_an_uninterrupted_one(train, noise, policy):
    whole = train(*toy(noise, policy), "generations=5", run="whole")
    for stop in range(1, 5) if (noise, policy) == KINDS[0] else (2,):
        run = train(*toy(noise, policy), f"generations={stop}", run=f"stop{stop}")
        train(f"resume={run}", "generations=5")
        assert model_hash(run) == model_hash(whole)
        last = [(r / "checkpoints/last/trainer.safetensors").read_bytes() for r in (run, whole)]
        assert last[0] == last[1]
        # one that stopped has evaluated where it stopped, which changes nothing else
        trained = [
            [{k: v for k, v in line.items() if "eval/" not in k} for line in comparable(r)] for r in (run, whole)
        ]
        assert trained[0] == trained[1]


@pytest.mark.parametrize(
    ("policy", "noise"), [("linear", "dense"), ("mlp", "lowrank"), *soak(("linear", "lowrank"), ("mlp", "dense"))]
)
@pytest.mark.slow
def test_theta_does_not_depend_on_how_the_members_are_cut(train, policy, noise):
    keys = ["env=Hopper-v4", f"policy={policy}", f"es.noise={noise}", "es.population=32", "es.top=16", "generations=3"]
    runs = [train(*keys, f"chunk={size}", run=f"chunk{size}") for size in (2, 32)]
    assert len({model_hash(run) for run in runs}) == 1
    assert comparable(runs[0]) == comparable(runs[1])


def test_a_generation_tells_what_its_estimate_and_its_workers_were_worth(train):
    line = metrics(train(*toy(), "generations=2", "workers=1"))[-1]
    assert -1 <= line["gradient/agreement"] <= 1
    assert 1 <= line["update/effective_rank"] <= 8  # pairs
    assert 0 < line["time/simulating"] < line["time/utilisation"] <= 1


@pytest.mark.slow
def test_only_members_that_crash_fail_whoever_runs_beside_them(train, monkeypatch):
    monkeypatch.setattr(workers, "DEATHS", 2)
    keys = ["env=hostile:OftenCrashes-v0", "policy=linear", "es.population=16", "es.max_failed=1", "generations=2"]
    runs = [train(*keys, "eval.every=0", f"workers={n}", run=f"workers{n}") for n in (1, 2)]
    failed = [[line["members/failed"] for line in metrics(run)] for run in runs]
    assert failed[0] == failed[1] and 0 < sum(failed[0]) < 16
    assert model_hash(runs[0]) == model_hash(runs[1])


def test_theta_is_the_same_while_workers_are_killed(train, start, tmp_path):
    keys = [*toy(population=64, chunk=16), "generations=12", "video.every=-1", "eval.episodes=2"]
    quiet = train(*keys, run="quiet")
    process = start(*keys, "workers=2", "run=killed")
    kills = kill_workers(process, tmp_path / "killed", workers=1, pauses=(1.0, 2.0), most=3)
    assert process.wait() == 0
    assert kills >= 1 and "it is replaced" in (tmp_path / "out.txt").read_text()
    assert model_hash(tmp_path / "killed") == model_hash(quiet)
    assert comparable(tmp_path / "killed") == comparable(quiet)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 75)])
def test_a_signal_in_a_long_generation_saves_and_leaves(start, tmp_path, number, code):
    process = start("env=hostile:Long-v0", "run=run", "workers=2", "es.population=8", "video.every=-1")
    wait_for(lambda: (tmp_path / "run/checkpoints/last").exists() and len(workers_of(process)) >= 2, process)
    time.sleep(1)  # into the generation
    family = process.children(recursive=True)
    process.send_signal(number)
    assert process.wait(timeout=30) == code  # long before the generation would end
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert cp.load(tmp_path / "run").generation == 0
    assert "generation 0 is saved; go on with resume=run" in (tmp_path / "out.txt").read_text()
    assert "Traceback" not in (tmp_path / "out.txt").read_text()


def test_a_hangup_that_was_ignored_from_the_start_stays_ignored(tmp_path, train):
    """As with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as check:
            os.kill(os.getpid(), signal.SIGHUP)
            check()
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Stopped):
                check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_stopped_by_a_signal_goes_on_to_the_same_bits(train, start, tmp_path):
    keys = [*toy(), "checkpoint.every=1000", "video.every=-1", "eval.episodes=2"]
    process = start(*keys, "workers=1", "run=run", "generations=100000")
    wait_for(lambda: (tmp_path / "run/metrics.jsonl").exists() and len(metrics(tmp_path / "run")) >= 7, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    saved = cp.load(tmp_path / "run").generation
    assert saved == metrics(tmp_path / "run")[-1]["generation"] >= 7
    train("resume=run", f"generations={saved + 3}")
    whole = train(*keys, f"generations={saved + 3}", run="whole")
    assert model_hash(tmp_path / "run") == model_hash(whole)


def test_a_killed_parent_leaves_nothing(start, tmp_path):
    process = start("env=hostile:Long-v0", "run=run", "workers=2", "video.every=-1")
    wait_for(lambda: (tmp_path / "run/checkpoints/last").exists() and len(workers_of(process)) >= 2, process)
    family = process.children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


def servers():
    """The processes that hostile:StartsServer has started."""
    return [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "12345"]]


@pytest.mark.parametrize("end", ["killed", "finished"])
def test_what_environments_start_does_not_outlive_the_training(start, tmp_path, end):
    keys = ["generations=1"] if end == "finished" else []
    process = start(
        "env=hostile:StartsServer-v0",
        "run=run",
        "workers=2",
        "es.population=4",
        "eval.episodes=1",
        "video.every=-1",
        *keys,
    )
    wait_for(lambda: len(servers()) >= 2, process)
    if end == "killed":
        process.kill()
    process.wait()
    wait_for(lambda: not servers(), seconds=20)


def test_an_environment_whose_close_raises_is_trained_evaluated_and_closed(train):
    run = train("env=hostile:CloseRaises-v0", "generations=1", "es.population=4", "workers=1")
    assert evaluate([f"run={run}", "env=hostile:CloseRaises-v0", "episodes=2"]) == 0


def scalars(run, tag):
    accumulator = EventAccumulator(str(run), {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator, [(e.step, e.value) for e in accumulator.Scalars(tag)]


@pytest.mark.slow
def test_metrics_and_tensorboard_continue_without_doubled_points(train):
    """The run wrote five generations, but its newest sound checkpoint is of the second: three are run again."""
    whole = train(*toy(), "generations=6", run="whole")
    run = train(*toy(), "generations=5", "checkpoint.every=2", "checkpoint.keep=9")
    for generation in (3, 4, 5):
        path = run / f"checkpoints/{generation:08d}/model.safetensors"
        if path.exists():
            path.write_bytes(b"damaged")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"generation": 6, "env_st')
    train(f"resume={run}", "generations=6")
    assert [line["generation"] for line in metrics(run)] == [1, 2, 3, 4, 5, 6]
    assert comparable(run) == comparable(whole)
    accumulator, points = scalars(run, "fitness/mean")
    assert points == scalars(whole, "fitness/mean")[1]
    assert [step for step, _ in points] == [line["env_steps"] for line in metrics(run)]
    tags = accumulator.Tags()
    assert {"eval/return_mean", "update/norm", "time/steps_per_second", "members/failed"} <= set(tags["scalars"])
    assert {"fitness", "theta/network.0.weight"} <= set(tags["histograms"])
    assert {"run/config/text_summary", "run/command/text_summary"} <= set(tags["tensors"])


def test_a_killed_run_that_goes_on_has_no_gap_in_its_curves(train, start, tmp_path):
    run = tmp_path / "run"
    process = start(*toy(), "run=run", "workers=0", "video.every=-1", "checkpoint.every=5", "generations=100000")
    wait_for(lambda: any(int(p.name) >= 10 for p in (run / "checkpoints").glob("0*")), process)
    process.kill()
    process.wait()
    train("resume=run", f"generations={cp.load(run).generation + 2}")
    assert [step for step, _ in scalars(run, "fitness/mean")[1]] == [line["env_steps"] for line in metrics(run)]


@pytest.mark.slow
def test_a_run_resumed_from_its_start_has_no_doubled_points_either(train):
    whole = train(*toy(), "generations=3", run="whole")
    run = train(*toy(), "generations=2")
    (run / "checkpoints/last").unlink()
    shutil.rmtree(run / "checkpoints/00000002")
    train(f"resume={run}", "generations=3")
    assert scalars(run, "fitness/mean")[1] == scalars(whole, "fitness/mean")[1]
    assert comparable(run) == comparable(whole)


@pytest.mark.slow
def test_evaluations_that_fail_are_counted_and_training_goes_on(train, capsys):
    run = train(
        "env=hostile:OftenRaises-v0", "generations=25", "es.population=8", "policy=linear", "eval.every=1",
        "eval.episodes=1", "es.max_failed=1",
    )  # fmt: skip
    failed = [line["eval/failed"] for line in metrics(run)]
    assert 0 < sum(failed) < 25
    assert all((line["eval/return_mean"] is None) == bool(line["eval/failed"]) for line in metrics(run))
    assert "eval – ± –" in capsys.readouterr().out


def test_metrics_have_what_is_promised(train):
    run = train(*toy(), "generations=2", "minutes=5")
    lines = metrics(run)
    keys = "generation env_steps seconds fitness/mean fitness/max fitness/min update/norm members/failed time/steps_per_second"
    assert all(set(keys.split()) <= set(line) for line in lines)
    assert {"eval/return_mean", "eval/return_std", "eval/length_mean"} <= set(lines[1])
    assert not any(key.startswith("eval/") for key in lines[0])
    assert lines[1]["env_steps"] == 2 * 16 * 100
    assert {"config.yaml", "command.txt", "versions.json", "metrics.jsonl"} <= {p.name for p in run.iterdir()}
    assert "mujoco" in json.loads((run / "versions.json").read_text())


@pytest.mark.parametrize(
    ("rule", "generations"),
    [("env_steps=4000", 3), ("generations=2", 2), ("target_return=-1000", 0), ("minutes=1e-6", 1)],
)
def test_every_stop_rule_stops_after_an_evaluation(train, rule, generations):
    lines = records(train(*toy(), rule))
    assert lines[-1]["generation"] == generations == len(lines) - 1 and "eval/return_mean" in lines[-1]


def test_a_rule_that_is_met_already_ends_a_resumed_run_at_once(train, capsys):
    run = train(*toy(), "generations=2")
    before = model_hash(run)
    train(f"resume={run}")
    assert model_hash(run) == before and len(metrics(run)) == 2
    assert "finished: generations=2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rule", "workers"),
    [("minutes=0.02", 0), ("env_steps=2000", 1), *soak(("minutes=0.02", 1), ("env_steps=2000", 0))],
)
@pytest.mark.slow
def test_every_stop_rule_holds_in_an_endless_episode(train, capsys, monkeypatch, rule, workers):
    monkeypatch.setattr(overrun, "GRACE", 1.0)
    monkeypatch.setattr(overrun, "FACTOR", 1)
    keys = ["env=hostile:Endless-v0", "es.population=4", rule, f"workers={workers}", "eval.every=0"]
    with pytest.raises(TrainingError, match=rf"{rule} was over for long.*Do its episodes ever end\? Give env_kwargs"):
        train(*keys, run="none")
    done = train(*(k for k in keys if k != rule), "env_kwargs.later=true", "generations=2", run="done")
    if "minutes" in rule:
        rule = f"minutes={round(cp.load(done).progress.seconds / 60 + 0.02, 4)}"
    Path("endless").touch()
    capsys.readouterr()
    train(f"resume={done}", "env=hostile:Endless-v0", "generations=9", rule, f"workers={workers}")
    assert (
        f"finished: {rule} was over for long, and generation 3 had not ended: it is left out" in capsys.readouterr().out
    )
    assert cp.load(done).generation == 2 == len(metrics(done))


def test_failed_members_are_counted_and_learning_goes_on(train):
    run = train("env=hostile:OftenRaises-v0", "generations=3", "es.population=32", "policy=linear")
    lines = metrics(run)
    assert all(0 < line["members/failed"] < 16 and line["fitness/mean"] is not None for line in lines)


def test_members_that_are_all_equal_are_warned_of(train, capsys):
    run = train("env=hostile:Equal-v0", "generations=4", "es.population=4")
    assert "in 3 generations all members had the same fitness" in capsys.readouterr().out
    assert [line["update/norm"] for line in metrics(run)] == [0.0] * 4


def test_an_environment_that_closes_the_output_does_not_silence_the_program(command):
    keys = ["generations=1", "es.population=4", "eval.episodes=1", "video.every=-1", "workers=0", "run=run"]
    done = command("train", "env=hostile:ClosesOutput-v0", *keys)
    assert done.returncode == 0 and "resume=run env=hostile:ClosesOutput-v0 generations=2" in done.stdout
    done = command("evaluate", "run=run", "env=hostile:ClosesOutput-v0", "episodes=1")
    assert done.returncode == 0 and json.loads(done.stdout.splitlines()[-1])["episodes"] == 1


@pytest.mark.slow
def test_an_environment_that_closes_files_or_prints_or_forks_does_no_harm(train, tmp_path, capfd):
    quiet = train("env=hostile:Good-v0", "generations=2", "es.population=4", "workers=1", run="quiet")
    (tmp_path / "close-files").touch()
    for env in ("ClosesEverything", "Noisy", "Forks", "Doubles"):
        run = train(f"env=hostile:{env}-v0", "generations=2", "es.population=4", "workers=1", run=env)
        assert model_hash(run) == model_hash(quiet)
    captured = capfd.readouterr()
    assert "look at me" not in captured.out + captured.err
    assert "look at me" in (tmp_path / "Noisy/workers.log").read_text()
    assert not (tmp_path / "close-files").exists()
    sleeper = ["sleep", str(10**6 + os.getpid())]
    wait_for(lambda: not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == sleeper], seconds=10)


@pytest.mark.slow
def test_a_dictionary_of_observations_and_discrete_actions_are_learnt(train):
    run = train("env=hostile:DictObservation-v0", "generations=60", "es.population=16", "policy=linear", "es.sigma=0.3")
    agent = es_rl.load(run)
    obs = {"position": np.zeros(3, np.float32), "mode": np.int64(3), "switches": np.array([0, 1], np.int8)}
    assert agent(obs) == 6  # the action that is rewarded
    assert metrics(run)[-1]["eval/return_mean"] == 20.0


def test_a_loaded_policy_acts_as_it_was_trained(train):
    run = train(*toy(), "generations=4")
    agent, best = es_rl.load(run), es_rl.load(run, "best")
    obs = np.array([0.5, -0.5, 0.0, 0.1])
    action = agent(obs)
    assert action.shape == (2,) and action.dtype == np.float32
    env, returns = gymnasium.make("es_rl/PointMass-v0"), []
    for episode in range(2):
        obs, _ = env.reset(seed=integer_seed(0, "eval", 4, episode))
        total, over = 0.0, False
        agent.reset()
        while not over:
            obs, reward, terminated, truncated, _ = env.step(agent(obs))
            total, over = total + reward, terminated or truncated
        returns.append(total)
    evaluated = {line["generation"]: line["eval/return_mean"] for line in records(run) if "eval/return_mean" in line}
    assert evaluated[4] == pytest.approx(np.mean(returns), rel=1e-3)
    assert agent.generation == 4 and best.generation == max(evaluated, key=evaluated.get)


def test_a_loaded_policy_with_memory_forgets_at_reset(train):
    keys = ["policy=transformer", "transformer.width=16", "generations=1", "es.population=4"]
    agent = es_rl.load(train("env=es_rl/Recall-v0", *keys))
    cue, nothing = np.array([1.0, 0.0]), np.zeros(2)
    first, second = agent(cue), agent(nothing)
    agent.reset()
    assert not np.array_equal(agent(nothing), second)
    agent.reset()
    assert np.array_equal(agent(cue), first)


def test_short_episodes_and_a_grown_population_are_those_of_training_only(train):
    run = train(
        "env=es_rl/PointMass-v0", "policy=linear", "es.population=8", "chunk=8", "es.limit=10", "es.limit_growth=1",
        "es.steps=200", "generations=2", "eval.every=1",
    )  # fmt: skip
    for line in metrics(run):
        assert (line["members"], line["length/mean"], line["eval/length_mean"]) == (20, 10, 100)
    assert metrics(run)[-1]["env_steps"] == 400


def test_a_run_goes_on_with_its_newest_stop_rules_and_without_any_for_an_hour(train, capsys):
    run = train(*toy(), "minutes=1e-6")
    train(f"resume={run}", "minutes=60", "generations=3")
    assert len(metrics(run)) == 3
    train(f"resume={run}", "generations=4")
    train(f"resume={run}")
    assert len(metrics(run)) == 4 and capsys.readouterr().out.count("finished: generations=4") == 2
    with pytest.raises(
        ConfigError,
        match=r"target_return=5: is checked in evaluations, which eval.every=0 turns off. Give eval.every above 0",
    ):
        train("env=es_rl/PointMass-v0", "target_return=5", "eval.every=0", run="endless")
    assert not (run.parent / "endless").exists()
    default = Run(parse_train(["env=A-v0"]), run, None, "", "", workers=0, resumed=False, terms=RETURN)
    assert default.config.minutes is None and default.stop_rules.minutes == 60


@pytest.mark.soak
def test_memory_and_files_stay_as_they_are_over_many_generations(train):
    """Six hundred generations; those before fill caches."""
    me = psutil.Process()
    seen = {}

    def watch(line):
        if line["generation"] in (300, 900):
            seen[line["generation"]] = (me.memory_info().rss, me.num_fds())

    original = JsonLines.append

    def append(self, rows):
        watch(rows[0])
        original(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JsonLines, "append", append)
        train(
            "env=es_rl/PointMass-v0", "env_kwargs.max_episode_steps=2", "es.population=4", "policy=linear",
            "generations=900", "eval.every=100", "checkpoint.every=50", "workers=1",
        )  # fmt: skip
    growth = seen[900][0] - seen[300][0]
    assert growth < 600 * 2**23 / 1000
    assert seen[900][1] <= seen[300][1]

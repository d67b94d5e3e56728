"""The comparison: what is run, what is kept, what is refused."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from es_rl.compare import baselines, comparison, contender
from es_rl.compare.__main__ import main
from es_rl.compare.baselines import BASELINES, label
from es_rl.compare.config import parse_compare, resolved
from es_rl.compare.opponents import ppo_fast
from es_rl.errors import ConfigError, ResourceError, Stopped
from es_rl.workers import machine

TINY = ["es.population=8", "eval.every=2", "eval.episodes=2", "episodes=2", "tolerate=1"]
SMALL = [*TINY, "workers=0"]
TOY = ["env=es_rl/PointMass-v0", "minutes=0.03", "film=0", *SMALL]


@pytest.fixture
def compare(python):
    def run(*keys, code=0):
        done = python("-m", "es_rl.compare", *keys)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def test_what_other_programs_use_is_measured(tmp_path, monkeypatch):
    """A child of ours that works for a second is not others; a process of nobody's would be."""
    code = "import time\nend = time.process_time() + 1\nwhile time.process_time() < end: pass"
    before = machine.processor_seconds()
    subprocess.run([sys.executable, "-c", code], check=True)
    busy, passed, own = (now - then for now, then in zip(machine.processor_seconds(), before, strict=True))
    assert 1.0 <= own < 3.0 and busy >= 0.9 * own and passed >= 0.9 * busy


def test_processor_time_is_that_of_the_family_alive_and_dead():
    code = (
        "import time\nend = time.process_time() + 1\nwhile time.process_time() < end: pass\nprint(flush=True)\ninput()"
    )
    before = machine.family_seconds()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        alive = machine.family_seconds() - before
        child.communicate(b"\n")
    dead = machine.family_seconds() - before
    assert 0.98 <= alive <= dead + 0.02 < 1.5  # it is told in hundredths of a second


def test_processor_time_of_grandchildren_counts():
    work = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass\nprint(flush=True)\ninput()"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {work!r}])"
    before = machine.family_seconds()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        alive = machine.family_seconds() - before
        child.communicate(b"\n")
    assert 0.48 <= alive < 1.5


def test_the_share_of_others_is_what_was_not_ours_over_all_sittings(tmp_path, monkeypatch):
    seen = iter([(10.0, 100.0, 5.0), (40.0, 150.0, 15.0), (50.0, 200.0, 20.0), (60.0, 250.0, 30.0)])
    monkeypatch.setattr(machine, "processor_seconds", lambda: next(seen))
    config, run = contender.CompareConfig(env="Hopper-v4", tolerate=1.0), tmp_path / "run"

    def stopped(*_):
        run.mkdir()
        (run / "config.yaml").touch()
        raise Stopped("enough", 75)

    monkeypatch.setattr(contender, "_ours", stopped)
    with pytest.raises(Stopped):
        contender.run("es", 0, tmp_path, config, [])
    monkeypatch.setattr(contender, "_ours", lambda *_: "no")
    contender.run("es", 0, tmp_path, config, [])
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["failed"] == "no" and found["others"] == (30 - 10 + 10 - 10) / 100


def test_processors_that_may_not_be_used_do_not_count(monkeypatch):
    """Half of the machine has worked for half of its seconds."""
    every = os.sched_getaffinity(0)
    whole = machine.processor_seconds()[1]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {min(every)})
    assert machine.processor_seconds()[1] == pytest.approx(whole / len(every), rel=0.05)


def test_a_comparison_is_run_kept_and_gone_on_with(tmp_path, monkeypatch, compare):
    (tmp_path / "out/es-0/run/checkpoints").mkdir(parents=True)  # as one that was killed before it had begun
    (tmp_path / "out/es-0/run/.lock").touch()
    done = compare(*TOY, "seeds=1", "against=[random]", "out=out")
    assert "1 of 2: es_rl, seed 0" in done.stdout and "report.html" in done.stdout
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    ours, random = results["runs"]
    assert ours["seconds"] >= 0.03 * 60 and ours["env_steps"] > 0 and ours["cpu_seconds"] > 0.5
    assert ours["return_mean"] > random["return_mean"] and random["env_steps"] == 0
    for clock in ("seconds", "cpu_seconds"):
        told = [point[clock] for point in ours["curve"]]
        assert told == sorted(told) and 0 < told[-1] <= ours[clock] + 0.02
    before = (out / "es-0" / "result.json").stat().st_mtime_ns
    more = compare(*TOY, "seeds=2", "against=[]", "out=out")  # another seed is added
    assert (out / "es-0" / "result.json").stat().st_mtime_ns == before
    assert "es_rl, seed 0\n" not in more.stdout.replace("   es_rl", "") and "2 of 2: es_rl, seed 1" in more.stdout
    kept = [(run["name"], run["seed"]) for run in json.loads((out / "results.json").read_text())["runs"]]
    assert kept == [("es", 0), ("random", 0), ("es", 1)]  # what was done before is still shown
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"other settings \(minutes was 0.03\)"):
        main(["env=es_rl/PointMass-v0", "minutes=0.05", *SMALL, "out=out"])


def test_a_comparison_is_of_this_machine():
    with pytest.raises(ConfigError, match=r"cluster.address=auto: a comparison gives all contenders the same machine"):
        parse_compare(["env=Hopper-v4", "cluster.address=auto"])


def test_code_of_the_users_is_named_again_and_all_are_judged_on_gymnasiums_environment(tmp_path, monkeypatch):
    told = {}

    def call(folder, config, module, keys, *, stdout=None):
        told[module] = keys
        return "enough" if module == "es_rl.evaluate" else None

    monkeypatch.setattr(contender, "_call", call)
    config, ours, _ = parse_compare(["env=Hopper-v4", "policy=networks:small"])
    assert contender._ours(0, tmp_path, config, ours) == "enough"
    contender.film(tmp_path, config, ours)
    assert all("policy=networks:small" in keys for keys in told.values()) and len(told) == 3
    assert "backend=gymnasium" in told["es_rl.evaluate"]


def test_settings_that_have_changed_are_not_mixed_with_those_of_before(tmp_path, monkeypatch):
    def keep(*against, env="Hopper-v4", processors=2):
        monkeypatch.setattr(comparison, "available_processors", lambda: processors)
        config = contender.CompareConfig(env=env, against=list(against))
        comparison._keep_settings(tmp_path, config, resolved(config, []))

    keep("ppo_fast")
    keep("ars", "random")  # others may be added
    keep("ppo_fast")
    with pytest.raises(ConfigError, match=r"other settings \(processors was 2\)"):
        keep("ppo_fast", processors=1)
    monkeypatch.setitem(ppo_fast.SETTINGS, "Hopper", {"gamma": 0.5, "policy_kwargs": {"net_arch": [8]}})
    keep("ars")  # whom it does not concern
    with pytest.raises(ConfigError, match=r"opponents\.ppo_fast\.gamma was 0.99"):
        keep("ppo_fast")


def test_the_command_covers_all_runs_where_their_seeds_have_no_gap():
    config = contender.CompareConfig(env="Hopper-v4", seeds=1, first_seed=7)
    runs = [{"name": "es", "seed": seed} for seed in (5, 6, 7)]
    assert {"first_seed=5", "seeds=3"} <= set(comparison._given(config, [], runs))
    assert {"first_seed=7", "seeds=1"} <= set(comparison._given(config, [], [*runs, {"name": "es", "seed": 100}]))


def test_a_stopped_comparison_goes_on_with_the_training_that_it_stopped(tmp_path, start, compare):
    short = "env_kwargs.max_episode_steps=10"  # so that a generation takes far less than the time
    keys = ["env=es_rl/PointMass-v0", "minutes=0.1", "film=0", short, *SMALL, "seeds=1", "against=[random]", "out=out"]
    process = start(*keys, verb="compare")
    run = tmp_path / "out/es-0/run"
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert "the same command goes on" in (tmp_path / "out.txt").read_text()
    trained = len((run / "metrics.jsonl").read_text().splitlines())
    compare(*keys)
    generations = [json.loads(line)["generation"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert generations == list(range(len(generations))) and len(generations) > trained


def test_a_training_that_hangs_has_failed(tmp_path, monkeypatch):
    (tmp_path / "sleeper.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(contender, "PATIENCE", 1.0)
    config = contender.CompareConfig(env="Hopper-v4", minutes=0.01)
    assert contender._call(tmp_path, config, "sleeper", []) == "sleeper was ended after 0 minutes"
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            assert "sleeper" not in child.cmdline()


def test_a_missing_library_is_named_with_its_remedy_before_anything_is_trained(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "evotorch" else found(name))
    remedy = (
        r"not installed: evotorch( and ray)? for evotorch\. In the checkout of es_rl: pip install .* -e '\.\[peers\]'"
    )
    with pytest.raises(ResourceError, match=remedy):
        main([*TOY, "against=[ppo,evotorch]", "out=out"])
    with pytest.raises(ResourceError, match=remedy):
        baselines.main(["name=evotorch", "env=es_rl/PointMass-v0", "out=out"])
    assert not (tmp_path / "out").exists()


@pytest.mark.soak
@pytest.mark.parametrize("against", [["ppo_fast"], ["ppo", "ars"]])
def test_opponents_train_and_are_filmed_and_judged_like_ours(against, tmp_path, renderer, compare):
    keys = ["env=InvertedPendulum-v4", "minutes=0.05", *TINY, "workers=1", "seeds=1", f"against=[{','.join(against)}]"]
    compare(*keys, "film=0.5", "out=out", "threads=1", "processes=1")
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [run["name"] for run in results["runs"]] == ["es", *against]
    for run in results["runs"]:
        assert "failed" not in run, run["failed"]
        assert run["env_steps"] > 0 and run["seconds"] >= 3.0
        assert 0.1 < run["curve"][-1]["cpu_seconds"] <= run["cpu_seconds"] + 0.02
        speed = run["resources"].pop("steps_per_second")
        run["resources"].pop("note", "")  # how many threads the physics has
        assert speed == pytest.approx(run["env_steps"] / run["seconds"], rel=0.01)
        environments = {"es": 8, "ppo_fast": 64}.get(run["name"], 1)
        assert run["resources"] == {"environments": environments, "processes": 1, "threads": 1}
        assert run["name"] == "es" or "threads=1 processes=1" in run["command"]
    if renderer:
        assert len(list((tmp_path / "out").glob("*/video.mp4"))) == 1 + len(against)


def test_a_contender_that_fails_makes_the_exit_code_5_and_the_others_are_run(tmp_path, compare):
    """Sixty episodes of PPO's settings take longer than that."""
    keys = ["env=InvertedDoublePendulum-v4", "minutes=0.0001", "film=0", *SMALL, "seeds=1", "threads=1"]
    done = compare(*keys, "against=[sac,random]", "out=out", code=5)
    assert "sac-0: failed; the report says why" in done.stderr
    runs = {run["name"]: run for run in json.loads((tmp_path / "out/results.json").read_text())["runs"]}
    assert "minutes=0.0001: not one update of 100 steps was made" in runs["sac"]["failed"]
    assert "return_mean" in runs["random"] and (tmp_path / "out/report.html").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["env=Hopper-v4", "against=[pppo]"], "Did you mean ppo"),
        (["env=Hopper-v4", "against=[ppo,ppo]"], "give each only once"),
        (["env=Hopper-v4", "es.populaton=4"], "Did you mean es.population"),
        (["env=Hopper-v4", "seed=4"], "seed: is set by the comparison"),
        (["env=Hopper-v4", "config=keys.yaml"], "config: is set by the comparison"),
        (["env=Hopper-v4", "video.every=5"], "video.every: is set by the comparison"),
        ([], "env is missing"),
    ],
)
def test_bad_keys_are_refused_before_anything_is_run(keys, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        main(keys)
    assert not (tmp_path / "runs").exists()


def test_labels_say_whose_settings_they_are():
    assert label("ppo", "my:Hopper-v5") == "PPO (Stable-Baselines3, RL-Zoo settings)"
    assert label("ars", "Reacher-v4") == "ARS (sb3-contrib, default settings, normalised)"
    assert label("sac", "Reacher-v4") == "SAC (Stable-Baselines3, default settings)"
    assert label("es", "Hopper-v4") == "es_rl"
    assert all(label(name, "Hopper-v4") for name in BASELINES)


def test_what_others_took_is_run_again_once_and_the_less_disturbed_is_kept(tmp_path, monkeypatch):
    """Of 100 seconds of the processors others took 40, then 20, or none, or 60; or the second training failed."""
    config = contender.CompareConfig(env="Hopper-v4", threads=1)

    def run(*others, tolerate=0.1):
        folder = tmp_path / f"ppo-{'-'.join(map(str, others))}-{tolerate}"
        folder.mkdir()
        seen = iter([value for other in others for value in ((0.0, 0.0, 0.0), (60.0 + (other or 0), 100.0, 60.0))])
        monkeypatch.setattr(machine, "processor_seconds", lambda: next(seen))
        done = iter(others)

        def theirs(name, seed, where, *_):
            if (other := next(done)) is None:
                return "it broke"
            (where / "result.json").write_text(json.dumps({"return_mean": float(other)}))
            return None

        monkeypatch.setattr(contender, "_theirs", theirs)
        contender.run("ppo", 0, folder, replace(config, tolerate=tolerate), [])
        assert next(done, "all used") == "all used"
        assert [path.name for path in tmp_path.glob("*.disturbed")] == []
        return {
            k: v
            for k, v in contender.outcome(folder).items()
            if k in ("others", "disturbed", "repeated", "return_mean")
        }

    assert run(5) == {"return_mean": 5, "others": 0.05, "disturbed": False}
    assert run(40, 20) == {"return_mean": 20, "others": 0.2, "disturbed": True, "repeated": True}
    assert run(40, 0) == {"return_mean": 0, "others": 0.0, "disturbed": False, "repeated": True}
    assert run(40, 60) == {"return_mean": 40, "others": 0.4, "disturbed": True, "repeated": True}
    assert run(40, None) == {"return_mean": 40, "others": 0.4, "disturbed": True, "repeated": True}
    assert run(40, tolerate=1.0) == {"return_mean": 40, "others": 0.4, "disturbed": False}


def test_what_the_preset_lets_the_policy_see_is_open_to_ppo_fast_alone(monkeypatch):
    def keys(name, env, *ours):
        return contender.opponent_keys(name, 0, contender.CompareConfig(env=env), list(ours))

    assert "settings.obs_first=45" in keys("ppo_fast", "HumanoidStandup-v4")
    assert not [key for key in keys("ppo", "HumanoidStandup-v4") if "obs_first" in key]
    assert "settings.obs_first=7" in keys("ppo_fast", "Hopper-v4", "obs_first=7")
    assert not [key for key in keys("ppo_fast", "Hopper-v4") if "obs_first" in key]
    monkeypatch.setitem(ppo_fast.SETTINGS, "HumanoidStandup", {"obs_first": 348})
    assert not [key for key in keys("ppo_fast", "HumanoidStandup-v4") if "obs_first" in key]

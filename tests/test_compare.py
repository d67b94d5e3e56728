"""The comparison: what is run, what is kept, what the report shows."""

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import psutil
import pytest
from matplotlib.axes import Axes

from es_rl import compare as comparison
from es_rl import contender, machine, report
from es_rl.baselines import ARS, PPO, BaselineConfig, Clock, _schedule, label
from es_rl.errors import ConfigError, Stopped

SMALL = ["es.population=8", "eval.every=2", "eval.episodes=2", "workers=1", "episodes=2"]
TOY = ["env=es_rl/PointMass-v0", "minutes=0.03", "film=0", *SMALL]


def compare(*keys, cwd, code=0, env=None):
    command = [sys.executable, "-m", "es_rl.compare", *keys]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | (env or {}))
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def made_up(**failed):
    """Results of two contenders and two seeds."""
    rng, runs = np.random.default_rng(0), []
    for name, level in (("es", 100.0), ("ppo", 50.0)):
        for seed in (0, 1):
            curve = [
                {"seconds": t, "cpu_seconds": 2 * t, "env_steps": 100 * t, "return": level * t / 60 + rng.normal()}
                for t in range(61)
            ]
            run = {"name": name, "seed": seed, "command": f"python -m {name} <{seed}>", "curve": curve}
            outcome = {"return_mean": level + seed, "env_steps": 6000, "seconds": 60.0, "cpu_seconds": 90.0}
            runs.append(run | ({"failed": failed[name]} if name in failed else outcome))
    return {
        "env": "Hopper-v4", "minutes": 1.0, "seeds": 2, "first_seed": 0, "episodes": 20, "date": "2026-01-01",
        "labels": {"es": "es_rl", "ppo": "PPO"}, "command": "python -m es_rl.compare", "versions": {"numpy": "2"},
        "machine": {"processor": "x", "processors": 2, "memory_gb": 8.0, "system": "Linux"}, "runs": runs,
    }  # fmt: skip


class Page(HTMLParser):
    """Checks that tags are balanced, and collects sources and text."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.sources += [(tag, value) for name, value in attributes if name in ("src", "href", "poster", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_a_training_that_other_programs_disturbed_is_marked():
    results = made_up()
    assert "other programs" not in report.page(results, {}, {})
    results["runs"][2]["others"] = 0.234
    assert "other programs took 23% of the processors" in report.page(results, {}, {})


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


def test_the_share_of_others_is_what_was_not_ours_over_all_sittings(tmp_path, monkeypatch):
    seen = iter([(10.0, 100.0, 5.0), (40.0, 150.0, 15.0), (50.0, 200.0, 20.0), (60.0, 250.0, 30.0)])
    monkeypatch.setattr(machine, "processor_seconds", lambda: next(seen))
    config, run = contender.CompareConfig(env="Hopper-v4"), tmp_path / "run"

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


def test_a_report_holds_all_that_it_shows():
    results = made_up()
    page = Page(report.page(results, {"returns": b"PNG", "wall-clock": b"png"}, {"es": (3, b"film")}))
    assert [tag for tag, _ in page.sources] == ["img", "img", "video"]
    assert all(source.startswith("data:") for _, source in page.sources)
    assert base64.b64decode(page.sources[-1][1].partition(",")[2]) == b"film"
    assert "es_rl, seed 3" in page.text and "2 seeds" in page.text
    assert "101" in page.text and "python -m es <0>" in page.text
    assert "2 processors (x), 8.0 GB, Linux" in page.text and "numpy 2" in page.text
    assert not re.search(r"https?://|<script|@import|url\(", report.page(results, {}, {}))


def test_the_summary_is_that_of_the_runs():
    found = report.summary(made_up())
    assert found["es"]["returns"].tolist() == [100.0, 101.0] and found["es"]["iqm"] == 100.5
    assert found["es"]["interval"] == (100.0, 101.0) and found["ppo"]["median"] == 50.5
    assert found["es"]["env_steps"] == 6000 and found["es"]["cpu_seconds"] == 90


def test_the_table_has_iqm_interval_and_probability_of_improvement():
    """Of two seeds each, of which all of ours return more than all of theirs; then of one that does not."""
    results = made_up()
    page = report.page(results, {}, {})
    row = "<td>{}</td><td>{}</td><td>{}</td><td>{}</td>"
    assert row.format("100.0, 101.0", "100.5", "100.5 [100.0, 101.0]", "–") in page
    assert row.format("50.0, 51.0", "50.5", "50.5 [50.0, 51.0]", "1.00 [1.00, 1.00]") in page
    results["runs"][2]["return_mean"] = 100.5
    assert "<td>0.75 [0.00, 1.00]</td>" in report.page(results, {}, {})


def test_a_curve_s_band_is_its_interval(monkeypatch):
    """Of two seeds: from the lower to the higher one."""
    drawn = []
    monkeypatch.setattr(Axes, "fill_between", lambda self, *area, **_: drawn.append(area))
    results = made_up()
    report._curves(results, "wall-clock")
    assert len(drawn) == 2
    for (grid, low, high), name in zip(drawn, ("es", "ppo"), strict=True):
        own = [[p["return"] for p in run["curve"]] for run in results["runs"] if run["name"] == name]
        values = [np.interp(grid, np.arange(61) / 60, curve) for curve in own]
        assert grid[0] == 0.0 and grid[-1] == 1.0
        np.testing.assert_allclose([low, high], [np.min(values, axis=0), np.max(values, axis=0)])


def test_a_baseline_that_failed_or_was_not_run_is_shown_as_such(tmp_path):
    results = made_up(ppo="it <broke>")
    del results["runs"][1]["return_mean"]
    report.write(tmp_path, results)
    text = Page((tmp_path / "report.html").read_text()).text
    assert "failed: it <broke>" in text and "1 not run yet" in text and "PPO" in text


def test_figures_are_drawn_on_every_axis(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in (*report.AXES, "returns")]
    report.write(tmp_path, made_up())
    drawn = [path.read_bytes() for path in paths]
    assert all(png.startswith(b"\x89PNG") for png in drawn)
    report.write(tmp_path, made_up(es="no", ppo="no"))  # nothing to draw is no error
    assert all(path.read_bytes() != png for path, png in zip(paths, drawn, strict=True))


def test_a_comparison_is_run_kept_and_gone_on_with(tmp_path, monkeypatch):
    (tmp_path / "out/es-0/run/checkpoints").mkdir(parents=True)  # as one that was killed before it had begun
    (tmp_path / "out/es-0/run/.lock").touch()
    done = compare(*TOY, "seeds=1", "against=[random]", "out=out", cwd=tmp_path)
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
    more = compare(*TOY, "seeds=2", "against=[]", "out=out", cwd=tmp_path)  # another seed is added
    assert (out / "es-0" / "result.json").stat().st_mtime_ns == before
    assert "es_rl, seed 0\n" not in more.stdout.replace("   es_rl", "") and "2 of 2: es_rl, seed 1" in more.stdout
    kept = [(run["name"], run["seed"]) for run in json.loads((out / "results.json").read_text())["runs"]]
    assert kept == [("es", 0), ("random", 0), ("es", 1)]  # what was done before is still shown
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"other settings \(minutes was 0.03\)"):
        comparison.main(["env=es_rl/PointMass-v0", "minutes=0.05", *SMALL, "out=out"])


def test_a_stopped_comparison_goes_on_with_the_training_that_it_stopped(tmp_path):
    keys = ["env=es_rl/PointMass-v0", "minutes=0.1", *SMALL, "seeds=1", "against=[random]", "out=out"]
    process = subprocess.Popen([sys.executable, "-m", "es_rl.compare", *keys], cwd=tmp_path, stderr=subprocess.PIPE)
    run = tmp_path / "out/es-0/run"
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "the same command goes on" in process.communicate(timeout=60)[1].decode()
    assert process.returncode == 75
    trained = len((run / "metrics.jsonl").read_text().splitlines())
    compare(*keys, cwd=tmp_path)
    generations = [json.loads(line)["generation"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert generations == list(range(1, len(generations) + 1)) and len(generations) > trained


def test_a_training_that_hangs_has_failed(tmp_path, monkeypatch):
    (tmp_path / "sleeper.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(contender, "PATIENCE", 1.0)
    config = contender.CompareConfig(env="Hopper-v4", minutes=0.01)
    assert contender._call(tmp_path, config, "sleeper", []) == "sleeper had not ended after 0 minutes"
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            assert "sleeper" not in child.cmdline()


def test_a_missing_baseline_is_named_with_its_remedy(tmp_path):
    (tmp_path / "stable_baselines3.py").write_text("raise ImportError('No module named stable_baselines3')")
    hidden = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    compare(*TOY, "seeds=1", "against=[ppo]", "out=out", cwd=tmp_path, env=hidden)
    (failed,) = [run for run in json.loads((tmp_path / "out/results.json").read_text())["runs"] if run["name"] == "ppo"]
    assert "exit code 6" in failed["failed"] and "pip install 'es-rl[baselines]'" in failed["failed"]
    assert "pip install" in Page((tmp_path / "out/report.html").read_text()).text


def test_ppo_and_ars_train_and_are_filmed_and_judged_like_ours(tmp_path, renderer):
    keys = ["env=InvertedPendulum-v4", "minutes=0.05", *SMALL, "seeds=1", "against=[ppo,ars]", "film=0.5", "out=out"]
    compare(*keys, cwd=tmp_path)
    runs = json.loads((tmp_path / "out/results.json").read_text())["runs"]
    assert [run["name"] for run in runs] == ["es", "ppo", "ars"]
    for run in runs:
        assert "failed" not in run, run["failed"]
        assert run["env_steps"] > 0 and run["seconds"] >= 3.0
        assert 0.1 < run["curve"][-1]["cpu_seconds"] <= run["cpu_seconds"] + 0.02
    page = Page((tmp_path / "out/report.html").read_text())
    if renderer:
        assert len([tag for tag, _ in page.sources if tag == "video"]) == 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["env=Hopper-v4", "against=[pppo]"], "Did you mean ppo"),
        (["env=Hopper-v4", "against=[ppo,ppo]"], "each only once"),
        (["env=Hopper-v4", "es.populaton=4"], "Did you mean es.population"),
        (["env=Hopper-v4", "seed=4"], "seed: is the comparison's to set"),
        (["env=Hopper-v4", "config=keys.yaml"], "config: is the comparison's to set"),
        (["env=Hopper-v4", "video.every=5"], "video.every: is the comparison's to set"),
        ([], "env is missing"),
    ],
)
def test_bad_keys_are_refused_before_anything_is_run(keys, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        comparison.main(keys)
    assert not (tmp_path / "runs").exists()


def test_labels_say_whose_settings_they_are():
    assert label("ppo", "my:Hopper-v5") == "PPO (Stable-Baselines3, RL-Zoo settings)"
    assert label("ars", "Reacher-v4") == "ARS (sb3-contrib, default settings, normalised)"
    assert label("es", "Hopper-v4") == "es_rl"


def test_schedules_end_with_the_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("es_rl.baselines.episodes", lambda *a: (np.zeros(1), np.zeros(1)))
    clock = Clock(BaselineConfig(minutes=1.0), tmp_path / "curve.jsonl")
    rate = _schedule("lin 0.5", clock)
    assert rate(1.0) == 0.5 and _schedule(0.3, clock) == 0.3
    assert clock.goes_on(0, None)
    now[0] = 45.0
    assert rate(0.9) == pytest.approx(0.125) and clock.goes_on(10, None)
    now[0] = 61.0
    assert rate(0.9) == 0.0 and not clock.goes_on(20, None)
    assert [json.loads(line)["env_steps"] for line in (tmp_path / "curve.jsonl").read_text().splitlines()] == [
        0,
        10,
        20,
    ]


@pytest.mark.parametrize("table", [PPO, ARS])
def test_the_settings_of_the_baselines_are_arguments_that_they_have(table):
    import inspect

    import sb3_contrib
    import stable_baselines3

    algorithm = stable_baselines3.PPO if table is PPO else sb3_contrib.ARS
    known = set(inspect.signature(algorithm).parameters) | {"n_envs", "normalize"}
    assert all(set(settings) <= known for settings in table.values())

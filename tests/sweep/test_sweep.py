"""Sweeps: what is searched, what is stopped, what survives a kill, and that they find what they should."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import soak

from es_rl.compare.opponents import ppo_fast
from es_rl.errors import ConfigError, ResourceError, TrainingError
from es_rl.rl.config import parse_train
from es_rl.sweep import __main__ as verb
from es_rl.sweep import contenders, search, space
from es_rl.sweep.config import parse_sweep
from es_rl.sweep.trial import rungs, score

optuna = pytest.importorskip("optuna")
from es_rl.sweep import report  # noqa: E402
from es_rl.sweep.study import Sweep  # noqa: E402

# A training of no time at all: the nearer learning_rate is to 1e-3, the better; the default is far from it.
QUICK = """
import json, math, pathlib, sys, time
folder, seed, pause = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
keys = dict(argument.split("=") for argument in sys.argv[4:])
with open(folder.parent.parent / "starts.txt", "a") as file:
    file.write(f"{folder.parent.name}/{folder.name}\\n")
(folder / "curve.jsonl").unlink(missing_ok=True)
if keys.get("popsize") == "13":
    sys.exit("es_rl: thirteen brings bad luck")
if keys.get("popsize") == "5":
    sys.exit(5)
best = 100 - 50 * abs(math.log10(float(keys.get("stdev_learning_rate", 0.1))) + 3) + seed % 7
for i in range(21):
    with open(folder / "curve.jsonl", "a") as file:
        file.write(json.dumps({"env_steps": 50 * i, "return": best}) + "\\n")
    time.sleep(pause / 20)
"""
DRIVER = """
import os
from es_rl import cli
from es_rl.sweep import __main__ as verb, contenders, search
search.POLL = 0.02
contenders.Theirs.command = lambda self, keys, seed, folder: [
    "quick", str(folder), str(seed), os.environ["PAUSE"], *(f"{k}={v}" for k, v in keys.items())
]
cli.run(verb.main)
"""
SEARCHED = [
    "env=HalfCheetah-v4", "contender=evotorch", "env_steps=1000", "stdev_learning_rate=1e-5..1e-1:log", "out=sweep",
]  # fmt: skip


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Let trainings be quick ones, in sweeps of this process."""
    (tmp_path / "quick.py").write_text(QUICK)
    (tmp_path / "driver.py").write_text(DRIVER)

    def command(self, keys, seed, folder):
        return ["quick", str(folder), str(seed), "0", *(f"{k}={v}" for k, v in keys.items())]

    monkeypatch.setattr(search, "POLL", 0.02)
    monkeypatch.setattr(contenders.Theirs, "command", command)


@pytest.fixture
def sweep(quick):
    """Start a sweep of quick trainings in a process of its own."""

    def start(*keys, pause=0.0):
        return subprocess.Popen(
            [sys.executable, "driver.py", *SEARCHED, *keys],
            env={**os.environ, "PAUSE": str(pause)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return start


def finish(process, code=0):
    """What a sweep says, once it has ended as it should."""
    said, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    return said if code == 0 else errors


def table(out="sweep"):
    """The rows of trials.csv by number of the trial."""
    return {int(row["trial"]): row for row in csv.DictReader((Path(out) / "trials.csv").open())}


def starts(out="sweep"):
    return (Path(out) / "trials/starts.txt").read_text().split()


def trainings():
    """Quick trainings that run below this directory."""
    here = str(Path.cwd())
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if "quick" in (process.info["cmdline"] or []) and process.info["cwd"] == here:
            found.append(process)
    return found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("es.sigma=0.5..0.1", "es.sigma=0.5..0.1: must run from the smaller number to the larger one"),
        ("es.sigma=0.1..0.1", "from the smaller number to the larger one"),
        ("es.sigma=0..0.1:log", "a logarithmic range must begin above 0"),
        ("es.sigma=0..0.1", "es.sigma=0.*must be > 0"),
        ("es.sigma=0.1..0.2:ln", "the scale must be log"),
        ("optim.beta1=0.1..1.5", "optim.beta1=1.5: must be"),
        ("es.sigm=0.1..0.2", "es.sigm: unknown key. Did you mean es.sigma"),
        ("policy=0.1..0.2", "policy is no number, so it cannot have a range"),
        ("obs_norm=0..1", "is no number, so it cannot have a range"),
        ("es.episodes=1..2.5", "both ends must be whole numbers, as es.episodes is"),
        ("es.population=15..64", "even"),
        ("es.population=[32,x]", "es.population=x: wrong type"),
        ("es.population=[32,32]", "give each value once"),
        ("es.population=[]", "nothing to choose from"),
        ("policy=[linear,mlp", "unknown"),
        ("es.shaping=[zscore,rank]", "es.shaping=rank: unknown"),
        ("eval.every=3", "eval.every: is set by the sweep"),
        ("run=x", "run: is set by the sweep"),
        ("config=no.yaml", "no.yaml: cannot be read"),
        ("cluster.address=auto", "cluster.address: is set by the sweep, whose trials have a processor each"),
        ("optim.name=[adam,torch.optim.Nadam]", "torch.optim.Nadam"),
    ],
)
def test_what_no_training_would_take_is_refused_before_anything_runs(text, told):
    with pytest.raises(ConfigError, match=told):
        verb.main(["env=Hopper-v4", "env_steps=1000", "es.limit_growth=1..1.1", text])
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["env_steps=10"], "env is missing. Give it, such as env=Hopper-v5"),
        (["env=Hopper-v4", "es.sigma=0.1..0.2"], "env_steps is missing. Give it, such as env_steps=500000"),
        (["env=Hopper-v4", "env_steps=10", "es.sigma=0.1"], "nothing to search"),
        (["env=Hopper-v4", "env_steps=10", "es.sigma=0.1..0.2", "seeds=1,1"], "each once"),
        (
            ["env=Hopper-v4", "env_steps=10", "es.sigma=0.1..0.2", "es.population=31"],
            "es.population=31: members come in",
        ),
        (["env=Hopper-v4", "env_steps=10", "contender=pp", "gamma=0.9..1"], "Did you mean ppo"),
        (["env=Hopper-v4", "env_steps=10", "contender=ppo", "gama=0.9..1"], "Did you mean gamma"),
        (
            ["env=Hopper-v4", "env_steps=10", "contender=ppo", "n_steps=8..9.5"],
            "both ends must be whole numbers, as n_steps is",
        ),
    ],
)
def test_a_sweep_without_a_sense_is_refused(arguments, told):
    with pytest.raises(ConfigError, match=told):
        verb.main(arguments)
    assert not Path("runs").exists()


def test_a_search_of_whole_episodes_begins_with_whole_episodes():
    ours = contenders.Ours("HalfCheetah-v4", 10_000)
    assert ours.fixed(["es.population", "optim.lr"], {}) == {"es.segment": "0"}
    assert ours.defaults(ours.fixed(["es.population"], {}))["es.population"] == 16
    assert ours.fixed(["optim.lr"], {"seed": "1"}) == {"seed": "1"}
    assert ours.fixed(["es.sigma"], {"es.segment": "32"}) == {"es.segment": "32"}


def test_ranges_choices_and_fixed_keys_are_told_apart():
    given = {
        "es.sigma": "0.01..0.5:log", "es.episodes": "1..4", "es.population": "[32,64]", "es.top": "[4,null]",
        "mlp.hidden": "[[64,64],[32]]", "es.limit": "100", "env_kwargs.healthy_z_range": "[0.2,1.0]",
        "env_kwargs.forward_reward_weight": "1..2.5",
    }  # fmt: skip
    ours = contenders.make("es", "Hopper-v4", 1000)
    searched, fixed = space.parse(given, ours)
    assert searched == {
        "es.sigma": space.Range(0.01, 0.5, log=True, integer=False),
        "es.episodes": space.Range(1, 4, log=False, integer=True),
        "es.population": space.Choice(("32", "64"), (32, 64)),
        "es.top": space.Choice(("4", "null"), (4, None)),
        "mlp.hidden": space.Choice(("[64,64]", "[32]"), ([64, 64], [32])),
        "env_kwargs.forward_reward_weight": space.Range(1, 2.5, log=False, integer=False),
    }
    assert fixed == {"es.limit": "100", "env_kwargs.healthy_z_range": "[0.2,1.0]"}
    fixed_list, _ = space.parse({"mlp.hidden": "[64,64]"}, ours)
    assert fixed_list == {}
    own, fixed = space.parse({"policy_kwargs.scale": "0.5..2.5", "policy_kwargs.width": "32,64"}, ours)
    assert list(own) == ["policy_kwargs.scale"] and fixed == {"policy_kwargs.width": "32,64"}


def test_ranges_that_differ_in_a_late_digit_are_told_apart():
    told = [space.describe({"x": space.Range(low, 1e7, log=False, integer=True)}) for low in (1000001, 1000002, 0.1)]
    assert told[0] != told[1] and told[2] == {"x": "0.1..1e+07"}


def test_a_value_that_is_tried_has_few_digits_and_lies_in_its_range():
    assert space.Range(0.01, 0.5, log=True, integer=False).text(0.123456) == "0.1235"
    assert space.Range(0.12345, 0.5, log=True, integer=False).text(0.12345) == "0.1235"
    assert space.Range(0.12344, 0.5, log=True, integer=False).text(0.12344) == "0.12344"  # not 0.1234
    assert space.Range(16, 64, log=False, integer=True, even=True).text(33) == "32"


def test_a_score_is_the_mean_of_the_last_fifth_and_rungs_are_interpolated():
    curve = [(0, 0.0), (300, 3.0), (700, 7.0), (850, 20.0), (1010, 40.0)]
    assert score(curve, 1000) == 30.0
    assert score(curve[:3], 1000) == 7.0  # at least the last one
    assert rungs(curve, 1000) == [2.5, 5.0, pytest.approx(7 + 13 * 50 / 150)]
    assert rungs(curve[:2], 1000) == [2.5]
    assert rungs([], 1000) == []


def test_evaluations_are_many_enough_and_not_too_dear():
    ours = contenders.Ours("HalfCheetah-v4", 4_000_000)
    keys = {"es.population": 50, "es.episodes": 1, "es.limit": None, "es.segment": 0, "eval.episodes": 10}
    assert ours.every(keys) == 4  # 50 · 1000 steps a generation
    assert ours.every({**keys, "es.limit": 100}) == 40
    assert ours.every({**keys, "es.population": 2, "es.limit": 1000}) == 100
    assert contenders.Ours("HalfCheetah-v4", 10_000).every({**keys, "es.population": 2}) == 17  # 10 / (0.3 · 2)
    judged = {**keys, "es.segment": 50, "credit.simulations": 100}
    assert ours.every(judged) == 40 and contenders.Ours("HalfCheetah-v4", 10_000).every(judged) == 7


@pytest.fixture
def opened():
    """Open a study of the learning rate, whose default is 1e-4, in a directory."""
    ours = contenders.make("ppo", "HalfCheetah-v4", 1000)
    searched, fixed = space.parse({"learning_rate": "1e-5..1e-1:log", "gamma": "[0.9,0.99]"}, ours)
    settings = {"": {"env": "HalfCheetah-v4"}, "range": space.describe(searched), "fixed": fixed}

    def opener(out="sweep", seed=0, **more):
        Path(out).mkdir(exist_ok=True)
        defaults = {"learning_rate": 1e-4, "gamma": 0.95}
        return Sweep(Path(out), searched, settings={**settings, **more}, defaults=defaults, seed=seed)

    return opener


def test_values_from_outside_the_registries_can_be_searched(tmp_path):
    ours = contenders.Ours("Hopper-v4", 1000)
    assert ours.value("optim.name", "torch.optim.NAdam") == "torch.optim.NAdam"
    assert ours.value("policy", "networks:small") == "networks:small"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").touch()
    assert "policy=networks:small" in ours.command({"policy": "networks:small", "es.sigma": "0.1"}, 0, tmp_path)


def test_no_more_trials_begin_than_are_wanted(opened):
    found, other = opened(), opened()
    assert [bool(study.ask(3)) for study in (found, other, found, other)] == [True, True, True, False]


def test_hopeless_is_what_is_below_the_median_of_others_at_the_same_step(opened):
    found = opened()
    for value in range(6):  # the first one has the defaults
        trial, *_ = found.ask(1000)
        assert not found.hopeless(trial, 0, value) and not found.hopeless(trial, 1, 100 + value)
        found.tell(trial, "complete", value)
    trial, *_ = found.ask(1000)
    assert found.hopeless(trial, 0, 2.4) and not found.hopeless(trial, 1, 102.6)  # medians 2.5, 102.5
    assert not found.hopeless(trial, 2, -1000.0)  # nobody else was there
    found.tell(trial, "stopped", None)
    other, *_ = found.ask(1000)
    assert found.hopeless(other, 0, 2.35)  # the stopped one counts, too: the median is 2.4 now
    found.tell(other, "failed", None)
    last, *_ = found.ask(1000)
    assert not found.hopeless(last, 0, 2.4)  # the failed one does not


def test_the_defaults_come_first_whatever_the_ranges_and_are_never_stopped(opened):
    found = opened()
    trial, keys, _ = found.ask(1000)
    assert keys == {} and trial.params == {"learning_rate": 1e-4}  # gamma=0.95 is no choice
    for value in range(6):
        other, keys, _ = found.ask(1000)
        assert set(keys) == {"learning_rate", "gamma"}
        found.hopeless(other, 0, float(value))
        found.tell(other, "complete", value)
    assert not found.hopeless(trial, 0, -1e9)


def test_a_search_is_the_same_again_and_another_with_another_seed(opened):
    def tried(out, seed):
        found, keys = opened(out, seed), []
        for _ in range(14):
            trial, own, _ = found.ask(1000)
            keys.append(own)
            found.tell(trial, "complete", -abs(np.log10(trial.params["learning_rate"]) + 3))
        return keys

    first = tried("a", 0)
    assert first == tried("b", 0) != tried("c", 1)
    assert len({keys["learning_rate"] for keys in first[1:]}) == 13


def test_trials_of_dead_processes_are_tried_again_and_those_of_other_machines_left(opened):
    found = opened()
    mine, dead, far = (found.ask(1000)[0] for _ in range(3))
    dead.set_user_attr("owner", {**dead.user_attrs["owner"], "begun": 1})  # the number was used again
    far.set_user_attr("owner", {"host": "far away", "process": 1, "begun": 1})
    again = opened()
    states = {trial.number: trial.state.name for trial in again.trials}
    assert states == {0: "RUNNING", 1: "FAIL", 2: "RUNNING", 3: "WAITING"}
    trial, _, folder = again.ask(1000)
    assert trial.params == dead.params and folder == 1
    assert opened().counted() == 3 and mine.number == 0


def test_what_matters_most_is_the_most_important(opened):
    found = opened()
    for i in range(24):
        trial, *_ = found.ask(1000)
        found.tell(trial, "complete", -abs(np.log10(trial.params["learning_rate"]) + 3) + i * 1e-6)
        assert bool(report.importance(found)) == (i > 3)  # the first one has not all parameters
    shares = report.importance(found)
    assert list(shares) == ["learning_rate", "gamma"] and shares["learning_rate"] > 0.6
    report.figures(Path("sweep"), found)
    assert "<svg" in Path("sweep/importance.svg").read_text() and Path("sweep/importance.png").stat().st_size > 1000


def test_a_line_that_was_cut_off_by_a_kill_is_no_hindrance(opened):
    found = opened()
    found.tell(found.ask(1000)[0], "complete", 1.0)
    with Path("sweep/study.journal").open("a") as file:
        file.write('{"op_code": 5, "worker')
    again = opened()
    assert [trial.value for trial in again.trials] == [1.0]
    again.tell(again.ask(1000)[0], "complete", 2.0)
    assert [trial.value for trial in opened().trials] == [1.0, 2.0]


def test_another_search_in_the_same_place_is_refused_with_what_differs(opened):
    opened()
    with pytest.raises(ConfigError, match=r"another sweep \(env was HalfCheetah-v4, fixed es.top was not given\)"):
        opened(**{"fixed": {"es.top": "4"}, "": {"env": "Ant-v4"}})


def test_a_sweep_finds_the_best_place_stops_what_is_hopeless_and_tells_all(quick, capsys):
    assert verb.main([*SEARCHED, "trials=20", "parallel=2", "seeds=3,4,5"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 21 and said[0].startswith("trial ")
    rows = table()
    assert len(rows) == 20 and {row["state"] for row in rows.values()} == {"complete", "stopped"}
    best, default = next(iter(rows.values())), rows[0]
    assert float(default["score"]) == 4.0  # the median seed's
    assert [float(best[f"seed {seed}"]) - float(best["score"]) for seed in (3, 4, 5)] == pytest.approx(
        [-1, 0, 1], abs=0.1
    )
    assert abs(np.log10(float(best["stdev_learning_rate"])) + 3) < 0.4 and float(best["score"]) > 80
    text = Path("sweep/best.yaml").read_text()
    assert f"stdev_learning_rate: {best['stdev_learning_rate']}" in text and "popsize: 100" in text  # of the table
    told = Path("sweep/report.md").read_text()
    assert "python -m es_rl.sweep env=HalfCheetah-v4 contender=evotorch" in told and "below the median" in told
    assert told.endswith("![history](history.svg)\n")
    for name in ("history.svg", "history.png"):
        assert (Path("sweep") / name).stat().st_size > 1000
    stopped = [f"{number:03}/seed-5" for number, row in rows.items() if row["state"] == "stopped"]
    assert stopped and not set(stopped) & set(starts())


def test_a_sweep_that_is_killed_loses_no_finished_trial(sweep):
    first = sweep("trials=8", "parallel=2", "seeds=3,4", pause=0.6)
    said = [first.stdout.readline() for _ in range(3)]
    first.kill()
    first.communicate()
    deadline = time.monotonic() + 5
    while trainings() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not trainings()  # they die with their parent
    before = {number: row for number, row in table().items() if row["state"] in ("complete", "stopped")}
    assert {int(line.split()[1].strip(":")) for line in said} <= set(before)
    begun = starts()
    verb.main([*SEARCHED, "trials=8", "parallel=2", "seeds=3,4"])
    after = table()
    assert {number: after[number] for number in before} == before
    assert sum(row["state"] in ("complete", "stopped") for row in after.values()) == 8
    late = starts()[len(begun) :]
    folders = {f"{number:03}" for number in before}
    assert not [one for one in late if one.partition("/")[0] in folders]  # none is trained again
    done = {str(path.parent.relative_to("sweep/trials")) for path in Path("sweep/trials").glob("*/*/done.json")}
    assert len(set(begun + late)) >= len(done) == len(done & set(begun + late))


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGTERM, 75, "SIGTERM"), *soak((signal.SIGINT, 130, "SIGINT"))]
)
def test_a_sweep_that_is_stopped_leaves_no_child_and_goes_on(sweep, number, code, name):
    process = sweep("trials=3", "parallel=2", "seeds=3", pause=1.5)
    assert process.stdout.readline().startswith("trial ")
    process.send_signal(number)
    assert f"stopped by {name}: the same command goes on" in finish(process, code)
    assert not trainings()
    verb.main([*SEARCHED, "trials=3", "parallel=2", "seeds=3"])
    assert sum(row["state"] == "complete" for row in table().values()) == 3


def test_two_processes_share_one_sweep(sweep):
    both = [sweep("trials=8", "parallel=1", "seeds=3", pause=0.3) for _ in range(2)]
    said = [finish(process).splitlines()[:-1] for process in both]
    assert min(len(lines) for lines in said) >= 2
    numbers = [int(line.split()[1].strip(":")) for lines in said for line in lines]
    assert sorted(numbers) == list(range(len(numbers))) and 8 <= len(numbers) <= 9
    assert len(starts()) == len(set(starts()))


def test_trainings_that_go_to_pieces_are_data_and_those_that_fail_end_the_sweep(quick, capsys):
    verb.main([*SEARCHED, "trials=4", "seeds=3", "popsize=5", "parallel=1"])
    said = capsys.readouterr().out
    assert said.count("stopped, seed 3: exit code 5") == 4 and "none complete yet" in said
    with pytest.raises(
        TrainingError, match="3 trials in a row failed, the last one: seed 3: exit code 1: es_rl: thirteen"
    ):
        verb.main([*SEARCHED[:-1], "trials=4", "seeds=3", "popsize=13", "parallel=1", "out=other"])
    assert not Path("other/best.yaml").exists()


def test_missing_optuna_is_told(monkeypatch):
    monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r"-e '\.\[sweep\]'"):
        verb.main(["env=Hopper-v4", "env_steps=1000", "es.sigma=0.1..0.2"])


def test_a_missing_library_of_a_contender_is_told_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(ResourceError, match=r"contender=ppo_fast: .*-e '\.\[baselines\]'"):
        verb.main(["env=Hopper-v4", "env_steps=1000", "contender=ppo_fast", "gamma=0.9..0.99"])
    assert not Path("runs").exists()


def test_settings_of_ppo_fast_are_those_of_its_library_and_groups_stay_whole():
    theirs = contenders.make("ppo_fast", "Hopper-v4", 1000)
    searched, fixed = space.parse({"clip_range": "0.1..0.3", "policy_kwargs.net_arch": "[[32],[64,64]]"}, theirs)
    assert set(searched) == {"clip_range", "policy_kwargs.net_arch"} and not fixed
    module, *argv = theirs.command({"policy_kwargs.net_arch": "[32]", "obs_first": "5"}, 7, Path("place"))
    assert module == "es_rl.compare.baselines" and {
        "settings.policy_kwargs.net_arch=[32]",
        "settings.obs_first=5",
    } <= set(argv)
    assert any(argument.startswith("settings.policy_kwargs.log_std_init=") for argument in argv)
    assert theirs.best({"policy_kwargs.net_arch": "[32]"})["policy_kwargs.net_arch"] == [32]


def test_real_trainings_are_searched_and_their_best_keys_are_a_config(python):
    keys = ["env=es_rl/PointMass-v0", "env_steps=3000", "es.sigma=0.05..0.5:log", "es.population=[8,16]"]
    more = ["policy=linear", "trials=2", "seeds=7", "parallel=2", "out=sweep"]
    done = python("-m", "es_rl.sweep", *keys, *more)
    assert done.returncode == 0, done.stderr
    rows = table()
    assert all(np.isfinite(float(row["score"])) for row in rows.values()) and len(rows) == 2
    config = parse_train(["config=sweep/best.yaml"])
    best = next(iter(rows.values()))
    chosen = float(best["es.sigma"]) if best["es.sigma"] else 0.05
    assert (config.env, config.policy, config.es.sigma) == ("es_rl/PointMass-v0", "linear", chosen)
    lines = [json.loads(line) for line in Path("sweep/trials/000/seed-7/run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["env_steps"] >= 3000
    last = [line["eval/return_mean"] for line in lines if "eval/return_mean" in line and line["env_steps"] > 2400]
    assert float(rows[0]["score"]) == pytest.approx(np.mean(last), rel=1e-3)


@pytest.fixture
def presets(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    import search_presets

    return search_presets


def test_the_search_for_presets_asks_for_what_trainings_take_and_is_alike_for_both(presets, capsys):
    for name, table_ in presets.CONTENDERS.items():
        assert set(table_) == set(presets.STEPS)
        for task in table_:
            _, *argv = presets.command(name, task, "out")
            config, keys = parse_sweep(argv)
            searched, fixed = space.parse(keys, contenders.make(presets.swept(name), task, config.env_steps))
            assert len(searched) >= 5 and set(fixed) <= {"mlp.hidden", "es.segment"}
            assert (config.contender, config.seeds) == (presets.swept(name), [1000, 1001])
            assert config.trials == (48 if name == "ppo_fast" and task in presets.TWICE else 24)
            assert config.env_steps == presets.STEPS[task]
    assert "obs_first" in presets.ES["Humanoid-v4"] and "obs_first" in presets.PPO_FAST["Humanoid-v4"]
    assert presets.main(["plan", "tasks=Ant-v4"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_what_the_search_for_presets_found_is_kept_a_table_and_can_be_pasted(presets, monkeypatch, capsys):
    monkeypatch.setattr(presets, "KEPT", Path("kept"))
    heads = ["trial,state,score,seed 1000,seed 1001,seconds,reason,es.sigma,optim.lr,policy"]
    best, defaults = "7,complete,500.5,500,501,720,,0.02,0.03,linear", "0,complete,400,300,500,720,,,,"
    rows = [best, defaults, *(f"{i},stopped,,410,,100,below,0.3,0.1,mlp" for i in range(8, 30))]
    for task, count in (("Humanoid-v4", 24), ("Ant-v4", 23)):
        folder = Path(f"found/es-{task}")
        folder.mkdir(parents=True)
        (folder / "trials.csv").write_text("\n".join(heads + rows[:count]) + "\n")
        (folder / "study.journal").write_text(f"journal of {task}")
    folder = Path("found/ppo_fast-Humanoid-v4")
    folder.mkdir()
    cells = [f'{i},complete,{i},1,2,36,,0.001,45,"[128,128]"' for i in range(47, -1, -1)]
    names = "learning_rate,obs_first,policy_kwargs.net_arch"
    text = "\n".join([heads[0].replace("es.sigma,optim.lr,policy", names), *cells])
    (folder / "trials.csv").write_text(text + "\n")
    assert presets.main(["keep", "out=found"]) == 0
    kept = {path.name for path in Path("kept").iterdir()}
    assert kept == {"es-Humanoid-v4.csv", "ppo_fast-Humanoid-v4.csv", "es-Ant-v4.journal.gz"}
    assert presets.main(["show", "to=there/found.md"]) == 0
    text = Path("there/found.md").read_text()
    row = "| Humanoid-v4 | es | 400 (300, 500) | 500.5 (500, 501) | 7 | `es.sigma=0.02 optim.lr=0.03 policy=linear` |"
    assert f"{row} 2, 22 | 1.01 |" in text and "Ant-v4 | es" not in text
    pasted = {}
    for part in text.split("```python\n")[1:]:
        exec(part.partition("```")[0], pasted)
    ours, theirs = pasted["PRESETS"]["Humanoid"], pasted["SETTINGS"]["Humanoid"]
    assert ours["es.sigma"] == 0.02 and ours["obs_clip"] == 5.0  # the second one is of the preset
    assert "mlp.hidden" not in ours  # of a linear policy
    assert theirs["learning_rate"] == 0.001 and theirs["obs_first"] == 45 and theirs["n_envs"] == 64
    kept = ppo_fast.settings("Humanoid-v4")["policy_kwargs"]  # but for what the trial set
    assert theirs["policy_kwargs"] == kept | {"net_arch": [128, 128]}
    monkeypatch.setattr(presets.sys, "executable", "true")  # in the place of Python
    assert presets.main(["run", "tasks=Humanoid-v4,Ant-v4", "contenders=[es]", "out=elsewhere"]) == 0
    assert [path.name for path in Path("elsewhere").iterdir()] == [
        "es-Ant-v4"
    ]  # what is finished is not searched again
    assert Path("elsewhere/es-Ant-v4/study.journal").read_text() == "journal of Ant-v4"
    with pytest.raises(ConfigError, match="Did you mean show"):
        presets.main(["shwo"])

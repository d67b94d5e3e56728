"""The opponents of a comparison: their keys, their clock, how they are judged, and what they run on."""

import importlib.util
import json
import signal
import time

import numpy as np
import psutil
import pytest
import torch
from conftest import soak, wait_for
from gymnasium import spaces

from es_rl import envs
from es_rl.compare import baselines, calibration, judge
from es_rl.compare.calibration import Candidate
from es_rl.compare.opponents import clock, evotorch, sb3
from es_rl.compare.opponents.clock import BaselineConfig, Clock, Meter, Policy
from es_rl.compare.opponents.rl_zoo import ARS, PPO, SAC
from es_rl.config import parse
from es_rl.errors import ConfigError, EnvError, TrainingError
from es_rl.workers.machine import available_processors


def baseline(*keys):
    """The verb, in this process."""
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    try:
        assert baselines.main(["out=out", "episodes=2", *keys]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
        baselines.use_threads(threads)


def opponent(*values, needs=(), marks=()):
    """A case of a test that is skipped where the opponent's libraries are missing."""
    libraries = needs or baselines.LIBRARIES[values[0]][1]
    missing = [library for library in libraries if importlib.util.find_spec(library) is None]
    return pytest.param(*values, marks=[pytest.mark.skipif(bool(missing), reason=f"needs {missing}"), *marks])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def unjudged(monkeypatch):
    monkeypatch.setattr(clock, "episodes", lambda *a: (np.zeros(1), np.zeros(1)))


def test_settings_are_open_keys():
    keys = ["settings.n_epochs=3", "settings.policy_kwargs.net_arch=[8]", "settings.rate='lin 0.1'", "settings.x=null"]
    found = parse(BaselineConfig, keys).settings
    assert found == {"n_epochs": 3, "policy_kwargs": {"net_arch": [8]}, "rate": "lin 0.1", "x": None}


def test_the_command_line_wins_over_the_table():
    config = BaselineConfig(
        name="ppo", env="Hopper-v4", settings={"n_epochs": 3, "policy_kwargs": {"ortho_init": True}}
    )
    found = clock.settings_of(PPO, config, {"n_epochs": 10, "policy_kwargs": None})
    table = PPO["Hopper"]
    assert found["n_epochs"] == 3 and found["gamma"] == table["gamma"]
    assert found["policy_kwargs"] == table["policy_kwargs"] | {"ortho_init": True}
    assert PPO["Hopper"]["policy_kwargs"]["ortho_init"] is False


@pytest.mark.parametrize(
    ("name", "setting", "hint"),
    [
        ("ppo", "n_epoch", "Did you mean n_epochs"),
        ("ppo_fast", "gama", "Did you mean gamma"),
        ("sac", "learning_start", "Did you mean learning_starts"),
        ("ars", "n_deltas", "Did you mean n_delta"),
        ("evotorch", "popsiz", "Did you mean popsize"),
        ("ppo", "device", "unknown to ppo"),
    ],
)
def test_a_setting_that_an_opponent_lacks_is_refused(name, setting, hint, tmp_path):
    config = BaselineConfig(name=name, env="Hopper-v4", settings={setting: 1})
    with pytest.raises(ConfigError, match=rf"settings\.{setting}: unknown to {name}.*{hint}|settings\.device: {hint}"):
        baselines.BASELINES[name](config, Clock(config, tmp_path / "curve.jsonl"))


@pytest.mark.parametrize("table", [PPO, SAC, ARS])
def test_the_settings_of_the_tables_are_arguments_that_the_algorithms_have(table, tmp_path):
    import sb3_contrib
    import stable_baselines3

    algorithm = {id(PPO): stable_baselines3.PPO, id(SAC): stable_baselines3.SAC, id(ARS): sb3_contrib.ARS}[id(table)]
    for env in table:
        config = BaselineConfig(env=f"{env}-v4", settings=dict(table[env]))
        sb3.arguments(table, config, Clock(config, None), algorithm)


def test_what_only_some_can_use_is_refused():
    with pytest.raises(ConfigError, match="settings.obs_first: unknown to ppo"):
        baselines.main(["name=ppo", "env=Hopper-v4", "settings.obs_first=3", "out=out"])
    with pytest.raises(ConfigError, match="settings: the random policy has none"):
        baselines.main(["name=random", "env=Hopper-v4", "settings.a=3", "out=out"])
    with pytest.raises(ConfigError, match="environments=3: ars has one in each process"):
        baselines.main(["name=ars", "env=Hopper-v4", "environments=3", "out=out"])
    with pytest.raises(EnvError, match="SAC acts in continuous spaces only"):
        baselines.main(["name=sac", "env=CartPole-v1", "out=out"])
    with pytest.raises(EnvError, match="observation space Text"):
        baselines.main(["name=ppo", "env=hostile:TextObservation-v0", "out=out"])


@pytest.mark.parametrize(
    ("name", "setting", "rule"),
    [
        ("ppo_fast", "settings.n_steps=abc", r"settings\.n_steps=abc: must be a number"),
        ("ppo_fast", "settings.n_steps=1.5", r"settings\.n_steps=1\.5: must be a whole number"),
        ("ppo_fast", "settings.normalize=1", r"settings\.normalize=1: must be true or false"),
        ("ppo", "settings.learning_rate='lin fast'", r"learning_rate=lin fast: must be a number"),
        ("ppo", "settings.n_steps=0", "name=ppo: its library refuses these settings: "),
        ("evotorch", "settings.popsize=[1]", r"settings\.popsize=\[1\]: must be a number"),
    ],
)
def test_a_value_that_a_setting_cannot_have_is_refused(name, setting, rule):
    with pytest.raises(ConfigError, match=rule):
        config = parse(BaselineConfig, [f"name={name}", "env=InvertedPendulum-v4", setting])
        baselines.BASELINES[name](config, Clock(config, None))


def test_points_are_at_equal_distances_in_environment_steps(tmp_path, unjudged):
    config = BaselineConfig(env_steps=1000)
    told = Clock(config, tmp_path / "curve.jsonl")
    assert all(told.goes_on(steps, None) for steps in range(0, 1000, 7)) and not told.goes_on(1001, None)
    steps = [point["env_steps"] for point in lines(tmp_path / "curve.jsonl")]
    assert len(steps) == clock.POINTS + 1 and steps[0] == 0 and steps[-1] == 1001
    assert all(0 <= s - 50 * i < 7 for i, s in enumerate(steps))


def test_the_first_of_two_stop_rules_ends_the_training(tmp_path, monkeypatch, unjudged):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    told = Clock(BaselineConfig(minutes=1.0, env_steps=1000), tmp_path / "curve.jsonl")
    assert told.goes_on(0, None)
    now[0] = 30.0
    assert told.goes_on(100, None) and told.left == 0.5
    now[0] = 45.0
    assert told.goes_on(900, None) and told.left == pytest.approx(0.1)
    now[0] = 60.0
    assert not told.goes_on(950, None)
    assert BaselineConfig().limit == 5.0 and BaselineConfig(env_steps=1).limit == np.inf


def test_schedules_end_with_the_time(tmp_path, monkeypatch, unjudged):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    told = Clock(BaselineConfig(minutes=1.0), tmp_path / "curve.jsonl")
    rate = sb3.schedule("lin 0.5", told)
    assert rate(1.0) == 0.5 and sb3.schedule(0.3, told) == 0.3
    assert told.goes_on(0, None)
    now[0] = 45.0
    assert rate(0.9) == pytest.approx(0.125) and told.goes_on(10, None)
    now[0] = 61.0
    assert rate(0.9) == 0.0 and not told.goes_on(20, None)
    assert [point["env_steps"] for point in lines(tmp_path / "curve.jsonl")] == [0, 10, 20]


def test_evaluations_cost_no_training_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def slow(*_):
        now[0] += 100.0
        return np.zeros(1), np.zeros(1)

    monkeypatch.setattr(clock, "episodes", slow)
    told = Clock(BaselineConfig(minutes=1.0), tmp_path / "curve.jsonl")
    assert told.goes_on(0, None) and told.seconds == 0
    now[0] += 30.0
    assert told.goes_on(10, None) and told.seconds == 30
    assert [point["seconds"] for point in lines(tmp_path / "curve.jsonl")] == [0, 30]


def test_closing_what_was_used_is_no_training_and_a_failed_evaluation_is_null(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(clock, "episodes", lambda *_: (np.array([np.nan]), np.zeros(1)))
    told = Clock(BaselineConfig(minutes=1.0), tmp_path / "curve.jsonl")
    assert told.goes_on(0, None)
    now[0] = 70.0
    assert not told.goes_on(10, None)
    spent = told.cpu_seconds
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    now[0] = 200.0
    assert told.seconds == 70.0 and told.cpu_seconds == spent and told.family_seconds > 0
    assert [point["return"] for point in lines(tmp_path / "curve.jsonl")] == [None, None]


@pytest.mark.parametrize("env", ["Hopper-v4", "Humanoid-v4", "Pendulum-v1"])
def test_episodes_side_by_side_are_those_of_gymnasium_one_by_one(env):
    """To the last bit, for a policy that does each row alone; and with an observation's first numbers only."""
    space = envs.probe(env, {}, 0, "gymnasium").action_space
    for first in (None, 5):
        weights = np.random.default_rng(0).normal(size=(first or 400, *space.shape))

        def act(obs, weights=weights):
            rows = [np.tanh((row[:, None] * weights[: len(row)]).sum(0)) for row in obs]
            return np.clip(np.stack(rows), space.low, space.high).astype(np.float32)

        policy, config = Policy(act, first), BaselineConfig(env=env)
        together = judge.episodes(policy, config, 5, 1)
        alone = judge._one_by_one(policy, judge.make_env(config), [envs_seed(i) for i in range(5)])
        np.testing.assert_array_equal(together, alone)
        assert len(set(together[0])) == 5


def envs_seed(i):
    return judge.integer_seed(0, "eval", 1, i)


def test_an_episode_that_diverges_is_nan_both_ways(monkeypatch):
    def act(obs):
        return np.full((len(obs), 1), np.nan)

    config = BaselineConfig(env="InvertedPendulum-v4")
    with pytest.warns(RuntimeWarning, match="MuJoCo"):
        assert np.isnan(judge.episodes(lambda obs: np.full(1, np.nan), config, 2, 1)[0]).all()
        assert np.isnan(judge.episodes(Policy(act), config, 2, 1)[0]).all()


def test_too_short_a_training_is_refused_with_its_remedy(tmp_path, unjudged):
    told = Clock(BaselineConfig(minutes=0.5), tmp_path / "curve.jsonl")
    told.goes_on(48, None)
    told.check_updates()  # of one that does not count its updates nothing is known
    told.updates, told.steps_of_an_update = 0, 2048
    with pytest.raises(TrainingError, match=r"minutes=0.5: not one update of 2048 steps .* Give more minutes"):
        told.check_updates()
    told.updates = 1
    told.check_updates()


def test_a_meter_measures_from_update_to_update(monkeypatch):
    """Ten steps a second; the first update, which takes a minute, does not count."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    meter, steps = Meter(BaselineConfig(measure=3.0)), 0
    meter.updates = 0
    assert meter.goes_on(0, None)
    now[0] = 60.0
    meter.updates = 1
    while meter.goes_on(steps, None):
        now[0] += 0.5
        steps += 5
        meter.updates += steps % 20 == 0
    assert meter.speed == 10.0 and now[0] == 64.0


def test_candidates_are_what_each_can_use(monkeypatch):
    found = {name: calibration.candidates(name, "Hopper-v4", 6) for name in baselines.BASELINES}
    threads, processes = [Candidate(), Candidate(threads=6)], [Candidate(processes=p) for p in (1, 2, 4, 6)]
    assert found["ppo"] == found["sac"] == threads
    assert found["ppo_fast"] == [Candidate(1, 1, 1), Candidate(1, 1, 6), Candidate(6, 1, 1), Candidate(6, 1, 6)]
    assert found["ars"] == found["evotorch"] == processes and found["random"] == [Candidate()]
    assert calibration.candidates("ppo", "Swimmer-v4", 6) == [*threads, Candidate(1, 4), Candidate(6, 4)]
    assert calibration.candidates("ppo_fast", "CartPole-v1", 6) == threads  # it takes all processors as processes
    assert all(calibration.candidates(name, "Swimmer-v4", 1) == [Candidate()] for name in baselines.BASELINES)
    assert calibration.candidates("ppo_fast", "Hopper-v4", 6, {"threads": 2}) == [
        Candidate(2, 1, 1),
        Candidate(2, 1, 6),
    ]
    assert calibration.candidates("ars", "Hopper-v4", 6, {"threads": 2, "processes": 3}) == [Candidate(2, 3)]
    eight = [*threads, Candidate(1, 8), Candidate(6, 8)]
    assert calibration.candidates("ppo", "Hopper-v4", 6, {"environments": 8}) == eight


def test_the_fastest_is_found_in_turn_and_kept(tmp_path, monkeypatch, capsys):
    tried, speeds = [], {"processes=1": [100, 300], "processes=2": [200, 350], "processes=4": [500, 10]}

    def speed(keys, out):
        tried.append(keys[-1])
        assert keys[:2] == ["name=ars", "env=Hopper-v4"] and "settings.n_delta=4" in keys
        return float(speeds[keys[-1]].pop(0))

    monkeypatch.setattr(calibration, "available_processors", lambda: 4)
    monkeypatch.setattr(calibration, "_speed", speed)
    for _ in range(2):  # the second time it is known
        calibration.choose("ars", "Hopper-v4", tmp_path, ["name=ars", "env=Hopper-v4"], {})
    assert tried == ["processes=1", "processes=2", "processes=4"] * 2
    assert calibration.chosen("ars", tmp_path, {}) == ["threads=1", "processes=2"]
    row = {"threads": 1, "processes": 2, "steps_per_second": [200.0, 350.0]}
    assert calibration.tried("ars", tmp_path, {})[1] == row
    assert "Taken: 1 thread, 2 processes" in capsys.readouterr().out
    # Found with other counts given, or on other processors, it does not hold.
    assert calibration.chosen("ars", tmp_path, {"threads": 3}) == ["threads=3"]
    assert calibration.chosen("ppo", tmp_path, {}) == [] and calibration.tried("ppo", tmp_path, {}) == []
    monkeypatch.setattr(calibration, "available_processors", lambda: 1)
    calibration.choose("sac", "Hopper-v4", tmp_path, [], {})
    assert calibration.chosen("sac", tmp_path, {}) == []
    assert calibration.chosen("ars", tmp_path, {}) == [] and calibration.tried("ars", tmp_path, {}) == []


@pytest.mark.parametrize(
    "name", ["ppo_fast", *soak("ppo", "sac", "ars"), opponent("evotorch", marks=[pytest.mark.soak])]
)
def test_the_speed_of_each_can_be_measured(name, tmp_path):
    keys = [f"name={name}", "env=InvertedPendulum-v4", "measure=0.2", *calibration.shorter(name, 1)]
    baseline(*keys)
    found = json.loads((tmp_path / "out/speed.json").read_text())
    assert found["steps_per_second"] > 0 and found["processes"] == found["threads"] == 1
    assert not (tmp_path / "out/result.json").exists()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ppo", ["settings.n_steps=64"]),
        ("sac", ["settings.learning_starts=50", "settings.train_freq=16"]),
        ("ars", ["settings.n_delta=2", "settings.n_top=1", "processes=2"]),
        opponent("evotorch", ["settings.popsize=4", "settings.num_interactions=null", "settings.popsize_max=null"]),
        ("ppo_fast", ["settings.n_steps=16", "environments=4", "settings.obs_first=2"]),
    ],
)
def test_each_trains_by_environment_steps(name, more, tmp_path):
    baseline(f"name={name}", "env=InvertedPendulum-v4", "env_steps=400", *more)
    result, curve = json.loads((tmp_path / "out/result.json").read_text()), lines(tmp_path / "out/curve.jsonl")
    assert 400 <= result["env_steps"] == curve[-1]["env_steps"] and curve[0]["env_steps"] == 0
    assert set(curve[0]) == {"seconds", "cpu_seconds", "env_steps", "return"} and len(curve) > 2
    resources = {"environments", "processes", "threads", "steps_per_second"}
    assert result["return_mean"] > 0 and set(result["resources"]) - {"note"} == resources
    assert result["resources"].get("note") == (
        "sees the first 2 numbers of an observation" if name == "ppo_fast" else None
    )
    two = "processes=2" in more
    assert result["resources"]["processes"] == (2 if two else 1)
    assert result["resources"]["environments"] == (4 if name == "ppo_fast" else 2 if two else 1)


@pytest.mark.parametrize("name", ["ppo_fast", opponent("evotorch"), *soak("ppo", "ars")])
def test_a_dict_is_seen_as_one_vector_and_actions_may_be_discrete(name, tmp_path):
    for env in ("hostile:DictObservation-v0", "CartPole-v1"):
        short = {
            "ppo": ["settings.n_steps=32"],
            "ppo_fast": ["settings.n_steps=4", "settings.n_envs=8", "environments=2"],
        }.get(name, [])
        short += {"ars": ["settings.n_delta=1"], "evotorch": calibration.shorter("evotorch", 1)}.get(name, [])
        baseline(f"name={name}", f"env={env}", "env_steps=260", *short)
        result = json.loads((tmp_path / "out/result.json").read_text())
        assert np.isfinite(result["return_mean"])
        if name == "ppo_fast":
            assert "each simulation is a process" in result["resources"]["note"] and result["resources"][
                "processes"
            ] == min(2, available_processors())


def test_torch_has_as_many_threads_as_are_told(python):
    code = "from es_rl.compare import baselines; import torch; baselines.use_threads(3); print(torch.get_num_threads())"
    assert python("-c", code).stdout.strip() == "3"


def test_what_evotorch_learnt_is_what_its_policy_does():
    """Against EvoTorch's own module, which normalises and clips."""
    pytest.importorskip("evotorch")
    from evotorch.algorithms import PGPE
    from evotorch.neuroevolution import GymNE

    config = BaselineConfig(name="evotorch", env="InvertedPendulum-v4")
    torch.manual_seed(0)
    problem = GymNE(lambda: evotorch._seeded(config), "Linear(obs_length, act_length)", observation_normalization=True)
    center = torch.linspace(-4.0, 4.0, problem.solution_length)
    settings = {"popsize": 8, "center_learning_rate": 0.1, "stdev_learning_rate": 0.1, "stdev_init": 1.0}
    searcher = PGPE(problem, center_init=center, **settings)
    searcher.step()
    theirs, ours = problem.to_policy(searcher.status["center"]), evotorch._policy(problem, searcher)
    obs = np.random.default_rng(0).normal(size=(50, 4))
    assert isinstance(problem.get_env().action_space, spaces.Box)
    with torch.no_grad():
        np.testing.assert_allclose(ours.batch(obs), theirs(torch.as_tensor(obs, dtype=torch.float32)), atol=1e-5)
    assert (np.abs(ours.batch(obs)) == 3.0).any()


@pytest.mark.parametrize(
    "keys",
    [
        ["name=ars"],
        opponent(
            ["name=evotorch", *calibration.shorter("evotorch", 2)], needs=("evotorch", "ray"), marks=[pytest.mark.soak]
        ),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, *soak(signal.SIGKILL)])
def test_no_process_outlives_an_opponent(keys, number, tmp_path, start):
    process = start("env=InvertedPendulum-v4", "out=out", "minutes=1", "processes=2", *keys, verb="compare.baselines")
    curve = tmp_path / "out/curve.jsonl"
    wait_for(lambda: curve.exists() and len(curve.read_text().splitlines()) >= 2, process, seconds=200)
    family = process.children(recursive=True)
    assert len(family) >= 2
    process.send_signal(number)
    assert process.wait(60) == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert [one.cmdline() for one in alive] == []

"""`es_rl.ES`: the same bits as the command line, habits of Stable-Baselines3, policies and environments from Python."""

import copy
import json
import os
import re
import shutil
import signal
import threading
from dataclasses import replace
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from conftest import metrics, model_hash, records, refusal
from networks import Remembers, small, wrong_shape
from torch import nn

import es_rl
from es_rl.errors import CheckpointError, ConfigError, EnvError, EsRlError, ResourceError, TrainingError
from es_rl.evaluate import main as evaluate
from es_rl.learner import filming
from es_rl.plugins import file_name
from es_rl.run import signals
from es_rl.train import main as train

TOY = {"es": {"population": 8}, "eval": {"every": 2, "episodes": 2}, "mlp": {"hidden": (8,)}, "workers": 0}
TYPED = ["es.population=8", "eval.every=2", "eval.episodes=2", "mlp.hidden=[8]", "workers=0", "video.every=-1"]


def toy(policy="mlp", env="es_rl/PointMass-v0", **keys):
    return es_rl.ES(policy, env, **(TOY | keys))


def theta(model):
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("more", [{}, {"es": {"segment": 8}, "credit": {"simulations": 4}, "env": "es_rl/Ball-v0"}])
@pytest.mark.slow
def test_theta_is_that_of_the_command_line_in_one_go_or_two(more, tmp_path):
    model = toy(seed=3, run=tmp_path / "python", **({"es": TOY["es"]} | more))
    keys = TYPED if not more else [*TYPED[1:], "es.segment=8", "credit.simulations=4"]
    train(
        [f"env={more.get('env', 'es_rl/PointMass-v0')}", "seed=3", "generations=4", *keys, f"run={tmp_path / 'typed'}"]
    )
    model.learn(generations=2).learn(generations=2, progress_bar=False)
    assert model_hash(tmp_path / "python") == model_hash(tmp_path / "typed")
    assert [r["generation"] for r in model.history] == [1, 2, 3, 4] == [r["generation"] for r in records(model.run)[1:]]
    assert model.env_steps == model.history[-1]["env_steps"] and model.generation == 4
    assert same(theta(model), es_rl.load(model.run).policy.state_dict())
    assert "es_rl.ES('mlp', " in (model.run / "command.txt").read_text()


def test_a_run_of_lambdas_has_a_path_that_a_shell_takes_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = toy(lambda o, a: nn.Linear(4, 2), lambda: gymnasium.make("CartPole-v1")).learn(generations=1)
    assert re.fullmatch(r"runs/function/\d+-\d+-function", str(model.run.relative_to(tmp_path)))
    assert file_name("es_rl/Arm-v0") == "es_rl-Arm-v0" and file_name("python:make.<locals>.f") == "make.-locals-.f"


def test_closures_reach_the_workers_and_no_process_stays(tmp_path, warm):
    scale, width = 2.0, 8

    class Scaled(gymnasium.RewardWrapper):
        def reward(self, reward):
            return scale * reward

    def network(observation_space, action_space):
        return nn.Sequential(nn.Linear(observation_space.shape[0], width), nn.Tanh(), nn.Linear(width, 2))

    def begin(workers):
        env = lambda: Scaled(gymnasium.make("CartPole-v1"))  # noqa: E731
        return toy(network, env, workers=workers, run=tmp_path / str(workers)).learn(generations=2)

    alone, two = begin(0), begin(2)
    assert not warm.family()
    assert same(theta(alone), theta(two))
    assert alone.history[-1]["fitness/mean"] == 2 * alone.history[-1]["length/mean"]


def test_a_policy_of_known_layers_equals_the_named_one(tmp_path):
    named = toy("mlp", "CartPole-v1")
    network = copy.deepcopy(named.policy.network).requires_grad_(True)
    own = toy(lambda o, a: network, "CartPole-v1")
    for model in (named, own):
        model.learn(generations=2, progress_bar=False)
    assert list(theta(named)) == list(theta(own)) and same(theta(named), theta(own))


def test_predict_takes_one_observation_or_a_batch_as_stable_baselines3_does():
    baselines = pytest.importorskip("stable_baselines3.common.evaluation")
    monitor = pytest.importorskip("stable_baselines3.common.monitor")
    model = toy(env="CartPole-v1").learn(generations=2)
    one, state = model.predict(np.zeros(4, np.float32))
    many, _ = model.predict(np.zeros((3, 4), np.float32))
    assert state is None and one.shape == () and many.tolist() == [one] * 3
    assert model.action_space.contains(one)
    env = monitor.Monitor(gymnasium.make("CartPole-v1"))
    mean, _ = baselines.evaluate_policy(model, env, n_eval_episodes=3)
    assert mean >= 1
    with pytest.raises(ConfigError, match=r"^obs: the observation has shape \(5,\), but its space has \(4,\)"):
        model.predict(np.zeros(5))


@pytest.mark.parametrize("policy", ["transformer", "lstm", "memory"])
def test_each_row_of_a_batch_has_a_memory_of_its_own(policy):
    network = policy if policy != "memory" else lambda o, a: Remembers(4, 2)
    model = toy(network, "CartPole-v1", **({"transformer": {"width": 8, "layers": 1, "heads": 2}}))
    with torch.no_grad():  # large outputs, so that actions differ
        for value in model.policy.parameters():
            value.normal_(generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)
    obs = 3 * rng.normal(size=(12, 3, 4))
    alone = []
    for row in range(3):
        state, actions = None, []
        for t in range(12):
            if row == 1 and t == 5:
                state = None  # its episode ends
            action, state = model.predict(obs[t, row], state)
            actions.append(int(action))
        alone.append(actions)
    state, together = None, []
    for t in range(12):
        kept = state
        action, state = model.predict(obs[t], state, episode_start=np.array([False, t == 5, False]))
        again, _ = model.predict(obs[t], kept, episode_start=np.array([False, t == 5, False]))
        assert again.tolist() == action.tolist()  # the state given is not changed
        together.append(action)
    assert np.array(together).T.tolist() == alone and len(np.unique(alone)) == 2


@pytest.mark.slow
def test_a_saved_model_is_loaded_and_goes_on_to_the_same_bits(tmp_path):
    model = toy(small, "CartPole-v1").learn(generations=3)
    model.save(tmp_path / "saved")
    model.save(tmp_path / "saved")  # an earlier save is replaced
    assert not list(tmp_path.glob(".*"))
    before = (tmp_path / "saved" / "metrics.jsonl").read_text()
    other = es_rl.ES.load(tmp_path / "saved", policy=small)
    assert other.history == [json.loads(json.dumps(r)) for r in model.history]
    assert same(theta(model), theta(other))
    for each in (model, other, third := es_rl.ES.load(model.run, policy=small)):
        each.learn(generations=2, progress_bar=False)
    assert same(theta(model), theta(other)) and same(theta(model), theta(third))
    assert (tmp_path / "saved" / "metrics.jsonl").read_text() == before  # what is loaded is only read
    assert [r["generation"] for r in metrics(other.run)] == [1, 2, 3, 4, 5]
    assert same(theta(es_rl.load(other.run, policy=small)), theta(model))
    with pytest.raises(CheckpointError, match="policy=python:small in .*: was given from Python. Give it again"):
        es_rl.load(tmp_path / "saved")
    with pytest.raises(ConfigError, match="policy=python:small in .*: was given from Python. Give it again"):
        es_rl.ES.load(tmp_path / "saved")
    keys = [f"resume={tmp_path / 'saved'}", "policy=networks:small", "workers=0"]
    assert train([*keys, "generations=6"]) == train([*keys, "generations=7"]) == 0
    assert es_rl.ES.load(tmp_path / "saved", policy="networks:small").generation == 7
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("")
    for place in (tmp_path / "mine", model.run, tmp_path / "mine" / "config.yaml"):
        with pytest.raises(ConfigError, match="holds something else than a saved model"):
            model.save(place)


@pytest.mark.slow
def test_an_untrained_model_can_be_saved_and_learns_from_there(tmp_path):
    for name, keys in (("whole", {}), ("judged", {"es": {"segment": 8}, "credit": {"simulations": 4}})):
        model = toy(env="es_rl/Ball-v0", **keys)
        model.save(tmp_path / name)
        loaded = es_rl.ES.load(tmp_path / name)
        for each in (model, loaded):
            each.learn(generations=1, progress_bar=False)
        assert same(theta(model), theta(loaded)), name


def test_callbacks_see_the_trained_policy_and_may_stop(tmp_path):
    seen = []

    def look(model, record):
        seen.append((record["generation"], theta(model)["network.0.weight"].clone()))

    stop = es_rl.callbacks.EarlyStopping(patience=2, least=1e9)
    model = toy().learn(generations=50, callback=[look, stop, es_rl.callbacks.Print()])
    assert [generation for generation, _ in seen] == [1, 2, 3] and model.generation == 3
    assert not torch.equal(seen[0][1], seen[1][1])
    assert torch.equal(seen[-1][1], es_rl.load(model.run).policy.state_dict()["network.0.weight"])

    def breaks(model, record):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        model.learn(generations=2, callback=breaks)
    assert model.generation == 4 and same(theta(model), es_rl.load(model.run).policy.state_dict())


def test_stop_rules_count_from_now_on_and_are_checked():
    model = toy().learn(1)
    steps = model.env_steps
    assert model.generation == 1 and steps == 800
    model.learn(1e3)
    assert model.generation == 3 and "env_steps: 1800" in (model.run / "config.yaml").read_text()
    model.learn(minutes=1e-6)
    assert model.generation == 4 and "env_steps: null" in (model.run / "config.yaml").read_text()
    model.learn(target_return=-1e9, generations=9)  # met by the last evaluation
    assert model.generation == 4
    for rule in ({"env_steps": 0}, {"generations": -1}, {"minutes": float("nan")}):
        with pytest.raises(ConfigError, match="must be > 0"):
            model.learn(**rule)
    with pytest.raises(ConfigError, match="env_steps"):
        model.learn(1.5)


def test_numbers_of_an_evaluation_are_those_of_the_verb(capsys):
    model = toy(env="CartPole-v1").learn(generations=1, progress_bar=False)
    assert capsys.readouterr().out == ""
    found = model.evaluate(3, seed=5)
    evaluate([f"run={model.run}", "episodes=3", "seed=5"])
    assert found == json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_notebook_trains_in_another_thread_too():
    done = []
    thread = threading.Thread(target=lambda: done.append(toy().learn(generations=1, progress_bar=False)))
    thread.start()
    thread.join()
    assert done[0].generation == 1


class Registered(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), float(-np.square(action).sum()), True, False, {}


def test_an_id_that_was_registered_with_a_class_is_known_to_workers(monkeypatch):
    monkeypatch.delitem(gymnasium.registry, "Mine-v0", raising=False)
    gymnasium.register("Mine-v0", Registered, max_episode_steps=5)
    model = toy(env="Mine-v0", workers=1).learn(generations=1)
    assert model.config.env == "python:Mine-v0" and model.history[-1]["members/failed"] == 0


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, obs):
        return self.b(self.a(obs))[:, :2]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 4)

    def forward(self, obs, state):
        y, state = self.gru(obs[None], state)
        return y[0, :, :2], state


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("mlp", "Nothing-v0"), EnvError, "env=Nothing-v0: no such environment"),
        (("mlp", 3), EnvError, "env=python:int: must be an id, or a function that makes a gymnasium.Env, and is a int"),
        (("mlp", dict), EnvError, "must return a gymnasium.Env"),
        (("mpl", "CartPole-v1"), ConfigError, "Did you mean mlp"),
        ((3, "CartPole-v1"), EnvError, "must be a function that returns a torch.nn.Module, and is a int"),
        ((wrong_shape, "CartPole-v1"), EnvError, r"must return outputs \(3, 2\), and returned \(3, 7\)"),
        ((lambda o, a: None, "CartPole-v1"), EnvError, "it returned a NoneType"),
        (("MlpPolicy", "CartPole-v1"), ConfigError, "policy=MlpPolicy: here it is mlp"),
        (("mlp", gymnasium.make("CartPole-v1")), EnvError, r"Give the function that makes it: lambda: gymnasium.make"),
        ((lambda o, a: Tied(), "CartPole-v1"), EnvError, "its b.weight is a parameter that has another name too"),
        ((lambda o, a: Recurrent(), "CartPole-v1"), EnvError, r"its state holds a tensor \(1, 3, 4\), .* transpose"),
        ((lambda o, a: nn.Linear(4, 2).double(), "CartPole-v1"), EnvError, "float32"),
        ((lambda o, a: nn.Linear(4, 2).requires_grad_(False), "CartPole-v1"), EnvError, "no parameter that requires"),
        (
            (lambda o: nn.Linear(4, 2), "CartPole-v1"),
            EnvError,
            "policy=python:<lambda>: cannot make a network: .*called with",
        ),
        ((nn.Linear(4, 2), "CartPole-v1"), EnvError, "policy=python:Linear: must be a function that makes a network"),
        ((nn.Linear, "CartPole-v1"), EnvError, r"It was called with \(observation_space, action_space\)"),
    ],
)
def test_bad_input_is_refused_with_the_rule(arguments, kind, message):
    with pytest.raises(kind, match=message):
        es_rl.ES(*arguments, workers=0)


def test_wrong_keys_are_refused():
    with pytest.raises(ConfigError, match="es.populaton: unknown key. Did you mean es.population"):
        toy(es={"populaton": 3})
    with pytest.raises(ConfigError, match="must be even|multiple of 2|pairs"):
        toy(es={"population": 3})
    with pytest.raises(ConfigError, match=r"policy_kwargs.net_arch: .* policy=mlp is none. Its keys are mlp.hidden"):
        es_rl.ES("mlp", "CartPole-v1", workers=0, policy_kwargs={"net_arch": [64, 64]})


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"file: .*Give another path"):
        toy().save(tmp_path / "file" / "model")


def test_a_signal_saves_what_is_finished_and_ends_the_program(capsys):
    model = toy()
    with pytest.raises(SystemExit) as caught:
        model.learn(generations=50, callback=lambda model, record: os.kill(os.getpid(), signal.SIGTERM))
    assert caught.value.code == 75 and "es_rl: stopped by SIGTERM" in capsys.readouterr().err
    done = model.generation
    assert 1 <= done < 50 and model.learn(generations=1).generation == done + 1


def test_a_model_says_what_it_is(tmp_path):
    model = toy()
    assert repr(model) == "<ES mlp on es_rl/PointMass-v0: generation 0, 0 steps, run=None>"


def test_frozen_parameters_of_a_policy_are_saved_and_not_trained():
    def network(observation_space, action_space):
        layers = small(observation_space, action_space)
        layers[0].weight.requires_grad_(False)
        return layers

    model = toy(network, "CartPole-v1")
    before = theta(model)
    after = theta(model.learn(generations=2))
    assert torch.equal(before["network.0.weight"], after["network.0.weight"])
    assert not torch.equal(before["network.2.weight"], after["network.2.weight"])


def test_a_policy_is_named_on_the_command_line_and_again_on_resume(tmp_path):
    run = tmp_path / "run"
    train(["env=CartPole-v1", "policy=networks:small", "policy_kwargs.width=4", "generations=1", f"run={run}", *TYPED])
    assert es_rl.load(run, policy="networks:small").policy.state_dict()["network.0.weight"].shape == (4, 4)
    code, said = refusal(train, f"resume={run}", "generations=2")
    assert code == 2 and "policy=networks:small in" in said and "add policy=networks:small" in said
    train([f"resume={run}", "generations=2", "policy=networks:small"])
    code, said = refusal(evaluate, f"run={run}")
    assert code == 4 and "policy=networks:small" in said
    evaluate([f"run={run}", "policy=networks:small", "episodes=1"])
    for name, text in {
        "networks:smal": "networks has no smal. Did you mean small?",
        "networks:number": "must be a function that returns a torch.nn.Module, and is a int",
        "nowhere_at_all:x": "the module nowhere_at_all cannot be imported",
        "networks:nothing": "it returned a NoneType, and must return a torch.nn.Module",
    }.items():
        code, said = refusal(train, "env=CartPole-v1", f"policy={name}", "generations=1", *TYPED)
        assert code == 3 and text in said, said


def test_training_that_fails_leaves_a_model_that_can_be_used(tmp_path):
    training = False

    class Breaks(Registered):
        def step(self, action):
            if training:
                raise ValueError("broken")
            return super().step(action)

    model = toy(env=Breaks, es={"population": 8})
    training = True
    with pytest.raises((TrainingError, EnvError), match="broken"):
        model.learn(generations=2, progress_bar=False)
    assert model.generation == 0
    model.predict(np.zeros(2))
    training = False
    assert model.learn(generations=1, progress_bar=False).generation == 1


@pytest.mark.slow
def test_a_model_whose_run_is_gone_or_went_on_elsewhere_begins_a_new_one_from_what_it_knows(tmp_path, monkeypatch):
    model = toy().learn(generations=2, progress_bar=False)
    straight = theta(toy().learn(generations=4, progress_bar=False))
    shutil.rmtree(model.run)
    model.learn(generations=1, progress_bar=False)
    train([f"resume={model.run}", "generations=9"])  # by somebody else
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model.learn(generations=1, progress_bar=False)
    assert [record["generation"] for record in model.history] == [1, 2, 3, 4] and same(theta(model), straight)
    assert es_rl.load(model.run).generation == 4


def test_without_a_rule_learn_takes_an_hour_each_time(monkeypatch):
    model, minutes = toy(), []
    monkeypatch.setattr("es_rl.learner.model.train", lambda config, *_, **__: minutes.append(config.minutes))
    model.learn()
    model._progress = replace(model._progress, seconds=30 * 60.0)
    model.learn()
    assert minutes == [60.0, 90.0]
    assert toy(generations=3).learn() and minutes[2:] == [None]


def test_a_film_that_fails_says_why(tmp_path, monkeypatch):
    log, code = tmp_path / "log", 1
    monkeypatch.setattr(
        filming, "film_in_child", lambda keys, log: SimpleNamespace(join=lambda: None, exitcode=code, pid=None)
    )
    monkeypatch.setattr(filming, "kill_process", lambda process: None)
    with pytest.raises(EsRlError, match="the process was killed"):
        filming.film(None, log)
    log.write_text("Traceback\nes_rl: No ffmpeg exe could be found\n")
    with pytest.raises(EsRlError, match=r"^No ffmpeg exe could be found") as raised:
        filming.film(None, log)
    assert type(raised.value) is EsRlError
    code = 3
    with pytest.raises(EnvError, match="No ffmpeg"):
        filming.film(None, log)


def test_rules_of_one_call_do_not_hold_in_the_next(tmp_path):
    model = toy(generations=3).learn(generations=1, progress_bar=False)
    assert model.learn(progress_bar=False).generation == 3
    loaded = es_rl.ES.load(model.run, generations=4)
    assert loaded.learn(progress_bar=False).generation == 4


def test_callbacks_of_the_package_work():
    model = toy()
    callbacks = [
        es_rl.callbacks.Checkpoint("kept", every=1),
        es_rl.callbacks.Print(),
        es_rl.callbacks.TensorBoard("tb"),
    ]
    model.learn(generations=3, callback=callbacks, progress_bar=False)
    assert same(theta(es_rl.ES.load("kept")), theta(model))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"total_timesteps": 100}, "learn: total_timesteps: unknown key. Here it is env_steps=100"),
        ({"generations": 1.5}, "learn: generations=1.5: wrong type"),
        ({"generations": "10"}, "learn: generations='10': must be a number"),
        ({"generations": 1, "callback": 3}, "callback=3: must be a function"),
        ({"generations": 1, "callback": lambda record: None}, "must be a function of (model, record)"),
    ],
)
def test_what_learn_cannot_take_is_refused(keys, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        toy().learn(**keys)


def test_numpy_numbers_and_other_defaults_of_torch_change_nothing():
    straight = theta(toy(seed=3).learn(generations=2, progress_bar=False))
    torch.set_default_dtype(torch.float64)
    try:
        model = toy(seed=np.int64(3), es={"population": np.int32(8)}, workers=np.int64(0))
        model.learn(generations=np.int64(2), progress_bar=False)
        action, _ = model.predict(np.zeros(model.observation_space.shape))
        assert model.evaluate(1)["episodes"] == 1 and torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(theta(model), straight) and action.dtype == np.float32
    with pytest.raises(ConfigError, match="episodes=0: must be >= 1"):
        model.evaluate(0)
    with pytest.raises(ConfigError, match="fps: unknown key"):
        model.record(fps=3)


def test_a_batch_of_composite_actions_is_that_of_vector_environments():
    space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Discrete(3), "b": gymnasium.spaces.Box(-1.0, 1.0, (2,))})

    class Composite(Registered):
        action_space = space

        def step(self, action):
            assert space.contains(action)
            return np.zeros(2, np.float32), 0.0, True, False, {}

    model = toy(env=Composite)
    actions, _ = model.predict(np.zeros((3, 2), np.float32))
    assert gymnasium.vector.utils.batch_space(space, 3).contains(actions)
    assert gymnasium.vector.SyncVectorEnv([Composite] * 3).action_space.contains(actions)
    assert copy.deepcopy(model).learn(generations=1, progress_bar=False).generation == 1


@pytest.mark.parametrize("patient", [False, True])
def test_a_second_interruption_ends_only_a_process_of_ours(patient, monkeypatch):
    left = []
    monkeypatch.setattr(signals, "_leave_at_once", lambda: left.append(True))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # even if these tests were started to ignore it
    with signals.stop_requests(patient=patient):
        signal.raise_signal(signal.SIGINT)
        if patient:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        else:
            signal.raise_signal(signal.SIGINT)
    assert left == ([] if patient else [True])

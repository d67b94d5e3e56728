"""export: a file acts as its policy does, says what its numbers mean, or is not written at all."""

import hashlib
import json
import re
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from conftest import refusal, soak
from gymnasium import spaces
from made_runs import make_run

import es_rl
from es_rl.envs.robot import deployment
from es_rl.envs.spaces import flatten, to_action
from es_rl.envs.worlds import quadruped
from es_rl.errors import EnvError, TrainingError
from es_rl.export import arrays, check, contract, formats, recorded
from es_rl.export.__main__ import main as export
from es_rl.export.formats import FORMATS, Flat
from es_rl.export.stepped import Stepped

DOCS = Path(es_rl.__file__).parents[1] / "docs"
BLOCKS = re.findall(r"```python\n(.*?)```", (DOCS / "guides" / "export.md").read_text(), re.DOTALL)
READER = Path(arrays.__file__).with_name("reader.py")
NEAR = 1e-5
SMALL = ["transformer.width=8", "transformer.heads=2", "transformer.context=4", "transformer.layers=1"]
# Policy, environment, keys: an action space whose bounds are not 1, one of choices, and memory.
KINDS = {
    "linear": ("Humanoid-v4", ["policy=linear"]),
    "mlp": ("CartPole-v1", ["mlp.hidden=[16]", "mlp.layer_norm=true", "mlp.activation=gelu"]),
    "transformer": ("es_rl/Recall-v0", ["policy=transformer", *SMALL]),
    "gru": ("es_rl/Recall-v0", ["policy=gru", "gru.width=8"]),
    "lstm": ("es_rl/Recall-v0", ["policy=lstm", "lstm.width=8"]),
}


@pytest.fixture
def few(monkeypatch):
    """The check of the export itself looks at few observations; the test looks at others."""
    monkeypatch.setattr(recorded, "OBSERVATIONS", 50)


def docs_reader():
    """The class that the documentation shows."""
    scope = {"__name__": "reader"}
    exec(compile(next(block for block in BLOCKS if "class Policy" in block), "export.md", "exec"), scope)
    return scope["Policy"]


def states(told):
    """Initial values for one episode, from the contract alone."""
    parts = told["inputs"][1:]
    return [np.full([1, *part["shape"][1:]], part["initial"], part["type"]) for part in parts]


def actor(path):
    """What a program without es_rl does: (start of an episode, observation → action), from the two files."""
    told = json.loads(path.with_suffix(".json").read_text())
    if told["format"] == "numpy":
        policy = docs_reader()(path)
        return policy.reset, policy
    if told["format"] == "torch":
        program = torch.export.load(path).module()
        call = lambda given: [part.numpy() for part in program(*(torch.from_numpy(part) for part in given))]  # noqa: E731
    else:
        session = pytest.importorskip("onnxruntime").InferenceSession(path)
        names = [part["name"] for part in told["inputs"]]
        assert [(i.name, i.shape) for i in session.get_inputs()] == [(i["name"], i["shape"]) for i in told["inputs"]]
        assert [(i.name, i.shape) for i in session.get_outputs()] == [(i["name"], i["shape"]) for i in told["outputs"]]
        call = lambda given: session.run(None, dict(zip(names, given, strict=True)))  # noqa: E731
    state = []

    def act(row):
        action, *state[:] = call([row[None], *state])
        return action[0]

    return lambda: state.__setitem__(slice(None), states(told)), act


def assert_acts_alike(run, out, env_id, observations=1000):
    """Play with the policy, and compare what the file does in each step."""
    agent, (begin, act), env, seen, unlike = es_rl.load(run), actor(out), gymnasium.make(env_id), 0, set()
    while seen < observations:
        obs, _ = env.reset(seed=100 + seen)
        agent.reset()
        begin()
        over = False
        while not over:
            action = agent(obs)
            assert np.abs(act(flatten(env.observation_space, obs)) - action).max() <= NEAR
            unlike.add(np.asarray(action).tobytes())
            obs, _, terminated, truncated, _ = env.step(action)
            over, seen = terminated or truncated, seen + 1
    assert len(unlike) > 1


def exported(tmp_path, kind, suffix):
    env_id, keys = KINDS[kind]
    run = make_run(tmp_path / "made", env_id, *keys)
    out = tmp_path / f"policy{suffix}"
    assert export([f"run={run}", f"out={out}"]) == 0
    return run, out, env_id


@pytest.mark.parametrize("kind", ["gru", *soak("linear", "mlp", "transformer", "lstm")])
@pytest.mark.slow
def test_onnx_acts_as_the_policy(tmp_path, kind, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    least = 1000 if kind != "linear" else 50  # steps of Humanoid take a while
    monkeypatch.setattr(recorded, "OBSERVATIONS", least)
    run, out, env_id = exported(tmp_path, kind, ".onnx")
    assert_acts_alike(run, out, env_id)
    told = json.loads((tmp_path / "policy.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "policy.json", "policy.onnx"]
    assert told["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest() and told["file"] == "policy.onnx"
    model = run / "checkpoints" / "last" / "model.safetensors"
    assert told["model_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest() and told["generation"] == 3
    assert (
        str(Path(sys.prefix)).encode() not in out.read_bytes()
        and str(READER.parents[2]).encode() not in out.read_bytes()
    )
    verified = told["verified"]
    assert verified["observations"] >= least and verified["source"] == env_id and verified["action_difference"] <= NEAR
    assert (verified["state_difference"] is None) == (kind in ("linear", "mlp"))
    assert f"{verified['observations']:,} observations of {env_id}" in capsys.readouterr().out
    if kind != "linear":  # the example of the guide acts with the file
        exec(compile(next(b for b in BLOCKS if env_id in b and "onnxruntime" in b), "export.md", "exec"), {})


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_acts_as_the_policy(tmp_path, kind, few):
    run, out, env_id = exported(tmp_path, kind, ".npz")
    assert_acts_alike(run, out, env_id, 1000 if kind != "linear" else 200)
    assert next(block for block in BLOCKS if "class Policy" in block) == READER.read_text()


def test_torch_export_acts_as_the_policy(tmp_path, few):
    run, out, env_id = exported(tmp_path, "mlp", ".pt2")
    assert_acts_alike(run, out, env_id)
    assert str(READER.parents[2]).encode() not in out.read_bytes()


@pytest.mark.soak
@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".npz"])
@pytest.mark.parametrize("env_id", [env_id for env_id, _ in KINDS.values()])
@pytest.mark.parametrize("kind", KINDS)
def test_every_policy_in_every_environment_and_format(tmp_path, kind, env_id, suffix):
    seed = {"gru": 2, "lstm": 6}.get(kind, 1)  # weights with which CartPole is pushed both ways
    run = make_run(tmp_path / "made", env_id, f"policy={kind}", seed=seed)
    out = tmp_path / f"policy{suffix}"
    assert export([f"run={run}", f"out={out}"]) == 0
    assert_acts_alike(run, out, env_id)


@pytest.mark.parametrize(
    ("activation", "weights"),
    [("tanh", "int8"), ("relu", "ternary"), ("elu", "float"), ("silu", "int8"), ("leaky_relu", "ternary")],
)
def test_the_reader_knows_every_layer_and_weights_are_rounded(tmp_path, activation, weights, few):
    keys = [
        f"mlp.activation={activation}",
        f"mlp.weights={weights}",
        "mlp.squash=clip",
        "obs_norm=false",
        "mlp.hidden=[8]",
    ]
    run = make_run(tmp_path / "made", "es_rl/Recall-v0", *keys)
    assert export([f"run={run}", "out=policy.npz"]) == 0
    most = {"float": 16, "int8": 16, "ternary": 3}[weights]
    with np.load("policy.npz") as file:
        assert all(len(np.unique(np.abs(row))) <= most for row in file["0.weight"])
    assert_acts_alike(run, tmp_path / "policy.npz", "es_rl/Recall-v0", 40)


def test_judged_steps_train_a_policy_that_can_be_exported(train, tmp_path, few):
    small = ["es.segment=8", "credit.simulations=4", "credit.batch=16", "credit.epochs=1", "mlp.hidden=[4]"]
    small += ["critic.hidden=[4]", "critic.batch=16", "critic.epochs=1", "eval.episodes=1", "generations=1"]
    run = train("env=InvertedPendulum-v4", *small)
    assert export([f"run={run}", "out=policy.npz"]) == 0
    assert_acts_alike(run, tmp_path / "policy.npz", "InvertedPendulum-v4", 50)


# --- the contract


def test_the_contract_of_a_robot_says_what_its_program_needs(tmp_path, few):
    run = make_run(
        tmp_path / "made", "es_rl/Quadruped-v0", "mlp.hidden=[4]", "env_kwargs.max_episode_steps=40", "obs_first=20"
    )
    assert export([f"run={run}", "out=new/policy.npz"]) == 0
    told = json.loads(Path("new/policy.json").read_text())
    assert told["robot"] == json.loads(json.dumps(deployment(quadruped.task()))) and told["rate_hz"] == 50
    assert told["inputs"][0]["used"] == 20 and told["unknown"] is None and told["verified"]["episodes"] >= 2
    assert told["action"][0] | {"low": -1.0, "high": 1.0, "numbers": 12, "convert": None} == told["action"][0]


@pytest.mark.parametrize(
    ("env_id", "rate"), [("CartPole-v1", 50), ("Pendulum-v1", 20), ("es_rl/Recall-v0", None), ("Hopper-v5", 125)]
)
def test_the_rate_is_that_of_the_environments_time(env_id, rate):
    found = contract.rate(gymnasium.make(env_id))
    assert found == rate if rate is None else found == pytest.approx(rate)


SPACES = [
    spaces.Box(-3, 5, (2, 3), np.float32),
    spaces.Box(0, 255, (4,), np.uint8),
    spaces.Box(0, 1, (3,), np.bool_),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([3, 2], start=[1, -5]),
    spaces.MultiBinary((2, 2)),
    spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.MultiBinary(3)))}),
]


def assembled(parts, row):
    """An action, or an observation without one-hot parts, from its row of numbers and the contract alone."""
    values = {}
    for part in parts:
        numbers = row[part["first"] : part["first"] + part["numbers"]]
        if part["convert"]:
            numbers = numbers >= 0.5 if "0.5" in part["convert"] else np.rint(numbers)
        values[tuple(part["path"])] = np.asarray(numbers, part["type"]).reshape(part["shape"])[()]
    return values


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_an_action_is_made_from_its_row_by_the_contract_alone(space):
    space.seed(0)
    parts = contract._parts(space, observed=False)
    assert json.loads(json.dumps(parts, allow_nan=False)) == parts
    for sample in (space.sample() for _ in range(5)):
        leaves = {(): sample} if not isinstance(space, spaces.Dict) else {
            ("b",): sample["b"], ("a", 0): sample["a"][0], ("a", 1): sample["a"][1]}  # fmt: skip
        by_path = [np.asarray(leaves[tuple(part["path"])], np.float64).reshape(-1) for part in parts]
        row = np.concatenate(by_path) + (0.2 if getattr(space, "dtype", None) == np.uint8 else 0.0)
        found = assembled(parts, row)
        assert found.keys() == leaves.keys() and all(np.array_equal(found[path], leaves[path]) for path in leaves)
        low, high = ([np.broadcast_to(part[end], part["numbers"]) for part in parts] for end in ("low", "high"))
        assert (np.concatenate(low) <= row).all() and (row <= np.concatenate(high) + 0.2).all()
        if isinstance(space, (spaces.Box, spaces.Discrete)):
            given = row if isinstance(space, spaces.Box) else int(row[0])
            assert np.array_equal(found[()], to_action(space, given))


def test_without_its_environment_the_contract_says_what_it_lacks(tmp_path, capsys):
    module = "import gymnasium, hostile\ngymnasium.register('Lacking-v0', hostile.Good, max_episode_steps=120)\n"
    Path("lacking.py").write_text(module)  # nobody else imports it
    box, reach = spaces.Box(-1, 1, (3,), np.float64), spaces.Box(-1, 1, (3,), np.float32)
    run = make_run(tmp_path / "made", "lacking:Lacking-v0", "policy=linear", observation_space=box, action_space=reach)
    assert export([f"run={run}", "out=policy.npz"]) == 0
    told = json.loads(Path("policy.json").read_text())
    assert "lacking" not in sys.modules
    assert told["unknown"].endswith("add env=lacking:Lacking-v0") and told["rate_hz"] is None and told["robot"] is None
    assert told["verified"]["observations"] == 1000 and "statistics" in told["verified"]["source"]
    assert "add env=lacking:Lacking-v0" in capsys.readouterr().out
    assert export([f"run={run}", "out=policy.npz", "env=lacking:Lacking-v0"]) == 0
    told = json.loads(Path("policy.json").read_text())
    assert told["unknown"] is None and told["verified"]["source"] == "lacking:Lacking-v0"
    gone = make_run(tmp_path / "gone", "NotInstalled-v0", "policy=linear", observation_space=box, action_space=reach)
    assert export([f"run={gone}", "out=policy.npz"]) == 0
    assert "no such environment" in json.loads(Path("policy.json").read_text())["unknown"]
    code, said = refusal(export, f"run={gone}", "out=policy.npz", "env=CartPole-v1")
    assert code == 3 and "its spaces are not those" in said


# --- what is refused


class Odd(torch.nn.Module):
    """A policy that remembers what no file can hold, or of which the reader knows nothing."""

    def __init__(self, state):
        super().__init__()
        self.told, self.weight = state, torch.nn.Parameter(torch.ones(2))

    def forward(self, obs, state=None):
        return (obs[:, :2] * self.weight).float(), self.told


@pytest.mark.parametrize("state", [3, (torch.zeros(()),), torch.zeros(5, 2)], ids=str)
def test_memory_without_a_row_for_each_episode_is_refused(state):
    with pytest.raises(EnvError, match="its state holds .* Let its state be tensors whose first dimension"):
        Stepped(Odd(state), 4)


def test_a_policy_that_numpy_does_not_know_is_refused():
    for policy, space, text in (
        (Odd(None), spaces.Box(-1, 1, (2,)), "the policy Odd"),
        (Odd(None), SPACES[4], "no actions of Multi"),
    ):
        with pytest.raises(EnvError, match=f"format=numpy: .*{text}.*Give format=onnx or format=torch"):
            arrays.arrays_of(policy, space)


class Recurrent(torch.nn.Module):
    """A policy with memory of another kind."""

    def __init__(self, start):
        super().__init__()
        self.start, self.cell, self.head = start, torch.nn.GRUCell(3, 4), torch.nn.Identity()

    def forward(self, obs, state=None):
        hidden = torch.full((len(obs), 4), self.start) if state is None else state["hidden"]
        hidden = self.cell(obs.float(), hidden)
        return self.head(hidden[:, :2]), {"hidden": hidden}


def test_any_policys_memory_is_followed_and_a_wrong_beginning_is_found():
    torch.manual_seed(0)
    episodes = [np.random.default_rng(i).normal(size=(length, 3)) for i, length in enumerate((7, 12, 5))]
    for start in (0.0, 0.5):
        policy = Recurrent(start).requires_grad_(False)
        stepped = Stepped(policy, 3)
        player = Flat(lambda given, s=stepped: [part.numpy() for part in s(*map(torch.from_numpy, given))], stepped, 3)
        if start:
            with pytest.raises(TrainingError, match="differs from the policy by"):
                check.compared(policy, stepped.memory, player, episodes, np.ones(2))
        else:
            found = check.compared(policy, stepped.memory, player, episodes, np.ones(2))
            assert found.observations == 24 and found.state_difference is not None and found.state_difference < 1e-6


@pytest.mark.soak
@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_a_policy_with_memory_of_its_own_is_written(form):
    policy = Recurrent(0.0).requires_grad_(False)
    stepped, episodes = Stepped(policy, 3), [np.random.default_rng(i).normal(size=(50, 3)) for i in range(3)]
    player = FORMATS[form].open(FORMATS[form].write(stepped, SPACES[0]), stepped, 3)
    found = check.compared(policy, stepped.memory, player, episodes, np.ones(2))
    assert found.observations == 150 and found.state_difference is not None


class Choosing(torch.nn.Module):
    """Chooses among three outputs, of which two are nearly equal, and may remember what it chose."""

    def __init__(self, apart, remembers=False):
        super().__init__()
        self.outputs, self.head, self.remembers = torch.tensor([0.5, 0.5 - apart, -1.0]), Largest(), remembers

    def forward(self, obs, state=None):
        chosen = self.head(self.outputs.expand(len(obs), 3))
        return chosen, chosen[:, None].float() if self.remembers else None


class Largest(torch.nn.Module):
    def forward(self, x):
        return x.argmax(-1)


def test_choices_may_differ_in_ties_only():
    obs = [np.zeros((4, 2)), np.zeros((3, 2))]

    def other(choice):
        stepped = Stepped(Choosing(0.0), 2)
        return stepped.memory, Flat(lambda given: [np.full(len(given[0]), choice)], stepped, 2)

    assert check.compared(Choosing(1e-7), *other(0), obs, np.zeros(1)) == check.Verified(7, 0.0, None, 0)
    assert check.compared(Choosing(1e-7), *other(1), obs, np.zeros(1)) == check.Verified(7, 0.0, None, 7)
    for apart, choice in ((1e-3, 1), (1e-7, 2)):
        with pytest.raises(TrainingError, match="Nothing was written"):
            check.compared(Choosing(apart), *other(choice), obs, np.zeros(1))


def test_what_follows_a_tie_is_left_out_if_the_policy_remembers_its_choice():
    policy, obs = Choosing(1e-7, remembers=True), [np.zeros((4, 2)), np.zeros((3, 2))]
    stepped = Stepped(policy, 2)
    player = Flat(lambda given: [np.ones(len(given[0])), np.ones((len(given[0]), 1))], stepped, 2)
    assert check.compared(policy, stepped.memory, player, obs, np.zeros(1)) == check.Verified(2, 0.0, 0.0, 2)


def test_a_file_that_acts_otherwise_is_not_written(tmp_path, monkeypatch, few):
    run = make_run(tmp_path / "made", "CartPole-v1", "policy=linear", "linear.squash=tanh")
    right = arrays._head
    monkeypatch.setattr(arrays, "_head", lambda head: right(head) | {"start": np.int64(1)})
    code, said = refusal(export, f"run={run}", "out=policy.npz")
    assert code == 5 and "differs from the policy by 1 in its action" in said
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_both_files_are_written_or_none(tmp_path, monkeypatch, few):
    run = make_run(tmp_path / "made", "CartPole-v1", "policy=linear")
    replace = Path.replace

    def fails(path, target):
        if str(target).endswith(".json"):
            raise OSError(28, "No space left on device", str(path))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fails)
    code, said = refusal(export, f"run={run}", "out=policy.npz")
    assert code == 6 and "No space left" in said and "out=FILE" in said
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["out=policy.npz"], 2, "run is missing"),
        (["run=made"], 2, "out is missing: give the file to write, such as out=policy.onnx"),
        (["run=made", "out=policy.bin"], 2, "out=policy.bin: must end in .onnx, .pt2, .npz. Or give format=onnx|torch|numpy"),
        (["run=made", "out=policy.onx"], 2, "Did you mean .onnx?"),
        (["run=made", "out=policy.json", "format=onnx"], 2, ".json is the suffix of what is written beside it"),
        (["run=made", "out=policy.npz", "format=tensorrt"], 2, "format=tensorrt: must be one of auto, onnx, torch, numpy"),
        (["run=file", "out=policy.npz"], 4, "file: no such run directory"),
        (["run=folder", "out=policy.npz"], 4, "not a run directory, it has no config.yaml"),
        (["run=made", "out=policy.npz", "checkpoint=9"], 4, "has no checkpoint 9"),
        (["run=made", "out=file/policy.npz"], 6, "Choose another place with out=FILE"),
        (["run=made", "out=folder", "format=numpy"], 2, "out=folder: is not a file"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(tmp_path, argv, code, text):
    make_run(tmp_path / "made", "CartPole-v1", "policy=linear")
    Path("file").write_text("")
    Path("folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    found, said = refusal(export, *argv)
    assert (found, text in said) == (code, True), said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_extra_is_named(tmp_path, monkeypatch, few):
    run = make_run(tmp_path / "made", "CartPole-v1", "policy=linear")
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    assert refusal(export, f"run={run}", "out=policy.onnx") == (
        6, "format=onnx needs onnx and onnxruntime and onnxscript. In the checkout of es_rl: "
        "pip install -c constraints.txt -e '.[export]'.",
    )  # fmt: skip
    assert {*FORMATS} == {"onnx", "torch", "numpy"} and export([f"run={run}", "out=policy.npz"]) == 0

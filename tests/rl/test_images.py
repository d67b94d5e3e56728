"""Training on images: from the environment to the policy, with workers, resumed, loaded, evaluated, filmed, exported."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import comparable, metrics, model_hash
from safetensors.torch import load_file

import es_rl
from es_rl.envs.gymnasium_backend import make_one
from es_rl.envs.pixels import PixelsConfig, View
from es_rl.envs.renderer import display_hint
from es_rl.envs.toys.spot import SOLVED
from es_rl.errors import ConfigError, EnvError
from es_rl.evaluate import main as evaluate
from es_rl.export.__main__ import main as export
from es_rl.record import main as record

SMALL = ["env=es_rl/Spot-v0", "policy=cnn", "cnn.width=8", "cnn.channels=[4]", "cnn.kernels=[4]", "cnn.strides=[3]"]
SHORT = [*SMALL, "es.population=16", "chunk=4", "eval.every=2"]
VIEW = ["pixels.crop=[1,0,1,0]", "pixels.gray=true", "pixels.size=12", "pixels.stack=2", "frame_skip=2"]


@pytest.mark.process
@pytest.mark.parametrize(
    ("keys", "where"),
    [
        (["env_kwargs.numbers=true", "es.noise=lowrank", *VIEW], ["workers=1", "inference=central", "device=cpu"]),
        pytest.param(["es.noise=dense"], ["workers=2"], marks=pytest.mark.soak),
    ],
    ids=["mixed", "picture"],
)
def test_theta_is_the_same_for_any_number_of_workers_on_central_inference_and_after_a_resume(train, keys, where):
    local = train(*SHORT, *keys, "generations=2", run="local")
    run = train(*SHORT, *keys, *where, "generations=2", run="elsewhere")
    assert model_hash(run) == model_hash(local) and comparable(run) == comparable(local)
    train(*SHORT, *keys, "generations=1", run="cut")
    assert model_hash(train("resume=cut", "generations=2", run="cut")) == model_hash(local)


@pytest.fixture
def run(train):
    return train(*SHORT, *VIEW, "generations=1", run="seen")


def test_what_is_done_with_images_is_saved_and_done_again(run, capsys):
    agent = es_rl.load(run)
    assert agent.config.view == View(2, PixelsConfig(crop=[1, 0, 1, 0], gray=True, size=[12], stack=2))
    env = make_one("es_rl/Spot-v0", {}, view=agent.config.view)
    assert env.observation_space == agent.observation_space and env.observation_space.shape == (2, 12, 12, 1)
    obs, _ = env.reset(seed=1)
    alone = agent(obs)
    batch, state = agent.predict(np.stack([obs, obs]))
    assert alone in env.action_space and np.allclose(batch, [alone, alone]) and state is None
    assert evaluate([f"run={run}", "episodes=3"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["length_mean"] == 3  # six frames, two for each action
    assert record([f"run={run}", "out=film.mp4", "seconds=1"]) == 0
    with pytest.raises(EnvError, match="CartPole-v1 shows no image"):
        evaluate([f"run={run}", "env=CartPole-v1"])


@pytest.mark.soak
def test_a_file_takes_the_image(run):
    assert export([str(run), "policy.pt2"]) == 0
    contract = json.loads(Path("policy.json").read_text())
    assert contract["inputs"][0] | {"name": 0} == {
        "name": 0,
        "shape": ["batch", 2, 12, 12, 1],
        "type": "uint8",
        "used": 288,
    }
    assert contract["view"] == {
        "frame_skip": 2,
        "pixels": {"render": False, "crop": [1, 0, 1, 0], "gray": True, "size": [12], "stack": 2},
    }
    assert contract["rate_hz"] == 2.5


@pytest.mark.slow
def test_formats_that_cannot_take_the_image_say_why(run, train):
    with pytest.raises(
        EnvError, match=r"format=numpy: its reader cannot compute the policy CnnPolicy. Give format=onnx"
    ):
        export([str(run), "policy.npz"])
    flat = train("env=es_rl/Spot-v0", "policy=linear", "generations=1", "es.population=4", run="flat")
    with pytest.raises(EnvError, match=r"format=numpy: its reader sees no images. Give format=onnx"):
        export([str(flat), "policy.npz"])
    mixed = train(*SHORT, "env_kwargs.numbers=true", "generations=1", run="mixed")
    with pytest.raises(EnvError, match="this policy sees 1 image and 1 numbers"):
        export([str(mixed), "policy.pt2"])


@pytest.mark.soak
def test_onnx_takes_the_image(run):
    assert export([str(run), "policy.onnx"]) == 0
    assert json.loads(Path("policy.json").read_text())["verified"]["action_difference"] < 1e-5


def test_an_image_as_numbers_is_warned_of_and_judged_steps_are_refused(train, capsys):
    train("env=es_rl/Spot-v0", "policy=mlp", "generations=1", "es.population=4")
    said = " ".join(capsys.readouterr().out.split())
    assert "policy=mlp sees 768 numbers of an image side by side, so it has 53,506 parameters. policy=cnn" in said
    with pytest.raises((ConfigError, EnvError), match="es.segment"):
        train("env=es_rl/Spot-v0", "policy=cnn", "es.segment=4", *SMALL[2:], run="judged")


def test_statistics_are_of_numbers_only(train):
    run = train(*SHORT, "env_kwargs.numbers=true", "generations=3", run="mixed")
    saved = load_file(run / "checkpoints/last/model.safetensors")
    assert saved["normalizer.mean"].shape == (1,) and saved["normalizer.count"] == 3 * 16 * 6
    assert torch.isclose(saved["normalizer.mean"], torch.tensor([3.5 / 6], dtype=torch.float64))


def test_an_environment_without_a_screen_is_told_what_it_needs():
    assert "xvfb-run" in display_hint('NoSuchDisplayException: Cannot connect to "None"')
    assert not display_hint("ValueError: a number")


@pytest.mark.slow
def test_the_convolutional_policy_learns_to_walk_to_the_spot(train):
    run = train(
        "env=es_rl/Spot-v0", "policy=cnn", "cnn.channels=[8,16]", "cnn.kernels=[4,3]", "cnn.strides=[2,2]", "cnn.width=32",
        "es.noise=lowrank", "generations=60", "eval.every=20", "eval.episodes=20", f"target_return={SOLVED}", "optim.lr=0.02", "seed=1", "chunk=64",
    )  # fmt: skip
    assert metrics(run)[-1]["eval/return_mean"] >= SOLVED


def test_both_benchmarks_of_images_print_their_rows(capsys, monkeypatch):
    benchmarks = Path(es_rl.__file__).parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))  # as for `python benchmarks/…`
    measure = runpy.run_path(str(benchmarks / "pixels.py"))["measure"]
    measure.__globals__.update(ROUNDS=1, MEMBERS=4)
    measure("1x12x12", ["cnn.channels=[4]", "cnn.kernels=[4]", "cnn.strides=[3]", "cnn.width=8"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith(("| 1", "| 4"))]
    assert [row[0].strip() for row in rows] == ["1", "4"] and all(float(row[1]) >= 0 for row in rows)
    main = runpy.run_path(str(benchmarks / "camera_throughput.py"))["main"]
    assert main([*SMALL, "es.population=4", "chunk=4", "rounds=1"]) == 0
    assert re.search(r"training [\d,]+ steps .* bare [\d,]+ steps .* ratio \d", capsys.readouterr().out)

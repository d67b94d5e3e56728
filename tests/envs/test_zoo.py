"""Odd environments: each trains, is evaluated and goes on, or is refused in one line that says why."""

import sys
from pathlib import Path

import hostile
import numpy as np
import pytest
import torch
from conftest import comparable, metrics, model_hash, refusal, soak

from es_rl import plugins
from es_rl.errors import EnvError
from es_rl.evaluate import main as evaluate
from es_rl.train import main as training

TRAINS = [
    "Lists", "Tensors", "ReadOnly", "Strided", "Scalar", "PythonNumber", "Picture", "BitsSeen", "Choices", "Number",
    "Pairs", "Mission", "Unbounded", "Switches", "Counts", "NumPyNumber", "SmallNumber", "OneChoice", "LargestFloats",
    "HalfBounded", "Grid", "TensorReward", "WholeReward", "NumPyEnds", "NoInfo", "Lists5", "SameArray", "Slots",
    "settings_of_their_own:DoubleByDefault", "settings_of_their_own:StrictNumPy", "hostile:Good", "hostile:OneNumber",
    "ManyBits", "ActsInADict", "Blind", "BlindPart", "NumberedParts", "LargeCounts", "Masked", "Idle", "OneAction", "Fractions", "EndsOfNone",
    "FractionalEnds", "WideFloats", "OtherOrder", "Measures", "LargeBytes", "Moves", "Silences", "TakesOver", "hostile:DictObservation", "hostile:CloseRaises", "hostile:Equal",
]  # fmt: skip
REFUSED = {
    "NoObservation": (3, "the observation has shape ()"),
    "Words": (3, "could not convert string to float"),
    "OtherShape": (3, "the observation has shape (3, 1), but its space has (3,)"),
    "PartMissing": (3, "KeyError: 'b'"),
    "PartTooShort": (3, "the observation's part b has shape (2,), but its space has (3,)"),
    "BeyondItsSpace": (3, "the observation has 3, which is not in Discrete(3)"),
    "BelowItsSpace": (3, "the observation has -1, which is not in Discrete(3)"),
    "NanSeen": (5, "number 1 of the observation of step 4 is nan"),
    "HugeSeen": (5, "number 2 of the observation of step 4 is 1e+200"),
    "InfiniteReward": (5, "the reward of step 1 is inf"),
    "NoReward": (5, "the reward of step 1 is nan"),
    "WordReward": (3, "its step raised TypeError: the reward is 'good', which is no number"),
    "NumberAsWord": (3, "its step raised TypeError: the reward is '1.5', which is no number"),
    "MaskedReward": (3, "its step raised TypeError: the reward is masked, which is no number"),
    "NoAction": (3, "the action space Box(inf, inf, (2,), float64) has no number in it"),
    "NanAtFirst": (5, "number 0 of the observation of the reset is nan"),
    "WordEnds": (3, "an end is 'False', which is neither true nor false"),
    "NanEnds": (3, "an end is nan, which is neither true nor false"),
    "ChoiceBelow": (3, "the observation has [-1, 0], which is not in MultiDiscrete([3 2])"),
    "ChoiceBeyond": (3, "the observation has [3, 0], which is not in MultiDiscrete([3 2])"),
    "ChoiceMissing": (3, "the observation has shape (1,), but its space has (2,)"),
    "HalfNumber": (3, "the observation has 2.7, which is not in Discrete(5)"),
    "ComplexPart": (3, "the observation has complex numbers"),
    "TwoRewards": (3, "its step raised ValueError"),
    "OldStep": (3, "Gymnasium's step returns (observation, reward, terminated, truncated, info)"),
    "NoStep": (3, "its step raised TypeError"),
    "OldReset": (3, "it returned an observation alone. Gymnasium's reset returns (observation, info)"),
    "OldResetOfADict": (3, "it returned an observation alone. Gymnasium's reset returns (observation, info)"),
    "ResetTakesNoSeed": (3, "unexpected keyword argument 'seed'"),
    "Sequence": (3, "the observation space Sequence"),
    "TextInATuple": (3, "observation_space[1]: Text"),
    "ActsInText": (3, 'action_space["arm"][1]: Text'),
    "ActsInNothing": (3, "the action space Dict() has no parts. Give the policy something to choose."),
    "NoSpace": (3, "the observation space None"),
    "NothingSeen": (3, "the observation space Dict()"),
    "GradientSeen": (3, "requires grad"),
    "ComplexReward": (3, "its step raised TypeError"),
    "EnormousReward": (3, "its step raised OverflowError"),
    "Hashed": (3, "the observation space Discrete(2147483648) has 2,147,483,648 choices, and 10,000,000 are the most"),
    "HashedPart": (3, 'observation_space["b"]: MultiDiscrete([1073741824 9]) has 1,073,741,833 choices'),
    "ActsByHash": (3, "the action space Discrete(1099511627776) has 1,099,511,627,776 choices"),
    "SaysMuch": (3, "its step raised ValueError: x"),
    "SaysCommands": (
        3,
        "ValueError: \N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} and",
    ),
    "TwoEnds": (3, "its step raised ValueError"),
    "Unprintable": (3, "Unprintable: "),
    "SaysNothing": (3, "ValueError: "),
    "hostile:ConstructorRaises": (3, "no license for this robot"),
    "hostile:WrongShape": (3, "the observation has shape (2,), but its space has (3,)"),
    "hostile:LateWrongShape": (3, "the observation has shape (2,)"),
    "hostile:TextObservation": (3, "observation space Text"),
    "hostile:GraphObservation": (3, "observation space Graph"),
    "hostile:TextAction": (3, "the action space Text"),
    "hostile:RaisesAt100": (3, "its step raised ValueError: joint 7 exploded"),
    "hostile:NanReward": (5, "the reward of step 6 is nan"),
    "hostile:Huge": (5, "of the observation of step 5 is"),
    "hostile:Leaves": (3, "its step raised SystemExit: licence expired"),
}
KEYS = ["es.population=4", "workers=0", "video.every=-1", "eval.episodes=2", "policy=linear"]


def of(name):
    return f"env={name if ':' in name else f'zoo:{name}'}-v0"


@pytest.mark.parametrize("name", TRAINS)
def test_an_odd_environment_trains_is_evaluated_and_goes_on(train, capsys, monkeypatch, name):
    if name in ("Moves", "Silences", "TakesOver"):
        monkeypatch.setattr(plugins, "_theirs", None)  # what one environment changes is not another's
    streams, here, places = (sys.stdout, sys.stderr), Path.cwd(), list(sys.path)
    run = train(of(name), *KEYS, "generations=1", "eval.every=1")
    assert [line["members/failed"] for line in metrics(run)] == [0]
    assert all(np.isfinite(line["eval/return_mean"]) for line in metrics(run))
    assert evaluate([f"run={run}", of(name), "episodes=1"]) == 0
    train(f"resume={run}", of(name), "generations=2")
    said = capsys.readouterr().out
    assert ("left out of the observations" in said) == (name == "Mission")
    assert torch.zeros(1).device.type == "cpu" and {*places} <= {*sys.path}
    assert torch.get_default_dtype() == torch.float32 and np.geterr()["divide"] == "warn"
    assert (
        (sys.stdout, sys.stderr) == streams and Path.cwd() == here and [path.name for path in here.iterdir()] == ["run"]
    )


@pytest.mark.parametrize("name", REFUSED)
def test_an_odd_environment_is_refused_in_one_line(name):
    code, text = REFUSED[name]
    found, said = refusal(training, of(name), *KEYS, "generations=2")
    assert (found, text in said) == (code, True), said
    assert len(said) < 2000
    assert ("\n" not in said and said.startswith(f"env={of(name).partition('=')[2]}")) or code == 5, said


def test_both_parts_of_a_mission_are_named(train, capsys):
    train("env=zoo:Mission-v0", *KEYS, "generations=1")
    assert "no fixed size: deep.said, mission" in capsys.readouterr().out


def test_pictures_that_an_environment_draws_are_observed_in_workers_and_evaluations(command, renderer, tmp_path):
    if not renderer:
        pytest.skip("no off-screen renderer here")
    keys = ["env=camera:Camera-v0", "es.population=4", "policy=linear", "generations=1", "video.every=-1", "run=run"]
    done = command("train", *keys, "workers=1", "eval.episodes=1")
    assert done.returncode == 0, done.stderr
    assert [line["members/failed"] for line in metrics(tmp_path / "run")] == [0]
    done = command("evaluate", "run=run", "env=camera:Camera-v0", "episodes=1")
    assert done.returncode == 0 and '"failed": 0' in done.stdout


@pytest.mark.parametrize("policy", ["linear", *soak("mlp", "transformer transformer.width=8 es.noise=lowrank")])
@pytest.mark.slow
def test_one_simulation_in_a_process_gives_the_same_theta(train, policy):
    keys = ["es.population=6", "generations=2", "eval.every=1", "eval.episodes=3", "es.episodes=2", f"policy={policy}"]
    keys = " ".join(keys).split()
    with pytest.raises(EnvError, match=r"a second one in the same process cannot be made.*Give serial=true if"):
        train("env=hostile:OnlyOne-v0", *keys, "workers=1", run="refused")
    hostile.OnlyOne.there.clear()
    one = [train("env=hostile:OnlyOne-v0", *keys, "serial=true", f"workers={n}", run=f"one{n}") for n in (0, 2)]
    many = train("env=hostile:Good-v0", "env_kwargs.max_episode_steps=20", *keys, "serial=true", run="many")
    side = train("env=hostile:Good-v0", "env_kwargs.max_episode_steps=20", *keys, run="side")
    hostile.OnlyOne.there.clear()
    assert model_hash(one[0]) == model_hash(one[1]) == model_hash(many)
    assert comparable(one[0]) == comparable(one[1])
    if policy in ("linear", "mlp"):  # whose rows do not depend on one another
        assert model_hash(one[0]) == model_hash(side)
    assert evaluate([f"run={one[0]}", "env=hostile:OnlyOne-v0", "episodes=3"]) == 0

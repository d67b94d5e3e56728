"""The bits of theta: `benchmarks/bits.py` compares them with those of before."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import metrics
from safetensors.numpy import load_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bits(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bits

    return bits


def test_what_is_written_down_is_compared_and_a_difference_is_told(bits, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bits, "FILE", tmp_path / "bits.json")
    monkeypatch.setattr(bits, "arithmetic", lambda: "here")
    monkeypatch.setattr(bits, "found", lambda names: {name: f"hash of {name}" for name in names})
    with pytest.raises(bits.ConfigError, match="knows nothing of this machine"):
        bits.main([])
    assert bits.main(["write=true", "cases=mlp;text"]) == 0 and bits.main(["write=true", "cases=linear"]) == 0
    assert set(json.loads(bits.FILE.read_text())["here"]) == {"mlp", "text", "linear"}
    assert bits.main(["cases=mlp; text"]) == 0
    monkeypatch.setattr(bits, "found", lambda names: dict.fromkeys(names, "another"))
    assert bits.main(["cases=mlp"]) == 1
    assert "0 of 1 as before; not: mlp" in capsys.readouterr().out
    with pytest.raises(bits.ConfigError, match="Did you mean linear"):
        bits.main(["cases=linaer"])


def test_one_task_on_two_backends_and_central_inference_have_the_same_bits():
    """What is written down shows it."""
    for found in json.loads((BENCHMARKS / "bits.json").read_text()).values():
        assert found["mlp, general backend"] == found["mlp, fast backend"]
        assert found["mlp"] == found["mlp, two workers"]
        assert found["transformer, lowrank"] == found["transformer, lowrank, central"]
        assert found.get("judged steps") == found.get("judged steps, two workers")
        pairs = 3 + ("judged steps" in found)
        assert len(set(found.values())) == len(found) - pairs


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_theta_has_the_bits_of_before(bits):
    if bits.arithmetic() not in json.loads(bits.FILE.read_text()):
        pytest.skip("nothing is known of this machine's arithmetic")
    done = subprocess.run([sys.executable, BENCHMARKS / "bits.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_of_version_0_1_0_goes_on_as_one_that_was_never_stopped(train, tmp_path):
    shutil.copytree(Path(__file__).parents[1] / "data" / "run-0.1.0", tmp_path / "old", symlinks=True)
    keys = (tmp_path / "old/command.txt").read_text().split()[3:]
    keys = [key for key in keys if not key.startswith(("generations=", "run=", "workers="))]
    old = train(f"resume={tmp_path / 'old'}", "generations=4", run="old")
    new = train(*keys, "generations=4", run="new")
    assert [line["generation"] for line in metrics(old)] == [1, 2, 3, 4]
    theta = [load_file(run / "checkpoints/last/model.safetensors") for run in (old, new)]
    assert theta[0].keys() == theta[1].keys()
    for name, value in theta[0].items():  # its first two generations may be those of another processor
        np.testing.assert_allclose(value, theta[1][name], rtol=1e-4, atol=1e-5)

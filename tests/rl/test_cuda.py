"""What runs on a GPU gives what the processor gives. Skipped where there is none."""

import numpy as np
import pytest
import torch
from conftest import comparable, metrics, model_hash
from safetensors.torch import load_file
from test_population import MEMBERS, NETWORKS, assert_close, build, explicit, tensor

from es_rl.llm.in_place import Direction, write
from es_rl.llm.model import Language, open_model
from es_rl.noise import Perturbation
from es_rl.population.forward import perturb

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = "cuda"
HOPPER = ["env=Hopper-v4", "env_kwargs.max_episode_steps=60", "es.population=32", "chunk=8", "eval.every=2"]
POLICIES = {
    "linear": "policy=linear",
    "mlp": "policy=mlp mlp.hidden=[32,32] es.noise=lowrank",
    "transformer": "policy=transformer transformer.width=16 es.noise=lowrank",
}


@pytest.fixture(autouse=True)
def whole_precision(monkeypatch):
    """Convolutions else round to ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def theta(run):
    return load_file(run / "checkpoints" / "last" / "model.safetensors")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["dense", "lowrank"])
def test_every_member_is_the_module_with_its_explicit_weights(name, kind):
    module, inputs, fused = build(name)
    p = Perturbation(kind=kind, sigma=0.1, seed=3, generation=5)
    x = inputs(len(MEMBERS))
    alone = explicit(module, MEMBERS, x, 1, p)  # not on the GPU, where torch's own encoder rounds to 1e-4
    module, x = module.cuda(), x.cuda()
    with perturb(module, MEMBERS, p) as members:
        y = tensor(module(x))
        assert members.together is fused
        assert (y.cpu() - alone).abs().max() <= 2e-5 * alone.abs().max()
        members.select([1, 4])
        assert_close(tensor(module(x[[1, 4]])), y[[1, 4]])


@pytest.mark.parametrize("policy", POLICIES)
def test_training_is_that_of_the_processor_but_for_rounding_for_any_number_of_workers(train, policy):
    keys = [*HOPPER, *POLICIES[policy].split(), "generations=1"]
    local = train(*keys, run="local")
    runs = [
        train(*keys, "inference=central", f"device={device}", f"workers={n}", run=f"gpu{n}")
        for n, device in ((1, "cuda"), (2, "auto"))
    ]
    assert model_hash(runs[0]) == model_hash(runs[1])
    assert comparable(runs[0]) == comparable(runs[1])
    assert metrics(runs[0])[0]["fitness/mean"] == pytest.approx(metrics(local)[0]["fitness/mean"], rel=0.05)
    for name, value in theta(local).items():
        np.testing.assert_allclose(theta(runs[0])[name], value, atol=0.1, rtol=0.05)


def test_a_run_goes_on_to_the_same_bits(train):
    keys = [*HOPPER, *POLICIES["mlp"].split(), "inference=central", "device=cuda", "workers=1"]
    whole = train(*keys, "generations=4", run="whole")
    train(*keys, "generations=2", run="half")
    train("resume=half", "generations=4", "workers=1")
    assert model_hash(whole) == model_hash(whole.parent / "half")


@pytest.mark.parametrize("kind", ["dense", "lowrank"])
def test_a_language_model_says_there_what_it_says_here(tiny, kind):
    here, there = (Language(*open_model(tiny, "float32"), torch.device(name)) for name in ("cpu", GPU))
    theta = {name: value.clone() for name, value in here.model.named_parameters()}
    frozen = frozenset(name for name in theta if "mlp" in name)
    p = Perturbation(kind=kind, sigma=0.05, seed=1, frozen=frozen)
    said = []
    for speaker in (here, there):
        if kind == "dense":
            write(speaker.model, theta, p, Direction(1, -p.sigma))
            said.append(speaker.complete(["one", "and another"], copies=1, most=6, beat=lambda rows: None))
        else:
            with perturb(speaker.model, range(4), p):
                said.append(speaker.complete(["one", "and another"], copies=4, most=6, beat=lambda rows: None))
    assert said[0] == said[1]
    for (name, one), other in zip(here.model.named_parameters(), there.model.parameters(), strict=True):
        assert torch.equal(one, other.cpu()), name


def test_noise_stays_on_the_gpu_and_takes_no_more_than_the_factors():
    width, members = 256, 1024
    module = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(3))).cuda()
    x = torch.randn(members, width, device="cuda")
    factors = members * 3 * (2 * width + width) * 4
    before = torch.cuda.memory_allocated()
    with perturb(module, range(members), Perturbation(kind="lowrank")):
        held = torch.cuda.memory_allocated() - before
        assert 0.9 * factors <= held <= 1.2 * factors
        assert module(x).shape == x.shape

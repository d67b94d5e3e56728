"""`es_rl.Trainer`: any module, any score."""

import copy
import json
import math
import subprocess
import sys
from fractions import Fraction
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import soak
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import es_rl
from es_rl.errors import CheckpointError, ConfigError, TrainingError
from es_rl.noise import member_weights
from es_rl.run import atomic
from es_rl.trainer import callbacks
from es_rl.trainer.eggroll_trainer import EGGROLLTrainer, VanillaESTrainer
from es_rl.trainer.fitness import restored_after

X = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
Y = X[:, :1] * X[:, 1:2]


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))


def alone(model):
    return -((model(X) - Y) ** 2).mean().item()


@es_rl.batched
def together(model, n):
    return -((model(X.repeat(n, 1)) - Y.repeat(n, 1)) ** 2).reshape(n, -1).mean(dim=1)


def trainer(fitness=alone, model=None, **settings):
    return es_rl.Trainer(network() if model is None else model, fitness, **{"population": 16, **settings})


def theta(trainer):
    return torch.cat([value.detach().flatten() for value in trainer.model.parameters()])


FEW = [(together, "lowrank"), (alone, "dense")]
OTHERS = [case for case in product([alone, together], es_rl.noise.KINDS) if case not in FEW]


@pytest.mark.parametrize(("fitness", "noise"), [*FEW, *soak(*OTHERS)])
@pytest.mark.slow
def test_it_learns(fitness, noise):
    t = trainer(fitness, noise=noise, population=32)
    before = alone(t.model)
    records = t.train(25)
    assert alone(t.model) > before + 0.1 and len(records) == len(t.history) == t.generation == 25
    assert records[-1]["fitness/max"] >= records[-1]["fitness/mean"] >= records[-1]["fitness/min"]


def test_members_are_scored_with_one_thread_and_the_program_has_its_own_again():
    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        trainer(lambda model: seen.append(torch.get_num_threads()) or float(len(seen))).train(1)
        assert set(seen) == {1} and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_members_are_scored_with_their_own_weights_and_the_model_comes_back():
    seen = []

    def fitness(model):
        seen.append({name: value.clone() for name, value in model.named_parameters()})
        model[0].weight.zero_()
        model.train()
        return float(len(seen))

    model = network().eval()
    t = trainer(fitness, model)
    start = copy.deepcopy(model)
    p = es_rl.noise.Perturbation("lowrank", 0.05, seed=0, generation=0, block=t._params.chunk // 2)
    t.step()
    for member, weights in enumerate(seen):
        assert all(torch.equal(weights[name], value) for name, value in member_weights(start, member, p).items())
    assert not model.training and not torch.equal(model[0].weight, torch.zeros_like(model[0].weight))
    assert t.best.member == 15 and t.best.fitness == 16.0
    assert all(torch.equal(t.best.state_dict[name], value) for name, value in seen[15].items())


def test_one_by_one_and_batched_are_the_same_training():
    one, other = trainer(alone), trainer(together)
    one.train(5), other.train(5)
    assert torch.allclose(theta(one), theta(other), atol=1e-5)


@pytest.mark.parametrize("fitness", [alone, together])
@pytest.mark.slow
def test_workers_seeds_and_saving_change_no_bit_that_they_must_not(fitness, tmp_path):
    straight = trainer(fitness, seed=3)
    straight.train(6)
    shared = trainer(fitness, seed=3, workers=2)
    shared.train(3), shared.train(3)
    assert torch.equal(theta(straight), theta(shared))
    assert not torch.equal(theta(straight), theta(other := trainer(fitness, seed=4))) and other.train(6)
    assert not torch.equal(theta(straight), theta(other))

    first = trainer(fitness, seed=3)
    first.train(2)
    first.save(tmp_path / "saved")
    again = es_rl.Trainer.load(tmp_path / "saved", nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)), fitness)
    assert [r["fitness/mean"] for r in again.history] == [r["fitness/mean"] for r in first.history]
    assert again.best.fitness == first.best.fitness and torch.equal(theta(again), theta(first))
    again.train(4)
    assert torch.equal(theta(straight), theta(again)) and again.best.fitness == straight.best.fitness
    again.reset()
    assert torch.equal(theta(again), theta(trainer(fitness))) and again.history == [] and again.best is None
    again.train(6)
    assert torch.equal(theta(straight), theta(again))


def test_a_saved_trainer_names_no_cluster(tmp_path):
    """A file of a stranger's would send this user's work to the stranger's machines."""
    saved = tmp_path / "saved"
    trainer().save(saved)
    about = json.loads((saved / "state.json").read_text())
    about["settings"]["cluster"] = "10.0.0.1:6379"
    files = {path.name: path.read_bytes() for path in saved.iterdir() if path.name != "MANIFEST.json"}
    atomic.write(saved, files | {"state.json": json.dumps(about).encode()})
    with pytest.raises(CheckpointError, match="cluster"):
        es_rl.Trainer.load(saved, network(), alone)
    trainer().save(tmp_path / "own")
    assert es_rl.Trainer.load(tmp_path / "own", network(), alone, cluster="local")._cluster.address == "local"


@pytest.mark.process
def test_the_best_member_is_that_of_theta_whatever_a_callback_does_to_the_model():
    def peek(t, record):
        t.model.load_state_dict(t.best.state_dict)

    found = []
    for workers in (0, 1):
        t = trainer(callbacks=[peek], workers=workers)
        t.train(4)
        found.append(t.best)
        t.close()
    assert all(torch.equal(found[0].state_dict[name], value) for name, value in found[1].state_dict.items())


@pytest.mark.slow
def test_a_saved_trainer_is_loaded_in_another_process(tmp_path, python):
    t = trainer()
    t.train(3)
    t.save(tmp_path / "saved")
    code = f"""
import sys; sys.path.insert(0, {str(__file__).rpartition("/")[0]!r})
import es_rl, test_trainer
t = es_rl.Trainer.load({str(tmp_path / "saved")!r}, test_trainer.network(), test_trainer.alone)
t.train(2)
print(test_trainer.theta(t).tolist())
"""
    done = python("-c", code)
    t.train(2)
    assert done.stdout.strip() == str(theta(t).tolist())


def test_only_what_requires_a_gradient_moves_and_buffers_stay():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    t = trainer(alone, model.train())
    t.train(3)
    moved = {name for name, value in t.state_dict.items() if not torch.equal(value, before[name])}
    assert moved == {"1.weight", "1.bias", "2.weight", "2.bias"} and model.training


def test_tied_parameters_move_together():
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 1))
    model[2].weight = model[0].weight
    t = trainer(alone, model)
    t.train(2)
    assert model[2].weight is model[0].weight and torch.equal(t.state_dict["0.weight"], t.state_dict["2.weight"])


def test_all_members_draw_the_same_random_numbers_and_the_callers_go_on():
    drawn = []

    def fitness(model):
        drawn.append((torch.rand(1).item(), np.random.rand()))  # noqa: NPY002
        return drawn[-1][0] + theta_sum(model)

    t = trainer(fitness)
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    t.train(2)
    assert torch.equal(torch.rand(3), expected)
    assert len(set(drawn[:16])) == len(set(drawn[16:])) == 1 and drawn[0] != drawn[-1]


def theta_sum(model):
    return sum(value.sum().item() for value in model.parameters())


def test_callbacks_run_and_can_end_the_training(tmp_path, capsys):
    calls = []
    stop = callbacks.EarlyStopping(2, metric="fitness/max", least=1e9)
    every = [
        lambda t, record: calls.append(record["generation"]), stop, callbacks.TensorBoard(tmp_path / "tb"),
        callbacks.Checkpoint(tmp_path / "saved", every=2), callbacks.Print(0),
    ]  # fmt: skip
    t = trainer(callbacks=every)
    assert len(t.train(10)) == 3 and calls == [1, 2, 3]
    assert es_rl.Trainer.load(tmp_path / "saved", network(), alone).generation == 2
    points = EventAccumulator(str(tmp_path / "tb")).Reload().Scalars("fitness/mean")
    assert [point.step for point in points] == [1, 2, 3]
    assert [point.value for point in points] == pytest.approx([record["fitness/mean"] for record in t.history])
    assert "generation 3 | fitness" in capsys.readouterr().out
    target = trainer(callbacks=[callbacks.EarlyStopping(100, target=-1e9)])
    assert len(target.train(5)) == 1


def test_early_stopping_waits_for_a_rise_also_across_a_save(tmp_path):
    past = SimpleNamespace(history=[])
    slow = callbacks.EarlyStopping(3, metric="x", least=1.0)

    def stops(value):
        past.history.append({"x": value})
        return slow.on_generation(past, past.history[-1])

    assert not any(stops(0.4 * i) for i in range(20))  # every third rise is one by more than that
    assert [stops(0.0) for _ in range(3)][-1]

    t = trainer()
    t.train(2)
    t.save(tmp_path / "saved")
    stop = callbacks.EarlyStopping(3, metric="fitness/max", least=1e9)
    loaded = es_rl.Trainer.load(tmp_path / "saved", network(), alone, callbacks=[stop])
    assert len(loaded.train(10)) == 2  # the first of four generations was a rise


@pytest.mark.parametrize("training", [False, True])
def test_what_a_module_draws_is_the_same_again(training):
    """Though a module is checked when it is first seen, which calls it more often."""
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 1)).train(training)
    t = trainer(together, model)
    t.step()
    first = theta(t).clone()
    t.reset()
    t.step()
    assert torch.equal(theta(t), first)


def test_the_best_of_tied_parameters_is_what_was_scored():
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 1))
    model[2].weight = model[0].weight
    t = trainer(alone, model, sigma=0.3)
    t.step()
    model.load_state_dict(t.best.state_dict)
    assert alone(model) == pytest.approx(t.best.fitness, rel=1e-6)


def test_what_was_frozen_stays_frozen_when_it_is_loaded(tmp_path):
    model = network()
    model[0].requires_grad_(False)
    t = trainer(model=model)
    t.train(1)
    t.save(tmp_path / "saved")
    other = network()
    other[2].requires_grad_(False)
    again = es_rl.Trainer.load(tmp_path / "saved", other, alone)
    again.train(2), t.train(2)
    assert torch.equal(theta(t), theta(again)) and torch.equal(other[0].weight, network()[0].weight)


def test_nothing_but_a_saved_trainer_is_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(ConfigError, match="exists, and is not a saved trainer"):
        trainer().save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years"
    t = trainer(lambda model: 1e308 * theta_sum(model))
    t.train(1)
    t.save(tmp_path / "saved"), t.save(tmp_path / "saved")  # though its statistics are beyond all numbers
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved", "thesis.txt"]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.slow
def test_a_fitness_that_breaks_is_a_failed_member_until_most_do(workers):
    def sometimes(model):
        value = theta_sum(model)
        return float("nan") if value > middle else value

    def raises(model):
        return 1 / 0 if theta_sum(model) > middle else 1.0

    def never(model):
        raise ValueError("no such thing")

    middle = theta_sum(network())
    t = trainer(sometimes, workers=workers, max_failed=0.9)
    assert 0 < t.train(1)[0]["members/failed"] < 16
    assert 0 < trainer(raises, workers=workers, max_failed=0.9).train(1)[0]["members/failed"] < 16
    with pytest.raises(TrainingError, match="16 of 16 members failed in generation 1: ValueError: no such thing"):
        trainer(never, workers=workers).train(1)


CONVERTED = {
    "half": lambda m: m.half(),
    "double": lambda m: m.double(),
    "frozen": lambda m: m.requires_grad_(False),
    "less": lambda m: delattr(m[0], "bias"),
    "more": lambda m: m.add_module("more", nn.Linear(2, 2)),
    "another": lambda m: setattr(m[0], "weight", nn.Parameter(torch.zeros(1, 1))),
    "another part": lambda m: m.__setitem__(0, nn.Identity()),
    "a buffer": lambda m: m.register_buffer("seen", torch.ones(2)),
    "training": lambda m: m.eval(),
}


@pytest.mark.parametrize("how", CONVERTED)
def test_whatever_a_fitness_does_to_the_model_is_undone(how):
    def fitness(model):
        value = theta_sum(model)
        CONVERTED[how](model)
        return value

    plain, odd = trainer(theta_sum), trainer(fitness)
    kinds = [(name, value.dtype, value.shape, value.requires_grad) for name, value in odd.model.named_parameters()]
    assert [r["fitness/max"] for r in odd.train(2)] == [r["fitness/max"] for r in plain.train(2)]
    assert [(n, v.dtype, v.shape, v.requires_grad) for n, v in odd.model.named_parameters()] == kinds
    assert odd.model.training == plain.model.training and not dict(odd.model.named_buffers())
    for one, other in zip(odd.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a", "returned 'a': it must return a number"),
        ([1, 2], "returned 2 numbers for 1 members"),
        (None, "not a finite number"),
    ],
)
def test_a_fitness_that_returns_something_else_is_told_so(value, message):
    with pytest.raises(TrainingError, match=message):
        trainer(lambda model: value).train(1)


@pytest.mark.parametrize("kind", [np.float32, torch.tensor, lambda x: torch.tensor(x, dtype=torch.bfloat16), Fraction])
def test_a_fitness_may_be_a_number_of_any_kind(kind):
    one = trainer(lambda model: kind(alone(model)))
    one.train(1)
    assert theta(one).isfinite().all()


def test_a_model_that_is_traced_in_a_fitness_is_refused():
    @es_rl.batched
    def traced(model, n):
        return -torch.jit.trace(model, X.repeat(n, 1))(X.repeat(n, 1)).reshape(n, -1).mean(1)

    with pytest.raises(
        TrainingError, match=r"cannot be traced: the trace would hold theta and no members\. Call it\.$"
    ):
        trainer(traced).train(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 7}, "population=7: members come in antithetic pairs"),
        ({"noise": "densse"}, "Did you mean dense"),
        ({"optimizer": "adan"}, "Did you mean adam"),
        ({"optimizer": "SGD"}, "optimizer=SGD: unknown. Did you mean sgd"),
        ({"optimizer": "rmsprop"}, "optimizer=rmsprop: unknown. Did you mean torch.optim.RMSprop"),
        ({"optimizer": torch.optim.Adam([torch.zeros(2)])}, "optimizer=a Adam: must be a name or a class"),
        ({"sigma": -1.0}, "sigma=-1.0: must be > 0"),
        ({"sigmma": 1.0}, "sigmma: unknown key"),
        ({"rank": 9}, "rank=9: must lie between 1 and the smaller side"),
        ({"seed": -1}, "seed=-1"),
        ({"chunk": 3}, "chunk=3: must be even"),
        ({"limit": 3}, "limit: is for training in environments"),
        ({"model": network().double()}, "0.weight is torch.float64 on cpu"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        trainer(**settings)


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
        self.b.weight.data = self.a.weight.data


class Expanded(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(1, 3).expand(4, 3))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Tied, "a.weight and b.weight share memory, but are two parameters"),
        (Expanded, "w is expanded: its numbers share memory"),
        (lambda: torch.nn.LazyLinear(3), "weight has no shape yet"),
        (lambda: torch.jit.script(torch.nn.Linear(2, 2)), "must be a plain torch.nn.Module"),
        (lambda: None, "must be a plain torch.nn.Module, and is a NoneType"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_models_from_which_no_members_can_be_made_are_refused(model, message):
    with pytest.raises(ConfigError, match=message):
        es_rl.Trainer(model(), lambda model: 0.0)


@pytest.mark.parametrize("workers", [-1, 1.5, None, True, 10**5])
def test_an_impossible_number_of_workers_is_refused(workers):
    with pytest.raises(ConfigError, match=f"workers={workers}: must be (a whole number|at most 10000)"):
        es_rl.Trainer(torch.nn.Linear(2, 2), lambda model: 0.0, workers=workers)


class Named(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.variance = torch.nn.Parameter(torch.tensor([-0.5, 1.0]))
        self.register_buffer("count", torch.tensor(-1))


def test_tensors_of_a_model_may_be_called_as_they_like(tmp_path):
    es_rl.Trainer(Named(), lambda model: 0.0).save(tmp_path / "saved")
    loaded = es_rl.Trainer.load(tmp_path / "saved", Named(), lambda model: 0.0)
    assert loaded.state_dict["variance"].tolist() == [-0.5, 1.0]


def test_views_that_do_not_overlap_are_trained():
    model = torch.nn.Module()
    base = torch.zeros(2, 6)
    model.left, model.right = torch.nn.Parameter(base[:, :3]), torch.nn.Parameter(base[:, 3:])
    es_rl.Trainer(model, lambda model: 0.0, population=4).train(1)


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.scale = torch.nn.Linear(2, 1), torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.scale * self.layer(x)


@pytest.mark.parametrize("noise", ["dense", "orthogonal", "lowrank"])
def test_a_parameter_that_is_one_number_is_trained(noise):
    x = torch.ones(4, 2)
    trainer = es_rl.Trainer(Scaled(), lambda model: -float((model(x) - 3).square().mean()), noise=noise, population=8)
    before = float(trainer.model.scale)
    trainer.train(20)
    assert (
        float(trainer.model.scale.detach()) != before
        and trainer.history[-1]["fitness/mean"] > trainer.history[0]["fitness/mean"]
    )


def test_a_model_of_which_nothing_moves_is_refused():
    with pytest.raises(ConfigError, match="none of its parameters has requires_grad"):
        trainer(model=network().requires_grad_(False))


def test_what_is_loaded_must_be_sound_and_fit(tmp_path):
    trainer().save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"does not fit the model; differing: 2.bias, 2.weight"):
        es_rl.Trainer.load(tmp_path / "saved", nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2)), alone)
    (tmp_path / "saved/model.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="damaged"):
        es_rl.Trainer.load(tmp_path / "saved", network(), alone)
    with pytest.raises(CheckpointError, match="cannot be read"):
        es_rl.Trainer.load(tmp_path / "nothing", network(), alone)


@pytest.mark.slow
def test_constructors_with_the_names_of_eggroll_trainer():
    model = network()
    t = VanillaESTrainer(
        model.parameters(), model=model, fitness_fn=alone, population_size=20, learning_rate=0.01, sigma=0.1, seed=42
    )
    before = alone(model)
    t.train(30)
    assert alone(model) > before
    eggroll = EGGROLLTrainer(
        model=network(), fitness_fn=alone, population_size=16, rank=2, noise_reuse=2, group_size=4,
        freeze_nonlora=True, learning_rate=0.1, seed=1,
    )  # fmt: skip
    start = copy.deepcopy(eggroll.model)
    eggroll.train(2)
    assert torch.equal(start[0].bias, eggroll.model[0].bias)
    assert not torch.equal(start[0].weight, eggroll.model[0].weight)
    only = network()
    t = VanillaESTrainer(only[2].parameters(), only, alone, 8)
    first = only[0].weight.clone()
    t.train(1)
    assert torch.equal(only[0].weight, first)


def test_the_other_packages_words_are_understood(capsys):
    t = EGGROLLTrainer(model=network(), fitness_fn=alone, population_size=16, learning_rate=0.01, seed=1)
    assert t.best_fitness == -math.inf
    records = t.train(num_generations=3, verbose=True)
    assert [r["generation"] for r in records] == [1, 2, 3] and "generation 1 | fitness" in capsys.readouterr().out
    assert t.callbacks == [] and t.best_fitness == max(r["fitness/max"] for r in records)
    assert alone(t.get_best_model()) == pytest.approx(t.best_fitness, rel=1e-6)
    assert alone(t.model) != alone(t.get_best_model())


def test_parameters_of_the_other_package_may_be_in_groups_or_have_names():
    model = network()
    few = list(model[0].parameters())
    for params in (
        iter(few),
        [{"params": few}],
        model[0].named_parameters(),
        [{"params": model[0].named_parameters()}],
    ):
        moved = EGGROLLTrainer(params=params, model=model, fitness_fn=alone, population_size=8).model
        assert [value.requires_grad for value in moved.parameters()] == [True, True, False, False]
        model.requires_grad_(True)


def test_the_other_packages_arguments_mean_ours():
    theirs = EGGROLLTrainer(
        model=network(), fitness_fn=alone, population_size=16, rank=2, noise_reuse=2, group_size=4,
        freeze_nonlora=True, learning_rate=0.1, sigma=0.2, seed=1,
    )  # fmt: skip
    ours = trainer(
        population=16, rank=2, noise_reuse=2, freeze_vectors=True, lr=0.1 * 0.2**2 * math.sqrt(15 / 16), sigma=0.2,
        seed=1, shaping="zscore", optimizer="sgd", momentum=0.0,
    )  # fmt: skip
    theirs.train(3)
    ours.train(3)
    assert torch.equal(theta(theirs), theta(ours))
    sgd = [
        EGGROLLTrainer(model=network(), fitness_fn=alone, population_size=8, optimizer=kind)
        for kind in ("sgd", torch.optim.SGD)
    ]
    assert sgd[0]._params.optim.lr == sgd[1]._params.optim.lr
    adam = EGGROLLTrainer(model=network(), fitness_fn=alone, population_size=16, learning_rate=0.01, optimizer="adam")
    adam.train(1)
    moved = theta(adam) - theta(trainer())
    assert moved.abs().max() == pytest.approx(0.01, rel=1e-3)  # a step of Adam is as long as its rate says


@pytest.mark.parametrize("shaping", ["zscore", "raw", "centered_ranks"])
@pytest.mark.parametrize(("population", "rank"), [(4, 1), (16, 4), (64, 2)])
@pytest.mark.parametrize("kind", [VanillaESTrainer, EGGROLLTrainer])
def test_the_same_numbers_take_the_step_of_the_other_package(kind, population, rank, shaping):
    """theta + learning_rate · mean over members of weight · perturbation, on a linear fitness.

    The weights are z-scores with the unbiased standard deviation. The perturbation includes sigma in EGGROLLTrainer.
    """
    torch.manual_seed(5)
    model, slope = network(), torch.randn(57)
    sigma, rate = 0.3, 0.7

    def linear(m):
        return float(slope @ torch.cat([value.detach().flatten() for value in m.parameters()]))

    more = {"rank": rank} if kind is EGGROLLTrainer else {}
    t = kind(
        model=model, fitness_fn=linear, population_size=population, learning_rate=rate, sigma=sigma, seed=3,
        shaping=shaping, **more,
    )  # fmt: skip
    before = theta(t)
    p = es_rl.noise.Perturbation(kind=t._params.es.noise, rank=rank, sigma=sigma, seed=3, block=t._params.chunk // 2)
    members = [member_weights(model, i, p) for i in range(population)]
    perturbations = torch.stack([torch.cat([v.flatten() for v in w.values()]) - before for w in members]).double()
    fitness = np.array([linear_of(slope, w) for w in members])
    weights = {
        "zscore": (fitness - fitness.mean()) / fitness.std(ddof=1),
        "raw": fitness,
        "centered_ranks": fitness.argsort().argsort() / (population - 1) - 0.5,
    }[shaping]
    if kind is VanillaESTrainer:
        perturbations = perturbations / sigma
    t.train(1)
    expected = rate * (torch.from_numpy(weights)[:, None] * perturbations).mean(0)
    torch.testing.assert_close(
        (theta(t) - before).double(), expected, rtol=1e-3, atol=2e-5 * float(expected.abs().max())
    )


def linear_of(slope, weights):
    return float(slope @ torch.cat([value.flatten() for value in weights.values()]))


@pytest.mark.slow
def test_code_that_moves_over_does_not_diverge():
    """With the numbers of that package's examples: they were a hundred times too large before."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 8), torch.arange(64) % 4
    net = nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4))

    def fitness(m):
        return -float(nn.functional.cross_entropy(m(x), y))

    begun = fitness(net)
    EGGROLLTrainer(model=net, fitness_fn=fitness, population_size=32, learning_rate=0.1, sigma=0.05).train(20)
    assert begun < fitness(net) < 0


@es_rl.batched
def three(model, n):
    return [1.0, 2.0, 3.0]


def test_an_error_in_some_chunks_is_the_same_with_workers_and_without():
    """Of chunks of 4 and 2 members both break: the fitness always scores three."""
    for workers in (0, 1):
        with pytest.raises(
            TrainingError, match="6 of 6 members failed in generation 1: the fitness returned 3 numbers"
        ):
            es_rl.Trainer(network(), three, population=6, chunk=4, workers=workers).train(1)


def test_parameters_in_any_order_of_memory_are_saved(tmp_path):
    model = nn.Linear(3, 4)
    model.weight = nn.Parameter(torch.randn(3, 4).T)
    t = es_rl.Trainer(model, theta_sum, population=4)
    t.train(1)
    t.save(tmp_path / "t")
    again = es_rl.Trainer.load(tmp_path / "t", nn.Linear(3, 4), theta_sum)
    assert torch.equal(again.model.weight, model.weight) and not model.weight.is_contiguous()


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_what_cannot_be_sent_to_workers_is_refused_at_once(kind):
    model = network()
    strange = torch.zeros(2, dtype=torch.bfloat16)
    if kind == "parameter":
        model.strange = nn.Parameter(strange, requires_grad=False)
    else:
        model.register_buffer("strange", strange)
    with pytest.raises(ConfigError, match=r"strange is torch.bfloat16 on cpu.*Use model.float\(\).cpu\(\)"):
        es_rl.Trainer(model, theta_sum)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(nn.Linear(5, 8), nn.Tanh())
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head, self.value = nn.Linear(8, 1), nn.Linear(8, 1)
        self.value.weight = self.head.weight  # tied

    def forward(self, x):
        return self.head(self.features(x))


def of_parts(model, x):
    """A score of the whole and of its parts, alone and within one another."""
    seen = model.features(x)
    mixed = model.mix(seen[:, None], seen[:, None], seen[:, None])[0][:, 0]
    return model(x) + 2 * model.value(mixed) + 3 * model.features[0](x).sum(1, keepdim=True)


@pytest.mark.parametrize("noise", ["dense", "lowrank"])
def test_parts_that_are_called_beside_the_model_are_those_of_each_member(noise):
    @es_rl.batched
    def many(model, n):
        return of_parts(model, X.repeat(n, 1)).reshape(n, -1).mean(1)

    single = trainer(lambda model: of_parts(model, X).mean(), TwoHeads(), noise=noise)
    batch = trainer(many, TwoHeads(), noise=noise)
    found = [t.train(3) for t in (single, batch)]
    assert found[0][0]["fitness/max"] != found[0][0]["fitness/min"]
    for one, other in zip(*found, strict=True):
        assert one["fitness/max"] == pytest.approx(other["fitness/max"], rel=1e-4)
        assert one["fitness/min"] == pytest.approx(other["fitness/min"], rel=1e-4)
    torch.testing.assert_close(theta(single), theta(batch), rtol=1e-3, atol=1e-4)
    assert not any("forward" in vars(part) for part in batch.model.modules())


def test_a_batched_fitness_that_uses_parameters_themselves_is_refused():
    """They have the value of theta there, the same for all members."""
    for use in (
        lambda model: model[0].weight.norm(),
        lambda model: torch.cat([value.flatten() for value in model.parameters()]).abs().sum(),
        lambda model: nn.functional.linear(X, model[0].weight).sum(),
        lambda model: model[0].bias[0].item(),
    ):

        @es_rl.batched
        def decayed(model, n, use=use):
            shape = model[0].weight.shape  # what is the same for all may be asked for
            return together(model, n) - use(model) * (shape[0] > 0)

        with pytest.raises(TrainingError, match=r"uses the parameter 0\.\w+ itself.*without batched"):
            trainer(decayed).step()


def test_a_batched_fitness_that_calls_nothing_is_refused():
    with pytest.raises(TrainingError, match=r"neither model\(…\) nor a part of it"):
        trainer(es_rl.batched(lambda model, n: [1.0] * n)).step()


class Remembers(nn.Module):
    """Keeps its last state in a buffer that begins as nothing, and one that it exchanges."""

    def __init__(self):
        super().__init__()
        self.i = nn.Linear(5, 1)
        self.register_buffer("h", None)
        self.register_buffer("first", torch.zeros(1, 1))

    def forward(self, x):
        self.h = self.i(x) + (0 if self.h is None else 100 * self.h)
        self.first = self.h
        return self.h


def test_buffers_that_come_and_change_are_undone():
    model, said = Remembers(), []
    for _ in range(2):
        with restored_after(model):
            model(X)
            said.append(model(X))
    assert torch.equal(*said)
    assert model.h is None and model.first.shape == (1, 1)


def test_stopping_by_a_metric_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match=r"metric=fitness/men: unknown\. Did you mean fitness/mean"):
        trainer(callbacks=[callbacks.EarlyStopping(3, metric="fitness/men")]).train(2)


def test_a_fitness_may_add_parts_to_the_model():
    def growing(model):
        if not hasattr(model, "more"):
            model.more = nn.Tanh()
        return alone(nn.Sequential(*list(model)[:3]))

    assert len(trainer(growing).train(1)) == 1


UNGUARDED = """
import torch
import es_rl

print("main runs")
torch.manual_seed(0)
x, y = torch.randn(16, 5), torch.randn(16, 1)
scale = 2.0

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(5, 1)

    def forward(self, x):
        return self.inner(x) * scale

def error(model):
    return ((model(x) - y) ** 2).mean().item()

def fitness(model):
    return -error(model)

found = []
for workers in (0, 2):
    torch.manual_seed(1)
    t = es_rl.Trainer(Net(), fitness, population=8, workers=workers, seed=1)
    found.append(t.train(2)[-1]["fitness/max"])
print(found[0] == found[1], found[0] < 0)
"""


@pytest.mark.parametrize(
    "how",
    ["a file", *soak("stdin", "-c", "a notebook")],
)
@pytest.mark.slow
def test_what_the_main_file_defines_travels_without_a_guard(how, tmp_path):
    """Its functions, classes and global names; it runs once, in this process only."""
    (tmp_path / "script.py").write_text(UNGUARDED)
    cells = "import sys, pathlib\nexec(compile(pathlib.Path('script.py').read_text(), '<cell 1>', 'exec'), globals())"
    argv = {"a file": ["script.py"], "stdin": ["-"], "-c": ["-c", UNGUARDED], "a notebook": ["-ic", cells]}[how]
    done = subprocess.run(
        [sys.executable, *argv], input=UNGUARDED if how == "stdin" else "", text=True, capture_output=True,
        cwd=tmp_path, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.split("\n")[:2] == ["main runs", "True True"], done.stderr


def test_what_cannot_be_sent_to_workers_is_one_line_with_the_remedy():
    numbers = (i for i in range(10))

    def fitness(model):
        return float(next(numbers))

    with pytest.raises(ConfigError, match=r"cannot be sent to them.*generator.*give workers=0"):
        trainer(fitness, workers=1).train(1)


def test_a_function_that_shapes_is_one_of_ours(tmp_path):
    def ranks(fitness):
        return torch.from_numpy(fitness.argsort().argsort() / (len(fitness) - 1) - 0.5)

    ours, own = trainer(), trainer(shaping=ranks)
    for t in (ours, own):
        t.train(3)
    assert torch.equal(theta(ours), theta(own))
    own.save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="give the function shaping= that it was trained with"):
        es_rl.Trainer.load(tmp_path / "saved", network(), alone)
    again = es_rl.Trainer.load(tmp_path / "saved", network(), alone, shaping=ranks)
    for t in (ours, again):
        t.train(2)
    assert torch.equal(theta(ours), theta(again))
    with pytest.raises(TrainingError, match="shaping: must return 16 finite numbers"):
        trainer(shaping=lambda fitness: fitness[:3]).train(1)


def test_failed_members_are_the_worst_for_a_function_that_shapes():
    seen = []

    def keep(fitness):
        seen.append(fitness)
        return fitness

    def sometimes(model):
        value = alone(model)
        if int(abs(value) * 1e6) % 3 == 0:
            raise ValueError("no")
        return value

    record = trainer(sometimes, shaping=keep, max_failed=0.9).train(1)[0]
    assert record["members/failed"] > 0 and np.isfinite(seen[0]).all()
    assert (seen[0] == seen[0].min()).sum() > record["members/failed"] - 1


@pytest.mark.slow
def test_a_class_of_torch_optim_is_an_optimizer(tmp_path):
    for kind, name in ((torch.optim.Adam, "adam"), (torch.optim.AdamW, "adamw"), (torch.optim.SGD, "sgd")):
        one, other = trainer(optimizer=kind), trainer(optimizer=name)
        for t in (one, other):
            t.train(2)
        assert torch.equal(theta(one), theta(other))
    whole, half = trainer(optimizer=torch.optim.RMSprop, lr=0.01), trainer(optimizer=torch.optim.RMSprop, lr=0.01)
    whole.train(4)
    half.train(2)
    half.save(tmp_path / "half")
    again = es_rl.Trainer.load(tmp_path / "half", network(), alone)
    again.train(2)
    assert torch.equal(theta(whole), theta(again)) and alone(whole.model) > alone(network())
    for bad in (
        torch.optim.LBFGS,
        torch.optim.SparseAdam,
        torch.optim.Adafactor,
        torch.optim.Muon,
        nn.Linear,
        torch.optim.lr_scheduler.StepLR,
    ):
        with pytest.raises(ConfigError, match="optimizer="):
            trainer(optimizer=bad)
    with pytest.raises(ConfigError, match=r"optimizer=torch.optim.Adamm: unknown"):
        trainer(optimizer="torch.optim.Adamm")

"""Judged steps: the equations against plain ones, the same bits however the work is cut, and what cannot be judged."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import kill_workers, metrics, refusal, wait_for
from safetensors.torch import load_file, save_file
from torch import nn

from es_rl import envs
from es_rl import train as verb
from es_rl.errors import CheckpointError, ConfigError, EnvError
from es_rl.es import init
from es_rl.es.config import OptimConfig
from es_rl.es.optim import Ascent
from es_rl.es.strategy import ESParams, Generation, arrays, perturbation
from es_rl.policies.mlp import ACTIVATIONS
from es_rl.rl import numpy_policy
from es_rl.rl.chunks import make_policy
from es_rl.rl.config import parse_train
from es_rl.rl.rollout.chunk import Chunk
from es_rl.rl.segments import worker
from es_rl.rl.segments.config import CreditConfig, CriticConfig
from es_rl.rl.segments.critic import Critic, CriticFit, RewardScale, advantages, batches
from es_rl.rl.segments.judge import Played
from es_rl.rl.segments.state import LOG_STD
from es_rl.rl.segments.update import Steps, Surrogate, Tanh, Update, quickened
from es_rl.rl.segments.worker import Segment, SegmentRunner
from es_rl.run import atomic
from es_rl.run import checkpoint as checkpoints

SMALL = [
    "env=InvertedPendulum-v4", "es.segment=16", "credit.simulations=6", "credit.batch=32", "credit.epochs=2",
    "mlp.hidden=[8]", "critic.hidden=[8]", "critic.batch=32", "critic.epochs=2", "eval.every=0",
]  # fmt: skip


def small(*keys):
    """The keys of a small run, and others in place of them."""
    names = {text.partition("=")[0] for text in keys}
    return [*(text for text in SMALL if text.partition("=")[0] not in names), *keys]


def tensors(run, checkpoint="last"):
    """All tensors of a run's checkpoint: theta, optimiser, simulations, critic."""
    loaded = checkpoints.load(run, checkpoint)
    return {**loaded.model, **{f"optim {k}": v for k, v in loaded.optim.items()}, **loaded.extra}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


# --- equations


def test_advantages_are_the_weighted_sums_of_the_critics_errors():
    rng, steps, n, discount, gae = np.random.default_rng(0), 7, 3, 0.9, 0.8
    reward, value, after = rng.normal(size=(3, steps, n))
    over = rng.random((steps, n)) < 0.3
    found = advantages(reward, value, after, over, discount=discount, gae=gae)
    for t in range(steps):
        for i in range(n):
            total, weight = 0.0, 1.0
            for later in range(t, steps):
                total += weight * (reward[later, i] + discount * after[later, i] - value[later, i])
                weight *= discount * gae
                if over[later, i]:
                    break
            assert found[t, i] == pytest.approx(total)


def test_rewards_are_scaled_by_the_deviation_of_their_running_sum():
    rng = np.random.default_rng(0)
    reward, over = rng.normal(3, 1, (50, 4)), rng.random((50, 4)) < 0.1
    sums, running = [], np.zeros(4)
    for now, ended in zip(reward, over, strict=True):
        running = running * 0.99 + now
        sums.append(running.copy())
        running[ended] = 0.0
    half = RewardScale.fresh(4).after(reward[:20], over[:20])
    scale = half.after(reward[20:], over[20:])
    assert scale.divisor == pytest.approx(np.sqrt(np.mean(np.square(sums))), rel=1e-3)
    assert np.array_equal(scale.running, running)


def random_steps(n=40, inputs=5, outputs=2):
    rng = np.random.default_rng(1)
    parts = [rng.normal(size=shape) for shape in ((n, inputs), (n, outputs), n, n)]
    return Steps(*(torch.tensor(part, dtype=torch.float32) for part in parts))


def score(batch, mean, log_std, clip):
    """The mean clipped score, as PPO's paper writes it."""
    likelihood = torch.distributions.Normal(mean, log_std.exp()).log_prob(batch.outputs).sum(1)
    constant = 0.5 * np.log(2 * np.pi) * mean.shape[1]
    ratio = (likelihood + constant - batch.log_likelihood).exp()
    a = (batch.advantages - batch.advantages.mean()) / batch.advantages.std()
    return torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a).mean()


def test_the_slopes_of_the_score_are_its_derivatives():
    batch, clip = random_steps(), 0.2
    mean, log_std = torch.randn(40, 2, requires_grad=True), torch.tensor([-0.3, 0.2], requires_grad=True)
    score(batch, mean, log_std, clip).backward()
    surrogate = Surrogate(batch, log_std.detach(), clip)
    slopes = surrogate.slopes(mean.detach())
    assert torch.allclose(slopes / len(slopes), mean.grad, atol=1e-5)
    assert torch.allclose(surrogate.along_log_std, log_std.grad, atol=1e-5)
    assert 0 < surrogate.clipped < 1


def test_the_update_climbs_the_score_along_its_gradient_by_steps_of_one_length():
    """The mean of many first steps of plain ascent points along the gradient, and no step needs a derivative."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))
    steps, config, rows = random_steps(), CreditConfig(epochs=1, batch=40, clip=0.2), 200
    log_std = torch.tensor([-0.3, 0.2], requires_grad=True)
    score(steps, network(steps.x), log_std, 0.2).backward()
    exact = torch.cat([p.grad.reshape(-1) for p in [*network.parameters(), log_std]])
    network.requires_grad_(False)
    theta = {name: p.clone() for name, p in network.named_parameters()}
    drawn = []
    for i in range(rows):
        network.load_state_dict(theta)
        moving = dict(network.named_parameters()) | {LOG_STD: log_std.detach().clone()}
        ascent = Ascent(moving, {}, config=OptimConfig(name="sgd", momentum=0.0), lr=1.0)
        update = Update(network, moving[LOG_STD], ascent, config, 0.01)
        assert list(update.batches(steps, np.random.default_rng(i))) == [None]
        before = theta | {LOG_STD: log_std.detach()}
        drawn.append(torch.cat([(p - before[name]).reshape(-1) for name, p in moving.items()]))
    lengths = torch.stack(drawn).norm(dim=1)
    assert torch.allclose(lengths, torch.ones(rows), atol=1e-5)
    mean = torch.stack(drawn).mean(0)
    assert float(mean.dot(exact) / mean.norm() / exact.norm()) > 0.995


def test_a_quickened_network_has_the_same_parameters_and_differs_by_rounding_alone():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
    network = nn.Sequential(inner, nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    quick, x = quickened(network), torch.randn(100, 5)
    assert not any(isinstance(part, nn.Tanh) for part in quick.modules())
    assert dict(quick.named_parameters()).keys() == dict(network.named_parameters()).keys()
    assert all(one is two for one, two in zip(quick.parameters(), network.parameters(), strict=True))
    assert (quick(x) - network(x)).abs().max() < 1e-6
    x = torch.logspace(-6, 2, 100)
    assert all((Tanh()(far) - far.tanh()).abs().max() < 2e-7 for far in (x, -x))


def test_a_part_that_stands_in_two_places_of_a_network_is_quickened_in_both():
    shared = nn.Tanh()
    network = nn.Sequential(nn.Linear(5, 6), shared, nn.Linear(6, 4), shared, nn.Linear(4, 2))
    quick, x = quickened(network), torch.randn(10, 5)
    assert len(quick) == 5 and torch.allclose(quick(x), network(x), atol=1e-6)


def test_every_row_is_in_one_batch_of_each_epoch():
    found = list(batches(np.random.default_rng(0), 100, 3, 16))
    assert len(found) == 18 and {len(rows) for rows in found} == {16, 17}
    for epoch in (found[:6], found[6:12], found[12:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(100))


def test_a_critic_learns_and_goes_on_from_its_saved_state():
    config, rng = CriticConfig(hidden=[16], epochs=30, batch=64, lr=0.01), np.random.default_rng(0)
    x = rng.normal(size=(256, 3)).astype(np.float32)
    targets = np.sin(x).sum(1)
    critic = Critic.fresh(3, config, 0, 0)
    errors = [float(np.square(critic.predict(x, config) - targets).mean())]
    for generation in range(3):
        critic = CriticFit(generation, critic, x, targets)(config, 0, lambda n: None)
        errors.append(float(np.square(critic.predict(x, config) - targets).mean()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.05 * errors[0]
    assert critic.optim["0.weight/step"] == 3 * 30 * 4


# --- kept promises


def running(*keys):
    """A runner of segments, and the generation that it runs."""
    config = parse_train(small(*keys))
    spec = envs.probe(config.env, {}, 0)
    state = init(make_policy(config, spec))
    return SegmentRunner(config, spec), Generation(0, arrays(state), perturbation(ESParams.of(config), 0))


def quiet(steps):
    """Nobody listens."""


@pytest.mark.parametrize("cut", [[6], [1, 5], [2, 2, 2]])
def test_a_simulation_does_not_depend_on_those_beside_it(cut):
    runner, generation = running()

    def play(parts):
        results, first = [], 0
        for n in parts:
            begun = runner(generation, Segment(first, n), quiet)
            std = np.full(1, 0.5, np.float32)
            results.append(runner(generation, Segment(first, n, 30, begun, std), quiet))
            first += n
        return results

    (whole,), parts = play([6]), play(cut)
    for name in ("x", "outputs", "log_likelihood", "reward", "over", "terminated"):
        joined = np.concatenate([getattr(part.recorded, name) for part in parts], axis=1)
        assert np.array_equal(getattr(whole.recorded, name), joined), name
    assert np.array_equal(whole.simulations.rows, np.concatenate([part.simulations.rows for part in parts]))
    assert whole.recorded.over.any()


@pytest.fixture
def sick(monkeypatch):
    """Simulations some of whose numbers are not what they should be: of steps, and of the beginnings of episodes."""

    def made(change):
        usual = worker.make_simulations

        def make(config, spec):
            env = usual(config, spec)
            step, reset = env.step, env.reset
            env.step = lambda ids, actions: change("step", step(ids, actions))
            env.reset = lambda ids, seeds: change("reset", reset(ids, seeds))
            return env

        monkeypatch.setattr(worker, "make_simulations", make)

    return made


@pytest.mark.parametrize("bad", [np.nan, 1e200, -np.inf])
def test_a_reward_that_is_no_number_breaks_one_episode(bad, sick, train):
    calls = []

    def change(what, found):
        calls.append(what)
        if calls.count("step") == 5 and what == "step":
            found[1][2] = bad
        return found

    sick(change)
    found = metrics(train(*small("generations=3")))
    assert [line["members/failed"] for line in found] == [1, 0, 0]
    assert all(np.isfinite(line["update/norm"]) for line in found)


def test_an_episode_that_begins_badly_begins_again_and_one_that_always_does_ends_the_run(sick, train):
    bad = [False, True, False]

    def change(what, found):
        if what == "reset" and len(found) < 6 and (bad.pop(0) if bad else False):
            found[0] = np.nan
        return found

    sick(change)
    found = metrics(train(*small("generations=4")))
    assert sum(line["members/failed"] for line in found) == 1 and not bad
    bad += [True] * 100
    with pytest.raises(EnvError, match="generation .: an episode begins with an observation that is not finite"):
        train(*small("generations=4"), run="second")


def test_a_first_layer_that_works_in_place_does_not_change_what_was_met(monkeypatch):
    layers = numpy_policy.chain
    monkeypatch.setattr(worker, "numpy_layers", lambda policy: with_tanh_first(layers(policy)))
    runner, generation = running("obs_norm=false", "env=HalfCheetah-v4")
    begun = runner(generation, Segment(0, 6), quiet)
    found = runner(generation, Segment(0, 6, 30, begun, np.full(6, 0.5, np.float32)), quiet)
    assert np.abs(found.recorded.x[:-1]).max() > 1


def with_tanh_first(layers):
    (name, first), *rest = layers.items()
    return {name: first, "tanh": nn.Tanh(), **dict(rest)}


def test_evaluation_episodes_are_played_beside_one_another(monkeypatch):
    """A job that comes later is taken too: a queue is often empty for a moment."""
    runner, generation = running()
    jobs = [(0, Chunk("evaluation", 0, 2)), None, (1, Chunk("evaluation", 2, 2)), None, None]
    taken = []

    def stream(generation, workers, take, beat):
        taken.extend(take() for _ in range(4))
        yield from ()

    monkeypatch.setattr(runner._episodes, "stream", stream)
    assert list(runner.stream(generation, 1, lambda: jobs.pop(0), quiet)) == []
    assert taken == [(0, Chunk("evaluation", 0, 2)), None, (1, Chunk("evaluation", 2, 2)), None]


def test_statistics_of_episodes_do_not_depend_on_the_order_in_which_they_end(monkeypatch):
    episodes = [(0.1, 3.0), (0.2, 2.0), (0.3, 7.0), (1e8, 1.0)]
    monkeypatch.setattr(Played, "all", lambda self, name: np.zeros((2, 2)))
    orders = [
        [SimpleNamespace(finished=part, measured=np.zeros((1, 0)), broken=0) for part in parts]
        for parts in ([episodes], [episodes[2:], episodes[:2]], [episodes[::-1]])
    ]
    means = [Played(parts).metrics()["return/mean"] for parts in orders]
    assert len({*means}) == 1 and means[0] == pytest.approx(2.5e7)


@pytest.mark.parametrize("keys", [[], ["env=HalfCheetah-v4", "env_kwargs.max_episode_steps=5"]], ids=["falls", "cut"])
@pytest.mark.slow
def test_the_same_bits_for_any_number_of_workers(train, keys):
    keys = small("generations=4", "credit.simulations=7", *keys)
    runs = [train(*keys, f"workers={n}", run=f"run{n}") for n in (0, 1, 2, 3)]
    for run in runs[1:]:
        assert_equal(tensors(run), tensors(runs[0]))


def test_a_resumed_run_is_the_uninterrupted_one(train):
    whole = train(*small("env=Hopper-v4", "generations=6"), run="whole")
    run = train(*small("env=Hopper-v4", "generations=3"), run="resumed")
    lengths = load_file(run / "checkpoints/00000003/extra.safetensors")["simulations/lengths"]
    assert (lengths > 0).all()  # in the middle of episodes
    train(f"resume={run}", "generations=6")
    assert_equal(tensors(run), tensors(whole))


def test_the_same_bits_while_workers_are_killed(train, start, tmp_path):
    keys = small("env=Hopper-v4", "es.segment=200", "generations=12", "video.every=-1")
    quiet = train(*keys, run="quiet")
    process = start(*keys, "workers=2", "run=killed")
    kills = kill_workers(process, tmp_path / "killed", workers=1, pauses=(0.3, 1.0), most=2)
    assert process.wait() == 0 and kills >= 1
    assert_equal(tensors(tmp_path / "killed"), tensors(quiet))


class Step(nn.Module):
    def forward(self, x):
        return (x > 0).to(x.dtype)


@pytest.mark.slow
def test_a_policy_of_steps_and_rounded_weights_trains(train, monkeypatch):
    """It has no derivative: nothing may ask for one."""
    monkeypatch.setitem(ACTIVATIONS, "tanh", Step)
    monkeypatch.setitem(numpy_policy.KERNELS, Step, lambda layer, w: lambda x: (x > 0).astype(x.dtype))
    keys = [
        "mlp.hidden=[64]", "mlp.weights=int8", "credit.simulations=32", "credit.batch=128", "credit.epochs=5",
        "critic.hidden=[16]", "critic.epochs=5", "es.segment=32", "es.sigma=0.1", "optim.lr=0.005",
    ]  # fmt: skip
    found = metrics(train(*small(*keys, "generations=12")))
    assert found[-1]["length/mean"] > 5 * found[0]["length/mean"]


@pytest.mark.parametrize("name", ["sgd", "adamw", "clipup"])
@pytest.mark.slow
def test_other_optimisers_take_the_steps_too(train, name):
    one = train(*small(f"optim.name={name}", "generations=3"), run="one")
    two = train(*small(f"optim.name={name}", "generations=1"), run="two")
    train(f"resume={two}", "generations=3")
    assert_equal(tensors(one), tensors(two))


@pytest.mark.slow
def test_a_critic_that_diverges_begins_anew_and_the_run_goes_on(train, capsys):
    run = train(*small("critic.lr=1e25", "generations=2"))
    assert "the critic's numbers are not finite after generation" in capsys.readouterr().out
    train(f"resume={run}", "generations=3")


def test_what_is_told_of_a_generation(train):
    found = metrics(train(*small("generations=4")))[-1]
    assert found["env_steps"] == 4 * 6 * 16 and 0 < found["steps/terminated"] <= 1 and found["length/mean"] > 1
    assert found["critic/explained_variance"] < 1 and -1 <= found["gradient/agreement"] <= 1
    assert 0.2 < found["explore/std"] < 0.6 and found["update/norm"] > 0 and found["members/failed"] == 0


# --- what cannot be judged


@pytest.mark.parametrize(
    ("keys", "error", "text"),
    [
        (["es.episodes=2"], ConfigError, "es.episodes=2: is for members that play episodes, and es.segment=16 judges"),
        (["es.population=32"], ConfigError, "es.population=32: is for members"),
        (["es.noise=lowrank"], ConfigError, "es.noise=lowrank: is for members"),
        (["optim.name=torch.optim.Rprop"], ConfigError, "optim.name=torch.optim.Rprop: es.segment=16 needs one of"),
        (["inference=central"], ConfigError, "es.segment=16 needs inference=local"),
        (["serial=true"], ConfigError, "is for members that play episodes"),
        (["policy=transformer"], ConfigError, "policy=transformer: es.segment=16 needs a policy without memory"),
        (
            ["policy=gru"],
            ConfigError,
            "policy=gru: es.segment=16 needs a policy without memory that is a chain of linear layers, ",
        ),
        (["backend=gymnasium"], EnvError, "needs simulations that can be saved .* Give es.segment=0"),
        (["env=CartPole-v1"], EnvError, "env=CartPole-v1: es.segment=16 needs simulations that can be saved"),
        (["es.segment=-1"], ConfigError, "es.segment=-1"),
        (["credit.explore=0"], ConfigError, "credit.explore"),
    ],
)
def test_what_steps_cannot_judge_is_refused(keys, error, text):
    with pytest.raises(error, match=text):
        verb.main(small(*keys, "workers=0", "generations=1"))


def test_a_segment_may_be_longer_than_an_episode(train):
    found = metrics(train(*small("es.segment=300", "generations=1")))[-1]
    assert found["env_steps"] == 6 * 300 and found["steps/terminated"] == 1


@pytest.mark.slow
def test_a_critic_without_numbers_is_told_and_begins_anew(train, tmp_path, capsys):
    run = train(*small("generations=2"))
    path = run / "checkpoints" / "00000002"
    extra = load_file(path / "extra.safetensors")
    extra["critic/2.bias"].fill_(3e38)  # finite, but its predictions are not
    extra["critic/2.weight"].fill_(3e38)
    save_file(extra, path / "extra.safetensors")
    atomic.write(path, {p.name: p.read_bytes() for p in path.iterdir() if p.name != "MANIFEST.json"})
    train(f"resume={run}", "generations=4")
    assert "the critic's numbers are not finite, so generation 3 is judged by rewards" in capsys.readouterr().out
    assert all(np.isfinite(value.numpy()).all() for value in tensors(run).values())


@pytest.mark.parametrize(
    "name",
    ["scale/variance", "scale/count", "simulations/lengths", "critic_optim/0.weight/exp_avg_sq", "normalizer.m2"],
)
def test_numbers_that_a_run_cannot_have_are_refused(train, name):
    run = train(*small("generations=1"))
    path = run / "checkpoints" / "00000001"
    file = path / ("model.safetensors" if name.startswith("normalizer") else "extra.safetensors")
    known = load_file(file)
    known[name] = known[name] - 1e6
    save_file(known, file)
    atomic.write(path, {p.name: p.read_bytes() for p in path.iterdir() if p.name != "MANIFEST.json"})
    code, text = refusal(verb.main, f"resume={run}", "generations=2", "workers=0")
    assert code == CheckpointError.exit_code and f"{name} holds numbers that it cannot have" in text


@pytest.mark.process
@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_is_heard_in_an_endless_update(start, tmp_path, workers):
    keys = ["env=Hopper-v4", "es.segment=8", "credit.simulations=4", "credit.epochs=1000000", "eval.every=0"]
    process = start(*keys, f"workers={workers}", "video.every=-1", "run=run")
    wait_for(lambda: "4 simulations" in (tmp_path / "out.txt").read_text(), process)
    begun = process.cpu_times().user
    wait_for(lambda: process.cpu_times().user > begun + 1, process)  # the first segment takes far less
    process.terminate()
    assert process.wait(20) == 75


def test_a_batch_of_one_step_is_refused():
    for keys in (["credit.batch=1"], ["es.segment=1", "credit.simulations=1"]):
        keys = ["env=Hopper-v4", *([] if "es.segment=1" in keys else ["es.segment=8"]), *keys]
        code, text = refusal(verb.main, *keys, "workers=0")
        assert code == 2 and "a step is judged against others" in text


@pytest.mark.parametrize("change", ["missing", "shape", "nan"])
def test_a_checkpoint_whose_simulations_do_not_fit_is_refused(train, change):
    run = train(*small("generations=1"))
    path = run / "checkpoints" / "00000001"
    extra = load_file(path / "extra.safetensors")
    match change:
        case "missing":
            del extra["simulations/rows"]
        case "shape":
            extra["simulations/rows"] = extra["simulations/rows"][:, :-1].clone()
        case "nan":
            extra["simulations/rows"][0, 0] = torch.nan
    save_file(extra, path / "extra.safetensors")
    atomic.write(path, {p.name: p.read_bytes() for p in path.iterdir() if p.name != "MANIFEST.json"})
    code, text = refusal(verb.main, f"resume={run}", "generations=2", "workers=0")
    assert code == CheckpointError.exit_code and "simulations/rows" in text

"""EnvPool's environments: an episode depends on its seed alone, whatever runs beside it; refusals; what runs know of it."""

import gc
import hashlib
import importlib
import json
import os
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from conftest import SUPPORT, refusal
from gymnasium import spaces

from es_rl import envs
from es_rl.envs.pools import tasks
from es_rl.envs.pools.observations import Rows, one
from es_rl.envs.spaces import Packer
from es_rl.errors import EnvError, ResourceError

QUICK = ["CartPole-v1", "LunarLander-v3", "MiniGrid-DoorKey-8x8-v0"]
SLOW = ["Pong-v5", "CoinrunHard-v0", "Go1JoystickRoughTerrain-v1", "HumanoidWalk-v1", "TakeCover-v1"]


@pytest.fixture
def fake(monkeypatch):
    """The library of tests/support/pools in the place of EnvPool, in this process and in its children."""
    folder = str(SUPPORT / "pools")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([folder, os.environ["PYTHONPATH"]]))
    for name in [name for name in sys.modules if name.partition(".")[0] == "envpool"]:
        monkeypatch.delitem(sys.modules, name)
    yield importlib.import_module("envpool")
    del sys.modules["envpool"]


@pytest.fixture(params=["Trudge-v0", *QUICK])
def env_id(request):
    """An environment of the small library, and some of EnvPool where it is installed."""
    if request.param.startswith("Trudge"):
        request.getfixturevalue("fake")
    else:
        pytest.importorskip("envpool")
    return request.param


def action_of(space, seed, t):
    rng = np.random.default_rng([seed, t])
    if isinstance(space, spaces.Discrete):
        return int(rng.integers(space.n) + space.start)
    return np.clip(rng.normal(size=space.shape), -1, 1).astype(np.float32)


def episodes(env_id, seeds, places, steps=40, **more):
    """What was seen and rewarded in the episode of each seed, begun in these places."""
    vector = envs.make_vector(env_id, 8, "envpool", {}, **more)
    space = tasks.Task(env_id, {}).action_space
    obs = vector.reset(places, seeds)
    found = {seed: [row] for seed, row in zip(seeds, obs, strict=True)}
    running = dict(zip(places, seeds, strict=True))
    for t in range(steps):
        ids = list(running)
        if not ids:
            break
        actions = np.array([action_of(space, running[i], t) for i in ids])
        obs, reward, terminated, truncated = vector.step(ids, actions)
        for k, i in enumerate(ids):
            found[running[i]].append(np.append(obs[k], [reward[k], terminated[k], truncated[k]]))
            if terminated[k] or truncated[k]:
                del running[i]
    assert not vector.errors
    vector.close()
    return found


def equal(one_, other):
    return len(one_) == len(other) and all(map(np.array_equal, one_, other))


def test_an_episode_depends_on_its_seed_alone(env_id):
    """Not on its place, its order, those beside it, or what ran there before."""
    alone = {seed: episodes(env_id, [seed], [3])[seed] for seed in (5, 6)}
    beside = episodes(env_id, [9, 6, 7, 5], [7, 0, 2, 4])
    assert all(equal(alone[seed], beside[seed]) for seed in alone)
    assert not equal(beside[5], beside[6]) and len({rows[-1].tobytes() for rows in beside.values()}) == 4
    vector = envs.make_vector(env_id, 2, "envpool", {})
    first = vector.reset([0, 1], [1, 5])
    vector.reset([0], [8])
    assert np.array_equal(vector.reset([1], [5]), first[1:])


def test_finished_simulations_are_left_out_and_their_pools_end(fake):
    episodes("Trudge-v0", [1, 2, 3], [0, 1, 2], steps=60)
    assert not fake.stepped_at_its_end
    vector = envs.make_vector("Trudge-v0", 4, "envpool", {})
    for begin in range(3):
        vector.reset([0, 1], [begin, 7])
        vector.reset([2, 3], [begin, 8])
    gc.collect()
    assert len(fake.alive) == 2, "simulations that are reset leave their pool"
    for _ in range(30):
        vector.step([2, 3], np.array([1, 1]))
    gc.collect()
    assert len(fake.alive) == 1, "a pool whose episodes have ended is given up"


def test_simulations_may_go_on_with_their_own_numbers(fake):
    vector = envs.make_vector("Trudge-v0", 3, "envpool", {}, exact=False)
    begun = vector.reset([0, 1], [1, 2])
    assert np.array_equal(begun, envs.make_vector("Trudge-v0", 2, "envpool", {}).reset([0, 1], [1, 2]))
    before = len(fake.made)
    again = vector.reset([1, 0], [2, 1])
    assert len(fake.made) == before and not np.array_equal(again[::-1], begun)
    vector.reset([2, 0], [5, 6])  # one is new
    assert fake.made[before:] == [1]


def test_a_pool_that_breaks_fails_its_own_episodes_only(fake):
    vector = envs.make_vector("Broken-v0", 4, "envpool", {})
    vector.reset([0, 1], [1, 2])
    for _ in range(4):
        vector.step([0, 1], np.array([1, 1]))
    vector.reset([2], [3])
    obs, reward, terminated, _ = vector.step([0, 2, 1], np.array([1, 1, 1]))
    assert np.isnan(reward).tolist() == [True, False, True] == terminated.tolist() and np.isnan(obs[0]).all()
    assert vector.errors == dict.fromkeys((0, 1), "its step raised ValueError: out of order")
    vector.errors.clear()
    assert np.isfinite(vector.reset([0], [1])).all() and not vector.errors


def test_rows_are_those_of_the_general_backend():
    """Numbers, choices, images, and all of them in a Dict."""
    image = spaces.Box(0, 255, (9, 9, 3), np.uint8)
    vector, scalar = spaces.Box(-1, 1, (2, 3), np.float32), spaces.Box(-np.inf, np.inf, (), np.float64)
    inner = spaces.Dict([("b", spaces.Discrete(3, start=2)), ("a", scalar), ("bits", spaces.MultiBinary(4))])
    for space in (vector, scalar, image, inner, spaces.Dict([("z", vector), ("eye", image), ("in", inner)])):
        space.seed(0)
        samples = [space.sample() for _ in range(3)]
        rows = Rows(space)(batched(space, samples), 3)
        assert np.array_equal(rows, [Packer(space)(sample) for sample in samples])
        assert space.contains(one(space, batched(space, samples[:1])))
    odd = Rows(inner)({"b": np.array([2, 7]), "a": np.zeros((2, 1)), "bits": np.zeros((2, 4))}, 2)
    assert np.isfinite(odd[0]).all() and np.isnan(odd[1, :3]).all()


def batched(space, samples):
    if isinstance(space, spaces.Dict):
        return {name: batched(part, [sample[name] for sample in samples]) for name, part in space.items()}
    return np.stack([np.asarray(sample) for sample in samples])


def test_what_a_task_is(fake):
    task = tasks.Task("Trudge-v0", {"drift": 1, "start": [1, 2], "max_episode_steps": None})
    place = task.observation_space["place"]
    assert np.isinf(place.low).all() and np.isinf(place.high).all(), "EnvPool's bounds that mean none"
    assert task.config["drift"] == 1.0 and task.config["start"] == (1, 2)
    assert task.limit is None and tasks.Task("Trudge-v0", {}).limit == 30
    spec = envs.probe("Trudge-v0", {}, 0, "envpool")
    assert (spec.backend, spec.savable, spec.warnings) == ("envpool", False, ())


@pytest.mark.parametrize(
    ("id", "kwargs", "said"),
    [
        ("Trduge-v0", {}, "Did you mean Trudge-v0"),
        ("Trudge-v0", {"drfit": 1}, "Did you mean drift? It has: drift, max_episode_steps, mirrored, start."),
        ("Trudge-v0", {"drift": "much"}, "must be a number, such as 0.1."),
        ("Trudge-v0", {"mirrored": 1}, "must be true or false, such as False."),
        ("Trudge-v0", {"num_envs": 3}, "es_rl sets it itself"),
        ("Trudge-v0", {"base_path": "/"}, "names files or a program, which no run may do"),
        ("Duel-v0", {}, "is for 2 players"),
    ],
)
def test_refusals(fake, id, kwargs, said):
    with pytest.raises(EnvError, match=said.replace("?", r"\?")):
        tasks.Task(id, kwargs)


def test_images_are_prepared_by_envpool_itself(fake):
    from es_rl.train import main

    code, said = refusal(main, "env=Trudge-v0", "backend=envpool", "pixels.stack=2", "workers=0")
    assert code == 3 and said.startswith("backend=envpool: knows no pixels.stack. Give options of EnvPool's")


def test_a_missing_or_old_library_is_one_line(monkeypatch, fake):
    monkeypatch.setattr(fake, "__version__", "1.1.9")
    with pytest.raises(ResourceError, match="needs envpool 1.2.5 or newer, and 1.1.9 is installed"):
        envs.check_id("Trudge-v0", "envpool")
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, "envpool", None)
        with pytest.raises(
            ResourceError, match=r"the package envpool. In the checkout of es_rl: pip install .* -e '.\[envpool\]'"
        ):
            envs.check_id("Trudge-v0", "envpool")
        with pytest.raises(EnvError, match="no such environment"):  # Gymnasium's ids need no EnvPool
            envs.check_id("Trudge-v0")


def test_keys_that_do_not_fit(fake):
    from es_rl.train import main

    assert refusal(main, "env=CartPole-v1", "envpool.exact=false")[0] == 2
    code, said = refusal(main, "env=Trudge-v0")
    assert code == 3 and "EnvPool has it: add backend=envpool." in said
    code, said = refusal(
        main, "env=Trudge-v0", "backend=envpool", "es.segment=8", "workers=0", "run=r", "credit.simulations=4"
    )
    assert code == 3 and "es.segment=8 needs simulations that can be saved" in said


SMALL = ["es.population=8", "mlp.hidden=[4]", "eval.episodes=3", "seed=3"]


def theta(run):
    return hashlib.sha256((run / "checkpoints/last/model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
def test_theta_does_not_depend_on_workers_chunks_or_a_resume(fake, train, capfd):
    keys = ["env=Trudge-v0", "backend=envpool", *SMALL]
    found = [
        train(*keys, "generations=3", run="none"),
        train(*keys, "generations=3", "chunk=2", run="chunks"),
        train(*keys, "generations=3", "workers=2", run="two"),
    ]
    resumed = train(*keys, "generations=2", run="resumed")
    train(f"resume={resumed}", "generations=3")
    assert len({theta(run) for run in [*found, resumed]}) == 1
    inexact = train(*keys, "generations=2", "envpool.exact=false", run="inexact")
    assert "note: envpool.exact=false" in capfd.readouterr().out
    assert "exact: false" in (inexact / "config.yaml").read_text() and theta(inexact) != theta(resumed)


def test_verbs_know_the_backend_of_a_run(fake, train, capsys):
    from es_rl.evaluate import main as evaluate
    from es_rl.export.__main__ import main as export

    run = train("env=Trudge-v0", "backend=envpool", *SMALL, "generations=1")
    evaluate([f"run={run}", "episodes=3"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["backend"] == "envpool" and told["failed"] == 0 and told["length_mean"] > 1
    export([f"run={run}", "out=walk.npz"])
    assert "observations of Trudge-v0" in capsys.readouterr().out and Path("walk.npz").exists()


@pytest.mark.soak
@pytest.mark.parametrize("env", QUICK)
def test_quick_families_train_to_the_same_bits(env, train):
    pytest.importorskip("envpool")
    keys = [f"env={env}", "backend=envpool", *SMALL, "es.segment=0"]
    found = [train(*keys, "generations=3", f"workers={n}", run=f"w{n}") for n in range(3)]
    resumed = train(*keys, "generations=2", run="resumed")
    train(f"resume={resumed}", "generations=3")
    assert len({theta(run) for run in [*found, resumed]}) == 1


@pytest.mark.soak
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("env", SLOW)
def test_slow_families_train_from_one_line(env, train):
    envpool = pytest.importorskip("envpool")
    try:
        envpool.make_spec(env)
    except ImportError as error:  # Procgen needs Qt
        pytest.skip(str(error))
    keys = [f"env={env}", "backend=envpool", "policy=linear", "es.population=4", "generations=2", "eval.episodes=2"]
    keys += ["hang_after=300", "env_kwargs.max_episode_steps=60"]
    assert theta(train(*keys, run="none")) == theta(train(*keys, "workers=2", run="two"))


@pytest.mark.slow
@pytest.mark.parametrize("env", ["CartPole-v1", "MiniGrid-DoorKey-8x8-v0"])
def test_films_are_drawn_by_envpool(env):
    pytest.importorskip("envpool")
    from es_rl.envs.pools import make_single

    single = make_single(env, {}, "envpool", render_mode="rgb_array")
    first, _ = single.reset(seed=4)
    assert single.observation_space.contains(first) and single.render().dtype == np.uint8
    assert isinstance(single, gymnasium.Env) and single.render().shape[2] == 3
    single.step(single.action_space.sample())
    assert all(map(np.array_equal, *(map(np.asarray, _parts(obs)) for obs in (single.reset(seed=4)[0], first))))
    single.close()


def _parts(obs):
    return obs.values() if isinstance(obs, dict) else [obs]

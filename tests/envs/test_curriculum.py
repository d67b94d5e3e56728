"""Episodes grow harder as policies grow better: where they begin, what a state holds, and that no bit depends on workers."""

import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from conftest import comparable, model_hash, soak

from es_rl import envs
from es_rl.envs import robot
from es_rl.envs.curriculum import Curriculum, set_difficulty
from es_rl.envs.robot.ground import Terrain
from es_rl.envs.robot.vector import RobotVector
from es_rl.envs.worlds import quadruped, quadruped_terrain
from es_rl.errors import ConfigError
from es_rl.rl import difficulty
from es_rl.rl.config import parse_train
from es_rl.rl.segments.state import SegmentState
from es_rl.rl.segments.task import SegmentTask
from es_rl.rl.task import probed
from es_rl.workers.pool import Workers

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import climber

LEVELS = climber.GROUND.levels


def places(vector):
    return {tuple(place) for place in np.round(vector._fields["qpos"][:, :2], 6)}


@pytest.mark.parametrize(("hard", "levels"), [(0.0, 1), (0.49, 1), (0.5, 2), (1.0, LEVELS)])
def test_easy_episodes_begin_on_easy_patches(hard, levels):
    vector, terrain = RobotVector(climber.TASK, 60), Terrain(climber.GROUND)
    vector.difficulty = hard
    obs = vector.reset(range(60), range(60))
    assert places(vector) == {tuple(place) for place in np.round(terrain.places[:, :levels, :2].reshape(-1, 2), 6)}
    single = gymnasium.make("Climb-v0")
    for i in (0, 7):
        assert np.array_equal(single.reset(seed=i, options={"difficulty": hard})[0], obs[i])


def test_the_full_difficulty_is_that_without_a_curriculum():
    vector, plain = (RobotVector(quadruped_terrain.task(curriculum=c), 5) for c in (climber.TASK.curriculum, None))
    assert np.array_equal(vector.reset(range(5), range(5)), plain.reset(range(5), range(5)))
    set_difficulty(vector, 0.0)
    assert vector.difficulty == 0.0
    set_difficulty(vector, None)
    assert vector.difficulty == 1.0
    set_difficulty(object(), 0.0)  # which has none


@pytest.mark.parametrize("value", [-1, 2, float("nan"), None, "hard"])
def test_a_difficulty_that_cannot_be_is_named(value):
    for env in (gymnasium.make("Climb-v0"), envs.make_vec("Climb-v0", 2)):
        with pytest.raises(ValueError, match=f"difficulty={value!r}: must be a number from 0 to 1"):
            env.reset(options={"difficulty": value})


def test_other_libraries_choose_a_difficulty():
    vector, single = envs.make_vec("Climb-v0", 3), gymnasium.make("Climb-v0")
    obs, _ = vector.reset(seed=5, options={"difficulty": 0.0})
    assert np.array_equal(obs[1], single.reset(seed=6, options={"difficulty": 0.0})[0])
    assert not np.array_equal(obs, vector.reset(seed=5)[0])


def test_a_saved_robot_goes_on_at_its_own_difficulty():
    """Its world is drawn again, at the difficulty of the time when its episode began."""
    one, other = RobotVector(climber.TASK, 4), RobotVector(climber.TASK, 4)
    one.difficulty, other.difficulty = 0.5, 1.0
    one.reset(range(4), range(4))
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 4, 12))
    for action in actions[:10]:
        one.step(range(4), action)
    other.restore(range(4), one.save(range(4)))
    for action in actions[10:]:
        for ours, theirs in zip(one.step(range(4), action), other.step(range(4), action), strict=True):
            assert np.array_equal(ours, theirs)
    assert np.array_equal(one.save(range(4)), other.save(range(4)))


def test_the_difficulty_follows_its_metric():
    curriculum = Curriculum("went", wanted=0.5, step=0.4)
    record = [{"metric/went": value} for value in (0.5, 0.9, 0.9, 0.4, 0.1, 0.1)]
    now, found = 0.0, []
    for one in record:
        found.append(now := curriculum.after(now, one))
    assert found == pytest.approx([0.4, 0.8, 1.0, 0.6, 0.2, 0.0])
    assert curriculum.after(0.3, {"metric/went": None}) == 0.3
    extra = difficulty.begun(curriculum)
    assert difficulty.of(difficulty.after(curriculum, extra, record[0])) == 0.4
    assert difficulty.begun(None) == {} and difficulty.of({}) is None and difficulty.after(None, {}, record[0]) == {}
    assert difficulty.of({difficulty.NAME: torch.tensor(7.0)}) == 1.0  # of a checkpoint that somebody wrote


KEYS = ["env=climber:Climb-v0", "mlp.hidden=[8]", "eval.episodes=1", "eval.every=2", "video.every=-1"]
WAYS = {
    "episodes": ["es.population=8"],
    "steps": ["es.segment=30", "credit.simulations=6", "credit.batch=60"],
    "central": ["es.population=8", "inference=central"],
    "general": ["es.population=8", "backend=gymnasium", "seed=1"],
}


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("way", ["episodes", "steps", *soak("central", "general")])
def test_a_curriculum_is_part_of_the_state_of_a_run(way, train):
    """Any number of workers, and a resume in its middle, give the same bits."""
    keys = [*KEYS, *WAYS[way]]
    whole = train(*keys, "generations=4", "workers=0" if way != "central" else "workers=1", run="whole")
    train(*keys, "generations=2", "workers=2", run="parts")
    parts = train("resume=parts", "env=climber:Climb-v0", "generations=4", "workers=2", run="parts")
    assert model_hash(whole) == model_hash(parts)
    assert comparable(whole) == comparable(parts)
    assert [line["curriculum/difficulty"] for line in comparable(whole)[1:]] == [0.0, 0.25, 0.5, 0.75]


def test_steps_are_judged_from_the_easiest_episodes_on():
    config = parse_train([*KEYS, *WAYS["steps"]])
    with Workers(0) as pool:
        state = SegmentTask(config, probed(config), pool, pytest.fail).begin()
    vector, easy = RobotVector(climber.TASK, 6), RobotVector(climber.TASK, 60)
    vector.restore(range(6), SegmentState.of(state.extra).simulations.rows)
    easy.difficulty = 0.0
    easy.reset(range(60), range(60))
    assert places(vector) <= places(easy)


@pytest.mark.slow
def test_the_general_backend_has_the_same_curriculum(train):
    keys = [*KEYS, "es.population=8", "generations=3", "seed=1"]
    runs = [train(*keys, f"backend={b}", run=b) for b in ("batch", "gymnasium")]
    assert model_hash(runs[0]) == model_hash(runs[1])
    assert comparable(runs[1])[-1]["curriculum/difficulty"] == 0.5


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (quadruped_terrain.task(curriculum=Curriculum("wentt", 0.5)), "the metric=wentt: unknown. Did you mean went"),
        (quadruped.task(curriculum=Curriculum("velocity_error", 0.5)), "chooses patches of a ground, and the task has"),
        (quadruped_terrain.task(curriculum=0.5), "curriculum: must be a robot.Curriculum, and is 0.5"),
        (quadruped_terrain.task(curriculum=Curriculum("went", 0.5, step=0.0)), "step=0 must be above 0"),
        (
            quadruped_terrain.task(curriculum=Curriculum("went", float("nan"))),
            "curriculum.wanted=nan: must be a finite",
        ),
    ],
)
def test_a_curriculum_that_cannot_be_is_named(task, text):
    with pytest.raises(ConfigError, match=text):
        robot.register("Odd-v0", task)

"""The toy that asks at the end what was shown at the beginning."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from es_rl import envs
from es_rl.envs.gymnasium_backend import make_one
from es_rl.envs.toys import recall
from es_rl.errors import EnvError


def play(actions, **kwargs):
    """All that an episode of seed 5 shows and pays."""
    env = make_one(recall.ID, kwargs)
    obs, _ = env.reset(seed=5)
    seen, rewards, ended = [obs], [], []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(np.array([action], np.float32))
        seen.append(obs)
        rewards.append(reward)
        ended.append(terminated)
        assert not truncated
    return np.stack(seen), rewards, ended


def test_the_default_is_an_episode_of_eight_steps():
    seen, rewards, ended = play([0.5] * 8)
    cue = np.random.Generator(np.random.PCG64(np.random.SeedSequence(5))).choice([-1.0, 1.0])
    expected = np.zeros((9, 2))
    expected[0, 0], expected[7, 1] = cue, 1.0
    assert np.array_equal(seen, expected) and seen.dtype == np.float64
    assert rewards == [0.0] * 7 + [cue * 0.5] and ended == [False] * 7 + [True]


@pytest.mark.parametrize("gap", [1, 8, 128, 2000])
def test_the_question_comes_after_the_gap_and_pays_the_cue(gap):
    seen, rewards, ended = play([2.0] * (gap + 1), gap=gap)
    assert abs(seen[0, 0]) == 1 and np.flatnonzero(seen[:, 0]).tolist() == [0]
    assert np.flatnonzero(seen[:, 1]).tolist() == [gap] == np.flatnonzero(rewards).tolist()
    assert rewards[-1] == seen[0, 0] and ended == [False] * gap + [True]


def test_the_gap_does_not_change_what_a_seed_shows():
    cues = [make_one(recall.ID, {"gap": gap}).reset(seed=s)[0][0] for gap in (7, 32) for s in range(20)]
    assert cues[:20] == cues[20:] and set(cues) == {-1.0, 1.0}
    check_env(gymnasium.make(recall.ID, gap=3).unwrapped)


@pytest.mark.parametrize("gap", [0, -3, 9001, 2.5, True, "8"])
def test_a_gap_that_cannot_be_is_refused(gap):
    with pytest.raises(EnvError, match=rf"env_kwargs.gap={gap}: must be .* 1 to 9000"):
        envs.probe(recall.ID, {"gap": gap}, 0)

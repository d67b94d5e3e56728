"""Observations with images: how they are kept in arrays, and what the keys pixels.* and frame_skip do with them."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from es_rl import envs
from es_rl.envs.gymnasium_backend import make_one
from es_rl.envs.pixels import PixelsConfig, View
from es_rl.envs.spaces import Packer, flatten, shape_of, size
from es_rl.envs.toys import spot
from es_rl.errors import ConfigError, EnvError
from es_rl.observations import Image
from es_rl.rl.config import parse_train
from es_rl.rl.episodes import play

RNG = np.random.default_rng(0)


def picture(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


MIXED = spaces.Dict(
    {
        "a": spaces.Box(-1.0, 1.0, (3,)), "b": picture(9, 10, 3), "kind": spaces.Discrete(3),
        "rest": spaces.Tuple([picture(4, 8, 12), spaces.Text(5)]),
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "planes"),
    [((60, 80), (1, 60, 80)), ((60, 80, 3), (3, 60, 80)), ((4, 84, 84), (4, 84, 84)), ((2, 9, 8, 3), (6, 9, 8)),
     ((2, 3, 8, 9), (6, 8, 9))],
)  # fmt: skip
def test_an_image_is_kept_as_it_is(shape, planes):
    space = picture(*shape)
    known, obs = shape_of(space), RNG.integers(0, 256, shape, np.uint8)
    assert known.alone and known.row == shape and known.dtype == "u1" and known.size == size(space)
    assert Image(shape).planes == planes
    row = Packer(space)(obs)
    assert row.dtype == np.uint8 and np.array_equal(row, obs)


@pytest.mark.parametrize(
    "space", [picture(7, 7, 3), picture(128), spaces.Box(0, 1, (9, 9, 3), np.uint8), spaces.Box(0, 255, (9, 9, 3))]
)
def test_what_is_no_picture_stays_numbers(space):
    """Codes of kinds of objects on a small grid, the memory of a console, bits, and floats."""
    assert not shape_of(space).images and shape_of(space).row == (size(space),)
    obs = space.sample()
    assert np.array_equal(Packer(space, 5)(obs), flatten(space, obs)[:5])


def test_images_and_numbers_are_one_row_of_bytes():
    space = spaces.Dict({name: part for name, part in MIXED.items() if name != "rest"} | {"z": picture(4, 8, 12)})
    shape, pack = shape_of(space), Packer(space)
    assert shape.numbers == 6 and shape.size == size(space) and shape.row == (-(-(48 + 270 + 384) // 8) * 8,)
    obs = {"a": np.array([0.5, -1, 0.1], np.float32), "b": space["b"].sample(), "kind": 2, "z": space["z"].sample()}
    rows = np.stack([pack(obs), pack(obs | {"kind": 0})])
    assert shape.numbers_of(rows)[:, 3:].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert np.array_equal(shape.numbers_of(rows)[0, :3], obs["a"].astype(np.float64))
    for image, name in zip(shape.images, "bz", strict=True):
        assert np.array_equal(rows[1, image.first : image.first + image.bytes].reshape(image.shape), obs[name])
    with pytest.raises(ConfigError, match="obs_first=2: chooses from observations that are one row of numbers"):
        shape_of(space, 2)
    with pytest.raises(ValueError, match="not whole from 0 to 255"):
        pack(obs | {"b": obs["b"] + 0.5})
    assert pack(obs | {"b": obs["b"].astype(np.int64)}).tobytes() == rows[0].tobytes()


class Show(gymnasium.Env):
    """Shows given pictures, one after another, and counts up."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape=(12, 16, 3), *, beside=False, breaks=0):
        self.frames = np.random.default_rng(1).integers(0, 256, (30, *shape), np.uint8)
        self.beside, self.breaks = beside, breaks
        self.observation_space = (
            spaces.Dict({"n": spaces.Box(0, 99, (1,)), "p": picture(*shape)}) if beside else picture(*shape)
        )

    def look(self):
        seen = self.frames[self.t]
        return {"n": np.array([self.t], np.float32), "p": seen} if self.beside else seen

    def reset(self, *, seed=None, options=None):
        self.t = 0
        if self.breaks < 0:
            raise RuntimeError("no start")
        return self.look(), {}

    def step(self, action):
        self.t += 1
        if self.t == self.breaks:
            raise RuntimeError("broken")
        return self.look(), float(self.t), self.t == 11, False, {}


class Blank(Show):
    """Draws nothing."""

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def render(self):
        return None


gymnasium.register("Show-v0", entry_point=Show)
gymnasium.register("Blank-v0", entry_point=Blank)


def shown(view, **kwargs):
    env = make_one("Show-v0", kwargs, view=view)
    first, _ = env.reset()
    assert first in env.observation_space
    return env, first, env.unwrapped.frames


def test_images_are_cropped_grey_and_smaller():
    _, first, frames = shown(View(pixels=PixelsConfig(crop=[2, 0, 3, 1], gray=True, size=[5, 6])))
    whole = frames[0, 2:, 3:15].astype(float)  # (10, 12, 3)
    expected = (whole @ [0.299, 0.587, 0.114]).reshape(5, 2, 6, 2).mean((1, 3))
    assert first.shape == (5, 6, 1) and np.abs(first[..., 0] - expected).max() <= 1.5  # twice rounded
    _, first, frames = shown(View(pixels=PixelsConfig(size=[6, 8])))
    assert np.abs(first - frames[0].astype(float).reshape(6, 2, 8, 2, 3).mean((1, 3))).max() <= 1.0
    _, first, frames = shown(View(pixels=PixelsConfig(crop=[0, 4, 0, 0])), shape=(5, 12, 16))  # five grey images
    assert np.array_equal(first, frames[0, :, :8, :, None])
    _, first, frames = shown(View(pixels=PixelsConfig(gray=True)), shape=(3, 12, 16))  # colours before the pixels
    assert np.abs(first[..., 0] - np.tensordot([0.299, 0.587, 0.114], frames[0].astype(float), 1)).max() <= 1.0


def test_the_latest_images_are_seen_together_and_numbers_are_the_latest():
    env, first, frames = shown(View(pixels=PixelsConfig(stack=3)), beside=True)
    assert np.array_equal(first["p"], frames[[0, 0, 0]]) and first["n"].tolist() == [0]
    for _ in range(3):
        obs, *_ = env.step(0)
    assert obs in env.observation_space and obs["n"].tolist() == [3]
    assert np.array_equal(obs["p"], frames[[1, 2, 3]])
    env, _, frames = shown(View(pixels=PixelsConfig(gray=True, stack=2)))
    assert shape_of(env.observation_space).images[0].planes == (2, 12, 16)


def test_rewards_of_skipped_frames_are_summed_until_the_episode_ends():
    env, _, frames = shown(View(frame_skip=4))
    seen = [env.step(0) for _ in range(3)]
    assert [reward for _, reward, *_ in seen] == [1 + 2 + 3 + 4, 5 + 6 + 7 + 8, 9 + 10 + 11]
    assert [over for _, _, over, *_ in seen] == [False, False, True]
    assert np.array_equal(seen[1][0], frames[8])
    film = make_one(spot.ID, {}, view=View(frame_skip=2), render_mode="rgb_array")
    assert film.metadata["render_fps"] == spot.Spot.metadata["render_fps"] / 2
    assert film.reset(seed=0) and film.render().shape == (320, 320, 3)


def test_an_environment_is_seen_as_it_draws_itself_after_skipped_frames():
    env = make_one(spot.ID, {"numbers": True}, view=View(2, PixelsConfig(render=True, size=[32, 32])))
    plain = make_one(spot.ID, {"numbers": True}, render_mode="rgb_array")
    seen, _ = env.reset(seed=3)
    plain.reset(seed=3)
    for _ in range(3):
        assert np.array_equal(seen, plain.render()[::10, ::10])  # a picture of squares, each of one colour
        for _ in range(2):
            plain.step(np.ones(2))
        seen, *_ = env.step(np.ones(2))
    spec = envs.probe("es_rl/PointMass-v0", {}, 0, view=View(pixels=PixelsConfig(render=True)))
    assert spec.backend == "gymnasium" and spec.observation_space.shape == (240, 240, 3)


@pytest.mark.parametrize(
    ("env", "keys", "said"),
    [
        ("Show-v0", {"render": True}, "pixels.render=true: env=Show-v0 takes no render_mode"),
        ("Blank-v0", {"render": True}, "pixels.render=true: env=Blank-v0 gives no picture: TypeError.*rgb_array"),
        ("Show-v0", {"size": [13]}, r"pixels.size=\[13\]: must not be larger than .* 12 × 16 pixels"),
        ("Show-v0", {"size": [9, 9], "crop": [0, 4, 0, 0]}, r"8 × 16 pixels after pixels.crop. Give a smaller one"),
        ("Show-v0", {"crop": [6, 6, 0, 0]}, r"pixels.crop=\[6, 6, 0, 0\]: leaves nothing .* Cut less off"),
        ("CartPole-v1", {"gray": True}, r"pixels.gray=True: env=CartPole-v1 shows no image.*Leave pixels"),
    ],
)
def test_what_an_environment_does_not_allow_is_refused(env, keys, said):
    with pytest.raises(EnvError, match=said):
        envs.probe(env, {}, 0, view=View(pixels=PixelsConfig(**keys)))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["pixels.stack=0"], "pixels.stack=0: must be >= 1"),
        (["frame_skip=0"], "frame_skip=0: must be >= 1"),
        (["pixels.crop=[1,2]"], "four numbers"),
        (["pixels.size=[1,2,3]"], "one number, or height and width"),
    ],
)
def test_bad_keys_are_refused(keys, said):
    with pytest.raises(ConfigError, match=said):
        parse_train(["env=Show-v0", *keys])


def test_other_than_general_backends_know_no_view():
    with pytest.raises(EnvError, match="backend=batch: knows no frame_skip. Give backend=gymnasium"):
        envs.make_vector("HalfCheetah-v4", 1, "batch", {}, view=View(frame_skip=2))
    assert envs.probe("Hopper-v4", {}, 0, view=View(frame_skip=2)).backend == "gymnasium"


@pytest.mark.parametrize(("breaks", "length"), [(3, 3), (-1, 0)])
def test_an_episode_without_a_picture_fails_alone(breaks, length):
    class Still:
        def __call__(self, running, obs):
            return np.zeros(len(running), np.int64)

        def drop(self, gaps):
            pass

    env = envs.make("Show-v0", 1, breaks=breaks)
    broken = play(env, Still(), [0], shape=shape_of(picture(12, 16, 3)))
    assert np.isnan(broken.returns[0]) and broken.lengths[0] == length and "raised" in broken.errors[0]
    whole = play(envs.make("Show-v0", 2), Still(), [0, 1], shape=shape_of(picture(12, 16, 3)))
    assert whole.returns.tolist() == [66, 66] and not whole.errors

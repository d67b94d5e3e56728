"""What films show: robots in the frame, on a ground without end; captions; progress; files that are whole or not there."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
from conftest import refusal
from gymnasium import spaces
from PIL import Image

from es_rl.envs import renderer as drawing
from es_rl.errors import EnvError, ResourceError
from es_rl.record import Films, tell
from es_rl.record import main as record
from es_rl.rl.config import Config, VideoConfig
from es_rl.rl.films.caption import captioned, scaled, side_by_side, spread
from es_rl.rl.films.files import Gif, write_mp4
from es_rl.rl.films.film import Take, filming
from es_rl.rl.verbs.recording import trained
from es_rl.run.checkpoint import ages

SUPPORT = Path(__file__).parents[1] / "support"
GREY = np.full((480, 480, 3), 200, np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "quality", "shape"),
    [
        ("HalfCheetah-v5", "fast", (480, 480, 3)),
        ("Humanoid-v5", "high", (720, 1280, 3)),
        ("es_rl/Quadruped-v0", "fast", (480, 480, 3)),
    ],
)
def test_the_camera_goes_along_and_the_ground_does_not_end(name, quality, shape, renderer, tmp_path, python):
    if not renderer:
        pytest.skip("no off-screen renderer here")
    done = python(SUPPORT / "seen_by_camera.py", name, quality, "seen.npy", env={"MUJOCO_GL": renderer})
    assert done.returncode == 0, done.stderr
    here, there = np.load(tmp_path / "seen.npy").astype(int)
    assert here.shape == shape and here.std() > 20
    assert np.abs(here - there).mean() < 3 and there[-shape[0] // 6 :].mean() > 30  # the robot, and ground below it


def test_without_a_gpu_pictures_are_drawn_fast(monkeypatch):
    for software, name in ((True, "fast"), (False, "high")):
        monkeypatch.setattr(drawing, "draws_in_software", lambda software=software: software)
        assert drawing.choose_quality("auto") == drawing.QUALITIES[name]
    assert drawing.choose_quality("high").width == 1280


def test_a_caption_is_in_its_corner_and_tells_the_return():
    one, other = (captioned(GREY, 3.2, return_, "trained 5.0 min") for return_ in (1234.0, 4321.0))
    changed = np.argwhere((one != GREY).any(axis=2))
    assert changed.min(axis=0)[0] > 400 and changed.max(axis=0)[1] < 400  # rows below, columns on the left
    assert not np.array_equal(one, other) and one.shape == GREY.shape
    assert np.array_equal(captioned(GREY[:96, :96], 3.2, 5.0, ""), GREY[:96, :96])  # too small for a text
    assert (GREY == 200).all()  # the frame itself is as it was
    assert [trained(s) for s in (0.0, 75.0, 3600.0)] == ["trained 0 min", "trained 1.2 min", "trained 60 min"]


def test_films_side_by_side_end_together_in_their_order():
    films = [iter([np.full((200, 200, 3), 10 * i, np.uint8)] * (5 - i)) for i in range(3)]
    strip = list(side_by_side(films))
    assert len(strip) == 3 and strip[0].shape == (200, 600, 3)
    assert [int(strip[0][0, x, 0]) for x in (0, 250, 450)] == [0, 10, 20]
    assert (
        scaled(GREY, 320).shape == (320, 320, 3)
        and scaled(GREY, None) is GREY
        and scaled(GREY[:90, :90], 320).shape == (90, 90, 3)
    )


def test_checkpoints_are_chosen_from_the_first_to_the_last():
    assert spread({0: 0.0, 3: 9.0, 9: 30.0}, 4) == [0, 3, 9]
    minutes = {0: 0, 40: 1, 200: 5, 238: 5.95, 239: 5.97, 240: 6}  # of a run of six minutes
    assert spread({generation: 60.0 * m for generation, m in minutes.items()}, 4) == [0, 40, 200, 240]


class Still(gymnasium.Env):
    """A picture that grows brighter; its physics fails after a while."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode=None, fails=1000):
        self.render_mode, self.fails, self.t = render_mode, fails, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        if self.t == self.fails:
            raise ValueError("the robot is on fire")
        return np.zeros(2, np.float32), 1.0, self.t == 7, False, {}

    def render(self):
        return np.full((250, 250, 3), 10 * self.t, np.uint8)


@pytest.fixture
def still():
    gymnasium.register("Still-v0", Still)
    yield "Still-v0"
    del gymnasium.registry["Still-v0"]


def take(env, **changes):
    known = {
        "act": lambda obs: np.zeros(1, np.float32),
        "reset": lambda: None,
        "env_kwargs": {},
        "seconds": 2.0,
        "seed": 0,
    }
    return Take(env=env, **(known | changes))


def test_frames_are_those_of_one_episode_after_another(still):
    forgot = []
    with filming(take(still, reset=lambda: forgot.append(True))) as film:
        frames = list(film.frames)
    assert film.fps == 10 and [int(frame[0, 0, 0]) for frame in frames] == [*range(0, 70, 10)] * 2 + [*range(0, 60, 10)]
    assert len(forgot) == 3


def test_captions_count_the_rewards_of_an_episode(still, monkeypatch):
    from es_rl.rl.films import film as module

    told = []
    monkeypatch.setattr(module, "captioned", lambda frame, *facts: told.append(facts) or frame)
    with filming(take(still, seconds=0.9, caption="hello")) as film:
        list(film.frames)
    assert told == [*((t / 10, float(t), "hello") for t in range(7)), (0.0, 0.0, "hello"), (0.1, 1.0, "hello")]


@pytest.mark.parametrize("one", [np.array([1.0]), np.ones((1, 1), np.float32), Fraction(1), np.True_])
def test_rewards_and_ends_of_a_film_may_be_what_those_of_a_training_are(still, monkeypatch, one):
    from es_rl.rl.films import film as module

    told = []
    monkeypatch.setattr(module, "captioned", lambda frame, *facts: told.append(facts[1]) or frame)
    monkeypatch.setattr(Still, "step", lambda self, _: (np.zeros(2), one, np.array([False]), [len(told) == 3], {}))
    with filming(take(still, seconds=0.4, caption="")) as film:
        list(film.frames)
    assert told == [0.0, 1.0, 2.0, 0.0]


def test_a_reward_that_is_no_number_ends_a_film_in_one_line(still, monkeypatch):
    monkeypatch.setattr(Still, "step", lambda self, _: (np.zeros(2), "good", False, False, {}))
    refused = pytest.raises(EnvError, match="cannot be filmed: TypeError: the reward is 'good'")
    with refused, filming(take(still)) as film:
        list(film.frames)


def test_an_environment_that_fails_leaves_no_film_behind(still, tmp_path):
    gif = Gif(10)
    burns = pytest.raises(EnvError, match=r"Still-v0: cannot be filmed: .*the robot is on fire")
    with burns, filming(take(still, env_kwargs={"fails": 5})) as film:
        write_mp4(tmp_path / "a.mp4", gif.watch(film.frames), film.fps, 2.0)
    assert list(tmp_path.iterdir()) == []


def test_a_film_and_its_gif_are_written_in_one_pass(still, tmp_path):
    gif = Gif(10)
    with filming(take(still)) as film:
        assert write_mp4(tmp_path / "there" / "a.mp4", gif.watch(film.frames), film.fps, 2.0) == 20
    gif.write(tmp_path / "a.gif", "gif")
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "there" / "a.mp4"))
    assert next(reader)["size"] == (250, 250) and len(list(reader)) == 20
    assert (tmp_path / "a.gif").read_bytes()[:4] == b"GIF8"
    with filming(take(still)) as film, pytest.raises(ResourceError, match="out=FILE"):
        write_mp4(tmp_path / "a.gif" / "b.mp4", film.frames, film.fps, 2.0)


@pytest.mark.slow
def test_progress_is_a_strip_of_several_checkpoints(train, capsys, monkeypatch):
    """The first checkpoint of all is kept for it."""
    monkeypatch.setattr("es_rl.record.MILESTONES", (0.0, 1e-9))
    keys = ["env=es_rl/PointMass-v0", "es.population=4", "eval.every=0", "checkpoint.every=1", "checkpoint.keep=2"]
    run = train(*keys, "generations=6", "video.every=0", "video.seconds=0.2")
    assert sorted(ages(run)) == [0, 1, 5, 6]
    assert record([f"run={run}", "film=progress", "seconds=0.5", "quality=fast", "gif=strip.gif"]) == 0
    assert "PointMass-v0-progress.mp4: 0.5 s" in capsys.readouterr().out
    size = next(imageio_ffmpeg.read_frames(str(next((run / "videos").glob("*progress.mp4")))))["size"]
    assert size[0] == pytest.approx(4 * size[1], rel=0.05)
    with Image.open("strip.gif") as image:
        assert image.width == 4 * 240
    code, said = refusal(record, f"run={run}", "film=progress", "checkpoint=5")
    assert code == 2 and "checkpoint=5: film=progress shows several" in said
    train("resume=run", "generations=8", run="run")  # what is kept is kept after a resume too
    assert sorted(ages(run)) == [0, 1, 7, 8]
    keys[-1] = "checkpoint.keep=1"
    assert sorted(ages(train(*keys, "generations=3", "video.every=0", "video.seconds=0.2", run="one"))) == [0, 1, 3]
    none = train(*keys, "generations=6", "video.every=-1", run="none")
    assert sorted(ages(none)) == [6]


@pytest.mark.slow
def test_a_new_episode_on_another_height_is_in_the_frame(renderer, python):
    """And a picture of one of many does not depend on what was drawn before."""
    if not renderer:
        pytest.skip("no off-screen renderer here")
    code = """
import numpy as np, es_rl.envs
env = es_rl.envs.make_vec("es_rl/QuadrupedTerrain-v0", 3, render_mode="rgb_array")
env.reset(seed=3)
one, other = env.render(), env.render()
assert all(np.array_equal(a, b) for a, b in zip(one, other))
from es_rl.envs.camera import Camera
from es_rl.envs.renderer import QUALITIES
import gymnasium
single = gymnasium.make("es_rl/QuadrupedTerrain-v0").unwrapped
camera = Camera(single.model, QUALITIES["fast"])
for seed in range(5):
    single.reset(seed=seed)
    data, marks = single.scene()
    camera.picture(data, marks, cut=True)
    assert abs(camera._camera.lookat[2] - data.subtree_com[1][2]) < 1e-9
    data.qpos[2] += 0.1
    camera.picture(data, marks, cut=False)
    assert 0 <= abs(camera._camera.lookat[2] - data.subtree_com[1][2]) < 0.1
camera.close()
env.close()
"""
    done = python("-c", code, env={"MUJOCO_GL": renderer})
    assert done.returncode == 0, done.stderr


def test_whoever_draws_a_task_itself_is_not_drawn_by_us(monkeypatch):
    """Own code in `render`, arguments for Gymnasium's renderer, attributes that happen to have our names."""
    from contextlib import ExitStack

    from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

    from es_rl.rl.films import film as module

    class Hills(HalfCheetahEnv):
        scene = "hills"

        def render(self):
            return "theirs"

    class Drawn(gymnasium.Wrapper):
        def render(self):
            return "wrapped"

    monkeypatch.setattr("es_rl.envs.camera.Camera", lambda *args: pytest.fail("our camera"))
    for env, kwargs, seen in (
        (Hills(), {}, "theirs"),
        (Drawn(gymnasium.make("HalfCheetah-v5")), {}, "wrapped"),
        (gymnasium.make("HalfCheetah-v5"), {"camera_name": "track"}, None),
    ):
        draw = module._drawing(env, take("HalfCheetah-v5", env_kwargs=kwargs), ExitStack())
        assert seen is None or draw(True) == seen


def test_progress_of_a_film_is_shown_and_its_end_told(tmp_path):
    told, config = [], Config(env="A-v0", video=VideoConfig(seconds=12.0))
    films = Films(
        tmp_path, config, say=told.append, show=lambda text, alone=False: told.append((text, alone)),
        done=lambda mp4, step: told.append((mp4.name, step)),
    )  # fmt: skip
    (tmp_path / "videos").mkdir()
    tell(tmp_path / "videos/record.progress", 90, 360)
    films._process, films._mp4, films._step = Ending(None, 0), tmp_path / "videos/A-v0-7.mp4", 70
    films._mp4.touch()
    state = SimpleNamespace(generation=7)
    saver = SimpleNamespace(state=state, pinned=None)
    films.poll(saver)
    assert films.finish(saver, lambda: None) == {"film": films._mp4}
    assert told == [
        ("3.0 of 12 s filmed", False), ("3.0 of 12 s filmed", True), ("", False), ("A-v0-7.mp4", 70),
    ]  # fmt: skip
    assert not (tmp_path / "videos/record.progress").exists()


@pytest.mark.parametrize(("begun", "filmed"), [(0, [20, 40, 60]), (50, [60, 80]), (59, [60, 80])])
def test_films_are_made_at_multiples_also_in_a_run_that_goes_on(begun, filmed, tmp_path, monkeypatch):
    films = Films(
        tmp_path, Config(env="A-v0", video=VideoConfig(every=20)), say=None, show=lambda *_, **__: None,
        done=lambda *_: None,
    )  # fmt: skip
    found = []
    monkeypatch.setattr(films, "_start", lambda generation, steps: found.append(generation))
    for generation in range(begun + 1, filmed[-1] + 1):
        saver = SimpleNamespace(
            state=SimpleNamespace(generation=generation), progress=SimpleNamespace(steps=0), save=lambda: None
        )
        films.poll(saver)
    assert found == filmed


def test_what_a_film_said_may_be_in_any_encoding(tmp_path):
    told = []
    films = Films(tmp_path, Config(env="A-v0"), say=told.append, show=lambda *_, **__: None, done=None)
    (tmp_path / "videos").mkdir()
    films._output.write_bytes(b"caf\xe9\nno display \xff\n")
    films._process, films._mp4, films._step = Ending(3), tmp_path / "videos/A-v0-7.mp4", 70
    films.poll(SimpleNamespace(state=SimpleNamespace(generation=7), pinned=7))
    assert told == ["warning: no video: no display \N{REPLACEMENT CHARACTER}"]


class Ending:
    """A process with these exit codes, each for one look."""

    pid = None

    def __init__(self, *codes):
        self._codes = list(codes)

    @property
    def exitcode(self):
        return self._codes.pop(0) if len(self._codes) > 1 else self._codes[0]

    def join(self, *_):
        pass

    kill = close = join

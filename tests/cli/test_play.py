"""play: what keys mean, what a policy does when they are pressed, and a real window on a virtual display."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import mujoco
import numpy as np
import pytest
from conftest import refusal, wait_for
from PIL import ImageGrab

import es_rl
from es_rl.errors import EnvError
from es_rl.play.__main__ import main as play_verb
from es_rl.play.body import body_of
from es_rl.play.player import Player, play
from es_rl.play.steering import (
    PAIRS,
    PRESSES,
    SPEEDS,
    WISHES,
    Steering,
    Wish,
    explained,
    next_due,
    pairs,
    pressed,
    status,
)
from es_rl.play.windows import CODES, HumanWindow

RANGES = {"forward": (-0.5, 1.5), "sideways": (-0.3, 0.3), "turn": (-1.0, 1.0)}
TOLD = {"forward": 0.47, "sideways": 0.1, "turn": 0.0}
ROBOT = [
    "env=es_rl/Quadruped-v0",
    "mlp.hidden=[4]",
    "es.population=4",
    "es.segment=0",
    "env_kwargs.max_episode_steps=20",
]
SHORT = ["generations=2", "checkpoint.every=1", "eval.every=0", "eval.episodes=1"]


def after(*keys, now=None, told=TOLD):
    now, wishes = Steering(RANGES) if now is None else now, []
    for key in keys:
        now, wish = pressed(now, key, told)
        wishes += [wish] if wish != Wish() else []
    return now, wishes


def test_keys_move_the_command_within_its_ranges():
    now, wishes = after("up")
    assert now.command == TOLD | {"forward": pytest.approx(0.9)} and not wishes  # from the nearest multiple of a press
    assert after(*["up"] * 20)[0].command["forward"] == 1.5
    assert after(*["down"] * 20)[0].command["forward"] == -0.5
    assert after("x", *["left"] * PRESSES)[0].command == {"forward": 0, "sideways": 0, "turn": 1.0}
    assert after("x", ".", "right")[0].command == pytest.approx({"forward": 0, "sideways": -0.06, "turn": -0.2})
    assert after("x", "up", "down")[0].command["forward"] == 0
    assert after("x", now=Steering({"speed": (0.3, 1.0)}))[0].command == {"speed": 0.3}
    assert after("up", "c") == (Steering(RANGES), [Wish(restart=True)])


def test_other_commands_have_the_keys_that_are_left():
    assert pairs(["turn", "reach"]) == {"turn": ("left", "right"), "reach": ("up", "down")}
    assert list(pairs([f"n{i}" for i in range(7)]).values()) == list(PAIRS)
    assert after("up", now=Steering({"fixed": (0.0, 0.0)}), told={"fixed": 0.0})[0].command == {"fixed": 0.0}


def test_digits_name_a_checkpoint():
    assert after("4", "0", "0", "return") == (Steering(RANGES), [Wish(checkpoint="400")])
    assert after("4", "backspace", "return") == (Steering(RANGES), [])
    assert after("4", "left shift", "1")[0].typed == "41"  # a key without a meaning changes nothing
    assert after("n", "b", "p", "backspace")[1] == [WISHES[key] for key in ("n", "b", "p", "backspace")]
    assert len(after(*"1" * 100)[0].typed) < 20


def test_time_is_slowed_down_and_paused():
    assert after("-", "-")[0].speed == 0.25 and after("=")[0].speed == 2
    assert after(*"-" * 20)[0].speed == SPEEDS[0] and after(*"=" * 20)[0].speed == SPEEDS[-1]
    assert after("space")[0].paused and not after("space", "space")[0].paused
    assert next_due(10.0, 10.01, 0.02) == 10.02  # a short delay is made up for
    assert next_due(10.0, 15.0, 0.02) > 14.8  # a long one is not
    assert (
        status(after("space", "4")[0], TOLD, 7)
        == "checkpoint 7  forward 0.47  sideways 0.10  turn 0.00  paused  load 4_"
    )
    assert status(Steering(), {}, 7) == "checkpoint 7" and "speed 2" in status(after("=")[0], {}, 7)


def test_without_a_command_its_keys_do_nothing():
    for key in ("up", "c", ","):
        assert after(key, now=Steering(), told={}) == (Steering(), [])


def test_all_keys_are_explained_and_heard():
    text = explained(RANGES)
    assert "up down              forward: -0.5 to 1.5" in text
    assert "push" not in explained({}, pushes=False) and "forward" not in explained({})
    named = {key for line in text.splitlines() for key in line[:22].split()} - {"400", "enter"}
    heard = {*CODES.values()}
    assert named <= heard and {*WISHES, "return", *"0123456789"} <= heard and {k for p in PAIRS for k in p} <= heard


class Scripted:
    """A window that is never drawn: some keys are pressed before each picture, then it is closed."""

    hears = True

    def __init__(self, *keys):
        self.script, self.shown = list(keys), []

    def is_open(self):
        return bool(self.script)

    def pressed(self):
        return self.script.pop(0)

    def show(self, status):
        self.shown.append(status)

    def close(self):
        pass


def player(run, env_id, seed=0):
    env = gymnasium.make(env_id)
    told = []
    made = Player(
        es_rl.load(run), env, body_of(env), load=lambda which: es_rl.load(run, which), say=told.append, seed=seed
    )
    return made, env, told


def test_a_robot_does_what_the_keys_say(train):
    run = train(*ROBOT, *SHORT)
    made, env, told = player(run, "es_rl/Quadruped-v0")
    first = env.unwrapped.command()
    window = Scripted([], ["up"] * 20, ["x", "left"], ["9", "9", "return"], ["1", "return"], [], [], ["backspace"], [])
    play(made, window, rate=1000.0, check=lambda: None)
    assert first != env.unwrapped.command() == {"forward": 0, "sideways": 0, "turn": pytest.approx(0.2)}
    assert "has no checkpoint 99" in told[0] and told[1:] == ["checkpoint of generation 1"]
    assert made.agent.generation == 1 and "checkpoint 1" in made.status()
    made.hear("c")  # a new episode, in which the task commands again
    assert env.unwrapped.command() not in (first, made.steering.command) and made.steering.command is None
    same, again, _ = player(run, "es_rl/Quadruped-v0")
    assert again.unwrapped.command() == first and same.steering.command is None


@pytest.mark.parametrize(("env_id", "numbers"), [("es_rl/Quadruped-v0", 2), ("HalfCheetah-v4", 1)])
def test_a_push_changes_the_velocity(train, env_id, numbers):
    keys = (
        ROBOT[1:]
        if "Quad" in env_id
        else ["es.population=4", "es.segment=0", "es.top=2", "env_kwargs.max_episode_steps=20"]
    )
    made, env, _ = player(train(f"env={env_id}", *keys, "generations=1", "eval.episodes=1"), env_id)
    body, before, later = made._body, *(mujoco.MjData(env.unwrapped.model) for _ in range(2))
    body.copy_to(before)
    made.hear("p")
    body.copy_to(later)
    change = later.qvel - before.qvel
    assert np.linalg.norm(change) == pytest.approx(1.0) and np.count_nonzero(change) == numbers
    made.hear("up")
    made.step()
    assert (made.steering.command is None) == (env_id == "HalfCheetah-v4")


def test_a_paused_policy_does_not_act(train):
    made, env, _ = player(
        train("env=es_rl/PointMass-v0", "policy=linear", "es.population=4", *SHORT), "es_rl/PointMass-v0"
    )
    assert body_of(env) is None
    before = made._obs
    play(made, Scripted(["space"], [], []), rate=1000.0, check=lambda: None)
    assert made._obs is before
    made.hear("space")
    made.hear("p")  # what cannot be pushed is not
    made.step()
    assert made._obs is not before
    env.unwrapped.step = lambda action: 1 / 0
    with pytest.raises(EnvError, match="its step raised ZeroDivisionError"):
        made.step()


def test_without_a_display_a_film_is_the_remedy(train, command, monkeypatch):
    train(
        "env=HalfCheetah-v4", "env_kwargs.max_episode_steps=20", "es.segment=0", "es.top=2", "es.population=4", *SHORT
    )
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    done = command("play", "run=run")
    assert done.returncode == 6
    assert "DISPLAY=: a window needs a screen" in done.stderr and "python -m es_rl.record run=run." in done.stderr
    monkeypatch.setenv("DISPLAY", ":77")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert "DISPLAY=:77: a window" in command("play", "run=run").stderr


def test_bad_input(train, tmp_path):
    assert refusal(play_verb)[0] == 2
    assert refusal(play_verb, "run=nowhere")[0] == 4
    train("env=es_rl/PointMass-v0", "policy=linear", "es.population=4", *SHORT)
    code, text = refusal(play_verb, "run=run", "checkpoint=7")
    assert code == 4 and "has no checkpoint 7" in text


def test_a_window_that_pygame_draws_hears_keys(monkeypatch):
    monkeypatch.delitem(sys.modules, "pygame", raising=False)
    window = HumanWindow()
    assert not window.hears and window.pressed() == [] and window.is_open()
    names = {7: "[7]", 13: "enter", 14: "return", 32: "space"}
    moved = SimpleNamespace(type=4)  # of the mouse
    events = [moved, *(SimpleNamespace(type=2, key=code) for code in names), moved]
    pygame = SimpleNamespace(
        QUIT=1,
        KEYDOWN=2,
        display=SimpleNamespace(get_init=lambda: True),
        event=SimpleNamespace(get=lambda: list(events)),
        key=SimpleNamespace(name=names.get),
    )
    monkeypatch.setitem(sys.modules, "pygame", pygame)
    assert window.hears and window.pressed() == ["7", "return", "return", "space"] and window.is_open()
    events.append(SimpleNamespace(type=1))
    window.pressed()
    assert not window.is_open()


@pytest.fixture
def display(monkeypatch):
    """Start a virtual display; it ends with the test."""
    if not (shutil.which("Xvfb") and shutil.which("xdotool")):
        pytest.skip("no Xvfb or xdotool here")
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    name = f":{server.stdout.readline().strip()}"
    monkeypatch.setenv("DISPLAY", name)
    yield name
    server.terminate()
    server.wait()


def opened(start, tmp_path, *keys):
    """Start the verb and wait for its window; return the process and a function that returns what it has said."""
    process = start("run=run", *keys, verb="play")

    def said():
        return (tmp_path / "out.txt").read_text()

    wait_for(lambda: "to leave" in said() or process.poll() is not None)
    if process.poll() == 6:
        pytest.skip(said())
    return process, said


@pytest.mark.slow
@pytest.mark.parametrize("env", ["es_rl/Quadruped-v0", "HalfCheetah-v4"])
def test_a_window_hears_keys_and_can_be_closed(env, display, train, start, tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")  # for films
    train(f"env={env}", "es.segment=0", "es.population=4", "es.top=2", "env_kwargs.max_episode_steps=20", *SHORT)
    process, said = opened(start, tmp_path)

    def answered(keys, text):
        subprocess.run(["xdotool", "key", *keys], check=True)
        return text in said()

    wait_for(lambda: answered(["1", "Return"], "checkpoint of generation 1"), process)
    wait_for(lambda: answered(["9", "9", "Return"], "has no checkpoint 99"), process)
    wait_for(lambda: answered(["n", "Up", "p", "BackSpace"], "checkpoint of generation 2"), process)
    wait_for(lambda: np.asarray(ImageGrab.grab(xdisplay=display)).std() > 10, process)
    subprocess.run(["xdotool", "key", "ctrl+q"], check=True)  # MuJoCo's key to close its window
    assert process.wait(60) == 0 and "Traceback" not in said()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_closes_the_window(number, code, display, train, start, tmp_path):
    train(*ROBOT, *SHORT)
    process, said = opened(start, tmp_path)
    assert not process.children()
    os.kill(process.pid, number)
    assert process.wait(60) == code and "Traceback" not in said()


QUIET = """
from es_rl.envs.toys.point_mass import PointMass
import gymnasium

class Quiet(PointMass):
    metadata = {"render_modes": ["human"], "render_fps": 50}

gymnasium.register("Quiet-v0", Quiet, max_episode_steps=20)
"""


@pytest.mark.slow
def test_a_window_that_hears_no_keys_says_so(display, train, start, tmp_path):
    Path("quiet.py").write_text(QUIET)
    train("env=quiet:Quiet-v0", "policy=linear", "es.population=4", *SHORT)
    assert refusal(play_verb, "run=run")[0] == 2  # a module is named on the command line only
    process, said = opened(start, tmp_path, "env=quiet:Quiet-v0")
    assert "This window hears no keys. Press Ctrl-C to leave." in said()
    process.terminate()
    assert process.wait(60) == 75

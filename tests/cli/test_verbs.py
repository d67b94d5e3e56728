"""evaluate, record, es-rl, and what a terminal shows."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from conftest import metrics, refusal, soak
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import es_rl
from es_rl.evaluate import main as evaluate
from es_rl.record import main as record
from es_rl.rl.config import parse_train
from es_rl.run import directory
from es_rl.run.screen import goal
from es_rl.run.terms import RETURN, StopRules
from es_rl.train import main as training

TINY = ["generations=2", "es.population=4", "eval.episodes=2"]


def test_evaluation_ends_in_one_json_object_and_is_a_function_of_its_seed(train, command):
    train("env=CartPole-v1", *TINY)
    one, same, other = (
        json.loads(command("evaluate", "run=run", "episodes=20", f"seed={seed}").stdout.splitlines()[-1])
        for seed in (0, 0, 1)
    )
    assert one == same and one["return_mean"] != other["return_mean"]
    assert one["return_mean"] == one["length_mean"] and one["episodes"] == 20 and one["generation"] == 2
    assert one["return_min"] <= one["return_mean"] <= one["return_max"]


def test_evaluation_in_another_environment_of_the_same_spaces(train, command):
    train("env=HalfCheetah-v4", "env_kwargs.max_episode_steps=20", "es.top=2", *TINY)
    done = command("evaluate", "run=run", "env=HalfCheetah-v5", "episodes=2")
    assert json.loads(done.stdout.splitlines()[-1])["env"] == "HalfCheetah-v5"
    done = command("evaluate", "run=run", "env=CartPole-v1")
    assert done.returncode == 3


def frames(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


@pytest.mark.slow
def test_an_evaluation_may_change_the_environments_arguments(train, capsys):
    run = train("env=Hopper-v5", "env_kwargs.max_episode_steps=20", "generations=1", "es.population=4", "es.top=2")
    told = []
    for keys in ([], ["env_kwargs.max_episode_steps=3"], ["env_kwargs.healthy_reward=100"]):
        assert evaluate([f"run={run}", "episodes=2", *keys]) == 0
        told.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert [found["length_mean"] for found in told] == [20, 3, 20] and told[2]["return_mean"] > 1000
    assert metrics(run)[0]["eval/length_mean"] == 20


def test_an_evaluation_is_json_whatever_yaml_an_environment_was_given(train, capsys):
    given = "{1: !!binary aGk=, b: [.inf, .nan, {c: 1.5}]}"
    run = train(
        "env=hostile:Foreign-v0", f"env_kwargs.name={given}", "generations=1", "es.population=2", "eval.every=0"
    )
    assert evaluate([f"run={run}", "env=hostile:Foreign-v0", "episodes=1"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=pytest.fail)
    assert found["env_kwargs"] == {"name": {"1": "b'hi'", "b": ["inf", "nan", {"c": 1.5}]}}


@pytest.mark.process
@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("train env=es_rl/PointMass-v0 es.population=3 >&-", 2),
        ("train env=es_rl/PointMass-v0 es.population=3 2>&-", 2),
        ("train env=es_rl/PointMass-v0 es.population=3 2>/dev/full", 2),
        ("train env=es_rl/PointMass-v0 es.population=4 generations=300 workers=0 video.every=-1 run=r | true", 141),
    ],
)
def test_exit_codes_do_not_depend_on_who_listens(shell, code, tmp_path):
    ends = f"{sys.executable} -m es_rl.{shell}; echo ${{PIPESTATUS[0]}} > code"
    done = subprocess.run(["bash", "-c", ends], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (tmp_path / "code").read_text().split() == [str(code)] and "Traceback" not in done.stderr


@pytest.mark.parametrize("env", ["es_rl/PointMass-v0", "HalfCheetah-v4"])
@pytest.mark.slow
def test_a_training_ends_with_a_video_that_moves(train, capsys, env, renderer):
    """MuJoCo is drawn off the screen if the machine can; if not, one line says so and the run is none the worse."""
    run = train(f"env={env}", "env_kwargs.max_episode_steps=60", "es.top=2", *TINY, "video.every=0", "video.seconds=2")
    out = capsys.readouterr().out
    if "warning: no video" in out:
        assert env == "HalfCheetah-v4" and not renderer and "MuJoCo needs EGL or OSMesa" in out
        pytest.skip("no off-screen renderer here")
    (mp4,), (gif,) = (run / "videos").glob("*.mp4"), (run / "videos").glob("*.gif")
    meta, shown = frames(mp4)
    assert meta["codec"] == "h264" and meta["duration"] == pytest.approx(2, abs=0.2)
    assert mp4.stat().st_size < 8_000_000
    assert shown[0].std() > 5 and any(not np.array_equal(shown[0], f) for f in shown[1:])
    with Image.open(gif) as image:
        assert image.n_frames > 10
    events = EventAccumulator(str(run), {"images": 0}).Reload()
    (image,) = events.Images("eval/video")
    assert image.encoded_image_string[:4] == b"GIF8" and image.step == metrics(run)[-1]["env_steps"]


def test_recording_by_hand(train, command, tmp_path):
    train("env=es_rl/PointMass-v0", *TINY)
    done = command("record", "run=run", "out=clips/a.mp4", "gif=clips/a.gif", "seconds=1")
    assert done.returncode == 0 and "clips/a.mp4: 1.0 s" in done.stdout
    assert len(frames(tmp_path / "clips/a.mp4")[1]) == 20 and (tmp_path / "clips/a.gif").exists()


def test_what_cannot_be_drawn_is_one_line(train, command):
    train("env=hostile:Good-v0", *TINY)
    done = command("record", "run=run", "env=hostile:Good-v0")
    assert done.returncode == 3 and "cannot be filmed" in done.stderr and "EGL" not in done.stderr


def test_a_machine_without_any_renderer_is_told_what_to_install(train, command, monkeypatch):
    train("env=HalfCheetah-v4", "env_kwargs.max_episode_steps=20", "es.top=2", *TINY)
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    done = command("record", "run=run")
    assert done.returncode == 3 and "MuJoCo needs EGL or OSMesa: on Debian, apt-get install" in done.stderr


def test_the_console_script_dispatches(monkeypatch, capsys):
    from es_rl import cli

    def call(*argv):
        monkeypatch.setattr(sys, "argv", ["es-rl", *argv])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, capsys.readouterr()

    code, shown = call("--help")
    assert code == 0 and all(verb in shown.out for verb in cli.VERBS)
    for verb in cli.VERBS:
        code, shown = call(verb, "--help")
        assert code == 0 and f"es_rl.{verb}" in shown.out and "run" in shown.out
    assert call() == (0, call("help")[1]) and call("help", "play") == call("play", "--help")
    assert call("--version")[1].out == f"es-rl {es_rl.__version__}\n"
    code, shown = call("trian")
    assert code == 2 and "Did you mean train" in shown.err
    assert call("evaluate")[0] == 2


@pytest.mark.slow
def test_a_terminal_shows_a_live_panel(tmp_path):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "es_rl.train", "env=es_rl/PointMass-v0", "es.population=8", "generations=12", "workers=1", "run=run", "eval.episodes=2", "video.every=-1"],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=os.environ | {"COLUMNS": "100", "LINES": "40", "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        shown += part
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "es_rl: es_rl/PointMass-v0 → run" in text
    for word in (
        "starting 1 worker",
        "generation",
        "env steps",
        "steps/s",
        "fitness",
        "evaluation",
        "generations=12",
        "left",
    ):
        assert word in text
    assert "100 %" in text and "finished: generations=12" in text


def test_the_nearest_stop_rule_is_the_one_that_is_met_first():
    config = parse_train(["env=A-v0", "generations=100", "minutes=10", "env_steps=1000000"])
    nearest = goal(StopRules.of(config, RETURN), RETURN, generation=10, steps=10_000, seconds=120.0, last_score=None)
    assert (nearest.text, nearest.share, nearest.seconds_left) == ("minutes=10", 0.2, 480.0)
    nearest = goal(StopRules.of(config, RETURN), RETURN, generation=50, steps=10_000, seconds=120.0, last_score=None)
    assert (nearest.text, nearest.share, nearest.seconds_left) == ("generations=100", 0.5, 120.0)
    nearest = goal(StopRules.of(config, RETURN), RETURN, generation=0, steps=0, seconds=0.0, last_score=None)
    assert nearest.share == 0 and nearest.seconds_left is None
    target = parse_train(["env=A-v0", "target_return=100"])
    assert (
        goal(StopRules.of(target, RETURN), RETURN, generation=9, steps=9, seconds=9.0, last_score=50.0).text
        == "target_return=100"
    )


@pytest.mark.slow
def test_a_checkpoint_that_is_being_filmed_is_kept(train):
    """Else the second one would be gone before the process that films it opens it."""
    run = train(
        "env=es_rl/PointMass-v0", "policy=linear", "es.population=4", "generations=6", "eval.every=0",
        "checkpoint.every=1", "checkpoint.keep=1", "video.every=2", "video.seconds=0.5",
    )  # fmt: skip
    shown = {path.name for path in (run / "videos").glob("*.mp4")}
    assert {"es_rl-PointMass-v0-2.mp4", "es_rl-PointMass-v0-6.mp4"} <= shown


@pytest.mark.slow
def test_arguments_of_an_environment_are_the_same_in_every_verb(train, capsys):
    """Names that are numbers or hold dots: in training, after a resume, in an evaluation and in a film."""
    text = "{1: 5.0, left.hip: [1, {}], 2.5: {false: null}}"
    keys = ["env=hostile:Lanes-v0", "es.population=4", "workers=1", "eval.every=1"]
    run = train(*keys, f"env_kwargs.reward_of_lane={text}", "generations=1", "video.every=0", "video.seconds=1")
    assert list((run / "videos").glob("*.mp4"))
    train(f"resume={run}", "env=hostile:Lanes-v0", "generations=2", "workers=1")
    assert evaluate([f"run={run}", "env=hostile:Lanes-v0", "episodes=2"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failed"] == 0
    Path("keys.yaml").write_text((run / "config.yaml").read_text().replace("hostile:Lanes-v0", "other"))
    train("config=keys.yaml", "env=hostile:Lanes-v0", "generations=1", run="again")


@pytest.mark.slow
def test_paths_are_those_that_were_meant(train, tmp_path, monkeypatch, capsys):
    """A home directory, a colon, names without a suffix, or with that of the other kind."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    train("env=es_rl/PointMass-v0", *TINY, "video.every=0", "video.seconds=1", run="~/runs/10:30")
    run = tmp_path / "home/runs/10:30"
    assert (run / "checkpoints").is_dir() and not Path("~").exists() and list((run / "videos").glob("*.mp4"))
    assert "no video" not in capsys.readouterr().out
    assert training(["resume=~/runs/10:30", "generations=3", "video.every=-1", "workers=0"]) == 0
    assert record([f"run={run}", "out=a:b/film", "gif=films/cheetah", "seconds=1"]) == 0
    assert len(frames(Path("a:b/film").resolve())[1]) == 20
    assert record(["run=~/runs/10:30", "out=~/b.GIF", "seconds=1"]) == 0
    for gif in (Path("films/cheetah"), tmp_path / "home/b.GIF"):
        with Image.open(gif) as image:
            assert image.format == "GIF" and image.n_frames > 5
    assert refusal(record, f"run={run}", "out=b.avi") == (2, "out=b.avi: must end in .mp4 or .gif.")
    Path("keys.yaml").write_text("run: ~/again")
    train("config=keys.yaml", "env=es_rl/PointMass-v0", *TINY, run="~/again")
    assert (tmp_path / "home/again/checkpoints").is_dir()


def test_runs_of_the_same_second_have_directories_of_their_own(monkeypatch):
    monkeypatch.setattr(directory.time, "strftime", lambda _: "now")
    monkeypatch.setattr(Path, "exists", lambda _: False)  # as if each had looked before another made it
    made = [directory.create("", "hostile:Good-v0", "mlp") for _ in range(3)]
    assert [str(path) for path in made] == [f"runs/hostile-Good-v0/now-mlp{end}" for end in ("", "-2", "-3")]
    assert all(path.is_dir() for path in made)


POOR = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "no locale": {"LC_ALL": "xx_XX.ISO-8859-1", "LANG": "", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("name", ["ascii", *soak("no locale")])
@pytest.mark.slow
def test_all_files_are_utf_8_and_all_output_survives_any_locale(name, tmp_path):
    """An arrow in the title, an argument and a printing environment with characters that the locale lacks."""
    env = dict(os.environ) | POOR[name]
    keys = ["env=hostile:Foreign-v0", "env_kwargs.name=grün→😀", "workers=1", "video.every=-1", *TINY]
    commands = [["train", *keys, "run=lauf"]]
    if name == "no locale":
        commands += [
            ["train", "resume=lauf", "env=hostile:Foreign-v0", "generations=3", "workers=0"],
            ["evaluate", "run=lauf", "env=hostile:Foreign-v0", "episodes=1"],
            ["train", "env=Humanoid-v→"],
        ]
    for argv in commands:
        done = subprocess.run(
            [sys.executable, "-m", f"es_rl.{argv[0]}", *argv[1:]],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            check=False,
        )
        assert done.returncode == (3 if "→" in argv[1] else 0), done.stderr
        assert b"Traceback" not in done.stdout + done.stderr, done.stderr
    config = (tmp_path / "lauf/config.yaml").read_text(encoding="utf-8")
    assert parse_saved(config) == "grün→😀"
    assert "look: grün→😀" in (tmp_path / "lauf/workers.log").read_text(encoding="utf-8")


def parse_saved(text):
    return OmegaConf.create(text).env_kwargs.name


@pytest.mark.slow
def test_a_terminal_that_cannot_be_drawn_over_shows_lines(tmp_path):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "es_rl.train", "env=es_rl/PointMass-v0", "workers=0", "run=run", "video.every=-1", *TINY],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=os.environ | {"TERM": "dumb"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):
        while part := os.read(ours, 65536):
            shown += part
    assert process.wait() == 0
    assert b"generation 1 | " in shown and b"\x1b" not in shown

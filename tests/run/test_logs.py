"""A log that cannot be written is told once, and never ends a training or hurts a resume."""

import json
import time

import pytest
from conftest import metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from es_rl.run.json_lines import JsonLines, keep_until

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from es_rl import cli
from es_rl.train import main
cli.run(main, sys.argv[2:])
"""


@pytest.fixture
def train_limited(python):
    """Train in a process whose files may not grow beyond so many bytes."""

    def run(most, *keys):
        done = python("-c", LIMITED, most, *keys)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    return run


def wait_for_another_second(run):
    """TensorBoard reads files in the order of their names, which begin with seconds: one second is in no order."""
    last = max(int(file.name.split(".")[3]) for file in run.glob("events.out.tfevents.*"))
    while int(time.time()) <= last:
        time.sleep(0.05)


@pytest.mark.slow
def test_files_that_may_not_grow_are_told_once_and_the_training_ends_well(tmp_path, train, train_limited):
    keys = ["env=es_rl/PointMass-v0", "policy=linear", "es.population=4", "workers=0", "video.every=-1", "eval.every=5"]
    done = train_limited(30_000, *keys, "run=run", "generations=120")
    assert done.returncode == 0, done.stderr
    for name in ("metrics.jsonl cannot be written", "TensorBoard's files cannot be written"):
        assert done.stdout.count(name) == 1
    lines = metrics(tmp_path / "run")  # each is whole
    assert 10 < len(lines) < 120 and (tmp_path / "run/metrics.jsonl").stat().st_size <= 30_000
    wait_for_another_second(tmp_path / "run")
    train("resume=run", "generations=125", "eval.every=1", "workers=0")
    assert [line["generation"] for line in metrics(tmp_path / "run")][-5:] == [121, 122, 123, 124, 125]
    points = EventAccumulator(str(tmp_path / "run"), {"scalars": 0}).Reload().Scalars("fitness/mean")
    assert max(point.step for point in points) == metrics(tmp_path / "run")[-1]["env_steps"]


def test_a_checkpoint_that_must_be_saved_and_cannot_is_one_line(train_limited):
    keys = ["env=es_rl/PointMass-v0", "es.population=4", "workers=0", "video.every=-1", "run=run", "generations=3"]
    done = train_limited(10_000, *keys)
    assert done.returncode == 6 and "could not be saved: File too large" in done.stderr


@pytest.fixture
def refusing(tmp_path, monkeypatch):
    """A file of which only a part can be written, until it is told otherwise."""
    path, said = tmp_path / "lines.jsonl", []
    lines = JsonLines(path, said.append)
    lines.append([{"generation": 1}])
    room = [5]
    opened = type(path).open

    def limited(self, mode="r", *args, **kwargs):
        file = opened(self, mode, *args, **kwargs)
        if mode != "ab":
            return file

        class Part:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            seek, truncate = file.seek, file.truncate

            def write(self, data):
                return file.write(data[: room[0]])

        return Part()

    monkeypatch.setattr(type(path), "open", limited)
    return path, said, lines, room


def test_lines_wait_until_they_can_be_written_whole(refusing):
    path, said, lines, room = refusing
    for generation in (2, 3):
        lines.append([{"generation": generation}])
        assert path.read_text() == '{"generation": 1}\n'
    assert len(said) == 1 and "cannot be written (only a part could be written)" in said[0]
    room[0] = 10**6
    lines.append([{"generation": 4}])
    assert [json.loads(line)["generation"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    assert said[1:] == [f"{path} is written again"]


def test_bytes_that_are_no_text_are_dropped_on_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"generation": 1}\n\xff\xfe\x00{"generation": 2}\n[3]\n{"generation": "x"}\n{"generation": 2, "a": "\xff"}\n'
    )
    keep_until(path, 2)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["generation"] for row in kept] == [1, 2]


@pytest.mark.slow
def test_a_full_device_behind_the_screen_does_not_end_a_training(tmp_path, python):
    keys = ["env=es_rl/PointMass-v0", "generations=3", "es.population=4", "workers=0", "video.every=-1", "run=run"]
    done = python("-m", "es_rl.train", *keys, out="/dev/full")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert len(metrics(tmp_path / "run")) == 3


def test_numbers_that_tensorboard_cannot_draw_do_not_end_a_training(train):
    run = train(
        "env=es_rl/PointMass-v0", "policy=linear", "es.population=4", "optim.lr=1e30", "generations=3", "eval.every=1"
    )
    assert len(metrics(run)) == 3

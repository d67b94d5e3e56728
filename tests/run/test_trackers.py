"""Trackers get what TensorBoard gets, and nothing that they do can hurt a run.

The tests of real trackers are run by hand, with the extras: pip install -e '.[wandb,trackio,mlflow]'. Without a package,
its test is skipped.
"""

import json
import os
import time

import pytest
import tracking
from conftest import model_hash, records, refusal, wait_for
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import es_rl
from es_rl.llm.__main__ import main as llm
from es_rl.rl.config import Config
from es_rl.run import trackers
from es_rl.run.curves.about import About
from es_rl.run.curves.metrics import ALIASES
from es_rl.run.terms import RETURN
from es_rl.run.trackers import Service, link
from es_rl.text.__main__ import main as text
from es_rl.train import main as training

KEYS = ["env=es_rl/PointMass-v0", "policy=linear", "es.population=8", "eval.every=2"]
HURT = {
    "raises": (tracking.Raises, "ValueError: no such curve"),
    "exits": (tracking.Exits, "SystemExit: 7"),
    "dies": (tracking.Dies, "its process ended with exit code 3"),
    "cannot_start": (tracking.CannotStart, "OSError: no server"),
    "hangs_in_log": (tracking.HangsInLog, "it did not finish within"),
    "hangs_in_finish": (tracking.HangsInFinish, "it did not finish within"),
}


@pytest.fixture
def register(monkeypatch):
    """Add a tracker; a slow machine gets time to start it."""
    monkeypatch.setattr(link, "START_SECONDS", 100.0)

    def add(name, kind, package="json"):
        monkeypatch.setitem(trackers.TRACKERS, name, Service(kind, package, name))

    return add


def notes(run, kind):
    return [note for note in map(json.loads, (run / "notes.jsonl").read_text().splitlines()) if kind in note]


@pytest.mark.slow
def test_a_tracker_gets_the_curves_of_tensorboard_and_goes_on_after_a_resume(train, register, monkeypatch):
    """The run wrote four generations, but goes on from the second: none is told twice."""
    register("notes", tracking.Notes)
    monkeypatch.setattr(link, "FINISH_SECONDS", 60.0)
    run = train(*KEYS, "track=[notes]", "generations=4", "checkpoint.every=2", "checkpoint.keep=9")
    (run / "checkpoints/00000004/model.safetensors").write_bytes(b"damaged")
    entry = json.loads((run / "trackers.json").read_text())
    train(f"resume={run}", "track=notes", "generations=6")
    assert json.loads((run / "trackers.json").read_text()) == entry
    first, second = notes(run, "entry")
    assert first["entry"] is None and second["entry"] == entry["notes"]
    assert (
        first["name"].endswith("/run") and first["keys"]["es.population"] == 8 and first["keys"]["track"] == ["notes"]
    )
    assert first["command"] == (run / "command.txt").read_text().strip() and "resume=" in second["command"]
    assert len(notes(run, "finished")) == 2

    told = {note["step"]: note["numbers"] for note in notes(run, "numbers")}
    assert [note["step"] for note in notes(run, "numbers")] == [line["env_steps"] for line in records(run)]
    board = EventAccumulator(str(run), {"scalars": 0}).Reload()
    drawn = set(board.Tags()["scalars"]) - set(ALIASES)
    assert drawn == {tag for numbers in told.values() for tag in numbers}
    for tag in drawn - {tag for tag in drawn if tag.startswith("time/")}:
        points = {step: numbers[tag] for step, numbers in told.items() if tag in numbers}
        assert {point.step: point.value for point in board.Scalars(tag)} == pytest.approx(points, rel=1e-6)


def test_no_file_opens_a_connection(train, register, capsys):
    """A run or a file of keys may come from a stranger; a tracker works with the user's login."""
    register("notes", tracking.Notes)
    run = train(*KEYS, "track=notes", "generations=1", "video.every=-1")
    for file in (run / "config.yaml", run.parent / "keys.yaml"):
        file.write_text((run / "config.yaml").read_text())
        code, said = refusal(training, f"config={file}", "run=other", "generations=1")
        assert (
            code == 2
            and said.startswith(f"track=notes in config={file}: ")
            and "add track=notes; if not, track=[]" in said
        )
    assert training([f"config={file}", "run=other", "track=[]"]) == 0
    assert not (run.parent / "other/trackers.json").exists()
    capsys.readouterr()
    train(f"resume={run}", "generations=2")
    assert "track is now []; it was ['notes']: it must be given at every resume, track=notes" in capsys.readouterr().out
    assert len(notes(run, "entry")) == 1
    model = es_rl.ES.load(run)
    assert model.config.track == [] and es_rl.ES.load(run, track=["notes"]).config.track == ["notes"]


@pytest.mark.slow
def test_trackers_that_fail_or_hang_are_told_of_once_and_hurt_nothing(train, register, monkeypatch, capsys, warm):
    monkeypatch.setattr(link, "FINISH_SECONDS", 1.0)
    for name, (kind, _) in HURT.items():
        register(name, kind)
    hurt = train(*KEYS, f"track=[{','.join(HURT)}]", "generations=3", run="hurt")
    assert not warm.family()
    said = capsys.readouterr().out
    for name, (_, why) in HURT.items():
        assert [why in line for line in said.splitlines() if f"track={name} is left out" in line] == [True], said
    assert model_hash(hurt) == model_hash(train(*KEYS, "generations=3", run="alone"))


@pytest.fixture
def sitting(tmp_path):
    """Begin the trackers of a run without training."""
    said = []

    def begin(*names):
        (tmp_path / "run").mkdir(exist_ok=True)
        about = About(tmp_path / "run", Config(track=[*names]), "python -m es_rl.train", RETURN)
        return link.Trackers(about, names, said.append), said

    return begin


def test_films_are_told_and_a_lost_file_of_entries_begins_a_new_one(sitting, register, tmp_path):
    register("notes", tracking.Notes)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/trackers.json").write_text('{"notes": ')
    begun, said = sitting("notes")
    begun.video(tmp_path / "run/videos/film.mp4", 70)
    begun.close()
    assert notes(tmp_path / "run", "video") == [{"video": str(tmp_path / "run/videos/film.mp4"), "step": 70}]
    assert len(said) == 1 and "trackers.json cannot be read" in said[0]
    assert json.loads((tmp_path / "run/trackers.json").read_text())["notes"].startswith("entry of")


def test_trackers_that_hang_delay_the_end_by_their_seconds_only(sitting, register, monkeypatch, tmp_path):
    """They lose records, too, and nothing waits for them meanwhile."""
    monkeypatch.setattr(link, "MOST_BYTES", 1000)
    monkeypatch.setattr(link, "FINISH_SECONDS", 0.5)
    register("in_log", tracking.HangsInLog)
    register("in_finish", tracking.HangsInFinish)
    begun, said = sitting("in_log", "in_finish")
    entries = tmp_path / "run/trackers.json"

    def both_began():
        begun.log([("fitness/mean", 1.0)], 1)
        return entries.exists() and len(json.loads(entries.read_text())) == 2

    wait_for(both_began)
    numbers = [(f"metric/{i}", float(i)) for i in range(1000)]
    for step in range(100):  # more than a pipe takes
        begun.log(numbers, step)
    before = time.monotonic()
    begun.close()
    assert time.monotonic() - before < 5
    assert any("track=in_log takes records slower than they come" in text for text in said)
    left_out = [text for text in said if "is left out from here on: it did not finish" in text]
    assert [name in text for name, text in zip(("in_log", "in_finish"), left_out, strict=True)] == [True, True]


def test_a_missing_package_is_one_line_before_anything_is_made(register, tmp_path):
    register("absent", tracking.Fine, "folder_of_that_name")
    verbs = [(training, KEYS), (text, ["corpus=c.txt"]), (llm, ["model=m", "data=d.jsonl", "reward=exact_match"])]
    for main, keys in verbs:
        code, said = refusal(main, *keys, "run=run", "track=[absent]")
        assert (code, said) == (6, "track=absent: needs the package folder_of_that_name. "
                                   "In the checkout of es_rl: pip install -e '.[absent]'.")  # fmt: skip
    (tmp_path / "folder_of_that_name").mkdir()  # Python takes it for a package, as it would wandb's own folder
    assert refusal(training, *KEYS, "track=[absent]")[0] == 6
    assert "Did you mean wandb?" in refusal(training, *KEYS, "track=wand")[1]
    assert not (tmp_path / "run").exists() and not (tmp_path / "runs").exists()


def of_mlflow(run, entry):
    import mlflow

    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    client = mlflow.MlflowClient()
    assert client.get_run(entry).data.params["es.population"] == "8"
    return [(point.step, point.value) for point in client.get_metric_history(entry, "fitness/mean")]


def of_trackio(run, entry):
    from trackio.sqlite_storage import SQLiteStorage

    logs = SQLiteStorage.get_logs("es_rl", entry)
    return [(log["step"], log["fitness/mean"]) for log in logs]


def of_wandb(run, entry):
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for file in sorted((run / "wandb").glob(f"offline-run-*-{entry}/*.wandb")):
        for record in map(Record.FromString, frames(file.read_bytes())):
            row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            found += [(int(row["_step"]), float(row["fitness/mean"]))] if row else []
            assert record.run.run_id in ("", entry)
    return found


def frames(data, at=7):
    """Yield the records of a log in LevelDB's format: blocks of 32 KiB, each part with checksum, length and kind."""
    whole = b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_real_tracker_keeps_a_run_and_its_resume_offline_as_one_entry(name, train, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # it reads this when it is imported
    pytest.importorskip(name)
    monkeypatch.setattr(link, "START_SECONDS", 100.0)
    monkeypatch.setattr(link, "FINISH_SECONDS", 60.0)
    run = train(*KEYS, f"track=[{name}]", "generations=3")
    train(f"resume={run}", f"track={name}", "generations=5")
    (entry,) = json.loads((run / "trackers.json").read_text()).values()
    found = {"wandb": of_wandb, "trackio": of_trackio, "mlflow": of_mlflow}[name](run, entry)
    assert found == [(line["env_steps"], line["fitness/mean"]) for line in records(run)]

"""Files of a run that hold nonsense, though their checksums are right: one line and exit code 4, or the run goes on."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import metrics, refusal
from safetensors.torch import load, save

from es_rl import evaluate, train
from es_rl.run import atomic
from es_rl.run import checkpoint as cp

NAMES = [*cp.FILES, cp.CONFIG]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of Adam whose policy has two layers."""
    run = tmp_path_factory.mktemp("odd") / "run"
    keys = ["env=es_rl/PointMass-v0", "mlp.hidden=[4]", "generations=2", "es.population=4", "eval.episodes=1"]
    assert train.main([*keys, "workers=0", "video.every=-1", f"run={run}"]) == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def facts(**changed):
    """Change state.json; `progress_x` stands for the entry x of the progress, None removes an entry."""

    def change(contents):
        known = json.loads(contents["state.json"])
        for name, value in changed.items():
            inside, key = (known["progress"], name[9:]) if name.startswith("progress_") else (known, name)
            if value is None:
                del inside[key]
            else:
                inside[key] = value
        return contents | {"state.json": json.dumps(known).encode()}

    return change


def tensors(file, change):
    def changed(contents):
        known = load(contents[file])
        change(known)
        return contents | {file: save(known)}

    return changed


def optim(change):
    return tensors("trainer.safetensors", change)


def model(change):
    return tensors("model.safetensors", change)


def drop(ending):
    return lambda known: [known.pop(name) for name in list(known) if name.endswith(ending)]


def each(ending, f):
    return lambda known: known.update({name: f(value) for name, value in known.items() if name.endswith(ending)})


def spaces(**space):
    return lambda contents: facts(about=json.loads(contents["state.json"])["about"] | space)(contents)


BOX = {"kind": "Box", "shape": [4], "dtype": "float64", "low": [None] * 4, "high": [None] * 4}
RESUME = {  # what a resume refuses
    "half of the optimiser's entries": optim(drop("exp_avg_sq")),
    "no steps of the optimiser": optim(drop("step")),
    "an entry too many": optim(lambda known: known.update({"network.0.weight/velocity": torch.zeros(4, 4)})),
    "one parameter without entries": optim(
        lambda known: [known.pop(f"network.0.bias/{e}") for e in ("step", "exp_avg")]
    ),
    "moments in another type": optim(each("exp_avg", torch.Tensor.double)),
    "moments in half precision": optim(each("exp_avg", torch.Tensor.half)),
    "moments of another shape": optim(each("exp_avg", lambda x: x.reshape(-1))),
    "negative squares": optim(each("exp_avg_sq", lambda x: -1 - x)),
    "moments that are not finite": optim(each("exp_avg", lambda x: x * np.nan)),
    "a step of minus one": optim(each("step", lambda x: x * 0 - 1)),
    "an infinite step": optim(each("step", lambda x: x * np.inf)),
    "a step for each weight": optim(each("weight/step", lambda x: x.repeat(3))),
    "entries of another policy": optim(lambda known: known.update({"x/step": torch.tensor(1.0)})),
    "an entry without a name": optim(lambda known: known.update({"step": torch.tensor(1.0)})),
    "theta that is not finite": model(each("0.weight", lambda x: x * np.nan)),
    "infinite theta": model(each("0.bias", lambda x: x + np.inf)),
    "statistics that are not finite": model(each("normalizer.mean", lambda x: x * np.nan)),
}
BOTH = {  # what an evaluation refuses too
    "a parameter too few": model(drop("0.weight")),
    "a parameter too many": model(lambda known: known.update({"extra": torch.zeros(1)})),
    "theta in another type": model(each("0.weight", torch.Tensor.double)),
    "theta of another shape": model(each("0.weight", lambda x: x.T.contiguous()[:2])),
    "no tensors": lambda c: c | {"model.safetensors": save({})},
    "text for tensors": lambda c: c | {"model.safetensors": b"hello"},
    "an endless header": lambda c: c | {"model.safetensors": (2**62).to_bytes(8, "little") + b"{}"},
    "nothing for tensors": lambda c: c | {"trainer.safetensors": b""},
    "another format": facts(format=99),
    "no format": facts(format=None),
    "a format that is text": facts(format="2"),
    "a negative generation": facts(generation=-1),
    "half a generation": facts(generation=1.5),
    "a generation that is text": facts(generation="2"),
    "a generation beyond counting": facts(generation=10**300),
    "steps beyond counting": facts(progress_steps=1e300),
    "half a step": facts(progress_steps=1.5),
    "negative steps": facts(progress_steps=-1),
    "steps that are true": facts(progress_steps=True),
    "negative seconds": facts(progress_seconds=-1.0),
    "seconds that are text": facts(progress_seconds="1"),
    "half a flat generation": facts(progress_flat_generations=0.5),
    "a score that is a list": facts(progress_best_score=[1]),
    "progress with more": facts(progress_more=1),
    "progress that is a list": facts(progress=[]),
    "nothing that it is for": facts(about=None),
    "a list for an object": lambda c: c | {"state.json": b"[]"},
    "deep nesting": lambda c: c | {"state.json": b"[" * 100_000},
    "numbers that JSON has not": lambda c: c | {"state.json": b'{"format": NaN}'},
    "bytes that are no text": lambda c: c | {"state.json": b"\xff\xfe"},
}
ACTING = {  # what only one who acts needs
    "a billion bits to observe": spaces(observation_space={"kind": "MultiBinary", "n": 10**9}),
    "a billion actions": spaces(action_space={"kind": "Discrete", "n": 10**9, "start": 0, "dtype": "int64"}),
    "a space of no kind": spaces(observation_space={"kind": "Torus"}),
    "a space of text": spaces(observation_space="Box"),
    "a box with half of its bounds": spaces(observation_space=BOX | {"low": [0.0]}),
    "a box of strings": spaces(observation_space=BOX | {"dtype": "U8"}),
    "a box of a negative shape": spaces(observation_space=BOX | {"shape": [-1]}),
    "a dict of nothing": spaces(observation_space={"kind": "Dict", "spaces": 3}),
}


def damage(run, change):
    """Change the newest checkpoint, with a manifest that vouches for it; earlier ones are removed."""
    for generation in (0, 1):
        shutil.rmtree(run / f"checkpoints/{generation:08d}", ignore_errors=True)
    path = run / "checkpoints/00000002"
    contents = change({name: (path / name).read_bytes() for name in NAMES})
    atomic.write(path, contents)


@pytest.mark.parametrize("name", [*RESUME, *BOTH])
def test_nonsense_that_a_manifest_vouches_for_is_refused_on_a_resume(run, name):
    damage(run, (RESUME | BOTH)[name])
    code, said = refusal(train.main, f"resume={run}", "generations=3", "workers=0")
    assert code == 4 and str(run) in said and len(said) < 500


@pytest.mark.parametrize("name", [*BOTH, *ACTING])
def test_nonsense_is_refused_by_who_wants_to_act(run, name):
    damage(run, (BOTH | ACTING)[name])
    code, said = refusal(evaluate.main, f"run={run}", "episodes=1")
    assert code == 4 and str(run) in said and len(said) < 500


@pytest.mark.parametrize("kind", ["pipe", "folder", "endless"])
@pytest.mark.parametrize("file", ["state.json", "MANIFEST.json", "model.safetensors"])
def test_what_is_no_file_is_not_waited_for(run, file, kind):
    for generation in (0, 1):
        shutil.rmtree(run / f"checkpoints/{generation:08d}", ignore_errors=True)
    replace(run / "checkpoints/00000002" / file, kind)
    for verb, argv in ((train.main, ["generations=3", "workers=0"]), (evaluate.main, ["episodes=1"])):
        code, said = refusal(verb, f"{'resume' if argv[0][0] == 'g' else 'run'}={run}", *argv)
        assert code == 4 and str(run) in said


@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.parametrize("file", ["versions.json", "checkpoints/index.json", "metrics.jsonl"])
def test_other_files_that_are_none_are_not_waited_for(run, file, kind):
    replace(run / file, kind)
    if file == "metrics.jsonl":
        code, said = refusal(train.main, f"resume={run}", "generations=3", "workers=0")
        assert code == 4 and "metrics.jsonl: cannot be read" in said
    elif kind == "pipe" or file == "versions.json":
        assert train.main([f"resume={run}", "generations=3", "workers=0"]) == 0
    else:
        code, said = refusal(train.main, f"resume={run}", "generations=3", "workers=0")
        assert (
            code == 6
            and "(checkpoints/index.json)" in said.replace(f"{run}/", "")
            and "Remove what is in its place" in said
        )
    assert evaluate.main([f"run={run}", "episodes=1"]) == 0


def replace(path, kind):
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("versions.json", b"[]"),
        ("versions.json", b'"x"'),
        ("versions.json", b"\xff"),
        ("versions.json", b"{"),
        ("versions.json", None),
        ("metrics.jsonl", b"\xff\xfe\x00\n[1]\nnull\n{}\n"),
        ("metrics.jsonl", b'{"generation": 1e400}\n{"generation": [1]}'),
        ("metrics.jsonl", None),
        ("command.txt", b"\xff"),
        ("command.txt", None),
        ("workers.log", b"\xff"),
        (".lock", b"\xff not a number"),
        ("checkpoints/index.json", b"\xff"),
        ("checkpoints/00000009/state.json", b"{}"),
        ("checkpoints/notes.txt", b"mine"),
        ("videos", b"a file where a folder should be"),
    ],
    ids=lambda value: str(value),
)
def test_a_run_goes_on_whatever_its_other_files_hold(run, file, content):
    path = run / file
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    assert train.main([f"resume={run}", "generations=3", "workers=0"]) == 0
    assert metrics(run)[-1]["generation"] == 3 == cp.load(run).generation


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        atomic.replace_file(tmp_path / "folder", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    atomic.replace_file(tmp_path / "file", b"old")
    atomic.replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new" and len([*tmp_path.iterdir()]) == 2

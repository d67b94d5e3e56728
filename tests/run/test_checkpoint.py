"""Checkpoints: what is written, what is kept, what is refused."""

import json
import os
import pickle
import shutil
from dataclasses import dataclass, field, replace

import pytest
import torch
from conftest import model_hash
from gymnasium import spaces

from es_rl.errors import CheckpointError, ResourceError
from es_rl.es.config import OptimConfig
from es_rl.es.strategy import ESState
from es_rl.rl.agent import about, saved_spaces
from es_rl.run import atomic, checkpointer, directory
from es_rl.run import checkpoint as cp
from es_rl.run.checkpoint import CheckpointConfig

BOX = spaces.Box(-1, 1, (2,))
ABOUT = about(BOX, spaces.Discrete(3))
FRESH = ESState(0, {"w": torch.zeros(2, 3)}, {"n": torch.zeros((), dtype=torch.float64)}, {})


@dataclass(frozen=True)
class Keys:
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: int = 0


def state(generation):
    return ESState(
        generation, {"w": torch.full((2, 3), generation * 1.0)}, dict(FRESH.buffers), {"w/m": torch.ones(2, 3)}
    )


def save(run, generation, **settings):
    settings = {"keep": 3, "best": False, "config": "seed: 1\n"} | settings
    progress = cp.Progress(steps=generation * 10)
    return cp.save(run, state(generation), progress, about=ABOUT, **settings)


def names(run):
    return sorted(p.name for p in (run / "checkpoints").iterdir())


def test_what_was_saved_is_read_back(tmp_path):
    save(tmp_path, 7, best=True)
    for which in ("last", "best", "7"):
        loaded = cp.load(tmp_path, which)
        back = loaded.state(FRESH)
        assert back.generation == 7 and loaded.progress.steps == 70
        assert torch.equal(back.theta["w"], state(7).theta["w"]) and torch.equal(back.optim["w/m"], torch.ones(2, 3))
        assert saved_spaces(loaded) == (BOX, spaces.Discrete(3))


def test_the_newest_and_the_best_are_kept(tmp_path):
    for generation in range(1, 8):
        save(tmp_path, generation, keep=2, best=generation == 3)
    assert names(tmp_path) == ["00000003", "00000006", "00000007", "best", "index.json", "last"]
    assert os.readlink(tmp_path / "checkpoints/best") == "00000003"
    assert os.readlink(tmp_path / "checkpoints/last") == "00000007"


def follow_links(run, tmp_path):
    """A copy of a run as `cp -rL`, archives and cloud drives make it: links have become directories."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=False)
    assert (copy / "checkpoints/last").is_dir() and not (copy / "checkpoints/last").is_symlink()
    return copy


@pytest.mark.parametrize("index", [True, False], ids=["", "of an older version"])
def test_a_copy_that_has_followed_links_goes_on(tmp_path, index):
    run = tmp_path / "run"
    for generation in range(1, 4):
        save(run, generation, best=generation == 2)
    if not index:
        (run / "checkpoints" / cp.INDEX).unlink()
    copy = follow_links(run, tmp_path)
    assert cp.load(copy).generation == 3 and cp.load(copy, "best").generation == 2
    for generation in range(4, 8):
        save(copy, generation, keep=2)
    assert names(copy) == ["00000002", "00000006", "00000007", "best", "index.json", "last"]
    assert cp.load(copy).generation == 7 and cp.load(copy, "best").generation == 2
    assert (copy / "checkpoints/last").is_symlink()


def test_no_link_is_needed(tmp_path, monkeypatch):
    """A file system without symbolic links."""

    def refuse(*_, **__):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    for generation in range(1, 6):
        save(tmp_path, generation, keep=2, best=generation == 2)
    assert names(tmp_path) == ["00000002", "00000004", "00000005", "index.json"]
    assert cp.load(tmp_path).generation == 5 and cp.load(tmp_path, "best").generation == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{",
        '{"best": "../../other/checkpoints/00000009", "last": 3}',
        '{"last": 3}',
        '{"last": "../../x"}',
        '{"last": null}',
        "{}",
        '{"best": {}, "last": []}',
        '{"last": "00000002"}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_damaged_index_is_not_needed_either(tmp_path, text):
    save(tmp_path, 1, best=True)
    save(tmp_path, 2)
    (tmp_path / "checkpoints" / cp.INDEX).write_bytes(text.encode(errors="surrogateescape"))
    assert cp.load(tmp_path).generation == 2 and cp.load(tmp_path, "best").generation == 1
    for generation in (3, 4):
        save(tmp_path, generation, keep=1)
    assert cp.load(tmp_path).generation == 4 and cp.load(tmp_path, "best").generation == 1


@pytest.mark.parametrize("best", [True, False])
def test_a_save_that_was_killed_before_its_index_is_named_on_a_resume(tmp_path, monkeypatch, best):
    save(tmp_path, 1, best=True)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(atomic, "write_json", killed)
        save(tmp_path, 2, best=best)
    assert cp.load(tmp_path).generation == 1
    cp.adopt(cp.load_newest(tmp_path, pytest.fail))
    expected = 2 if best else 1
    assert cp.load(tmp_path).generation == 2 and cp.load(tmp_path, "best").generation == expected
    assert os.readlink(tmp_path / "checkpoints/last") == "00000002"
    save(tmp_path, 3, keep=1)
    cp.adopt(cp.load(tmp_path, "best"))  # one that the index knows
    assert cp.load(tmp_path).generation == 3 and cp.load(tmp_path, "best").generation == expected


def test_equal_states_are_equal_files(tmp_path):
    save(tmp_path / "a", 5)
    save(tmp_path / "b", 5)
    assert model_hash(tmp_path / "a") == model_hash(tmp_path / "b")


def test_what_a_crash_left_half_written_is_ignored_and_removed(tmp_path):
    save(tmp_path, 1)
    half = tmp_path / "checkpoints/.writing-1234"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    (tmp_path / "checkpoints/.writing-1234-index.json").write_text("{")
    assert cp.load_newest(tmp_path, pytest.fail).generation == 1
    save(tmp_path, 2)
    assert names(tmp_path) == ["00000001", "00000002", "index.json", "last"]


def test_a_kill_between_the_two_names_of_a_replacing_save_loses_nothing(tmp_path, monkeypatch):
    saved = tmp_path / "saved"
    atomic.write(saved, {"a": b"first"})
    monkeypatch.setattr(atomic, "_flush_directory", lambda path: None)
    with monkeypatch.context() as m:
        names, usual = iter([True, False]), type(saved).rename

        def rename(self, target):
            if next(names):
                return usual(self, target)
            raise KeyboardInterrupt

        m.setattr(type(saved), "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            atomic.write(saved, {"a": b"second"})
    assert not saved.exists()
    assert atomic.read(saved, ["a"]) == {"a": b"first"} and saved.exists()


def test_the_only_checkpoint_is_found_again_after_such_a_kill(tmp_path):
    save(tmp_path, 1)
    final = tmp_path / "checkpoints/00000001"
    for goes_on in (
        lambda: cp.load_newest(tmp_path, pytest.fail),
        lambda: cp.load(tmp_path, "1"),
        lambda: save(tmp_path, 2),
    ):
        final.rename(tmp_path / "checkpoints/.old-1234-00000001")
        goes_on()
        assert final.is_dir()


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def damage_flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def damage_remove(path):
    path.unlink()


def damage_empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("name", [*cp.FILES, atomic.MANIFEST])
@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_remove, damage_empty])
def test_a_damaged_newest_one_is_passed_over_and_all_damaged_is_an_error(tmp_path, name, damage):
    for generation in (1, 2):
        save(tmp_path, generation)
    damage(tmp_path / "checkpoints/00000002" / name)
    warnings = []
    assert cp.load_newest(tmp_path, warnings.append).generation == 1
    assert len(warnings) == 1 and "Falling back to the one before" in warnings[0]
    with pytest.raises(CheckpointError):
        cp.load(tmp_path, "last")
    damage(tmp_path / "checkpoints/00000001" / name)
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged") as caught:
        cp.load_newest(tmp_path, warnings.append)
    assert caught.value.exit_code == 4


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.safetensors"])
def test_a_pickle_by_another_name_is_never_loaded(tmp_path, name):
    """Even one that the manifest vouches for."""
    path = save(tmp_path, 1)
    for data in (pickle.dumps(Bomb()), pickle.dumps(Bomb(), protocol=0)):
        files = {file: (path / file).read_bytes() for file in cp.FILES}
        atomic.write(path, files | {name: data})
        with pytest.raises(CheckpointError, match="not safetensors"):
            cp.load(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_another_policy_or_nothing_at_all_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="has no checkpoints"):
        cp.load(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        cp.load_newest(tmp_path, pytest.fail)
    save(tmp_path, 4)
    with pytest.raises(CheckpointError, match="has no checkpoint 5; it has those of the generations 4"):
        cp.load(tmp_path, "5")
    with pytest.raises(CheckpointError, match="must be last, best or the number"):
        cp.load(tmp_path, "../../etc")
    other = replace(FRESH, theta={"w": torch.zeros(2, 4), "x": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="does not fit the policy; differing: w, x"):
        cp.load(tmp_path).state(other)


def test_a_save_that_fails_is_told_of_tried_again_and_never_counted(tmp_path):
    said = []
    saver = checkpointer.Checkpointer(tmp_path, Keys(CheckpointConfig(every=1)), ABOUT, said.append)
    saver.start(state(0), cp.Progress(), saved=False)
    saver.save()
    blocked = tmp_path / "checkpoints"
    shutil.move(blocked, tmp_path / "aside")
    blocked.write_text("a file where the directory should be")
    saver.commit(state(1), cp.Progress(), best=True)
    assert len(said) == 1 and "generation 1 could not be saved" in said[0]
    with pytest.raises(ResourceError, match=r"generation 1 could not be saved: .*resume="):
        saver.save(required=True)
    blocked.unlink()
    shutil.move(tmp_path / "aside", blocked)
    saver.save(required=True)
    assert cp.load(tmp_path).generation == 1 and names(tmp_path) == [
        "00000000",
        "00000001",
        "best",
        "index.json",
        "last",
    ]


def test_a_minute_after_the_last_save_another_is_due(tmp_path, monkeypatch):
    saver = checkpointer.Checkpointer(tmp_path, Keys(CheckpointConfig(every=1000)), ABOUT, pytest.fail)
    saver.start(state(0), cp.Progress(), saved=False)
    saver.save()
    saver.commit(state(1), cp.Progress(), best=False)
    assert names(tmp_path) == ["00000000", "index.json", "last"]
    monkeypatch.setattr(checkpointer, "SAVE_SECONDS", -1.0)
    saver.commit(state(2), cp.Progress(), best=False)
    assert cp.load(tmp_path).generation == 2


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("generation", lambda facts: facts | {"generation": float("inf")}),
        ("progress", lambda facts: facts | {"progress": facts["progress"] | {"seconds": None}}),
        ("progress", lambda facts: facts | {"progress": facts["progress"] | {"seconds": float("nan")}}),
        ("progress", lambda facts: facts | {"progress": facts["progress"] | {"steps": "many"}}),
        ("deep", lambda facts: None),
    ],
)
def test_what_fits_its_manifest_may_still_be_nonsense(tmp_path, name, change):
    path = save(tmp_path, 1)
    facts = json.loads((path / "state.json").read_text())
    text = "[" * 100_000 if name == "deep" else json.dumps(change(facts))
    contents = {file: (path / file).read_bytes() for file in cp.FILES} | {"state.json": text.encode()}
    atomic.write(path, contents)
    with pytest.raises(CheckpointError, match="damaged"):
        cp.load(tmp_path)


@pytest.mark.parametrize(
    ("theta", "optim"),
    [
        ({"w": torch.zeros(2, 3, dtype=torch.float64)}, {}),
        (None, {"bogus/exp_avg": torch.zeros(2, 3)}),
        (None, {"bogus": torch.zeros(2, 3)}),
    ],
)
def test_tensors_of_another_type_or_of_no_parameter_are_refused(tmp_path, theta, optim):
    fresh = state(1)
    theta = fresh.theta if theta is None else {name: value.double() for name, value in fresh.theta.items()}
    cp.save(
        tmp_path, replace(fresh, theta=theta, optim=optim), cp.Progress(), about=ABOUT, config="", keep=1, best=False
    )
    with pytest.raises(CheckpointError, match=r"does not fit the policy|is not of this policy's optimiser"):
        cp.load(tmp_path).state(fresh, OptimConfig())


def test_a_best_one_that_cannot_be_saved_is_told_of(tmp_path, monkeypatch):
    said = []
    saver = checkpointer.Checkpointer(tmp_path, Keys(), ABOUT, said.append)
    saver.start(state(0), cp.Progress(), saved=False)

    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device", "x")

    with monkeypatch.context() as patch:
        patch.setattr(checkpointer, "save", refuse)
        saver.commit(state(1), cp.Progress(best_score=7.0), best=True)
        assert saver.ahead.best_score is None  # so that the next good one is kept
        saver.commit(state(2), cp.Progress(), best=False)
    saver.commit(state(3), cp.Progress(best_score=5.0), best=True)
    assert saver.ahead.best_score == 5.0
    assert len(said) == 2 and cp.load(tmp_path, "best").generation == 3


def test_a_link_of_a_save_that_was_cut_off_does_no_harm(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "checkpoints/.last-1234").symlink_to("00000001")
    directory.check_inside(tmp_path)
    save(tmp_path, 2)
    assert names(tmp_path) == ["00000001", "00000002", "index.json", "last"]

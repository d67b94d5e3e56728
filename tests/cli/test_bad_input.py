"""What a user can get wrong, as a process: exit code, one line with value, rule and remedy, nothing left behind."""

import fcntl
import os
from pathlib import Path

import pytest
from conftest import metrics, model_hash, refusal

from es_rl.evaluate import main as evaluate
from es_rl.plot.__main__ import main as plot
from es_rl.record import main as record
from es_rl.train import main as training
from es_rl.workers import pool

SMALL = ["generations=2", "es.population=4", "eval.every=0", "video.every=-1", "run=run"]
CONFIG = [
    ([], "env is missing"),
    (["env=CartPole-v1", "es.population=7"], "es.population=7: members come in antithetic pairs"),
    (["env=CartPole-v1", "workers=1.5"], "workers=1.5: wrong type"),
    (["env=CartPole-v1", "workers=100000"], "workers=100000: must be >= 0 and <= 10000"),
    (["env=CartPole-v1", "pixels.stack=100000"], "pixels.stack=100000: must be >= 1 and <= 100"),
    (["env=CartPole-v1", "policy=mpl"], "policy=mpl: unknown. Did you mean mlp"),
    (["env=CartPole-v1", "es.shaping=rank"], "es.shaping=rank: unknown. Did you mean centered_ranks"),
    (["env=CartPole-v1", "es.noise=dens"], "es.noise=dens: unknown. Did you mean dense"),
    (["env=CartPole-v1", "optim.name=adm"], "optim.name=adm: unknown. Did you mean adam"),
]
ENVIRONMENT = [
    (["env=Humanoi-v4"], "Did you mean Humanoid-v4"),
    (["env=Humanoid-v2"], "Versions that can be made: Humanoid-v4, Humanoid-v5"),
    (["env=nowhere_to_be_found:X-v0"], "cannot be imported"),
    (
        ["env=CartPole-v1", "backend=batch"],
        "es_rl: backend=batch: CartPole-v1 has no fast environment; these have: Ant-v4",
    ),
    (
        ["env=Ant-v5", "es.top=2", "env_kwargs.xml_file=./no.xml"],
        "env_kwargs.xml_file=./no.xml: cannot be made: OSError: File ./no",
    ),
    (["env=hostile:ConstructorRaises-v0"], "no license for this robot"),
    (["env=hostile:ConstructorSleeps-v0", "hang_after=0.5"], "finished no step for 0.5 s"),
    (["env=hostile:WrongShape-v0"], "the observation has shape (2,), but its space has (3,)"),
    (["env=hostile:TextObservation-v0"], "observation space Text"),
    (["env=hostile:GraphObservation-v0"], "observation space Graph"),
    (["env=hostile:RaisesAt100-v0"], "its step raised ValueError: joint 7 exploded"),
    (["env=hostile:LateWrongShape-v0"], "the observation has shape (2,)"),
    (["env=hostile:Leaves-v0"], "its step raised SystemExit: licence expired"),
    (["env=hostile:Leaves-v0", "env_kwargs.how=generator"], "its step raised GeneratorExit: enough"),
    (["env=hostile:Leaves-v0", "env_kwargs.how=base"], "BaseException: of no known kind"),
    (["env=hostile:Leaves-v0", "env_kwargs.how=real-time"], "died of signal 37"),
    (["env=hostile:Leaves-v0", "env_kwargs.how=forks", "hang_after=600"], "was killed by SIGKILL"),
    (["env=hostile:Sleeps-v0", "hang_after=0.5"], "finished no step for 0.5 s (hang_after), 2 times"),
    (["env=hostile:Crashes-v0"], "died of SIGSEGV"),
]


@pytest.mark.parametrize(("argv", "text"), CONFIG, ids=lambda v: str(v)[:40])
def test_bad_keys_exit_with_2(argv, text):
    code, said = refusal(training, *argv, "generations=1", "run=run")
    assert code == 2 and text in said and not Path("run").exists()


IN_WORKERS = ("ConstructorRaises", "Sleeps", "RaisesAt100", "Leaves", "Crashes")  # what ends a process, and some others


@pytest.mark.parametrize(("argv", "text"), ENVIRONMENT, ids=lambda v: str(v[0]) if isinstance(v, list) else "")
@pytest.mark.slow
def test_bad_environments_exit_with_3(argv, text, monkeypatch, warm):
    monkeypatch.setattr(pool, "DEATHS", 2)  # attempts: it is faster
    workers = int(any(name in argv[0] for name in IN_WORKERS))
    code, said = refusal(training, *argv, *SMALL, f"workers={workers}")
    assert code == 3 and text in f"es_rl: {said}"
    assert not warm.family()


@pytest.mark.parametrize("number", [0, -2, -1], ids=["unknown", "hangs", "crashes"])
def test_an_environment_that_cannot_be_used_is_one_line_and_no_process_is_left(command, number):
    argv, text = ENVIRONMENT[number]
    done = command("train", *argv, *SMALL, "workers=1")
    assert done.returncode == 3 and text in done.stderr


def test_keys_are_refused_by_the_program_itself(command):
    done = command("train", "env=CartPole-v1", "es.sigmaa=3")
    assert (done.returncode, done.stdout) == (2, "")
    hint = "Did you mean es.sigma or es.sigma_decay or es.segment?"
    assert done.stderr == f"es_rl: es.sigmaa: unknown key. {hint} --help lists every key.\n"


def test_rewards_that_are_no_numbers_exit_with_5(command):
    done = command("train", "env=hostile:NanReward-v0", *SMALL, "workers=0")
    assert done.returncode == 5
    assert "4 of 4 members failed" in done.stderr or "3 of 4 members failed" in done.stderr
    assert "the reward of step 6 is nan" in done.stderr and "es.max_failed=0.5 allows 2" in done.stderr


def test_a_run_directory_that_cannot_be_made_exits_with_6(tmp_path):
    (tmp_path / "file").write_text("")
    code, said = refusal(training, "env=CartPole-v1", "run=file/run", "workers=0")
    assert code == 6 and "file/run: Not a directory. Choose another place with run=" in said
    if os.geteuid():  # permissions do not stop root
        (tmp_path / "locked").mkdir(mode=0o500)
        code, said = refusal(training, "env=CartPole-v1", "run=locked/run", "workers=0")
        assert code == 6 and "Permission denied" in said


def test_a_run_directory_in_use_exits_with_6_and_harms_nothing(command, train, tmp_path):
    run = train("env=es_rl/PointMass-v0", "generations=1", "es.population=4")
    before = model_hash(run)
    with (run / ".lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("12345")
        file.flush()
        done = command("train", "resume=run", "generations=5", "workers=0")
    assert done.returncode == 6 and "run: in use by another trainer, process 12345. Stop it first." in done.stderr
    assert model_hash(run) == before


@pytest.mark.parametrize("address", ["s3://bucket/run", "hf://me/run", "file:///tmp/run", "HTTPS://host/run.mp4"])
def test_files_are_not_written_to_addresses(train, address, tmp_path):
    code, said = refusal(training, "env=CartPole-v1", f"run={address}", "workers=0")
    assert code == 2 and f"run={address}: is an address" in said
    run = train("env=es_rl/PointMass-v0", "generations=1", "es.population=2", "eval.every=0")
    for verb, key in ((record, "out"), (record, "gif"), (plot, "out")):
        code, said = refusal(
            verb,
            f"run={run}",
            f"{key}={Path(address).with_suffix('.gif' if key == 'gif' else '.png' if verb is plot else '.mp4')}",
        )
        assert code == 2 and "is an address, and files are written on this machine" in said
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_is_never_overwritten(train):
    run = train("env=es_rl/PointMass-v0", "generations=1", "es.population=4")
    code, said = refusal(training, "env=es_rl/PointMass-v0", "run=run", "workers=0")
    assert code == 2 and "holds a run already. Go on with it by resume=run" in said
    assert (run / "checkpoints/last").exists()


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "project/checkpoints").mkdir(parents=True)
    code, said = refusal(training, "env=hostile:ConstructorRaises-v0", "run=project", "workers=0")
    assert code == 2 and "run=project: the directory is not empty" in said
    assert (tmp_path / "project/checkpoints").exists()


def test_bad_runs_exit_with_4(train, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, text in (("missing", "no such run directory"), ("empty", "has no config.yaml")):
        code, said = refusal(training, f"resume={name}")
        assert code == 4 and text in said
    run = train("env=es_rl/PointMass-v0", "generations=2", "es.population=4", "checkpoint.every=1")
    for path in (run / "checkpoints").glob("0*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    code, said = refusal(training, "resume=run", "generations=5", "workers=0")
    assert code == 4 and "all 3 checkpoints are damaged" in said
    for verb in (evaluate, record):
        assert refusal(verb, "run=run")[0] == 4


def test_a_run_goes_on_as_it_began(train):
    train("env=es_rl/PointMass-v0", "generations=1", "es.population=4")
    for change in ("policy=linear", "env=CartPole-v1"):
        code, said = refusal(training, "resume=run", change)
        assert code == 2 and "this cannot change when it goes on" in said


def test_nothing_is_left_of_a_run_that_never_began():
    assert refusal(training, "env=hostile:ConstructorRaises-v0", "workers=0")[0] == 3
    assert not list(Path("runs").glob("*/*"))


def test_a_module_named_by_a_run_is_not_imported(train, command):
    train("env=hostile:Good-v0", "generations=1", "es.population=4")
    for verb, *keys in ((training, "resume=run", "generations=3"), (evaluate, "run=run"), (record, "run=run")):
        code, said = refusal(verb, *keys)
        assert code == 2 and "importing a module runs its code" in said and "add env=hostile:Good-v0" in said
    assert command("evaluate", "run=run", "env=hostile:Good-v0", "episodes=2").returncode == 0
    assert command("train", "resume=run", "env=hostile:Good-v0", "generations=2", "workers=0").returncode == 0


@pytest.mark.slow
def test_a_configuration_that_was_edited_or_cut_off_is_told_by_its_key(train, capsys):
    run = train("env=es_rl/PointMass-v0", "generations=2", "es.population=4", "es.sigma=0.1", "seed=7")
    path, whole = run / "config.yaml", (run / "config.yaml").read_text()
    for before, after, said in (
        ("sigma: 0.1", "sigma: 0.2", "es.sigma=0.2, but the run was trained with 0.1"),
        ("population: 4", "population: 8", "es.population=8, but the run was trained with 4"),
        ("seed: 7", "seed: 8", "seed=8, but the run was trained with 7"),
    ):
        path.write_text(whole.replace(before, after))
        code, text = refusal(training, "resume=run", "generations=3", "workers=0")
        assert code == 4 and said in text and "Restore the file from" in text
    for end in range(10, whole.index("eval:"), 97):  # a full disk, a loss of power; the rest may change
        path.write_text(whole[:end])
        code, text = refusal(training, "resume=run", "generations=3", "workers=0")
        assert code == 4 and "Restore the file from run/checkpoints/00000002/config.yaml" in text
        assert evaluate(["run=run", "episodes=1"]) == 0  # the checkpoint knows its own keys
    path.write_text(whole.replace("every: 10", "every: 5"))
    capsys.readouterr()
    train("resume=run", "generations=3")
    said = capsys.readouterr().out
    assert "eval.every is now 5; it was 10" in said and "generations is now 3; it was 2" in said
    path.write_bytes((run / "checkpoints/00000002/config.yaml").read_bytes())
    train("resume=run", "generations=4")
    assert metrics(run)[-1]["generation"] == 4


LINKS = ["config.yaml", ".config.yaml", "metrics.jsonl", ".lock", "command.txt", "versions.json", "workers.log",
         "checkpoints", "checkpoints/00000001", "checkpoints/index.json", "videos", "videos/x.mp4"]  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_no_link_leads_out_of_a_run(train, tmp_path, name):
    """A run from a stranger must not change a file of its user."""
    run = train("env=es_rl/PointMass-v0", "generations=1", "es.population=4")
    theirs, target = tmp_path / "mine", run / name
    target.parent.mkdir(exist_ok=True)
    if target.is_dir():
        target.rename(theirs)
    else:
        theirs.write_text("precious" if not target.exists() else target.read_text())
        target.unlink(missing_ok=True)
    target.symlink_to(theirs)
    before = {p: p.read_bytes() for p in [theirs, *theirs.rglob("*")] if p.is_file()}
    code, said = refusal(training, "resume=run", "generations=2", "workers=0")
    assert code == 4 and f"run/{name}: is a link to" in said and "cp -rL" in said
    if name.startswith("videos"):
        assert refusal(record, "run=run")[0] == 4
    assert {p: p.read_bytes() for p in [theirs, *theirs.rglob("*")] if p.is_file()} == before

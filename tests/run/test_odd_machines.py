"""Machines that nobody has at home: each works, or refuses in one line with the remedy, and nothing is left running."""

import errno
import os
import stat
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest
from conftest import marked, metrics, refusal, soak

from es_rl import cli, evaluate, record, train
from es_rl.errors import ResourceError
from es_rl.run import checkpoint as cp
from es_rl.workers import shared_memory

TINY = ["env=es_rl/PointMass-v0", "es.population=4", "video.every=-1", "eval.episodes=1", "generations=2"]
# Prepares a process, then trains: what a shell, a container or a batch system does to it.
ODD = """
import os, resource, sys
exec(sys.argv[1])
from es_rl import cli
from es_rl.train import main
cli.run(main, sys.argv[2:])
"""


@pytest.fixture
def train_on(python):
    """Train in a process that `machine`, lines of Python, prepares. Nothing may be left running, no traceback shown."""

    def run(machine, *keys, env=None, unset=()):
        mark = str(uuid.uuid4())
        given = {text.partition("=")[0] for text in keys}
        tiny = [text for text in TINY if text.partition("=")[0] not in given]
        done = python("-c", ODD, machine, *tiny, *keys, env=(env or {}) | {"ES_RL_TEST": mark}, unset=unset)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        _, left = psutil.wait_procs(marked(mark), timeout=5)
        assert not left
        return done

    return run


@pytest.mark.slow
@pytest.mark.cold  # imports included
def test_neither_home_nor_a_place_for_temporary_files_is_needed(tmp_path, train_on):
    """Workers that share memory, on a machine with a mask that lets nobody in."""
    odd = {"HOME": "/proc/nothing", "TMPDIR": "/nonexistent", "XDG_CACHE_HOME": "/proc/nothing", "OMP_NUM_THREADS": "x"}
    done = train_on(
        "os.umask(0o777)", "run=run", "inference=central", "workers=1", env=odd, unset=("USER", "LOGNAME", "SHELL")
    )
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE((tmp_path / "run/metrics.jsonl").stat().st_mode) == 0
    assert len(metrics(tmp_path / "run")) == 2  # root may read it


@pytest.mark.slow
def test_sockets_have_short_names_wherever_temporary_files_lie(tmp_path, train_on):
    """A socket's path has at most 107 characters; and descriptors are few, but enough."""
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    machine = "resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)); os.umask(0)"
    done = train_on(machine, "run=run", "workers=1", env={"TMPDIR": str(deep)}, unset=("HOME",))
    assert done.returncode == 0, done.stderr
    assert len(metrics(tmp_path / "run")) == 2


@pytest.mark.cold
@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "empty"),
    [(["queue", "random", "typing", "fnmatch", "tempfile"], ""), *soak((["queue", "random", "tempfile"], os.pathsep))],
    ids=["", "PYTHONPATH with an empty part"],
)
def test_files_of_the_user_hide_no_module_of_python(command, tmp_path, monkeypatch, names, empty):
    """With an empty part, Python itself fails where its start needs a module that is hidden."""
    for name in names:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('this is not {name}')\n")
    monkeypatch.setenv("PYTHONPATH", os.environ["PYTHONPATH"].strip(os.pathsep) + empty)
    done = command("train", *TINY, "run=run", "workers=1")
    assert done.returncode == 0 and len(metrics(tmp_path / "run")) == 2


def test_too_few_descriptors_are_one_line(train_on):
    done = train_on("resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))", "run=run", "workers=1")
    assert done.returncode == 6, done.stderr
    assert len([line for line in done.stderr.splitlines() if "Too many open files" in line]) == 1


def test_a_current_directory_that_is_gone_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as caught:
        cli.run(pytest.fail, [])
    assert caught.value.code == 6 and "the current directory: No such file or directory" in capsys.readouterr().err


def test_python_m_in_a_directory_that_is_gone_is_one_line(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # an empty entry would be the directory
    gone.rmdir()
    done = subprocess.run([sys.executable, "-m", "es_rl.train", *TINY], capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert done.stderr == "es_rl: the current directory: No such file or directory. Change to another one.\n"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_is_saved_before_its_processor_time_is_used_up(tmp_path, train_on, workers):
    limit = "resource.setrlimit(resource.RLIMIT_CPU, (6, 6))"
    done = train_on(limit, f"workers={workers}", "run=run", "generations=100000", "eval.every=0")
    assert done.returncode == 75 and "the limit of processor time (ulimit -t) is reached" in done.stderr, done.stderr
    assert cp.load(tmp_path / "run").generation == metrics(tmp_path / "run")[-1]["generation"] > 0


def test_no_text_of_an_error_commands_the_terminal(capsys):
    def refused(argv):
        raise ResourceError("a\x1b]0;title\x07\nb\tc")

    with pytest.raises(SystemExit):
        cli.run(refused, [])
    assert capsys.readouterr().err == "es_rl: a\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}\nb       c\n"


def test_an_error_that_python_ignores_is_one_line(capsys, monkeypatch):
    class Broken:
        def __del__(self):
            raise RuntimeError("no\nwindow")

    monkeypatch.setattr(sys, "unraisablehook", cli._tell_ignored)
    Broken()
    said = capsys.readouterr().err
    assert said.startswith("warning: ") and said.endswith("Broken.__del__ raised RuntimeError: no window\n")


def test_memory_that_is_full_is_one_line(capsys):
    def full(argv):
        raise MemoryError("std::bad_alloc")

    with pytest.raises(SystemExit) as caught:
        cli.run(full, [])
    assert caught.value.code == 6 and "es_rl: the memory is full. Give a smaller" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["run", "config", "resume"])
def test_a_home_that_is_not_known_is_one_line(key, monkeypatch):
    code, said = refusal(train.main, *TINY[: 0 if key == "resume" else None], f"{key}=~nobody-of-this-name/x")
    assert code == 2 and f"{key}=~nobody-of-this-name/x: there is no such home directory" in said


def refuse(number):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    return refused


FIELDS = {"x": ((3,), "f4"), "y": ((2, 2), "i8")}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOMEM, errno.EMFILE, errno.EPERM])
@pytest.mark.parametrize("call", ["memfd_create", "ftruncate"])
def test_shared_memory_that_cannot_be_had_is_one_line(call, number, monkeypatch):
    before = psutil.Process().num_fds()
    with monkeypatch.context() as patch, pytest.raises(ResourceError) as caught:
        patch.setattr(os, call, refuse(number))
        shared_memory.allocate(FIELDS)
    assert os.strerror(number) in str(caught.value) and "inference=local" in str(caught.value)
    assert psutil.Process().num_fds() == before


def test_a_container_without_proc_or_with_less_memory_is_told(monkeypatch):
    before = psutil.Process().num_fds()
    with pytest.raises(ResourceError, match=r"needs /proc"), monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 2**31)  # a /proc without this process
        shared_memory.allocate(FIELDS)
    with pytest.raises(ResourceError, match=r"bytes of shared memory cannot be had"):
        shared_memory.allocate({"x": ((2**60,), "f4")})
    assert psutil.Process().num_fds() == before


@pytest.mark.slow
def test_central_inference_without_shared_memory_is_one_line(train_on):
    machine = "def none(*_): raise OSError(38, 'Function not implemented')\nos.memfd_create = none"
    done = train_on(machine, "inference=central", "workers=1", "run=run")
    assert done.returncode == 6 and "inference=local" in done.stderr and "not implemented" in done.stderr


PLACES = {
    "a file as a parent": ("file/run", None, "Not a directory"),
    "a file": ("file", None, "File exists"),
    "a place of the kernel": ("/proc/self/run", None, "No such file or directory"),
    "a name that is too long": ("x" * 300, None, "File name too long"),
    "a read-only disk": ("run", errno.EROFS, "Read-only file system"),
    "a quota": ("run", errno.EDQUOT, "quota exceeded"),
    "a stale handle": ("run", errno.ESTALE, "Stale file handle"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_that_cannot_hold_a_run_is_one_line(name, monkeypatch, tmp_path):
    place, number, text = PLACES[name]
    (tmp_path / "file").write_text("")
    if number is not None:
        monkeypatch.setattr(Path, "mkdir", refuse(number))
    code, said = refusal(train.main, *TINY, "workers=0", f"run={place}")
    assert code == 6 and text in said and "Choose another place with run=" in said and "\n" not in said


@pytest.fixture
def run(train):
    return train(*TINY)


def test_a_disk_that_becomes_full_is_told_and_the_run_goes_on_later(run, monkeypatch, capsys):
    written = cp.atomic._write_to_disk
    with monkeypatch.context() as patch:
        patch.setattr(cp.atomic, "_write_to_disk", refuse(errno.ENOSPC))  # as a write, it names no file
        code, said = refusal(train.main, f"resume={run}", "generations=4", "workers=0")
    assert code == 6 and f"No space left on device ({run}). Free the disk" in said and "None" not in said
    assert cp.atomic._write_to_disk is written and cp.load(run).generation == 2
    assert train.main([f"resume={run}", "generations=4", "workers=0"]) == 0
    assert [row["generation"] for row in metrics(run)] == [1, 2, 3, 4]


def test_a_run_that_may_only_be_read_is_evaluated_and_not_resumed(run, monkeypatch):
    opened = Path.open

    def reading(self, mode="r", *args, **kwargs):
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return opened(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", reading)
    assert evaluate.main([f"run={run}", "episodes=1"]) == 0
    code, said = refusal(train.main, f"resume={run}", "generations=4", "workers=0")
    assert code == 6 and "Read-only file system" in said


@pytest.mark.parametrize("key", ["out", "gif"])
def test_a_film_never_replaces_what_is_not_a_file(run, key, tmp_path):
    os.mkfifo(tmp_path / "pipe.gif")
    (tmp_path / "folder.gif").mkdir()
    (tmp_path / "link.gif").symlink_to("/dev/null")
    for name in ("pipe.gif", "folder.gif", "link.gif"):
        code, said = refusal(record.main, f"run={run}", f"{key}={name}", "seconds=0.1")
        assert code == 2 and f"{key}={name}: is not a file" in said
    assert stat.S_ISFIFO((tmp_path / "pipe.gif").stat().st_mode) and (tmp_path / "link.gif").is_symlink()

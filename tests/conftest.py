"""Ways to run the program: in this process, or as its users do."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import psutil
import pytest
from warm import Warm

from es_rl.errors import EsRlError
from es_rl.rl.compaction import Compaction
from es_rl.workers.machine import use_one_thread

use_one_thread()  # in this process; those of several processes of tests would wait for each other busily
HERE = Path(__file__).parent
SUPPORT = HERE / "support"  # modules that tests and the processes that they start import
PROCESSES = {"workers", "sweep", "test_central.py", "test_compare.py", "test_contenders.py", "test_scripts.py"}
TINY = ["video.every=-1", "eval.episodes=2"]


def soak(*cases):
    """Cases of a parametrised test which the soak run alone tries: others of the same test stand for them elsewhere."""
    return [pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=pytest.mark.soak) for c in cases]


def pytest_collection_modifyitems(items):
    """Mark tests by their room, and by what they start."""
    for item in items:
        room, file = item.path.relative_to(HERE).parts[0], item.path.name
        if room in ("llm", "learning"):
            item.add_marker(room)
        if {"command", "start"} & {*item.fixturenames} or {room, file} & PROCESSES:
            item.add_marker("process")
        if item.get_closest_marker("soak"):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path, monkeypatch):
    """Nothing is written into the checkout, and `env=hostile:…` is found in this process and in its children."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SUPPORT))
    paths = [str(SUPPORT), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture(scope="session")
def warm():
    """What forks the processes that tests start: see `warm.py`."""
    warm = Warm()
    yield warm
    warm.close()


@pytest.fixture(autouse=True)
def processes_begin_at_once(request, monkeypatch, warm):
    """Pools, films and trackers of this process begin without importing anything, if a test is not marked `cold`."""
    warm.speaks = request.node.path.parent.name == "llm"
    if not request.node.get_closest_marker("cold"):
        monkeypatch.setattr("es_rl.workers.fork_server.start_process", warm.start_workers)
        for module in ("record", "run.trackers.link"):
            monkeypatch.setattr(f"es_rl.{module}.start_process", warm.start)


@pytest.fixture
def train(tmp_path):
    """Train in this process, without workers unless asked; returns the run directory."""
    from es_rl.train import main

    def run(*argv, run="run"):
        keys = {argument.partition("=")[0] for argument in argv}
        more = [] if "workers" in keys else ["workers=0"]
        if "resume" not in keys:
            more += [f"run={run}", *(t for t in TINY if t.partition("=")[0] not in keys)]
        assert main([*argv, *more]) == 0
        return tmp_path / run

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A directory with a random Llama and a tokenizer of bytes."""
    pytest.importorskip("transformers")
    sys.path.insert(0, str(HERE.parent / "benchmarks"))
    import tiny_llama

    path = tmp_path_factory.mktemp("tiny")
    tiny_llama.write(path)
    return path


@pytest.fixture(scope="session")
def renderer():
    """How this machine draws MuJoCo's scenes off the screen, asked of MuJoCo itself; nothing if it cannot."""
    code = "import mujoco; mujoco.GLContext(64, 64).make_current()"
    for name in ("egl", "osmesa"):
        tried = os.environ | {"MUJOCO_GL": name}
        if not subprocess.run([sys.executable, "-c", code], env=tried, capture_output=True, check=False).returncode:
            return name
    return ""


@pytest.fixture
def python(request, tmp_path, tmp_path_factory, warm):
    """Run Python to its end, as `python` with these arguments: exit code, stdout, stderr."""
    always = request.node.get_closest_marker("cold")

    def run(*argv, timeout=120, env=None, unset=(), cwd=tmp_path, out=None, cold=always):
        argv = [*map(str, argv)]
        environment = {name: value for name, value in os.environ.items() if name not in unset} | (env or {})
        if cold:
            return subprocess.run(
                [sys.executable, *argv], capture_output=True, text=True, timeout=timeout, check=False,
                stdin=subprocess.DEVNULL, env=environment, cwd=cwd,
            )  # fmt: skip
        folder = tmp_path_factory.mktemp("said")
        files = [Path(out or folder / "out"), folder / "err"]
        with contextlib.chdir(cwd):
            process = warm.run(argv, out=files[0], err=files[1], environment=environment)
        try:
            code = process.wait(timeout)
        finally:
            if process.poll() is None:
                process.kill()
        said = [file.read_text() if file.is_file() else "" for file in files]
        return subprocess.CompletedProcess(argv, code, *said)

    return run


@pytest.fixture
def command(tmp_path, python):
    """Run a verb as a process: (exit code, stdout, stderr); an expected failure must be short and no traceback."""

    def run(verb, *argv, timeout=120, **more):
        mark = str(uuid.uuid4())  # in the environment of the process and of all that it starts
        done = python("-m", f"es_rl.{verb}", *argv, timeout=timeout, env={"ES_RL_TEST": mark}, **more)
        assert "Traceback" not in done.stderr + done.stdout, done.stderr
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("es_rl: ")]
            assert len(errors) == 1, done.stderr
        _, left = psutil.wait_procs(marked(mark), timeout=5)
        assert not left
        return done

    return run


def refusal(main, *argv):
    """Run a verb in this process, which refuses its keys: (exit code, what it says). Faster than a process."""
    with pytest.raises(EsRlError) as caught:
        main([*argv])
    return caught.value.exit_code, str(caught.value)


def _hear_signals():
    """Whatever the tests themselves were started to ignore, as by nohup."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start(request, tmp_path, warm):
    """Start a training and leave it running; killed at the end of the test."""
    started, cold = [], request.node.get_closest_marker("cold")

    def run(*argv, verb="train"):
        argv, out = ["-m", f"es_rl.{verb}", *argv], tmp_path / "out.txt"
        if cold:
            with out.open("w") as file:
                process = psutil.Popen(
                    [sys.executable, *argv], cwd=tmp_path, stdout=file, stderr=file, stdin=subprocess.DEVNULL,
                    preexec_fn=_hear_signals,
                )  # fmt: skip
        else:
            out.write_text("")
            with contextlib.chdir(tmp_path):
                process = warm.run(argv, out=out, err=out)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.is_running():
            process.kill()
        process.wait()


def marked(mark):
    """All processes that were started, however indirectly, with the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("ES_RL_TEST") == mark:
                found.append(process)
    return found


def model_hash(run, checkpoint="last"):
    """sha256 of theta and the observation statistics."""
    return hashlib.sha256((run / "checkpoints" / checkpoint / "model.safetensors").read_bytes()).hexdigest()


def records(run):
    """All objects in metrics.jsonl. That of generation 0 is of the untrained policy."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def metrics(run):
    """The objects in metrics.jsonl of generations."""
    return [line for line in records(run) if line["generation"]]


def wait_for(condition, process=None, seconds=90):
    """Wait until something holds; the limit is only there for the day it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.status() != psutil.STATUS_ZOMBIE, "the process has ended"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def comparable(run):
    """metrics.jsonl without what a clock says."""
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "seconds"))} for line in records(run)]


def is_child(process):
    """True for a process that the program has started to run a part of itself, and for workers, which it forks."""
    with contextlib.suppress(psutil.Error):
        return any(start in " ".join(process.cmdline()) for start in ("spawn_main", "warmed.serve"))
    return False


def workers_of(process):
    """The workers of a training."""
    found = []
    with contextlib.suppress(psutil.Error):
        for server in filter(is_child, process.children()):
            found += server.children()
    return [worker for worker in found if is_child(worker)]


def kill_workers(process, run, *, workers, pauses, most=1000):
    """Kill one worker after the other, with random pauses, while a training runs; how many were killed."""
    kills, rng = 0, random.Random(0)
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        victims = workers_of(process)
        if kills < most and len(victims) >= workers and (run / "metrics.jsonl").exists():
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(victims).kill()
                kills += 1
            time.sleep(rng.uniform(*pauses))
        time.sleep(0.05)
    return kills


class Acting:
    """An actor that is asked for whichever simulations still run, in ascending order."""

    def __init__(self, actor, n):
        self.actor, self.rows = actor, np.arange(n)

    def __call__(self, running, obs):
        gaps = Compaction.of(~np.isin(self.rows, running))
        if len(running) < len(self.rows):
            self.actor.drop(gaps)
            self.rows = gaps.apply(self.rows.copy())
        order = np.searchsorted(running, self.rows)
        actions = self.actor(self.rows, obs[order])
        return actions[np.argsort(order)]

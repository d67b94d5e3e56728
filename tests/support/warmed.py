"""What happens in the processes that `warm` forks: first they import and fork, then each is what a test asked for."""

import atexit
import contextlib
import gc
import importlib
import io
import itertools
import os
import pickle
import runpy
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
import types
import weakref
from functools import partial
from pathlib import Path

import multiprocess
import psutil
from multiprocess.connection import Connection

from es_rl.workers import fork_server
from es_rl.workers.fork_server import fork_on_request
from es_rl.workers.processes import child_environment, die_with_parent, print_into, start_process

# Of what these import, nothing reads the environment or starts a thread.
PRELOADED = (
    "torch._dynamo",  # which the classes of torch.optim import, such as those of opponents
    "es_rl.rl.verbs.training", "es_rl.rl.verbs.recording", "es_rl.trainer.trainer", "es_rl.learner.model",
)  # fmt: skip
SIZE = struct.Struct("q")
MOST_FILES = 8  # among the arguments of one process
MOST_DESCRIPTORS = 1024
imported_to_simulate = False  # MuJoCo, that is without a renderer
KEYS_OF_CHILDREN = {"stdin", "stdout", "stderr", "preexec_fn", "start_new_session"}  # with which a `Child` is forked


class Unpickler(pickle.Unpickler):
    """Puts the descriptors in their places again."""

    def __init__(self, file, files):
        super().__init__(file)
        self._files = files

    def persistent_load(self, about):
        kind, index = about
        return socket.socket(fileno=self._files[index]) if kind is socket.socket else Connection(self._files[index])


def serve(link, parent):
    """Import what is often needed, then fork."""
    die_with_parent(parent)
    for name in PRELOADED:
        importlib.import_module(name)
    assert psutil.Process().num_threads() == 1
    gc.collect()
    gc.freeze()
    fork_on_request(socket.socket(fileno=link), begin)


def simulate(link):
    """Import MuJoCo, then fork."""
    global imported_to_simulate
    fork_server._preload()
    imported_to_simulate = True
    fork_on_request(link, begin)


def speak(link):
    """Import MuJoCo and what language models need, then fork."""
    importlib.import_module("transformers.models.llama.modeling_llama")
    importlib.import_module("es_rl.llm.task")
    simulate(link)


def begin(pipe, slot):
    """Be the process that a test asked for."""
    with pipe, socket.socket(fileno=os.dup(pipe.fileno())) as link:
        size, files, _, _ = socket.recv_fds(link, SIZE.size, MOST_FILES)
        with link.makefile("rb") as file:
            environment, directory, path, log, call = pickle.loads(file.read(SIZE.unpack(size)[0]))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.path[:] = path
    importlib.invalidate_caches()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as `start_process` does
    print_into(log)  # as is this
    target, args = Unpickler(io.BytesIO(call), files).load()
    leave(target, *args)


def program(argv, out, err):
    """Be Python with these arguments, to its end."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    _hear_signals()
    for stream, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        descriptor = os.open(path, flags | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    _open_streams()
    fork_server.start_process, subprocess.Popen = start_forked, Child
    _run(argv)


def leave(target, *args):
    """Call a function, then end this process as Python does: with its exit code, or with a traceback."""
    code = 0
    weakref.finalize._registry.clear()  # what the process that was forked cleans up at its end, such as directories
    try:
        target(*args)
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001  whatever it is
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def start_forked(target, *args, log=None, mark=""):
    """Start a server of workers as `start_process` does, by a fork of this process if it has no threads.

    MuJoCo must not be there yet, or be there without a renderer: what it draws with depends on the environment when it
    is imported.
    """
    draws = not imported_to_simulate or os.environ.get(fork_server.RENDERER, "disabled") != "disabled"
    if psutil.Process().num_threads() > 1 or ("mujoco" in sys.modules and draws):
        return start_process(target, *args, log=log, mark=mark)
    process = multiprocess.get_context("fork").Process(
        target=_server, args=(target, args, os.getpid(), str(log or os.devnull)), daemon=True
    )
    with child_environment(mark):
        process.start()
    return process


def _server(target, args, parent, log):
    """Be a server, with nothing of its parent but the arguments."""
    os.setsid()
    die_with_parent(parent)
    kept = sorted({0, 1, 2, *(argument.fileno() for argument in args if hasattr(argument, "fileno"))})
    for first, last in itertools.pairwise([*kept, MOST_DESCRIPTORS]):
        os.closerange(first + 1, last)
    _hear_signals()
    print_into(log)
    target(*args)


class Child(subprocess.Popen):
    """Runs `python -m es_rl.…` in a fork of this process if it has no threads, and all else as usual."""

    def __init__(self, args, *more, **keys):
        ours = [*map(str, args[:2])] == [sys.executable, "-m"] and str(args[2]).startswith("es_rl.")
        if more or not ours or keys.keys() - {"env"} != KEYS_OF_CHILDREN or psutil.Process().num_threads() > 1:
            super().__init__(args, *more, **keys)
            return
        self.args, self.returncode, self.stdin, self.stdout, self.stderr = args, None, None, None, None
        self._waitpid_lock, self._sigint_wait_secs, self._child_created = threading.Lock(), 0.25, True
        sys.stdout.flush(), sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            leave(partial(_be_child, args[1:], **keys))


def _be_child(argv, *, stdin, stdout, stderr, preexec_fn, start_new_session, env=None):
    """Be a program of which the arguments are those of `subprocess.Popen`."""
    assert start_new_session and stdin == subprocess.DEVNULL
    os.setsid()
    for stream, file in ((1, stdout), (2, stderr)):
        os.dup2(file.fileno(), stream)
    os.closerange(3, MOST_DESCRIPTORS)
    preexec_fn()
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    _hear_signals()
    _open_streams()
    _run(argv)


def _hear_signals():
    """Do with signals what Python does with them when it begins."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _open_streams():
    sys.stdin, sys.stdout, sys.stderr = _text(0, "r"), _text(1, "w"), _text(2, "w", "backslashreplace")


def _text(descriptor, mode, errors="strict"):
    """Return a standard stream as Python opens it for a file."""
    return open(
        descriptor, mode, buffering=1 if descriptor == 2 else -1, encoding="utf-8", errors=errors, closefd=False
    )


def _run(argv):
    """Run a module, code or a script."""
    sys.orig_argv[:] = [sys.executable, *argv]
    if argv[0] == "-m":
        sys.argv[:] = argv[1:]
        sys.path.insert(0, "")
        for name in (argv[1], f"{argv[1]}.__main__"):
            sys.modules.pop(name, None)  # Python has not imported what it is to run
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    elif argv[0] == "-c":
        sys.argv[:] = ["-c", *argv[2:]]
        sys.path.insert(0, "")
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(argv[1], "<string>", "exec"), vars(main))
    else:
        sys.argv[:] = argv
        sys.path.insert(0, str(Path(argv[0]).parent))
        runpy.run_path(argv[0], run_name="__main__")

"""Fork what tests start from one process that has imported torch: it then begins at once, not after two seconds.

`Warm.start` stands in for `es_rl.workers.processes.start_process`, and `Warm.run` for `python -m MODULE …` or
`python SCRIPT …`. Both give true processes with the environment, the directory and the import path of their test. They
lack the mark of a guard in /proc, which a process has from its start on, and they begin in the middle: tests of guards,
and of how processes begin, are marked `cold` and start them as users do.
"""

import atexit
import contextlib
import gc
import importlib
import io
import os
import pickle
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
import types
from functools import cached_property
from pathlib import Path

import cloudpickle
import psutil
from multiprocess.connection import Connection

from es_rl.workers import fork_server, guard
from es_rl.workers.fork_server import RENDERER, REQUEST, Forked, fork_on_request
from es_rl.workers.processes import THREAD_VARIABLES, die_with_parent, print_into

# Of what these import, nothing reads the environment or starts a thread.
PRELOADED = ("es_rl.rl.verbs.training", "es_rl.rl.verbs.recording", "es_rl.trainer.trainer", "es_rl.learner.model")
SIZE = struct.Struct("q")
MOST_FILES = 8  # among the arguments of one process
CLOSE_SECONDS = 10.0  # limit for the end of a process that forks
TRACKER = "resource_tracker"  # a helper of Python's own


class Server:
    """The link to a process that forks others."""

    def __init__(self, begin):
        """`begin(link)` starts the process."""
        self._link, theirs = socket.socketpair()
        with theirs:
            self.process = begin(theirs)

    def start(self, target, args, environment, log):
        """Fork a process that runs `target(*args)`."""
        call = io.BytesIO()
        pickler = Pickler(call)
        pickler.dump((target, args))
        body = pickle.dumps((environment, os.getcwd(), sys.path, log, call.getvalue()))
        ours, theirs = socket.socketpair()
        status, told = os.pipe()
        with ours:
            with theirs:
                socket.send_fds(self._link, [REQUEST.pack(0)], [theirs.fileno(), told])
            os.close(told)
            socket.send_fds(ours, [SIZE.pack(len(body))], pickler.files)
            ours.sendall(body)
        process = Forked(status)
        while process.pid is None and process.exitcode is None:
            select.select([status], [], [])
        return process

    def close(self):
        self._link.close()


class Warm:
    """What starts the processes of tests.

    `simulating` has imported MuJoCo as well, without a renderer, and `speaking` also what language models need.
    """

    def __init__(self):
        self.speaks = False  # whether the next processes need language models

    @cached_property
    def general(self):
        return Server(begin_interpreter)

    @cached_property
    def simulating(self):
        return self._another(simulate)

    @cached_property
    def speaking(self):
        return self._another(speak)

    def _another(self, serve):
        """Begin a process that imports more, and forks."""
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), RENDERER: "disabled"}
        return Server(lambda link: self.general.start(serve, [link], environment, os.devnull))

    def start(self, target, *args, log=None, mark="", server=None):
        """Start `target(*args)` as `start_process` does."""
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), **({guard.NAME: mark} if mark else {})}
        return (server or self.general).start(target, args, environment, str(log or os.devnull))

    def start_workers(self, *args, **more):
        """Start a server of workers, of which most only simulate."""
        simulates = os.environ.get(RENDERER, "disabled") == "disabled"
        server = self.speaking if self.speaks else self.simulating if simulates else self.general
        return self.start(*args, **more, server=server)

    def run(self, argv, *, out, err, environment=None):
        """Start Python with these arguments, `-m MODULE …`, `-c CODE …` or `SCRIPT …`, and files for what it prints."""
        server = self.speaking if "es_rl.llm" in argv else self.general
        return Started(server.start(program, [argv, str(out), str(err)], environment or {**os.environ}, str(err)))

    def family(self):
        """The processes that this one has started, but for helpers: those that fork, and Python's own."""
        helpers = [server.process.pid for server in self._begun()]
        found = psutil.Process().children(recursive=True)
        return [p for p in found if p.pid not in helpers and not _is_tracker(p)]

    def _begun(self):
        """Those that have begun, the general one last."""
        return [vars(self)[name] for name in ("simulating", "speaking", "general") if name in vars(self)]

    def close(self):
        for server in self._begun():
            server.close()
            wait = server.process.wait if server is vars(self)["general"] else server.process.join
            wait(CLOSE_SECONDS)


class Started(psutil.Process):
    """A process that was forked, with what `psutil.Popen` has."""

    def __init__(self, forked):
        self._forked = forked
        super().__init__(forked.pid)

    def poll(self):
        return self._forked.exitcode

    def wait(self, timeout=None):
        self._forked.join(timeout)
        if self.poll() is None:
            raise psutil.TimeoutExpired(timeout, self.pid)
        return self.poll()

    def status(self):
        with contextlib.suppress(psutil.NoSuchProcess):
            return super().status()
        return psutil.STATUS_ZOMBIE


def _is_tracker(process):
    with contextlib.suppress(psutil.Error):
        return TRACKER in " ".join(process.cmdline())
    return True  # it has ended


class Pickler(cloudpickle.Pickler):
    """Collects the sockets and pipes among the arguments: they travel as descriptors."""

    def __init__(self, file):
        super().__init__(file)
        self.files = []

    def persistent_id(self, item):
        if not isinstance(item, (socket.socket, Connection)):
            return None
        self.files.append(item.fileno())
        return type(item), len(self.files) - 1


class Unpickler(pickle.Unpickler):
    """Puts the descriptors in their places again."""

    def __init__(self, file, files):
        super().__init__(file)
        self._files = files

    def persistent_load(self, about):
        kind, index = about
        return socket.socket(fileno=self._files[index]) if kind is socket.socket else Connection(self._files[index])


# ---------------------------------------------------------------- in the processes


def begin_interpreter(link):
    """Start the process that imports and forks; its BLAS has no threads, which a fork would lose."""
    code = f"import warm; warm.serve({link.fileno()}, {os.getpid()})"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[link.fileno()], stdin=subprocess.DEVNULL,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip


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
    fork_server._preload()
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
    print_into(log)
    target, args = Unpickler(io.BytesIO(call), files).load()
    leave(target, *args)


def program(argv, out, err):
    """Be Python with these arguments, to its end."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        descriptor = os.open(path, flags | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = _text(0, "r"), _text(1, "w"), _text(2, "w", "backslashreplace")
    sys.orig_argv[:] = [sys.executable, *argv]
    _run(argv)


def leave(target, *args):
    """Call a function, then end this process as Python does: with its exit code, or with a traceback."""
    code = 0
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


def _text(descriptor, mode, errors="strict"):
    """Return a standard stream as Python opens it for a file."""
    return open(descriptor, mode, buffering=1 if descriptor == 2 else -1, encoding="utf-8", errors=errors)


def _run(argv):
    """Run a module, code or a script."""
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

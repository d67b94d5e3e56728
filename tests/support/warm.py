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
        while process.pid is None:
            select.select([status], [], [])
        return process

    def close(self):
        self._link.close()


class Warm:
    """What starts the processes of tests. `simulating` has imported MuJoCo as well, without a renderer."""

    def __init__(self):
        self._general = self._simulating = None

    @property
    def general(self):
        if self._general is None:
            self._general = Server(begin_interpreter)
        return self._general

    @property
    def simulating(self):
        if self._simulating is None:
            environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
            self._simulating = Server(lambda link: self.general.start(simulate, [link], environment, os.devnull))
        return self._simulating

    def start(self, target, *args, log=None, mark=""):
        """Start `target(*args)` as `start_process` does."""
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), **({guard.NAME: mark} if mark else {})}
        server = self.simulating if environment.get(RENDERER, "disabled") == "disabled" else self.general
        return server.start(target, args, environment, str(log or os.devnull))

    def run(self, argv, *, out, err, environment=None):
        """Start Python with these arguments, `-m MODULE …` or `SCRIPT …`, and files for what it prints."""
        return Started(self.general.start(program, [argv, str(out), str(err)], environment or {**os.environ}, str(err)))

    def family(self):
        """The processes that this one has started, but for helpers: those that fork, and Python's own."""
        servers = [server.process.pid for server in (self._general, self._simulating) if server]
        found = psutil.Process().children(recursive=True)
        return [p for p in found if p.pid not in servers and not _is_tracker(p)]

    def close(self):
        for server in (self._simulating, self._general):
            if server:
                server.close()
        if self._general:
            self._general.process.wait()


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
    target(*args)
    os._exit(0)


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
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1, errors="backslashreplace")
    sys.orig_argv[:] = [sys.executable, *argv]
    code = _run(argv)
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _run(argv):
    """Run a module or a script; return the exit code."""
    try:
        if argv[0] == "-m":
            sys.argv[:] = argv[1:]
            sys.path.insert(0, "")
            for name in (argv[1], f"{argv[1]}.__main__"):
                sys.modules.pop(name, None)  # Python has not imported what it is to run
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv[:] = argv
            sys.path.insert(0, str(Path(argv[0]).parent))
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

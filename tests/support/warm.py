"""Fork what tests start from one process that has imported torch: it then begins at once, not after two seconds.

`Warm.start` stands in for `es_rl.workers.processes.start_process`, and `Warm.run` for `python -m MODULE …` or
`python SCRIPT …`. Both give true processes with the environment, the directory and the import path of their test. They
lack the mark of a guard in /proc, which a process has from its start on, and they begin in the middle: tests of guards,
and of how processes begin, are marked `cold` and start them as users do. What happens in them is in `warmed`.
"""

import contextlib
import io
import os
import pickle
import select
import socket
import subprocess
import sys
from functools import cached_property
from pathlib import Path

import cloudpickle
import psutil
from multiprocess.connection import Connection
from warmed import SIZE, program, simulate, speak

from es_rl.workers import guard
from es_rl.workers.fork_server import RENDERER, REQUEST, Forked
from es_rl.workers.processes import THREAD_VARIABLES

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
        environment, server = environment or {**os.environ}, self.general
        if "es_rl.llm" in argv:  # without threads of its tokenizer, so that its workers can be forked too
            environment, server = environment | {"TOKENIZERS_PARALLELISM": "false"}, self.speaking
        return Started(server.start(program, [argv, str(out), str(err)], environment, str(err)))

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


def begin_interpreter(link):
    """Start the process that imports and forks; its BLAS has no threads, which a fork would lose."""
    code = f"import warmed; warmed.serve({link.fileno()}, {os.getpid()})"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[link.fileno()], stdin=subprocess.DEVNULL,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip

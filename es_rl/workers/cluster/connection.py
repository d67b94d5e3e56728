"""Connect to a Ray cluster, or start one on this machine that nobody else can reach."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import ipaddress
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from es_rl.errors import ConfigError, ResourceError, missing_extra, text_of
from es_rl.workers import guard
from es_rl.workers.cluster.config import ClusterConfig
from es_rl.workers.cluster.last_words import LastWords
from es_rl.workers.guard import Guard
from es_rl.workers.machine import available_processors
from es_rl.workers.processes import THREAD_VARIABLES, environment

ANSWER_SECONDS = 30  # limit for a cluster's first answer
STORE = 256 * 2**20  # bytes of the object store of a cluster that is started here, without /dev/shm
LEAST, MOST = 80 * 2**20, 2**30  # bytes of one in /dev/shm
LOCAL, AUTO = "local", "auto"
MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
# Of a cluster that is started here. Ray then takes the loopback address for this machine's, and listens there only; and
# workers get as much of a busy processor as those of a local pool.
HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}


def check(config: ClusterConfig) -> None:
    """Raise `ConfigError` for keys that cannot be, `ResourceError` if Ray is not installed."""
    if not config.address:
        return
    if importlib.util.find_spec("ray") is None:
        raise missing_extra(f"cluster.address={config.address}: needs the package ray", "cluster")
    if config.address.startswith("ray://"):
        raise ConfigError(
            f"cluster.address={config.address}: must be HOST:PORT of the cluster, from one of its machines. "
            f"Start the training there, with cluster.address=auto."
        )
    if config.address not in (LOCAL, AUTO):
        _parts(config.address)
    place = str(config.runtime_env.get("working_dir", "."))
    if "://" not in place and not Path(place).exists():
        raise ConfigError(f"cluster.runtime_env.working_dir={place}: this machine has no such directory.")


class Connection:
    """A connection of this process to a cluster. A program that is connected already stays so when it is closed."""

    def __init__(self, config: ClusterConfig) -> None:
        """Raise `ConfigError` or `ResourceError` if there is no such cluster."""
        check(config)
        self._guard: Guard | None = None
        self._last_words: LastWords | None = None
        self._folder = ""
        local = config.address == LOCAL
        with environment(QUIET | (HERE if local else {}), *HERE, MODE, TOKEN):
            try:
                import ray

                self._ray, self._own = ray, not ray.is_initialized()
                if self._own and local:
                    self._start()
                elif self._own:
                    self._connect(config.address)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Disconnect. End what was started here, and remove its folder."""
        if getattr(self, "_own", False):
            with _signals_kept():
                self._ray.shutdown()
            self._own = False
        if self._last_words is not None:
            self._last_words.close()
            self._last_words = None
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        """Start a cluster of this machine alone. It dies with this process."""
        protect()
        self._folder, mark = tempfile.mkdtemp(prefix="es_rl-"), uuid.uuid4().hex
        self._guard = Guard(mark, self._folder)
        with on_loopback(), environment({guard.NAME: mark} | dict.fromkeys(THREAD_VARIABLES, "1")):
            self._init(
                f"cluster.address={LOCAL}", address=LOCAL, num_cpus=available_processors(), include_dashboard=False,
                _node_ip_address="127.0.0.1", _temp_dir=self._folder, object_store_memory=_store(),
            )  # fmt: skip

    def _connect(self, address: str) -> None:
        where = f"cluster.address={address}"
        found = _resolved(address)
        if address == AUTO and not os.environ.get("RAY_ADDRESS"):
            _check_owner(where, found)
        check_token(where, _parts(found)[0])
        os.environ.setdefault(MODE, "token" if has_token() else "disabled")
        knock(where, found)
        self._await_answer(where, found)
        self._init(where, address=found)
        self._last_words = LastWords(
            f"es_rl: {where}: this process was killed, or Ray has ended it since the cluster has lost its head. "
            f"Start the cluster again, and go on with resume=RUN."
        )

    def _await_answer(self, where: str, address: str) -> None:
        """Raise `ResourceError` if no Ray cluster answers in time. Ray itself would wait longer."""
        raised: list[BaseException] = []

        def ask() -> None:
            try:
                _reread()
                _raylet().GcsClient(address=address)
            except (RuntimeError, self._ray.exceptions.RayError) as error:
                raised.append(error)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(ANSWER_SECONDS)
        if asking.is_alive() or raised:
            why = said(raised[0]) if raised else f"nothing within {ANSWER_SECONDS} s"
            raise ResourceError(f"{where}: {address} does not answer as a Ray cluster: {why}")

    def _init(self, where: str, **arguments: Any) -> None:
        _reread()
        with _signals_kept(), _errors_unread(self._ray):
            try:
                self._ray.init(log_to_driver=False, configure_logging=True, logging_level="ERROR", **arguments)
            except Exception as error:  # Ray raises just this if a busy machine starts it too slowly
                raise ResourceError(f"{where}: {said(error)}") from error


def protect() -> None:
    """Let a cluster that is started here know nobody without a token, which this process and its children have."""
    os.environ |= HERE | {MODE: "token", TOKEN: secrets.token_hex(32)}
    _reread()


def _raylet() -> Any:
    return importlib.import_module("ray._raylet")


def _reread() -> None:
    """Let Ray read its environment again: it keeps what it once read."""
    _raylet().Config.initialize("")
    _raylet().AuthenticationTokenLoader.instance().reset_cache()


def said(error: BaseException) -> str:
    """Return in one line what an error says: its first line, or all of them if that one only announces the others."""
    lines = text_of(error).strip().splitlines() or [type(error).__name__]
    return " ".join(" ".join(lines).split()) if lines[0].rstrip().endswith(":") else lines[0]


def _resolved(address: str) -> str:
    """Return the address that Ray will use: it takes a loopback address for this machine's own.

    Raises `ResourceError` if no cluster runs on this machine, for auto.
    """
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address(address)
    except (ConnectionError, RuntimeError):
        found = None
    if not found:
        raise ResourceError(
            "cluster.address=auto: no Ray cluster runs on this machine. Start one by `ray start --head`, "
            "or give cluster.address=local."
        )
    return str(found)


def _check_owner(where: str, address: str) -> None:
    """Raise `ConfigError` if a cluster that was found on this machine is another user's (Linux).

    That user would get this one's token and code, and could answer with code of their own.
    """
    end = f":{_parts(address)[1]}".encode()
    owners = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            words = (process / "cmdline").read_bytes().split(b"\0")
            if any(word.startswith(b"--gcs-address=") and word.endswith(end) for word in words):
                owners.add(process.stat().st_uid)
    if owners and os.getuid() not in owners:
        raise ConfigError(
            f"{where}: the cluster at {address} was started by another user of this machine. If you trust it with your "
            f"work and your token, give cluster.address={address}."
        )


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"cluster.address={address}: must be auto, local or HOST:PORT, such as 10.0.0.5:6379.")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        found = socket.getaddrinfo(host, None)
        return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)
    return False


def has_token() -> bool:
    """Tell whether this user has a token that protects a cluster."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(os.environ.get(TOKEN)) or Path(path or Path.home() / ".ray" / "auth_token").is_file()


def check_token(where: str, host: str) -> None:
    """Raise `ConfigError` for a host that others can reach, if no token protects it."""
    if not _is_loopback(host) and not (has_token() and os.environ.get(MODE, "token") == "token"):
        raise ConfigError(
            f"{where}: {host} can be reached from other machines, and there is no token that protects it. Make one by "
            f"`ray get-auth-token --generate`, copy ~/.ray/auth_token to all machines, set {MODE}=token, and start the "
            f"cluster again."
        )


def knock(where: str, address: str) -> None:
    """Raise `ResourceError` if nothing listens at an address."""
    try:
        socket.create_connection(_parts(address), ANSWER_SECONDS).close()
    except OSError as error:
        raise ResourceError(f"{where}: {address} does not answer ({error}). Is the cluster running?") from error


def _store() -> int:
    """Return the size of an object store: half of the free shared memory, from `LEAST` to `MOST`."""
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 2 * STORE
    return max(LEAST, min(MOST, free // 2))


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let Ray take the loopback address for this machine's, also if it was imported before: it reads this once."""
    constants: Any = importlib.import_module("ray._private.ray_constants")
    everywhere, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = everywhere


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Undo what Ray does to signals: it would end this process on SIGTERM, before a checkpoint is saved."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # in another thread, Ray has not touched them
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _errors_unread(ray: Any) -> Iterator[None]:
    """Let no thread of Ray print what it tells of lost workers: the pool tells it, in a line."""
    module = ray._private.worker
    before = module.listen_error_messages
    module.listen_error_messages = lambda worker, stopped: None
    try:
        yield
    finally:
        module.listen_error_messages = before

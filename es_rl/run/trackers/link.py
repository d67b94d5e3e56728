"""The run's side of its trackers: it feeds their processes and hears of failures. It waits for them at the end only."""

from __future__ import annotations

import json
import os
import select
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from es_rl.errors import ResourceError
from es_rl.run import atomic
from es_rl.run.curves.about import About
from es_rl.run.curves.metrics import tag_of
from es_rl.run.trackers import TRACKERS, Told
from es_rl.run.trackers.child import serve
from es_rl.workers.guard import Guard
from es_rl.workers.processes import death, kill_process, spawning, start_process

ENTRIES, LOG = "trackers.json", "trackers.log"  # files of a run: the ids of its entries; what trackers print
MOST_BYTES = 1 << 22  # that wait for a slow tracker; records that come on top of them are dropped
FINISH_SECONDS = 8.0  # that trackers have to store the rest when the run ends, all together
START_SECONDS = 20.0  # that a tracker has to begin, even if the run has ended meanwhile
READ_BYTES = 1 << 16


class Link:
    """A tracker's process, and the pipe to it. No call waits for the process."""

    def __init__(self, name: str, told: Told, entry: str | None, mark: str) -> None:
        self.name, self.began = name, time.monotonic()
        self.open = True  # neither finished nor failed
        self.ready = self.dropped = False
        self._waiting, self._heard = bytearray(), bytearray()
        self._pipe, theirs = spawning.Pipe(duplex=True)
        os.set_blocking(self._pipe.fileno(), False)
        args, log = (theirs, TRACKERS[name].make, told, entry), Path(told.folder) / LOG
        try:
            self._process = start_process(serve, *args, log=log, mark=mark)
        except BaseException:
            self._pipe.close()
            raise
        finally:
            theirs.close()

    def fileno(self) -> int:
        """Return the descriptor of the pipe."""
        return int(self._pipe.fileno())

    @property
    def waiting(self) -> bool:
        """Tell whether something waits for room in the pipe."""
        return bool(self._waiting)

    def send(self, message: Mapping[str, Any], *, always: bool = False) -> None:
        """Send a message as far as the pipe takes it; drop it if too much is waiting."""
        if len(self._waiting) > MOST_BYTES and not always:
            self.dropped = True
            return
        self._waiting += json.dumps(message).encode() + b"\n"
        self.push()

    def push(self) -> None:
        """Send what is waiting, as far as the pipe takes it."""
        try:
            while self._waiting:
                del self._waiting[: os.write(self.fileno(), self._waiting[:READ_BYTES])]
        except BlockingIOError:
            pass  # the pipe is full
        except OSError:
            self._waiting.clear()  # the process has ended; `hear` tells

    def hear(self) -> Iterator[dict[str, Any]]:
        """Yield the messages that have come; the last one is `finished` or `failed`."""
        try:
            while self.open and (data := os.read(self.fileno(), READ_BYTES)):
                self._heard += data
                *lines, rest = bytes(self._heard).split(b"\n")
                self._heard[:] = rest
                for message in map(json.loads, lines):
                    self.ready = True
                    self.open = "entry" in message
                    yield message
        except BlockingIOError:
            return
        except OSError:
            pass  # reset: as if it had ended
        if self.open:
            self.open = False
            yield {"failed": f"its process {death(self._process)}"}

    def kill(self) -> None:
        """End the process."""
        self.open = False
        kill_process(self._process)
        self._pipe.close()


class Trackers:
    """The trackers of a run's sitting. A tracker that fails is told of in one line, and left out from then on."""

    def __init__(self, about: About, names: Sequence[str], say: Callable[[str], None]) -> None:
        self._run, self._say = about.path, say
        self._links: list[Link] = []
        self._guard: Guard | None = None
        self._slow: set[str] = set()  # trackers of which it was told that records are dropped
        self._entries = self._read() if names else {}
        if names:
            told = Told(about.name, str(about.path.absolute()), about.command, about.keys())
            self._begin(dict.fromkeys(names), told)

    def _begin(self, names: Iterable[str], told: Told) -> None:
        mark = uuid.uuid4().hex  # of all processes that trackers start
        for name in names:
            try:
                self._guard = self._guard or Guard(mark)
                self._links.append(Link(name, told, self._entries.get(name), mark))
            except (ResourceError, OSError) as error:
                self._say(f"warning: track={name} is left out: {error}")

    @property
    def working(self) -> bool:
        """Tell whether there is a tracker that has not failed."""
        return bool(self._links)

    def log(self, numbers: Iterable[tuple[str, float]], step: int) -> None:
        """Add a point to each curve."""
        if self.working:
            self._send({"log": {tag_of(name): number for name, number in numbers}, "step": step})

    def video(self, path: Path, step: int) -> None:
        """Add a finished film, an mp4 file."""
        self._send({"video": str(path.absolute()), "step": step})

    def close(self) -> None:
        """Let the trackers finish, but wait for `FINISH_SECONDS` at most. Leave no process behind."""
        asked = time.monotonic()
        for link in self._links:
            link.send({"finish": True}, always=True)
        while waited_for := [link for link in self._links if _left(link, asked) > 0]:
            poll, blocked = select.poll(), [link for link in waited_for if link.waiting]
            for link in waited_for:
                poll.register(link, select.POLLIN | (select.POLLOUT if link in blocked else 0))
            poll.poll(1000 * max(_left(link, asked) for link in waited_for))
            for link in blocked:
                link.push()
            self._poll()
        for link in list(self._links):
            self._leave_out(link, f"it did not finish within {time.monotonic() - asked:.0f} s")
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _send(self, message: Mapping[str, Any]) -> None:
        for link in self._links:
            link.send(message)
            if link.dropped and link.name not in self._slow:
                self._slow.add(link.name)
                self._say(f"warning: track={link.name} takes records slower than they come: points are missing there")
        self._poll()

    def _poll(self) -> None:
        """Hear what trackers say."""
        for link in list(self._links):
            for message in link.hear():
                match message:
                    case {"entry": entry}:
                        self._note(link.name, entry)
                    case {"finished": True}:
                        link.kill()
                        self._links.remove(link)
                    case {"failed": why}:
                        self._leave_out(link, why)

    def _leave_out(self, link: Link, why: str) -> None:
        link.kill()
        self._links.remove(link)
        self._say(f"warning: track={link.name} is left out from here on: {why} ({self._run / LOG})")

    def _note(self, name: str, entry: str) -> None:
        """Save the id of a tracker's entry, so that a resumed run goes on with it."""
        self._entries[name] = entry
        try:
            atomic.write_json(self._run / ENTRIES, self._entries)
        except OSError as error:
            self._say(
                f"warning: {self._run / ENTRIES} cannot be written ({error.strerror}): a resume begins a new entry"
            )

    def _read(self) -> dict[str, str]:
        """Return the ids of the entries of earlier sittings, by the names of the trackers."""
        path = self._run / ENTRIES
        if not path.exists():
            return {}
        try:
            found = json.loads(atomic.contents_of(path))
            return {name: entry for name, entry in found.items() if isinstance(entry, str)}
        except (OSError, ValueError, AttributeError):
            self._say(f"warning: {path} cannot be read: new entries begin in the trackers")
            return {}


def _left(link: Link, asked: float) -> float:
    """Return how many seconds a tracker still has, that was asked to finish at a time."""
    end = asked + FINISH_SECONDS
    return (end if link.ready else max(end, link.began + START_SECONDS)) - time.monotonic()

"""Trackers of tests: one that writes down what it is told, and some that go wrong."""

import json
import os
import sys
import time
from pathlib import Path


class Notes:
    """Writes everything it is told into files of the run."""

    def start(self, told, entry):
        self.folder = Path(told.folder)
        self.file = (self.folder / "notes.jsonl").open("a+")
        self.file.seek(0)
        steps = [note["step"] for note in map(json.loads, self.file) if "numbers" in note]
        self._note(entry=entry, name=told.name, command=told.command, keys=told.keys)
        return entry or f"entry of {os.getpid()}", max(steps, default=-1)

    def log(self, numbers, step):
        self._note(numbers=numbers, step=step)

    def video(self, path, step):
        self._note(video=path, step=step)

    def finish(self):
        self._note(finished=True)
        self.file.close()

    def _note(self, **told):
        self.file.write(json.dumps(told) + "\n")
        self.file.flush()


class Fine:
    """Does nothing. The others differ from it in one thing."""

    def start(self, told, entry):
        return "entry", -1

    def log(self, numbers, step):
        pass

    def finish(self):
        pass


class Raises(Fine):
    def log(self, numbers, step):
        raise ValueError("no such curve\nand more lines")


class Exits(Fine):
    def log(self, numbers, step):
        sys.exit(7)


class Dies(Fine):
    def log(self, numbers, step):
        os._exit(3)


class HangsInLog(Fine):
    def log(self, numbers, step):
        time.sleep(1000)


class HangsInFinish(Fine):
    def finish(self):
        time.sleep(1000)


class CannotStart(Fine):
    def start(self, told, entry):
        raise OSError("no server")

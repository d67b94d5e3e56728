"""Film a run's policy: write an mp4 small enough for a chat, and a GIF on request. No screen is needed.

python -m es_rl.record run=runs/HalfCheetah-v5/… out=videos/cheetah.mp4
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from es_rl import cli
from es_rl.config import help_text, parse
from es_rl.plugins import file_name
from es_rl.rl.config import Config, RecordConfig
from es_rl.workers.processes import kill_process, start_process

if TYPE_CHECKING:
    from es_rl.run.checkpointer import Checkpointer

MILESTONES = (0.0, 60.0, 300.0, 1200.0, 3600.0, 14400.0)  # seconds of training: a checkpoint of each is kept, to film
KEYS = (RecordConfig,)  # for completion in a shell
USAGE = "python -m es_rl.record run=RUN [key=value …]   a video of a trained policy"


def main(argv: Sequence[str]) -> int:
    """Run the verb; return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(RecordConfig, USAGE))
    return _film(parse(RecordConfig, argv))


def _film(config: RecordConfig, *told: Callable[[int, int], None]) -> int:
    from es_rl.rl.verbs.recording import record  # imports torch: once the keys are right

    record(config, *told)
    return 0


def in_background(config: RecordConfig, progress: Path | None) -> None:
    """Film in a separate process during training, at a lower priority than the training.

    The share of the film that is done, in [0, 1], is written into the file `progress`.
    """
    os.nice(10)
    cli.run(lambda argv: _film(config, *([partial(tell, progress)] if progress else [])), [])


def tell(progress: Path, done: int, count: int) -> None:
    """Write into a file that so many frames of a film are done."""
    with contextlib.suppress(OSError):  # a film is made without it too
        progress.write_text(f"{done / count:.3f}", encoding="utf-8")


def reason_in(log: Path) -> str:
    """Return the last line that a film's process printed: why there is no film."""
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return said[-1].removeprefix("es_rl: ") if said else "the process was killed"


def film_in_child(config: RecordConfig, log: Path, progress: Path | None = None) -> Any:
    """Start to film in a child process, which prints into `log` and writes its progress. Return the process."""
    return start_process(in_background, config, progress, log=log)


class Show(Protocol):
    """Shows how far a film is; `alone` if training waits for it."""

    def __call__(self, text: str, *, alone: bool = False) -> None: ...


class Films:
    """Videos of a run's checkpoints, made one at a time in a separate process while training goes on."""

    def __init__(
        self,
        run: Path,
        config: Config,
        *,
        say: Callable[[str], None],
        show: Show,
        done: Callable[[Path, int], None],
    ) -> None:
        """`say` prints a line that stays, `show` shows how far a film is, and `done` gets a film and its steps."""
        self._run, self._config, self._say, self._show, self._done = run, config, say, show, done
        self._process: Any = None
        self._output, self._progress = (run / "videos" / f"record.{suffix}" for suffix in ("log", "progress"))
        self._next: int | None = None  # generation of the next film; None: not known before the first generation
        self.milestones = MILESTONES if config.video.every >= 0 else ()

    def poll(self, saver: Checkpointer) -> None:
        """Collect a finished film. If the next one is due, save a checkpoint and start to film it."""
        if self._process is not None and self._process.exitcode is not None:
            self._say_where(self._take())
            saver.pinned = None
        elif self._process is not None:
            self._tell_progress(alone=False)
        every, generation = self._config.video.every, saver.state.generation
        if every > 0 and self._next is None:
            self._next = -(-generation // every) * every
        if self._next is not None and generation >= self._next and self._process is None:
            self._next, saver.pinned = (generation // every + 1) * every, generation
            saver.save()
            self._start(generation, saver.progress.steps)

    def finish(self, saver: Checkpointer, check: Callable[[], None]) -> Mapping[str, Path]:
        """Film the last checkpoint and wait for the film. Return where it is; `check` may raise to give up."""
        if self._config.video.every < 0:
            return {}
        earlier, film = self._wait(check), self._path(saver.state.generation)
        self._say_where(earlier if earlier != film else None)
        if not film.exists():  # it does if a finished run was resumed
            self._say(f"filming {self._config.video.seconds:g} s of the policy; video.every=-1 leaves this out")
            self._start(saver.state.generation, saver.progress.steps)
            self._wait(check)
        return {"film": film} if film.exists() else {}

    def close(self) -> None:
        """Kill the process of an unfinished film and delete its partial files."""
        if self._process is not None:
            kill_process(self._process)
            self._process = None
            for leftover in (self._progress, *(self._run / "videos").glob("*.writing-*")):
                leftover.unlink(missing_ok=True)

    def _start(self, generation: int, env_steps: int) -> None:
        self._mp4 = self._path(generation)
        self._step = env_steps
        self._output.parent.mkdir(exist_ok=True)
        self._output.write_text("", encoding="utf-8")
        keys, gif = self._config, self._mp4.with_suffix(".gif")
        film = RecordConfig(
            run=str(self._run), checkpoint=str(generation), out=str(self._mp4), gif=str(gif), env=keys.env,
            policy=keys.policy, seconds=keys.video.seconds, quality=keys.video.quality,
        )  # fmt: skip
        self._process = film_in_child(film, self._output, self._progress)

    def _path(self, generation: int) -> Path:
        return self._run / "videos" / f"{file_name(self._config.env)}-{generation}.mp4"

    def _tell_progress(self, *, alone: bool) -> None:
        """Show how much of the film is done."""
        seconds = self._config.video.seconds
        with contextlib.suppress(OSError, ValueError):  # not begun, or being written now
            share = float(self._progress.read_text(encoding="utf-8"))
            self._show(f"{share * seconds:.1f} of {seconds:g} s filmed", alone=alone)

    def _wait(self, check: Callable[[], None]) -> Path | None:
        """Wait for the film in work. Return it; None if there is none, or if it failed."""
        while self._process is not None:
            check()
            self._tell_progress(alone=True)
            self._process.join(0.2)
            if self._process.exitcode is not None:
                return self._take()
        return None

    def _take(self) -> Path | None:
        failed = self._process.exitcode != 0
        self.close()
        self._show("")
        if failed:
            self._say(f"warning: no video: {reason_in(self._output)}")
            return None
        self._done(self._mp4, self._step)
        return self._mp4

    def _say_where(self, film: Path | None) -> None:
        if film is not None:
            self._say(f"video: {film}")


if __name__ == "__main__":
    cli.run(main)

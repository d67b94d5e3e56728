"""Film a run's policy: write an mp4 small enough for a chat, and a GIF on request. No screen is needed.

python -m es_rl.record run=runs/HalfCheetah-v4/… out=videos/cheetah.mp4
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from es_rl import cli, envs
from es_rl.config import help_text, parse
from es_rl.envs.renderer import QUALITIES, choose_renderer
from es_rl.errors import ConfigError
from es_rl.hub.address import is_address
from es_rl.keys import key
from es_rl.plugins import file_name
from es_rl.rl import agent as agents
from es_rl.rl.config import QUALITY, Config
from es_rl.rl.films.caption import side_by_side, spread
from es_rl.rl.films.files import GIF_WIDTH, Gif, write_mp4
from es_rl.rl.films.film import Film, Take, filming
from es_rl.rng import MAX_SEED
from es_rl.run.checkpoint import ages
from es_rl.run.checkpointer import Checkpointer
from es_rl.run.directory import check_inside
from es_rl.workers.processes import kill_process, start_process

MP4, GIF = (".mp4", ""), ".gif"  # suffixes of files
PANELS, STRIP_WIDTH = 4, 1280  # of a strip at most; pixels
MILESTONES = (0.0, 60.0, 300.0, 1200.0, 3600.0, 14400.0)  # seconds of training: a checkpoint of each is kept, to film
USAGE = "python -m es_rl.record run=RUN [key=value …]   a video of a trained policy"


@dataclass(frozen=True)
class RecordConfig(agents.RunConfig):
    out: str = key("", "file to write, mp4 or GIF by its suffix; default: RUN/videos/ENV-GENERATION.mp4", path=True)
    gif: str = key("", "GIF file to write as well, of the first seconds; default: none", path=True)
    film: str = key(
        "policy",
        "what to film: the policy, or its progress, several checkpoints side by side",
        choices=("policy", "progress"),
    )
    seconds: float = key(12.0, "length of the video, filled with one episode after another", above=0, high=600)
    quality: str = key("auto", QUALITY, choices=("auto", *QUALITIES))
    caption: bool = key(True, "tell the time, the return and the minutes of training in the picture")
    seed: int = key(0, "random seed of the initial states", low=0, high=MAX_SEED)


def main(argv: Sequence[str]) -> int:
    """Run the verb; return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(RecordConfig, USAGE))
    film_run(parse(RecordConfig, argv))
    return 0


def film_run(config: RecordConfig) -> Path:
    """Film a run's policy as the keys say, and tell so on stdout. Return the file."""
    if is_address(config.run) and (not config.out or config.film == "progress"):
        raise ConfigError(
            f"run={config.run}: has one checkpoint and no place for films. Give out=FILE.mp4, film=policy."
        )
    agent, env_id = agents.trusted(config)
    choose_renderer()
    envs.check_id(env_id)
    out = Path(config.out) if config.out else default_file(config, agent, env_id)
    if out.suffix.lower() not in (*MP4, GIF):
        raise ConfigError(f"out={out}: must end in .mp4 or .gif.")
    if config.film == "progress" and config.checkpoint != "last":
        raise ConfigError(f"checkpoint={config.checkpoint}: film=progress shows several. Leave one of the two out.")
    for name, path in (("out", out), ("gif", Path(config.gif))):
        if path.name and path.exists() and not path.is_file():  # a device would be replaced
            raise ConfigError(f"{name}={path}: is not a file. Give the name of a new file, or of one to replace.")
    if not config.out:
        check_inside(Path(config.run))
    with contextlib.ExitStack() as stack:
        shown = _progress(config) if config.film == "progress" else [agent]
        films = [stack.enter_context(filming(_take(config, one, env_id, len(shown)))) for one in shown]
        frames = side_by_side([film.frames for film in films])
        _write(config, out, Film(frames, films[0].fps), panels=len(shown))
    return out


def default_file(config: RecordConfig, agent: agents.Agent, env_id: str) -> Path:
    """Return the file of a run in which its film is written if no other one is named."""
    what = "progress" if config.film == "progress" else agent.generation
    return Path(config.run) / "videos" / f"{file_name(env_id)}-{what}.mp4"


def _progress(config: RecordConfig) -> list[agents.Agent]:
    """Return the policies of some checkpoints of a run, from the first to the last.

    One that is gone by then, in a run that still trains, is left out.
    """
    run = Path(config.run)
    chosen = (generation for generation in spread(ages(run), PANELS) if generation in ages(run))
    return [agents.trusted(replace(config, checkpoint=str(generation)))[0] for generation in chosen]


def _take(config: RecordConfig, agent: agents.Agent, env_id: str, panels: int) -> Take:
    return Take(
        act=agent, reset=agent.reset, env=env_id, env_kwargs=agent.config.env_kwargs, seconds=config.seconds,
        seed=config.seed, quality=config.quality, width=STRIP_WIDTH // panels if panels > 1 else None,
        caption=trained(agent.seconds) if config.caption else None,
    )  # fmt: skip


def trained(seconds: float) -> str:
    """Return a caption: for how long a policy was trained."""
    return f"trained {seconds / 60:.0f} min" if seconds >= 600 or not seconds else f"trained {seconds / 60:.1f} min"


def _write(config: RecordConfig, out: Path, film: Film, *, panels: int) -> None:
    """Write a film of so many panels to all its files, and say so."""
    gif = Gif(film.fps, width=GIF_WIDTH * panels)
    frames = gif.watch(film.frames)
    if out.suffix.lower() == GIF:
        count = sum(1 for _ in frames)
        gif.write(out, "out")
    else:
        count = write_mp4(out, frames, film.fps, config.seconds)
    sys.stdout.write(f"{out}: {count / film.fps:.1f} s, {out.stat().st_size / 1e6:.2f} MB\n")
    if config.gif:
        gif.write(Path(config.gif), "gif")
        sys.stdout.write(f"{config.gif}: {Path(config.gif).stat().st_size / 1e6:.2f} MB\n")


def in_background(config: RecordConfig) -> None:
    """Run the verb in a separate process during training, at a lower priority than the training."""
    os.nice(10)
    cli.run(lambda argv: _filmed(config), [])


def _filmed(config: RecordConfig) -> int:
    film_run(config)
    return 0


def film_in_child(config: RecordConfig, log: Path) -> Any:
    """Start to film in a child process, which prints into `log`. Return the process."""
    return start_process(in_background, config, log=log)


class Films:
    """Videos of a run's checkpoints, made one at a time in a separate process while training goes on."""

    def __init__(
        self, run: Path, config: Config, *, say: Callable[[str], None], done: Callable[[Path, int], None]
    ) -> None:
        self._run, self._config, self._say, self._done = run, config, say, done
        self._process: Any = None
        self._output = run / "videos" / "record.log"
        self._next = config.video.every
        self.milestones = MILESTONES if config.video.every >= 0 else ()

    def poll(self, saver: Checkpointer) -> None:
        """Collect a finished film. If the next one is due, save a checkpoint and start to film it."""
        if self._process is not None and self._process.exitcode is not None:
            self._take()
            saver.pinned = None
        every, generation = self._config.video.every, saver.state.generation
        if every > 0 and generation >= self._next and self._process is None:
            self._next, saver.pinned = generation + every, generation
            saver.save()
            self._start(generation, saver.progress.steps)

    def finish(self, saver: Checkpointer, check: Callable[[], None]) -> None:
        """Film the last checkpoint and wait for the film; `check` may raise to give up."""
        if self._config.video.every < 0:
            return
        self._wait(check)
        if self._film(saver.state.generation).exists():
            return  # a finished run was resumed
        self._say(f"filming {self._config.video.seconds:g} s of the policy; video.every=-1 leaves this out")
        self._start(saver.state.generation, saver.progress.steps)
        self._wait(check)

    def close(self) -> None:
        """Kill the process of an unfinished film and delete its partial files."""
        if self._process is not None:
            kill_process(self._process)
            self._process = None
            for leftover in (self._run / "videos").glob("*.writing-*"):
                leftover.unlink()

    def _start(self, generation: int, env_steps: int) -> None:
        self._mp4 = self._film(generation)
        self._gif, self._step = self._mp4.with_suffix(".gif"), env_steps
        self._output.parent.mkdir(exist_ok=True)
        self._output.write_text("", encoding="utf-8")
        keys = self._config
        film = RecordConfig(
            run=str(self._run), checkpoint=str(generation), out=str(self._mp4), gif=str(self._gif), env=keys.env,
            policy=keys.policy, seconds=keys.video.seconds, quality=keys.video.quality,
        )  # fmt: skip
        self._process = start_process(in_background, film, log=self._output)

    def _film(self, generation: int) -> Path:
        return self._run / "videos" / f"{file_name(self._config.env)}-{generation}.mp4"

    def _wait(self, check: Callable[[], None]) -> None:
        while self._process is not None:
            check()
            self._process.join(0.2)
            if self._process.exitcode is not None:
                self._take()

    def _take(self) -> None:
        failed = self._process.exitcode != 0
        self.close()
        if failed:
            said = self._output.read_text(encoding="utf-8").strip().splitlines() or ["the process was killed"]
            self._say(f"warning: no video: {said[-1]}")
        else:
            self._say(f"video: {self._mp4}")
            self._done(self._gif, self._step)


if __name__ == "__main__":
    cli.run(main)

"""Film a run's policy, or its progress: several checkpoints side by side."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from es_rl import envs
from es_rl.envs.renderer import choose_renderer
from es_rl.errors import ConfigError
from es_rl.hub.address import is_address
from es_rl.plugins import file_name
from es_rl.rl import agent as agents
from es_rl.rl.config import RecordConfig
from es_rl.rl.films.caption import side_by_side, spread
from es_rl.rl.films.files import GIF_WIDTH, Gif, write_mp4
from es_rl.rl.films.film import Film, Take, filming
from es_rl.rl.films.picture import Frame
from es_rl.run.checkpoint import ages
from es_rl.run.directory import check_file, check_inside

MP4, GIF = (".mp4", ""), ".gif"  # suffixes of files
PANELS, STRIP_WIDTH = 4, 1280  # of a strip at most; pixels


def record(config: RecordConfig, on_frame: Callable[[int, int], None] = lambda done, count: None) -> Path:
    """Write the films that are asked for, and say so. Return the first file.

    `on_frame` is called after each frame with the number of frames so far, and of all.

    Raises `ConfigError`, `EnvError` or `ResourceError`.
    """
    if is_address(config.run) and (not config.out or config.film == "progress"):
        raise ConfigError(
            f"run={config.run}: has one checkpoint and no place for films. Give out=FILE.mp4, film=policy."
        )
    config = agents.located(config)
    agent, env_id = agents.trusted(config)
    choose_renderer()
    envs.check_id(env_id, agent.config.backend)
    out = Path(config.out) if config.out else default_file(config, agent, env_id)
    if out.suffix.lower() not in (*MP4, GIF):
        raise ConfigError(f"out={out}: must end in .mp4 or .gif.")
    if config.film == "progress" and config.checkpoint != "last":
        raise ConfigError(f"checkpoint={config.checkpoint}: film=progress shows several. Leave one of the two out.")
    for name, path in (("out", out), ("gif", Path(config.gif))):
        if path.name:
            check_file(path, name)
    if not config.out:
        check_inside(Path(config.run))
    with contextlib.ExitStack() as stack:
        shown = _progress(config) if config.film == "progress" else [agent]
        films = [stack.enter_context(filming(_take(config, one, env_id, len(shown)))) for one in shown]
        first, frames = films[0], side_by_side([film.frames for film in films])
        _write(config, out, Film(_counted(frames, first.count, on_frame), first.count, first.fps), panels=len(shown))
    return out


def _counted(frames: Iterator[Frame], count: int, on_frame: Callable[[int, int], None]) -> Iterator[Frame]:
    """Yield the frames as they come, and tell of each once it is written."""
    for done, frame in enumerate(frames, 1):
        yield frame
        on_frame(done, count)


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
        act=agent, reset=agent.reset, env=env_id, env_kwargs=agent.config.env_kwargs,
        backend=agent.config.backend, seconds=config.seconds,
        seed=config.seed, quality=config.quality, width=STRIP_WIDTH // panels if panels > 1 else None,
        caption=trained(agent.seconds) if config.caption else None, view=agent.config.view,
    )  # fmt: skip


def trained(seconds: float) -> str:
    """Return a caption: for how long a policy was trained."""
    return f"trained {seconds / 60:.0f} min" if seconds >= 600 or seconds < 3 else f"trained {seconds / 60:.1f} min"


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

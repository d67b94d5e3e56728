"""Film a run's policy: an mp4 small enough for a chat, and a GIF if asked. No screen is needed.

python -m es_rl.record run=runs/HalfCheetah-v4/… out=videos/cheetah.mp4
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from es_rl import agent as agents
from es_rl import cli, envs
from es_rl.checkpoint import Saver
from es_rl.config import Config
from es_rl.envs.gymnasium_backend import describe, make_one
from es_rl.errors import ConfigError, EnvError
from es_rl.keys import help_text, key, parse
from es_rl.processes import kill_process, start_process
from es_rl.rng import MAX_SEED, integer_seed
from es_rl.rundir import reporting

USAGE = "python -m es_rl.record run=RUN [key=value …]   a video of a trained policy"
MAX_FPS = 30
MAX_BYTES = 8_000_000  # chats take ten megabytes
GIF_WIDTH, GIF_FPS, GIF_SECONDS = 240, 12, 6
Frame = NDArray[np.uint8]  # (height, width, 3)


@dataclass(frozen=True)
class RecordConfig:
    run: str = key("", "the run's directory")
    checkpoint: str = key("last", "last, best, or the number of a generation")
    out: str = key("", "the mp4; default: RUN/videos/ENV-GENERATION.mp4")
    gif: str = key("", "a GIF besides, of the first seconds; default: none")
    seconds: float = key(12.0, "length; episodes follow one another until it is full", above=0, high=600)
    seed: int = key(0, "names the initial states", low=0, high=MAX_SEED)
    env: str = key("", "another environment of the same spaces; needed again for module:Id")


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(RecordConfig, USAGE))
    config = parse(RecordConfig, argv)
    if not config.run:
        raise ConfigError("run is missing: give a run's directory, such as run=runs/HalfCheetah-v4/NAME.")
    agent = agents.load(config.run, config.checkpoint)
    env_id = agents.trusted_env(agent, config.env, config.run)
    envs.check_id(env_id)
    default = Path(config.run) / "videos" / f"{env_id.replace('/', '-').replace(':', '-')}-{agent.generation}.mp4"
    out = Path(config.out) if config.out else default
    kwargs = agent.config.env_kwargs
    frames, fps = film(agent, agent.reset, env_id, kwargs, seconds=config.seconds, seed=config.seed)
    write_mp4(out, frames, fps)
    sys.stdout.write(f"{out}: {len(frames) / fps:.1f} s, {out.stat().st_size / 1e6:.2f} MB\n")
    if config.gif:
        write_gif(Path(config.gif), frames, fps)
        sys.stdout.write(f"{config.gif}: {Path(config.gif).stat().st_size / 1e6:.2f} MB\n")
    return 0


def in_background(argv: Sequence[str]) -> None:
    """The verb as a process of its own beside a training, which it lets go first."""
    os.nice(10)
    cli.run(main, argv)


def film(
    act: Callable[[Any], Any],
    reset: Callable[[], None],
    env_id: str,
    env_kwargs: Mapping[str, Any],
    *,
    seconds: float,
    seed: int,
) -> tuple[list[Frame], float]:
    """Frames of episodes one after another until `seconds` of simulated time are full, and their rate per second.

    `act` is an agent: one observation → one action; `reset` makes it forget the episode that was.

    Raises `EnvError` if the environment cannot be rendered.
    """
    _choose_renderer()
    try:
        env = make_one(env_id, env_kwargs, render_mode="rgb_array")
        _follow(env)
        rate = float(env.metadata.get("render_fps") or MAX_FPS)  # steps a second of simulated time
        every = max(1, int(np.ceil(rate / MAX_FPS)))
        fps = rate / every
        frames = list(_frames(act, reset, env, every, max(1, round(seconds * fps)), seed))
        env.close()
    except Exception as error:  # foreign code, and drivers: any error
        sys.unraisablehook = lambda _: None  # Gymnasium's half-made viewer complains when it is collected
        raise EnvError(
            f"env={env_id}: cannot be rendered: {describe(error)}. MuJoCo needs EGL or OSMesa: on Debian, "
            f"apt-get install libegl1 libgl1-mesa-dri, or libosmesa6; other environments, a render_mode of rgb_array."
        ) from error
    return frames, fps


def write_mp4(path: Path, frames: Sequence[Frame], fps: float) -> None:
    """H.264 in mp4, small enough for a chat and playable everywhere; appears only when it is complete."""
    height, width = (side - side % 2 for side in frames[0].shape[:2])  # H.264 wants even sides
    bits = int(MAX_BYTES * 8 * 0.9 / max(1.0, len(frames) / fps))  # a second
    options = ["-crf", "26", "-maxrate", str(bits), "-bufsize", str(bits), "-movflags", "+faststart"]
    temporary = path.with_suffix(f".writing-{os.getpid()}.mp4")
    with reporting(path, "Choose another place with out=FILE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = imageio_ffmpeg.write_frames(
            str(temporary), (width, height), fps=fps, codec="libx264", quality=None, bitrate=None,
            macro_block_size=2, pix_fmt_out="yuv420p", output_params=options, ffmpeg_log_level="error",
        )  # fmt: skip
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame[:height, :width]))
        writer.close()
        temporary.replace(path)


def write_gif(path: Path, frames: Sequence[Frame], fps: float) -> None:
    """The first seconds, small and at a low rate."""
    step = max(1, round(fps / GIF_FPS))
    chosen = frames[: max(1, int(GIF_SECONDS * fps)) : step]
    height, width = chosen[0].shape[:2]
    size = (GIF_WIDTH, round(GIF_WIDTH * height / width))
    images = [Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS) for frame in chosen]
    palette = images[0].quantize(128)
    paletted = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    with reporting(path, "Choose another place with gif=FILE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        paletted[0].save(
            path,
            save_all=True,
            append_images=paletted[1:],
            duration=round(1000 * step / fps),
            loop=0,
            optimize=True,
        )


def _frames(
    act: Callable[[Any], Any], reset: Callable[[], None], env: Any, every: int, count: int, seed: int
) -> Iterator[Frame]:
    episode = 0
    while count > 0:
        obs, _ = env.reset(seed=integer_seed(seed, "record", episode))
        reset()
        step, done = 0, False
        while not done and count > 0:
            if step % every == 0:
                count -= 1
                yield np.asarray(env.render(), np.uint8)
            obs, _, terminated, truncated, _ = env.step(act(obs))
            step, done = step + 1, terminated or truncated
        episode += 1


def _follow(env: Any) -> None:
    """Let the camera of a MuJoCo task go along with its robot: Gymnasium leaves it where the robot starts."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is None:
        return
    import mujoco

    camera = mujoco.mj_name2id(env.unwrapped.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    if camera >= 0:
        renderer.camera_id = camera


def _choose_renderer() -> None:
    """Before mujoco is imported: the first of EGL and OSMesa that can draw off the screen, unless one is set."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # for the environments drawn by pygame
    if "MUJOCO_GL" in os.environ:
        return
    code = "import mujoco; mujoco.GLContext(64, 64).make_current()"
    for name in ("egl", "osmesa"):
        trial = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"MUJOCO_GL": name},
            capture_output=True,
            check=False,
        )
        if trial.returncode == 0:
            os.environ["MUJOCO_GL"] = name
            return


class Films:
    """Films a run's checkpoints in a process of its own while training goes on; one at a time."""

    def __init__(
        self, run: Path, config: Config, *, say: Callable[[str], None], done: Callable[[Path, int], None]
    ) -> None:
        self._run, self._config, self._say, self._done = run, config, say, done
        self._process: Any = None
        self._output = run / "videos" / "record.log"
        self._next = config.video.every

    def poll(self, saver: Saver) -> None:
        """Take a finished film; start the next if its generation has come, after having it saved."""
        if self._process is not None and self._process.exitcode is not None:
            self._take()
            saver.pinned = None
        every, generation = self._config.video.every, saver.state.generation
        if every > 0 and generation >= self._next and self._process is None:
            self._next, saver.pinned = generation + every, generation
            saver.save()
            self._start(generation, saver.progress.steps)

    def finish(self, saver: Saver, check: Callable[[], None]) -> None:
        """The film of the last checkpoint, waited for; `check` may raise to give up."""
        if self._config.video.every < 0:
            return
        self._wait(check)
        self._start(saver.state.generation, saver.progress.steps)
        self._wait(check)

    def close(self) -> None:
        """End a film that is not finished."""
        if self._process is not None:
            kill_process(self._process)
            self._process = None
            for leftover in (self._run / "videos").glob("*.writing-*"):
                leftover.unlink()

    def _start(self, generation: int, env_steps: int) -> None:
        name = self._config.env.replace("/", "-").replace(":", "-")
        self._mp4 = self._run / "videos" / f"{name}-{generation}.mp4"
        self._gif, self._step = self._mp4.with_suffix(".gif"), env_steps
        self._output.parent.mkdir(exist_ok=True)
        self._output.write_text("")
        argv = [
            f"run={self._run}",
            f"checkpoint={generation}",
            f"out={self._mp4}",
            f"gif={self._gif}",
            f"seconds={self._config.video.seconds}",
            f"env={self._config.env}",
        ]
        self._process = start_process(in_background, argv, log=self._output)

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
            said = self._output.read_text().strip().splitlines() or ["the process was killed"]
            self._say(f"warning: no video: {said[-1]}")
        else:
            self._say(f"video: {self._mp4}")
            self._done(self._gif, self._step)


if __name__ == "__main__":
    cli.run(main)

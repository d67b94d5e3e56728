"""Write films to mp4 and GIF files while their frames are taken."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from es_rl.rl.films.picture import Frame
from es_rl.run.directory import reporting

GIF_WIDTH, GIF_FPS, GIF_SECONDS = 240, 12, 6  # pixels of a picture, frames per second, seconds
MAX_BYTES = 8_000_000  # size of an mp4 at most: chats accept 10 MB
ELSEWHERE = "Choose another place with {}=FILE"


def write_mp4(path: Path, frames: Iterable[Frame], fps: float, seconds: float) -> int:
    """Write H.264 in mp4, small enough for a chat and playable everywhere. Return the number of frames.

    The film may last `seconds` at most. The file appears only when it is complete.
    """
    coming = iter(frames)
    first = next(coming)
    height, width = (side - side % 2 for side in first.shape[:2])  # H.264 needs even sides
    bits = int(MAX_BYTES * 8 * 0.9 / max(1.0, seconds))  # per second
    options = ["-crf", "26", "-maxrate", str(bits), "-bufsize", str(bits), "-movflags", "+faststart"]
    temporary = path.with_suffix(f".writing-{os.getpid()}.mp4")
    with reporting(path, ELSEWHERE.format("out")):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = imageio_ffmpeg.write_frames(
            f"file:{temporary.resolve()}", (width, height), fps=fps, codec="libx264", quality=None, bitrate=None,
            macro_block_size=2, pix_fmt_out="yuv420p", output_params=options, ffmpeg_log_level="error",
        )  # fmt: skip
        writer.send(None)
        try:
            count = 0
            for frame in chain([first], coming):
                writer.send(np.ascontiguousarray(frame[:height, :width]))
                count += 1
            writer.close()
            temporary.replace(path)
        finally:
            writer.close()
            temporary.unlink(missing_ok=True)
    return count


class Gif:
    """A small GIF of the first `GIF_SECONDS` of a film, with a low frame rate."""

    def __init__(self, fps: float, *, width: int = GIF_WIDTH) -> None:
        self._width = width
        self._step = max(1, round(fps / GIF_FPS))
        self._duration = round(1000 * self._step / fps)  # of a picture, in milliseconds
        self._most = max(1, int(GIF_SECONDS * fps))  # frames of the film that are used
        self._images: list[Image.Image] = []

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield the frames as they come, and keep small copies of some."""
        for i, frame in enumerate(frames):
            if i < self._most and i % self._step == 0:
                height, width = frame.shape[:2]
                size = (self._width, max(1, round(self._width * height / width)))
                self._images.append(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
            yield frame

    def write(self, path: Path, key: str) -> None:
        """Write what was seen. `key` names the file in an error message."""
        palette = self._images[0].quantize(128)
        paletted = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in self._images]
        with reporting(path, ELSEWHERE.format(key)):
            path.parent.mkdir(parents=True, exist_ok=True)
            paletted[0].save(
                path, format="GIF", save_all=True, append_images=paletted[1:], duration=self._duration, loop=0,
                optimize=True,
            )  # fmt: skip

"""Text in films, and several films side by side."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from es_rl.rl.films.picture import Frame

LEAST_WIDTH = 240  # pixels: smaller pictures have no room for text
TEXT_HEIGHT = 0.035  # of a picture's height
DARK, LIGHT = (0, 0, 0, 130), (255, 255, 255, 255)
STRIP_WIDTH = 1280  # pixels of a strip at most


def captioned(frame: Frame, seconds: float, return_: float, text: str) -> Frame:
    """Return a picture that tells in a corner the time and the return of its episode so far, and a text."""
    height, width = frame.shape[:2]
    if width < LEAST_WIDTH:
        return frame
    told = f"{seconds:.1f} s    return {return_:,.0f}" + (f"    {text}" if text else "")
    image = Image.fromarray(frame).convert("RGB")
    drawing, font, edge = ImageDraw.Draw(image, "RGBA"), _font(max(12, round(TEXT_HEIGHT * height))), height // 50
    left, top, right, bottom = drawing.textbbox((0, 0), told, font=font)
    place = (2 * edge, height - 2 * edge - (bottom - top))
    drawing.rectangle((edge, place[1] - edge, place[0] + right - left + edge, height - edge), fill=DARK)
    drawing.text((place[0] - left, place[1] - top), told, font=font, fill=LIGHT)
    return np.asarray(image)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def side_by_side(films: Sequence[Iterator[Frame]]) -> Iterator[Frame]:
    """Yield pictures of several films side by side, until the shortest one ends. They have one size."""
    for frames in zip(*films, strict=False):
        height, width = frames[0].shape[:2]
        scale = min(1.0, STRIP_WIDTH / (width * len(frames)))
        size = (round(width * scale) // 2 * 2, round(height * scale) // 2 * 2)
        parts = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in frames]
        yield np.concatenate(parts, axis=1)


def spread(items: Sequence[int], most: int) -> list[int]:
    """Return at most so many of some items: the first one, the last one, and others evenly between them."""
    if len(items) <= most:
        return list(items)
    places = np.linspace(0, len(items) - 1, most).round().astype(int)
    return [items[i] for i, _ in itertools.groupby(places)]

"""Text in films, and several films side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from es_rl.rl.films.picture import Frame

LEAST_WIDTH = 240  # pixels: smaller pictures have no room for text
TEXT_HEIGHT = 0.035  # of a picture's height
DARK, LIGHT = (0, 0, 0, 130), (255, 255, 255, 255)


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


def scaled(frame: Frame, width: int | None) -> Frame:
    """Return a picture that is at most so wide, of even sides."""
    height, own = frame.shape[:2]
    if width is None or own <= width:
        return frame
    size = (width // 2 * 2, max(2, round(height * width / own) // 2 * 2))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


def side_by_side(films: Sequence[Iterator[Frame]]) -> Iterator[Frame]:
    """Yield pictures of several films side by side, until the shortest one ends. They have one size."""
    for frames in zip(*films, strict=False):
        yield np.concatenate(frames, axis=1)


def spread(ages: Mapping[int, float], most: int) -> list[int]:
    """Return at most so many generations, by their ages in seconds: the first, the last, and some between.

    Those between are spread over the logarithm of the ages, since policies learn most at the beginning.
    """
    left = sorted(ages)
    if len(left) <= most:
        return left
    logs = {generation: np.log1p(seconds) for generation, seconds in ages.items()}
    chosen = [left.pop(0), left.pop()]
    for wanted in np.linspace(logs[chosen[0]], logs[chosen[1]], most)[1:-1]:
        chosen.append(min(left, key=lambda generation: abs(logs[generation] - wanted)))
        left.remove(chosen[-1])
    return sorted(chosen)

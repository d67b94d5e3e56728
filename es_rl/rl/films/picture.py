"""Turn whatever an environment's `render` returns into frames of one film: RGB, 8 bits, all of one size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from es_rl.errors import EnvError

Frame = NDArray[np.uint8]  # (height, width, 3)

CHANNELS = (1, 2, 3, 4)  # grey, grey and alpha, RGB, RGB and alpha
EVEN = 2  # pixels: the least side of a film
SMALL = 160  # pixels: a picture whose longer side is shorter is enlarged, each pixel to a square


class Pictures:
    """Makes frames from rendered pictures. The first sets their size; the first with any light the range of floats."""

    def __init__(self) -> None:
        self._size: tuple[int, int] | None = None  # width, height
        self._unit: bool | None = None  # whether floats lie in [0, 1]; None: not known, all were black

    def frame(self, rendered: Any) -> Frame:
        """Return a frame. Raises `EnvError` for what is no picture."""
        pixels = _pixels(rendered)
        if self._unit is None and pixels.dtype.kind == "f" and (brightest := float(np.nan_to_num(pixels).max())) > 0:
            self._unit = brightest <= 1.0
        image = Image.fromarray(_rgb(_bytes(pixels, unit=bool(self._unit))))
        if self._size is None:
            times = -(-SMALL // max(image.size)) if max(image.size) < SMALL else 1
            self._size = (max(EVEN, image.width * times), max(EVEN, image.height * times))
        frame: Frame = np.asarray(_fitted(image, self._size))
        return frame


def _pixels(rendered: Any) -> NDArray[Any]:
    """Return a rendered picture as an array (height, width, channels) of any type. Raises `EnvError`."""
    if isinstance(rendered, (list, tuple)) and rendered and not isinstance(rendered[-1], (list, tuple)):
        rendered = rendered[-1]  # frames since the last call: the newest one
    if isinstance(rendered, Image.Image):
        rendered = rendered.convert("RGBA")
    elif hasattr(rendered, "detach"):  # a tensor of torch
        rendered = rendered.detach().cpu()
        rendered = (rendered.float() if rendered.is_floating_point() else rendered).numpy()  # NumPy has no bfloat16
    pixels = np.asarray(rendered)
    if pixels.dtype.kind not in "buif":
        raise EnvError(f"its render returned {_kind(rendered)}, not a picture")
    while pixels.ndim > 2 and pixels.shape[0] == 1 and not (pixels.ndim == 3 and pixels.shape[-1] in CHANNELS):
        pixels = pixels[0]  # a batch of one picture
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim == 3 and pixels.shape[-1] not in CHANNELS and pixels.shape[0] in CHANNELS:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim != 3 or pixels.shape[-1] not in CHANNELS or not pixels.size:
        raise EnvError(f"its render returned an array of shape {np.shape(rendered)}, not a picture (height, width, 3)")
    return pixels


def _kind(rendered: Any) -> str:
    return "None" if rendered is None else f"a {type(rendered).__name__}"


def _bytes(pixels: NDArray[Any], *, unit: bool) -> Frame:
    """Return pixels as 8-bit numbers; floats are cut off outside their range, and NaN is black."""
    kind = pixels.dtype
    if kind == np.uint8:
        return pixels
    if kind.kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if kind == np.uint16 and pixels.max() > 255:
        return (pixels >> 8).astype(np.uint8)
    scaled = np.nan_to_num(pixels.astype(np.float64), nan=0.0) * (255.0 if unit and kind.kind == "f" else 1.0)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _rgb(pixels: Frame) -> Frame:
    """Return (height, width, 3): grey in three channels, transparent parts white."""
    count = pixels.shape[-1]
    color = np.broadcast_to(pixels[:, :, : 1 if count < 3 else 3], (*pixels.shape[:2], 3))
    if count in (1, 3):
        return np.ascontiguousarray(color)
    alpha = pixels[:, :, -1:].astype(np.uint16)
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the picture in this size: whole, in its proportions, with black borders if these differ."""
    if image.size == size:
        return image
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.NEAREST if scale == int(scale) else Image.Resampling.LANCZOS
    whole = Image.new("RGB", size)
    whole.paste(image.resize(inner, how), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return whole

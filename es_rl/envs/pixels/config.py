"""The keys of images, and `View`: all that is done with frames and images."""

from __future__ import annotations

from dataclasses import dataclass, field

from es_rl.errors import ConfigError
from es_rl.keys import key


@dataclass(frozen=True)
class PixelsConfig:
    render: bool = key(False, "see the pictures that the environment draws, in place of its observations")
    crop: list[int] = key([], "pixels to cut off at the top, bottom, left and right: four numbers", low=0)
    gray: bool = key(False, "make images grey: one channel in place of three")
    size: list[int] = key(
        [], "height and width to which images are scaled down, in pixels; one number: both; default: as they are", low=1
    )
    stack: int = key(1, "latest images that the policy sees together", low=1, high=100)


@dataclass(frozen=True)
class View:
    """What is done with frames and images, in this order. Numbers beside images stay as they are."""

    frame_skip: int = 1  # frames for which an action is repeated; their rewards are summed
    pixels: PixelsConfig = field(default_factory=PixelsConfig)

    @property
    def of_pixels(self) -> list[str]:
        """Return the keys of images that are set, as key=value."""
        set_ = [name for name in ("render", "crop", "gray", "size") if getattr(self.pixels, name)]
        set_ += ["stack"] if self.pixels.stack > 1 else []
        return [f"pixels.{name}={getattr(self.pixels, name)}" for name in set_]

    @property
    def keys(self) -> list[str]:
        """Return all keys that are set, as key=value; none if nothing is done."""
        return ([f"frame_skip={self.frame_skip}"] if self.frame_skip > 1 else []) + self.of_pixels

    @property
    def size(self) -> tuple[int, int] | None:
        """Return the height and the width to which images are scaled down."""
        given = self.pixels.size
        return (given[0], given[-1]) if given else None


PLAIN = View()


def check_view(view: View) -> None:
    """Raise `ConfigError` for lists of a wrong length."""
    if len(view.pixels.crop) not in (0, 4):
        raise ConfigError(
            f"pixels.crop={view.pixels.crop}: must be four numbers, the pixels to cut off at the top, bottom, left and "
            f"right, such as pixels.crop=[0,16,0,0]."
        )
    if len(view.pixels.size) > 2:
        raise ConfigError(f"pixels.size={view.pixels.size}: must be one number, or height and width, such as [60,80].")

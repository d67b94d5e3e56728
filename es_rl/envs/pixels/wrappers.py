"""Wrap an environment so that its frames and images are as a `View` says.

Drawing and stacking are Gymnasium's own wrappers. Those for grey and for size know observations that are one image
only, and need OpenCV: here Pillow does both, for every image of a Dict or a Tuple, in one go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import AddRenderObservation, FrameStackObservation, TransformObservation
from numpy.typing import NDArray
from PIL import Image as Picture

from es_rl import plugins
from es_rl.envs.gymnasium_backend import describe
from es_rl.envs.pixels.config import View
from es_rl.envs.spaces.parts import Space, is_picture, leaves, one_line
from es_rl.errors import FOREIGN, EnvError
from es_rl.observations import WHITE, Image

Env = gymnasium.Env[Any, Any]
Change = Callable[[Any], Any]  # of a part of an observation
COLORS = (3, 4)  # channels of an image with colours; the fourth one, transparency, is left out of grey


def wrapped(env: Env, view: View, id: str) -> Env:
    """Return the environment as a view shows it. Raises `EnvError` for what its images do not allow."""
    if view.frame_skip > 1:
        env = FrameSkip(env, view.frame_skip)
    if not view.of_pixels:
        return env
    if view.pixels.render:
        env = _drawn(env, id)
    if not any(is_picture(part) for _, part in leaves(env.observation_space)):
        raise EnvError(
            f"{view.of_pixels[0]}: env={id} shows no image, its observations are {one_line(env.observation_space)}. "
            f"Leave pixels.* out."
        )
    if view.pixels.crop or view.pixels.gray or view.size:
        space, change = _everywhere(env.observation_space, lambda box: _smaller(box, view, id))
        env = TransformObservation(env, change, space)
    return _stacked(env, view.pixels.stack) if view.pixels.stack > 1 else env


def _drawn(env: Env, id: str) -> Env:
    """Show the pictures that an environment draws. Raises `EnvError` if it cannot draw."""
    try:
        with plugins.their_settings(watch=True):
            return AddRenderObservation(env)
    except FOREIGN as error:
        raise EnvError(
            f"pixels.render=true: env={id} gives no picture: {describe(error)}. It must draw with "
            f"render_mode=rgb_array."
        ) from error


class FrameSkip(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats each action for so many frames, or until the episode ends. Rewards are summed."""

    def __init__(self, env: Env, frames: int) -> None:
        super().__init__(env)
        self._frames = frames
        if isinstance(fps := env.metadata.get("render_fps"), (int, float)):
            self.metadata = {**env.metadata, "render_fps": fps / frames}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        obs, total, terminated, truncated, info = self.env.step(action)
        for _ in range(self._frames - 1):
            if terminated or truncated:
                break
            obs, reward, terminated, truncated, info = self.env.step(action)
            total = total + reward  # type: ignore[operator]
        return obs, total, terminated, truncated, info


def _stacked(env: Env, count: int) -> Env:
    """Show the latest images together. Parts that are no image are those of the latest observation."""
    single = env.observation_space
    env = FrameStackObservation(env, count)
    if is_picture(single):
        return env
    space, _ = _everywhere(single, lambda box: (_box((count, *box.shape)), lambda part: part))
    return TransformObservation(env, _latest(single), space)


def _latest(space: Space) -> Change:
    """Return the function that takes the latest of stacked parts, except of images."""
    match space:
        case spaces.Dict():
            named = {name: _latest(part) for name, part in space.items()}
            return lambda obs: {name: change(obs[name]) for name, change in named.items()}
        case spaces.Tuple():
            parts = [_latest(part) for part in space]
            return lambda obs: tuple(change(part) for change, part in zip(parts, obs, strict=True))
    return (lambda part: part) if is_picture(space) else (lambda part: part[-1])


def _everywhere(space: Space, of_image: Callable[[spaces.Box], tuple[Space, Change]]) -> tuple[Space, Change]:
    """Return a space with other images, and the function that changes its observations."""
    match space:
        case spaces.Dict():
            named = {name: _everywhere(part, of_image) for name, part in space.items()}
            changed: Space = spaces.Dict([(name, part) for name, (part, _) in named.items()])
            return changed, lambda obs: {name: change(obs[name]) for name, (_, change) in named.items()}
        case spaces.Tuple():
            parts = [_everywhere(part, of_image) for part in space]
            changed = spaces.Tuple([part for part, _ in parts])
            return changed, lambda obs: tuple(change(part) for (_, change), part in zip(parts, obs, strict=True))
        case spaces.Box() if is_picture(space):
            return of_image(space)
    return space, lambda part: part


def _smaller(box: spaces.Box, view: View, id: str) -> tuple[Space, Change]:
    """Return the space of cropped, grey and smaller images, and the function that makes them. Raises `EnvError`."""
    channels, height, width = Image(box.shape).planes
    arranged = _arranged(box.shape)
    colors = arranged(np.zeros(box.shape, np.uint8)).shape[-1]
    top, bottom, left, right = view.pixels.crop or (0, 0, 0, 0)
    if top + bottom >= height or left + right >= width:
        raise EnvError(
            f"pixels.crop={view.pixels.crop}: leaves nothing of the images of env={id}, which are {height} × {width} "
            f"pixels. Cut less off."
        )
    inside = slice(top, height - bottom), slice(left, width - right)
    height, width = height - top - bottom, width - left - right
    if view.size and (view.size[0] > height or view.size[1] > width):
        raise EnvError(
            f"pixels.size={view.pixels.size}: must not be larger than the images of env={id}, which are "
            f"{height} × {width} pixels{' after pixels.crop' if view.pixels.crop else ''}. Give a smaller one."
        )
    if view.pixels.gray and colors not in COLORS:
        raise EnvError(
            f"pixels.gray=true: needs images with colours, and those of env={id} have {channels} channels. "
            f"Leave it out."
        )

    def change(part: Any) -> Any:
        frames = arranged(np.asarray(part))[:, inside[0], inside[1]]  # (K, H, W, C)
        made = np.stack([_scaled(frame, view) for frame in frames])
        return made[0] if len(made) == 1 else made

    return _box(change(np.zeros(box.shape, np.uint8)).shape), change


def _scaled(frame: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """Return an image (H, W, C) grey and scaled down, if the view says so, (H, W, C)."""
    colors = frame.shape[-1]
    if colors not in COLORS:
        return np.stack([_resized(Picture.fromarray(frame[..., i]), view) for i in range(colors)], axis=-1)
    picture = Picture.fromarray(np.ascontiguousarray(frame[..., :3]))
    made = _resized(picture.convert("L") if view.pixels.gray else picture, view)
    return made.reshape(*made.shape[:2], -1)


def _resized(picture: Picture.Image, view: View) -> NDArray[np.uint8]:
    if view.size and picture.size != view.size[::-1]:
        picture = picture.resize(view.size[::-1], Picture.Resampling.BOX)
    return np.asarray(picture)


def _arranged(shape: tuple[int, ...]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return the function that arranges an image, or a stack of them, as images (K, H, W, C).

    Channels before the pixels are colours if there are three, and otherwise images of one channel each.
    """
    image = Image(shape)
    _, height, width = image.planes
    if image.channels_last:
        return lambda x: x.reshape(-1, height, width, shape[-1])
    if len(shape) > 2 and shape[-3] in COLORS[:1]:
        return lambda x: np.moveaxis(x.reshape(-1, shape[-3], height, width), 1, -1)
    return lambda x: x.reshape(-1, height, width, 1)


def _box(shape: tuple[int, ...]) -> spaces.Box:
    return spaces.Box(0, WHITE, shape, np.uint8)

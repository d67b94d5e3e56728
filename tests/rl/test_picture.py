"""Whatever `render` returns is shown right, or is one line."""

import numpy as np
import pytest
import torch
from PIL import Image

from es_rl.errors import EnvError
from es_rl.rl.films.picture import SMALL, Pictures

H, W = 180, 240
RGB = np.zeros((H, W, 3), np.uint8)
RGB[:90] = (200, 100, 50)
GREY = np.where(np.arange(H)[:, None] < 90, 200, 0).astype(np.uint8) * np.ones(W, np.uint8)
ALPHA = np.full((H, W, 1), 255, np.uint8)
SHOWN = {
    "RGB": RGB,
    "a list of lists": RGB.tolist(),
    "an image": Image.fromarray(RGB),
    "an image with a palette": Image.fromarray(RGB).quantize(4),
    "a tensor": torch.from_numpy(RGB),
    "frames since the last call": [np.zeros_like(RGB), RGB],
    "a batch of one": RGB[None],
    "channels first": np.moveaxis(RGB, -1, 0),
    "RGB and alpha": np.concatenate([RGB, ALPHA], 2),
    "floats to 1": RGB / 255,
    "floats to 255": RGB.astype(np.float32),
    "floats beyond": np.where(RGB == 0, -3.0, RGB.astype(float)),
    "whole numbers": RGB.astype(np.int64),
    "16 bits": RGB.astype(np.uint16) * 257,
    "mirrored": RGB[:, ::-1],
    "half floats": (RGB / 255).astype(np.float16),
    "a tensor of bfloat16": torch.from_numpy(RGB).to(torch.bfloat16),
    "a tensor of parameters": torch.nn.Parameter(torch.from_numpy(RGB).float()),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_picture_is_shown_as_it_is(name):
    frame = Pictures().frame(SHOWN[name])
    assert frame.shape == (H, W, 3) and frame.dtype == np.uint8
    assert np.abs(frame.astype(int) - RGB).max() <= (12 if "palette" in name else 1)


@pytest.mark.parametrize(
    "rendered", [GREY, GREY[..., None], GREY[None], GREY / 255, GREY > 0, np.stack([GREY, ALPHA[..., 0]], -1)],
    ids=["two dimensions", "one channel", "a batch of one", "floats", "black and white", "with alpha"],
)  # fmt: skip
def test_grey_is_grey(rendered):
    frame = Pictures().frame(rendered)
    assert frame.shape == (H, W, 3) and (frame == frame[..., :1]).all()
    assert frame[0, 0, 0] == (255 if np.asarray(rendered).dtype == bool else 200) and frame[-1, -1, 0] == 0


def test_what_is_transparent_is_white_and_half_of_it_half():
    picture = np.concatenate([RGB, ALPHA], 2)
    picture[:, :100, 3], picture[:, 100:200, 3] = 0, 128
    frame = Pictures().frame(picture)
    assert (frame[:, :100] == 255).all() and (frame[:, 200:] == RGB[:, 200:]).all()
    assert np.abs(frame[0, 150].astype(int) - (227, 177, 152)).max() <= 1


def test_frames_of_another_size_are_shown_whole_in_that_of_the_first():
    pictures = Pictures()
    pictures.frame(RGB)
    wide = np.full((90, 240, 3), 255, np.uint8)
    frame = pictures.frame(wide)
    assert frame.shape == (H, W, 3)
    assert (frame[45:135] == 255).all() and not frame[:45].any() and not frame[135:].any()
    assert pictures.frame(np.full((360, 480, 3), 77, np.uint8)).min() == 77


def test_the_first_picture_sets_the_range_of_floats():
    pictures = Pictures()
    assert pictures.frame(np.full((H, W, 3), 0.5)).max() == 128
    assert pictures.frame(np.full((H, W, 3), 1.2)).max() == 255  # beyond its range, not dark
    pictures = Pictures()
    assert pictures.frame(np.full((H, W, 3), 90.0)).max() == 90
    assert pictures.frame(np.full((H, W, 3), 0.9)).max() == 1
    assert pictures.frame(np.full((H, W, 3), np.nan)).max() == 0
    for dark, bright, shown in ((0.0, 90.0, 90), (np.nan, 0.5, 128), (-1.0, 1.0, 255)):
        pictures = Pictures()  # what is black tells nothing
        assert pictures.frame(np.full((H, W, 3), dark)).max() == 0
        assert pictures.frame(np.full((H, W, 3), bright)).max() == shown


@pytest.mark.parametrize("shape", [(1, 500, 3), (500, 1, 3), (1, 1, 3)])
def test_a_picture_of_one_row_has_the_two_that_a_film_needs(shape):
    frame = Pictures().frame(np.full(shape, 90, np.uint8))
    assert min(frame.shape[:2]) >= 2 and frame.max() == 90


def test_small_pictures_are_enlarged_without_blur():
    board = np.zeros((8, 4, 3), np.uint8)
    board[0, 0] = 255
    frame = Pictures().frame(board)
    assert max(frame.shape) >= SMALL and frame.shape[0] == 2 * frame.shape[1]
    assert set(np.unique(frame)) == {0, 255}


@pytest.mark.parametrize(
    ("rendered", "said"),
    [
        (None, "returned None"),
        ("....\n.@..", "returned a str"),
        ({"camera": RGB}, "returned a dict"),
        ([], "shape (0,)"),
        (np.zeros((2, 2, 2, 2)), "shape (2, 2, 2, 2)"),
        (np.zeros((40, 40, 7)), "shape (40, 40, 7)"),
        (np.zeros((0, 40, 3)), "shape (0, 40, 3)"),
        (3, "shape ()"),
        (np.array(["a"]), "returned a ndarray"),
    ],
)
def test_what_is_no_picture_is_one_line(rendered, said):
    with pytest.raises(EnvError) as caught:
        Pictures().frame(rendered)
    assert said in str(caught.value) and "picture" in str(caught.value)

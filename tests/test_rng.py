"""Streams: named, reproducible, distinct."""

import itertools

import numpy as np
import pytest

from es_rl.rng import MAX_SEED, PURPOSES, integer_seed, stream


def test_a_stream_is_a_function_of_its_name():
    assert np.array_equal(stream(3, "noise", 1, 2, 3).random(5), stream(3, "noise", 1, 2, 3).random(5))


def test_streams_of_different_names_differ():
    names = itertools.product([0, 1, MAX_SEED], ["noise", "episode"], [0, 1], [0, 1], [0, 1])
    first = {name: stream(*name).random() for name in names}
    assert len(set(first.values())) == len(first)


def test_purposes_have_codes_of_their_own():
    assert len(set(PURPOSES.values())) == len(PURPOSES)


def test_missing_indices_are_zeros_and_blocks_never_reach_the_indices():
    assert stream(0, "eval", 5).random() == stream(0, "eval", 5, 0, 0).random()
    long = stream(0, "eval", 5).random(1_000)
    assert not np.isin(stream(0, "eval", 6).random(1_000), long).any()


def test_the_bits_are_those_of_every_earlier_run():
    """A change here makes every checkpoint's future another one."""
    assert stream(0, "noise", 0, 0, 0).integers(0, 2**32, 3).tolist() == [4188131702, 3493329091, 1277232997]
    assert integer_seed(0, "episode", 1, 2, 3) == 1575236107


@pytest.mark.parametrize(("seed", "indices"), [(-1, ()), (MAX_SEED + 1, ()), (0, (1, 2, 3, 4)), (0, (-1,))])
def test_bad_names_are_refused(seed, indices):
    with pytest.raises(ValueError, match=str(seed) if not indices else "indices"):
        stream(seed, "noise", *indices)

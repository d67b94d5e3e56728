"""Contracts over spaces: actions and observations as numbers and back, spaces as JSON, what is refused and why."""

import json
from collections import OrderedDict
from pathlib import Path

import choosing
import numpy as np
import pytest
from choosing import SPACES, is_of
from gymnasium import spaces

from es_rl.envs.spaces import Flattener, from_json, leaves, refusal, row_of, row_type, same, size, to_action, to_json

BOX = spaces.Box(-1, 1, (2,))


def equal(one, other):
    """Whether two actions or observations are equal, part by part."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return np.array_equal(one, other) and one.dtype == other.dtype


@pytest.mark.parametrize("kind", SPACES)
def test_an_action_becomes_numbers_and_the_same_action_again(kind):
    space = SPACES[kind]
    for action in choosing.samples(kind, 1):
        row = row_of(space, action)
        again = to_action(space, row)
        assert row.shape == row_type(space)[0] and is_of(space, again)
        assert equal(again, action) or kind == "whole range"  # whose samples float64 cannot tell apart


@pytest.mark.parametrize("kind", SPACES)
def test_a_space_survives_json_with_the_order_of_its_parts(kind):
    space = SPACES[kind]
    back = from_json(json.loads(json.dumps(to_json(space), allow_nan=False)))
    assert same(back, space) and to_json(back) == to_json(space)


@pytest.mark.parametrize("kind", SPACES)
def test_an_observation_becomes_the_vector_that_gymnasium_makes(kind):
    space = SPACES[kind]
    plan = Flattener(space)
    for seen in choosing.samples(kind, 2):
        row = plan(seen)
        assert row.shape == (size(space),) == (spaces.flatdim(space),)
        assert np.array_equal(row, np.asarray(spaces.flatten(space, seen), np.float64).reshape(-1))


def test_observations_may_be_lists_and_bools():
    assert Flattener(spaces.MultiBinary(3))([np.True_, False, True]).tolist() == [1, 0, 1]
    assert Flattener(spaces.MultiDiscrete([2, 2]))(np.array([True, False])).tolist() == [0, 1, 1, 0]
    assert Flattener(spaces.Discrete(2))(np.True_).tolist() == [0, 1]


def test_the_last_choice_of_a_small_type_is_seen():
    """200 + 56 wraps around in uint8."""
    space = spaces.MultiDiscrete([56], np.uint8, start=[200])
    assert Flattener(space)(np.array([255], np.uint8)).tolist() == [0] * 55 + [1]


def test_spaces_with_other_orders_of_parts_are_not_the_same():
    """Gymnasium holds them for equal, but a policy's numbers would go to the wrong parts."""
    one, other = (spaces.Dict(OrderedDict((key, BOX) for key in keys)) for keys in ("ab", "ba"))
    assert one == other and same(one, one) and not same(one, other)


NOT = "is not supported; Box, Discrete, MultiBinary, MultiDiscrete, and Dict or Tuple of these are"
ODD_ACTIONS = {
    "text": (spaces.Dict({"arm": spaces.Tuple([BOX, spaces.Text(2, charset="ab")])}),
             f'action_space["arm"][1]: Text(1, 2, charset=ab) {NOT}. Wrap the environment'),
    "sequence": (spaces.Sequence(BOX), f"the action space Sequence(Box(-1.0, 1.0, (2,), float32), stack=False) {NOT}"),
    "graph": (spaces.Dict({"é": spaces.Graph(BOX, None)}), 'action_space["é"]: Graph'),
    "one of": (spaces.Tuple([spaces.OneOf([BOX, BOX])]), "action_space[0]: OneOf"),
    "empty": (spaces.Dict({}), "the action space Dict() has no parts. Give"),
    "empty inside": (spaces.Dict({"a": BOX, "b": spaces.Tuple([spaces.Dict({})])}),
                     'action_space["b"][0]: Dict() has no parts. Leave this part out'),
    "no numbers": (spaces.Dict({"a": BOX, "b": spaces.Box(-1, 1, (2, 0))}), 'action_space["b"]: Box'),
    "no choices": (spaces.MultiDiscrete(np.zeros((0,), int)), "the action space MultiDiscrete([]) has no numbers"),
    "infinite grid": (spaces.Box(np.array([[0, np.inf], [0, 0]]), np.inf, dtype=np.float64), "the action space Box"),
    "infinite": (spaces.Tuple([spaces.Box(np.inf, np.inf, (1,))]),
                 "action_space[0]: Box(inf, inf, (1,), float32) has no number in it"),
    "far away": (spaces.Tuple([spaces.Discrete(3, start=-(2**60))]), "action_space[0]: Discrete(3, start=-1152"),
    "key": (spaces.Dict({("a", 1): BOX}), "has the key ('a', 1); keys must be texts or numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_ACTIONS)
def test_an_action_space_that_no_policy_can_act_in_is_refused_with_the_place(name):
    space, text = ODD_ACTIONS[name]
    said = refusal(BOX, space)
    assert text in said and "\n" not in said, said


@pytest.mark.parametrize("kind", SPACES)
def test_the_spaces_of_the_contract_are_taken(kind):
    assert refusal(SPACES[kind], SPACES[kind]) == ""


def test_the_documentation_has_a_row_for_each_kind():
    page = (Path(__file__).parents[2] / "docs/guides/environment.md").read_text()
    rows = " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| "))
    kinds = {type(leaf).__name__ for space in SPACES.values() for _, leaf in leaves(space)} | {"Dict", "Tuple"}
    assert kinds == {"Box", "Discrete", "MultiBinary", "MultiDiscrete", "Dict", "Tuple"}
    assert all(f" {kind}" in rows for kind in kinds) and "Box of bool" in rows


def test_the_place_of_an_odd_observation_is_told():
    seen = spaces.Dict({"a": spaces.Tuple([BOX, spaces.Sequence(BOX)])})
    assert refusal(seen, BOX).startswith('observation_space["a"][1]: Sequence(')
    some = spaces.Dict({"a": spaces.Text(3), 1: spaces.Dict({0: BOX, 2: spaces.Text(3)})})  # which are left out
    assert refusal(some, BOX) == ""

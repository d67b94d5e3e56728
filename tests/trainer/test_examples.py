"""The examples reach what they promise."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("name", "least"), [("digits", 0.93), ("cartpole", 475), ("f1_score", 0.85)])
@pytest.mark.soak
def test_an_example_reaches_what_it_promises(name, least):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert example.main(workers=0) >= least

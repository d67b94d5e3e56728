"""The examples reach what they promise."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


LONG = [pytest.param("digits", 0.93, marks=pytest.mark.soak), pytest.param("cartpole", 475, marks=pytest.mark.soak)]


@pytest.mark.parametrize(("name", "least"), [*LONG, ("f1_score", 0.85)])
@pytest.mark.slow
def test_an_example_reaches_what_it_promises(name, least):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert example.main(workers=0) >= least

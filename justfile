# What a contributor runs; `.ci/run` runs the same.

default: lint types test-fast

lint:
    ruff check .
    ruff format --check .

types:
    mypy

# The everyday run, without the tests that start processes or take seconds.
test-fast:
    pytest -m "not slow and not process"

test:
    pytest

# What takes minutes, and further cases of long tests.
soak:
    pytest -m soak

# theta of every kind of training, to the last bit.
bits:
    python benchmarks/bits.py

docs:
    python -m sphinx -W -q -b html docs docs/_build/html

wheel:
    python -m build --wheel

bench:
    python benchmarks/throughput.py env=HalfCheetah-v4
    python benchmarks/vector_envs.py

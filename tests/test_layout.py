"""The shape of the code itself: who imports whom, links, guards, what the package speaks of."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "es_rl"
# Each line may import from the lines above it only; parts on one line do not know one another.
ORDER = [
    ["errors"],
    ["signals"],
    ["rng", "presets", "keys", "processes", "modules", "gpt", "shared", "countdown", "directory", "rows"],
    ["machine"],
    ["config"],
    ["corpus", "dataset", "rewards", "language"],
    ["shaping", "noise", "optim"],
    ["text_config"],
    ["members"],
    ["interception", "in_place"],
    ["fused", "attention"],
    ["population", "es", "policies", "envs"],
    ["numpy_forward"],
    ["actors", "worker"],
    ["episodes"],
    ["rollout"],
    ["workers", "member_fitness"],
    ["board"],
    ["central"],
    ["evaluator"],
    ["rundir"],
    ["screen"],
    ["checkpoint", "runlog"],
    ["settings"],
    ["agent", "cli", "trainer"],
    ["callbacks"],
    ["compat"],
    ["evaluate", "record"],
    ["loop"],
    ["speaker", "critic"],
    ["finetune", "text_task"],
    ["train", "text", "llm"],
    ["compare"],
    ["sweep"],
]
SKIP = {"__init__"}


def room(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported_rooms(path):
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "es_rl":
            parts = node.module.split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("es_rl.")}
    return rooms


def test_imports_run_downwards_only():
    rank = {name: i for i, line in enumerate(ORDER) for name in line}
    files = [p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"]
    assert {room(p) for p in files} == set(rank), "a room is missing from the order"
    for path in files:
        for other in imported_rooms(path) - {room(path)}:
            assert rank[other] < rank[room(path)], f"{path.name} imports {other}"


def test_importing_the_package_imports_no_torch():
    code = (
        "import sys, es_rl; assert callable(es_rl.load); assert not {'torch', 'gymnasium', 'mujoco'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import es_rl; es_rl.envs.make; es_rl.noise.Perturbation; es_rl.population.perturb; es_rl.policies.make"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["envs", "policies"])
def test_the_links_are_for_readers_only(name):
    link = ROOT / name
    assert link.is_symlink() and link.resolve() == PACKAGE / name and not link.readlink().is_absolute()
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert f"the package is es_rl.{name}" in done.stderr


def test_functions_and_files_are_short():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 80, f"{path.name}: {node.name}"


def test_nothing_on_disk_is_pickled_and_no_text_is_run():
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        modules |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not called & {"eval", "exec", "print"}, path
        messages = {"pickle"} if path.name == "worker.py" else set()  # what passes between a run's own processes
        assert not modules & ({"pickle", "dill", "marshal", "shelve"} - messages), path
        assert "torch.load" not in path.read_text() and "torch.save" not in path.read_text()

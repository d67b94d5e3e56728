"""The shape of the code itself: who imports whom, links, guards, what the package speaks of."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "es_rl"
# Each line may import from the lines above it only; rooms on one line do not know one another.
ORDER = [
    ["errors"],
    ["rng", "keys", "arguments"],
    ["noise", "config", "plugins", "observations"],
    ["es", "population", "envs", "policies", "rewards", "workers", "hub"],
    ["run"],
    ["plot"],
    ["rl", "text", "llm", "trainer"],
    [
        "callbacks",
        "cli",
        "train",
        "evaluate",
        "record",
        "push",
        "play",
        "export",
        "compare",
        "sweep",
        "learner",
        "completion",
    ],
    ["__main__"],
]
# Rooms that know those beside them, one way only.
BESIDE = {"policies": {"population"}}
VERBS = {
    "train": {"cli", "record"}, "learner": {"export", "record"}, "evaluate": {"cli"}, "record": {"cli"}, "play": {"cli"}, "compare": {"cli"}, "sweep": {"cli", "compare"},
    "text": {"cli"}, "llm": {"cli"}, "push": {"cli"}, "plot": {"cli"}, "export": {"cli"}, "completion": {"cli"},
}  # fmt: skip
CORE = ("errors.py", "rng.py", "noise.py", "keys.py", "es", "population")  # knows no parser, process, disk or preset
FILES = 14  # of a folder at one level
ROOT_FILES = 18
LINES = 300
LONG = {"mujoco_tasks.py"}  # a table


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    """What a file imports, by full names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {node.module} if node.module != "es_rl" else {f"es_rl.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def imported_rooms(path):
    return {name.split(".")[1] for name in imported(path) if name.startswith("es_rl.")}


@pytest.mark.slow
def test_imports_run_downwards_only():
    rank = {name: i for i, line in enumerate(ORDER) for name in line}
    files = [p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"]
    assert {room(p) for p in files} == set(rank), "a room is missing from the order"
    for path in files:
        beside = BESIDE.get(room(path), set()) | VERBS.get(room(path), set())
        for other in imported_rooms(path) - {room(path)} - beside:
            assert rank[other] < rank[room(path)], f"{path.relative_to(PACKAGE)} imports {other}"


def test_the_core_knows_no_command_line_no_process_and_no_disk():
    for name in CORE:
        for path in [PACKAGE / name] if name.endswith(".py") else (PACKAGE / name).rglob("*.py"):
            roots = {module.partition(".")[0] for module in imported(path)}
            assert not roots & {"omegaconf", "multiprocess", "subprocess", "pathlib", "os", "argparse"}, path


def test_rooms_are_small():
    for folder in [PACKAGE, *(p for p in PACKAGE.rglob("*") if p.is_dir() and p.name != "__pycache__")]:
        count = len(list(folder.glob("*.py")))
        assert count <= (ROOT_FILES if folder == PACKAGE else FILES), f"{folder}: {count} files"


@pytest.mark.slow
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
        assert path.name in LONG or len(path.read_text().splitlines()) <= LINES, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 80, f"{path.name}: {node.name}"


@pytest.mark.slow
def test_nothing_on_disk_is_pickled_and_no_text_is_run():
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        modules |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not called & {"eval", "exec", "print"}, path
        messages = (
            {"pickle", "dill"} if path.name == "worker.py" else set()
        )  # what passes between a run's own processes
        assert not modules & ({"pickle", "dill", "marshal", "shelve"} - messages), path
        assert "torch.load" not in path.read_text() and "torch.save" not in path.read_text()


@pytest.mark.slow
def test_a_training_imports_no_compiler(tmp_path):
    """The classes of torch.optim would: the first generation would begin seconds later."""
    keys = ["env=Hopper-v5", "es.segment=8", "credit.simulations=8", "credit.batch=64", "generations=1", "workers=0"]
    keys += ["eval.episodes=1", "video.every=-1", f"run={tmp_path}/run"]
    code = f"import sys; from es_rl.train import main; main({keys}); assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

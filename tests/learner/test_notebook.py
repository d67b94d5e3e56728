"""The notebook of the examples: its code runs, and all of it in Jupyter."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"
GENERATIONS = "generations=20"


def run_cell(source, names):
    """Run a cell as a notebook does. Return the value of its last line."""
    *body, last = ast.parse(source).body
    shown = isinstance(last, ast.Expr)
    exec(compile(ast.Module(body if shown else [*body, last], []), "a cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "a cell", "eval"), names) if shown else None


def check(returns, generation, actions, least):
    """An untrained policy returns 9."""
    assert returns[0] > least and generation >= 3
    assert actions[0] == actions[1]
    assert Path("cartpole.json").exists()


@pytest.mark.slow
def test_its_code_trains_plots_evaluates_saves_and_exports():
    for package in ("onnxruntime", "onnxscript", "stable_baselines3"):
        pytest.importorskip(package)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    sources, names = ["".join(cell["source"]) for cell in cells], {"__name__": "notebook"}
    assert sum(GENERATIONS in source for source in sources) == 1
    shown = [run_cell(source.replace(GENERATIONS, "generations=6"), names) for source in sources]
    plot, *others = shown[-4:]
    assert plot.axes  # a figure of matplotlib, which Jupyter draws
    check(*others, least=15)


@pytest.mark.soak
def test_it_runs_in_jupyter(tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    for package in ("ipykernel", "onnxruntime", "onnxscript", "stable_baselines3"):
        pytest.importorskip(package)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    shown = [{kind: text for out in cell for kind, text in out.get("data", {}).items()} for cell in outputs]
    plot, *others = shown[-4:]
    assert "image/png" in plot
    check(*(ast.literal_eval(value["text/plain"]) for value in others), least=100)

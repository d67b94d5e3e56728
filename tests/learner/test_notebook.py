"""The notebook of the examples, run as people run it."""

import ast
from pathlib import Path

import pytest
from conftest import soak

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


@pytest.mark.parametrize(("generations", "least"), [(6, 15), *soak((20, 100))])
@pytest.mark.slow
def test_the_notebook_trains_plots_evaluates_saves_and_exports(tmp_path, generations, least):
    """An untrained policy returns 9."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    for package in ("ipykernel", "onnxruntime", "onnxscript", "stable_baselines3"):
        pytest.importorskip(package)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    (trains,) = (cell for cell in notebook.cells if "generations=20" in cell.source)
    trains.source = trains.source.replace("generations=20", f"generations={generations}")
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    shown = [{kind: text for out in cell for kind, text in out.get("data", {}).items()} for cell in outputs]
    plot, returns, generation, actions = shown[-4:]
    assert "image/png" in plot
    assert ast.literal_eval(returns["text/plain"])[0] > least
    assert int(generation["text/plain"]) >= 3
    action, predicted = ast.literal_eval(actions["text/plain"])
    assert action == predicted
    assert (tmp_path / "cartpole.json").exists()

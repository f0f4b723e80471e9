"""The notebooks run, and what is stored in them says nothing about the machine that ran them."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IDS = [path.name for path in NOTEBOOKS]
MACHINE = re.compile(r"/(?:home|root|tmp|work|Users|usr|opt|var)/|[A-Z]:\\\\|0x[0-9a-f]{8,}|\b\d\d:\d\d:\d\d\b")
"""Absolute paths, object addresses and times of day."""


def outputs(path: Path) -> list[dict[str, object]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]


def execute_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("execute_notebooks", ROOT / "notebooks" / "execute.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_every_cell_runs(path):
    for package in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(package, reason=f"{package} is missing: pip install 'apex-sim[notebooks]'")
    notebook = execute_module().executed(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert "error" not in kinds
    assert not [o for cell in code for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_stored_notebook_is_executed_top_to_bottom_without_errors(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [o for o in outputs(path) if o["output_type"] == "error" or o.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_stored_notebook_names_no_paths_addresses_or_times(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert not any(cell["metadata"] for cell in notebook["cells"]), "cell metadata; use notebooks/execute.py"
    assert set(notebook["metadata"]["language_info"]) == {"name"}
    for output in outputs(path):
        data = {key: value for key, value in output.get("data", {}).items() if not key.startswith("image/")}
        text = json.dumps([data, output.get("text", "")])
        assert not MACHINE.findall(text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_stored_notebook_is_small(path):
    assert path.stat().st_size < 1_000_000


def test_mistakes_of_a_user_are_one_line_below_the_cell():
    for package in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(package, reason=f"{package} is missing: pip install 'apex-sim[notebooks]'")
    import nbclient
    import nbformat

    cell = nbformat.v4.new_code_cell("import apex_sim\napex_sim.load_model('llama-9')")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="llama-9"):
        nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    (error,) = (output for output in cell.outputs if output.output_type == "error")
    assert len(error.traceback) == 1 and error.traceback[0].startswith("UserError: unknown model 'llama-9'")


def test_notebooks_find_their_data_where_jupyter_runs_them():
    """In their own folder: no path of a notebook starts at the root of the repository."""
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for file in re.findall(r"read_kernels\(\"([^\"]+)\"\)", code):
            assert (path.parent / file).is_file()
        assert "notebooks/" not in code

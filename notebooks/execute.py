"""Execute a notebook in place, so that its stored outputs are what the code gives now: python notebooks/execute.py."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TIMEOUT_S = 300
"""For one cell: several times what a slow machine needs."""


def executed(path: Path) -> Any:
    """The notebook at ``path`` with fresh outputs; nothing is written, and no wall-clock times are recorded.

    Runs in the notebook's folder, as Jupyter does. Raises nbclient.exceptions.CellExecutionError when a cell fails.
    """
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.resolve().parent)}},
    )
    client.execute()
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main() -> None:
    """Execute the notebooks named on the command line (default: all here) and save them."""
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(HERE.glob("*.ipynb")))
    for path in parser.parse_args().notebooks:
        nbformat.write(executed(path), path)


if __name__ == "__main__":
    main()

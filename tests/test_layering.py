"""Imports point down, and the three parts of the simulator stay apart; read from the source, nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BELOW = {
    "apex_sim": {"planners", "simulator", "workloads", "hardware_profiles"},
    "planners": {"simulator", "workloads", "hardware_profiles"},
    "simulator": {"workloads", "hardware_profiles"},
    "workloads": set(),
    "hardware_profiles": set(),
}
"""Package -> packages of this project that it may import; all may raise hardware_profiles.errors."""
HEAVY = {"pandas", "matplotlib", "scipy", "pyarrow", "pulp", "torch"}
"""Imported inside functions only, so that ``import apex_sim`` and ``apex-sim --help`` stay quick."""
POLICY = {"simulator.batching", "simulator.cache_routing", "simulator.routing"}
POLICY_MAY_USE = {"simulator.cache_routing", "simulator.core", "simulator.request", "simulator.routing"}
SHARED = {
    "simulator.plan",
    "simulator.engine",
    "simulator.hybrid",
    "simulator.lora",
    "simulator.techniques",
    "simulator.moe_settings",
    "simulator.shape_settings",
}
"""Plain values that physics reads: the layout and the engine's constants."""


RUNNERS = {"kernel_runner", "serve_runner"}
"""Parts that time real devices: a wall clock is their business."""


def modules() -> list[Path]:
    return sorted(path for package in BELOW for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Full names of what a file imports; ``top_only``: when it is imported, not inside functions or for type checkers."""
    todo: list[ast.AST] = list(ast.parse(path.read_text("utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif top_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


def packages(names: Iterator[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_down(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = [name for name in imports(path) if name.partition(".")[0] in BELOW]
    others = {name for name in ours if not name.startswith(("hardware_profiles.errors", package))}
    assert packages(iter(others)) <= BELOW[package] | {package}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_heavy_libraries_are_imported_in_functions(path: Path) -> None:
    assert not packages(imports(path, top_only=True)) & HEAVY


def physics() -> list[Path]:
    return sorted((ROOT / "simulator" / "physics").glob("*.py"))


@pytest.mark.parametrize("path", physics(), ids=name_of)
def test_physics_knows_no_policy_and_no_mechanics(path: Path) -> None:
    names = set(imports(path))
    assert "simpy" not in packages(iter(names))
    inside = {".".join(name.split(".")[:2]) for name in names if name.startswith("simulator.")}
    assert inside <= {"simulator.physics", *SHARED}


@pytest.mark.parametrize("name", sorted(POLICY))
def test_policy_knows_no_physics_and_no_clock(name: str) -> None:
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    names = set(imports(path))
    assert "simpy" not in packages(iter(names))
    inside = {".".join(n.split(".")[:2]) for n in names if n.startswith("simulator.")}
    assert inside <= POLICY_MAY_USE


def simulation() -> list[Path]:
    return [p for p in modules() if p.relative_to(ROOT).parts[0] == "simulator" and not RUNNERS & set(p.parts)]


@pytest.mark.parametrize("path", simulation(), ids=name_of)
def test_nothing_in_the_simulator_reads_the_wall_clock_or_unseeded_numbers(path: Path) -> None:
    assert not packages(imports(path)) & {"time", "datetime", "random", "uuid", "secrets"}
    calls = [ast.unparse(n) for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
    assert not [c for c in calls if c.startswith(("hash(", "np.random.rand", "np.random.seed", "os.cpu_count"))]
    assert "np.random.default_rng()" not in calls


def test_the_reader_of_imports_sees_them(tmp_path: Path) -> None:
    """A check that finds nothing is no check."""
    file = tmp_path / "m.py"
    file.write_text(
        "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import e\ntry:\n    import f\nexcept ImportError:\n"
        "    pass\ndef g():\n    import h\n"
    )
    assert set(imports(file)) == {"a.b", "c", "c.d", "e", "f", "h"}
    assert set(imports(file, top_only=True)) == {"a.b", "c", "c.d", "f"}

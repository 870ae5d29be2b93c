"""Modules of aejax import each other in one direction."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_no_modules_import_each_other_in_a_circle():
    """Imports within functions count, too."""
    files = {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in (ROOT / "aejax").rglob("*.py")}
    modules = {name.removesuffix(".__init__"): file for name, file in files.items()}
    graph = {}
    for module, file in modules.items():
        imported = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                imported |= names & modules.keys() or {node.module}
        graph[module] = imported & modules.keys()
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules) > 50  # else CycleError


def test_what_is_imported_from_aejax_exists():
    """Commands import when they run, and mypy passes over modules that it does not find."""
    for file in (f for folder in ("aejax", "configs", "experiments", "tests") for f in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("aejax", "experiments"):
                module = ROOT / node.module.replace(".", "/")
                assert module.is_dir() or module.with_suffix(".py").is_file(), f"{file}: {node.module}"

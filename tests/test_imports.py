"""Modules of aejax import each other in one direction."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import aejax

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


# Of NamedTuple; `os._exit`; submitit's handler of Slurm's signal, which has no public name.
PUBLIC = {"_asdict", "_exit", "_fields", "_replace", "_usr_sig"}


def test_what_aejax_has_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'aejax' has no attribute 'nothing'"):
        aejax.nothing  # noqa: B018


def test_what_is_private_to_a_module_is_used_by_no_other():
    for file in (f for folder in ("aejax", "experiments") for f in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(file.read_text())
        nodes = list(ast.walk(tree))
        own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
        read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and not _is_self(node.value)}
        read |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
        private = {name for name in read if name.startswith("_") and not name.endswith("__")}
        assert private - own <= PUBLIC, file


def _is_self(node):
    return isinstance(node, ast.Name) and node.id in ("self", "cls")

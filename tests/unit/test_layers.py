"""Imports run downwards from layer to layer, also those inside functions and for types alone, and in no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = (
    ("core",),
    ("nets",),
    ("choices",),
    ("tasks",),
    ("training", "learners", "ensembles"),
    ("spaces", "strategies", "evaluators"),
    ("deploy", "drawing"),
    ("engine",),
    ("loggers", "analysis"),
    ("api",),
    ("cli", "testing", "__main__"),
)
"""Lowest first; what stands in one line may import each other, as long as there is no circle."""
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
PLUGINS = ("spaces", "strategies", "evaluators")


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module; plugins under the names they are imported by."""
    found = {}
    for folder, prefix in (("nastool", ""), *((name, "nastool.") for name in PLUGINS)):
        for path in (ROOT / folder).rglob("*.py"):
            if not any(part in PLUGINS for part in path.relative_to(ROOT).parts[1:-1]):
                name = prefix + ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(path: Path, *, at_once: bool = False) -> Iterator[str]:
    """Modules of nastool that a file imports anywhere. at_once: only those that are imported with it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            inside = [name for name in names if name in MODULES]
            yield from inside
            if len(inside) < len(names) and node.module != "nastool":  # the package itself only says its version
                yield str(node.module)


@cache
def imports(*, at_once: bool = False) -> dict[str, list[str]]:
    """Module -> what it imports."""
    found = {name: set(imported(path, at_once=at_once)) - {name} for name, path in MODULES.items()}
    return {name: sorted(others) for name, others in found.items() if name != "nastool"}


def layer(module: str) -> str:
    """The folder that a module is of; `nastool.worker` is the other end of the engine's pipes."""
    return {"worker": "engine"}.get(name := module.split(".")[1], name)


def test_every_module_has_a_layer() -> None:
    assert {layer(name) for name in imports()} == RANK.keys()


@pytest.mark.parametrize("name", sorted(RANK))
def test_imports_run_downwards(name: str) -> None:
    upwards = [
        f"{module} imports {other}"
        for module, others in imports().items()
        if layer(module) == name
        for other in others
        if RANK[layer(other)] > RANK[name]
    ]
    assert upwards == []


@pytest.mark.parametrize("name", PLUGINS)
def test_plugins_do_not_know_each_other(name: str) -> None:
    known = {
        module: [other for other in others if layer(other) in PLUGINS]
        for module, others in imports().items()
        if layer(module) == name
    }
    assert {module: others for module, others in known.items() if others} == {}


def test_no_circles_of_modules() -> None:
    """Among what is imported with a module; a function may import what imports its module."""
    TopologicalSorter(imports(at_once=True)).prepare()  # CycleError names them


def test_no_circles_of_folders() -> None:
    """Whatever is imported, anywhere."""
    folders: dict[str, set[str]] = {name: set() for name in RANK}
    for module, others in imports().items():
        folders[layer(module)] |= {layer(other) for other in others} - {layer(module)}
    TopologicalSorter(folders).prepare()

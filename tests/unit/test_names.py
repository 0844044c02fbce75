"""No strategy, space or evaluator is known by its name outside of its own file.

Exempt: `core/defaults.py`, which says what is taken where nobody says anything; `core/zoo.py`, architectures that were
published as members of spaces; what a strategy `goes_with`; operation sets of cell-cnn that are called after ENAS and
DARTS.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from nastool.core import registry

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("strategies", "spaces", "evaluators")
FILES = sorted(
    path
    for folder in ("nastool", *FOLDERS)
    for path in (ROOT / folder).rglob("*.py")
    if not any(part in FOLDERS for part in path.relative_to(ROOT).parts[1:-1])
)
EXEMPT = {"nastool/core/defaults.py", "nastool/core/zoo.py"}
ALSO = {("spaces/cell_cnn.py", "enas"), ("spaces/cell_cnn.py", "darts")}
WORDS = {"train", "table", "random", "supernet"}
"""Names that are words for other things as well: parts of data, capabilities, how something was chosen."""
NAMED = {"name", "strategy", "space", "evaluator"}
"""What holds the name of a plugin."""
NAMES = {name for kind in ("strategy", "space", "evaluator") for name in registry.plugins(kind)}


def own(tree: ast.Module) -> set[int]:
    """Lines in which classes say what they are called and what they go with."""
    return {
        line
        for part in ast.walk(tree)
        if isinstance(part, ast.Assign | ast.AnnAssign)
        for target in (part.targets if isinstance(part, ast.Assign) else [part.target])
        if isinstance(target, ast.Name) and target.id in ("name", "goes_with")
        for line in range(part.lineno, (part.end_lineno or part.lineno) + 1)
    }


def held(node: ast.expr) -> bool:
    """Whether it is x.name, x.strategy, x["name"] and the like."""
    if isinstance(node, ast.Attribute):
        return node.attr in NAMED
    return isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and node.slice.value in NAMED


def known(path: Path) -> Iterator[str]:
    """Where a file knows a plugin."""
    where = path.relative_to(ROOT).as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    fine = own(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            kind = node.module.removeprefix("nastool.").partition(".")[0]
            if node.module.startswith("nastool.") and kind in FOLDERS:
                yield f"{where}:{line} imports {node.module}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and line not in fine:
            if node.value in NAMES - WORDS and (where, node.value) not in ALSO:
                yield f"{where}:{line} {node.value!r}"
        elif isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
            listed = [item for each in parts if isinstance(each, ast.Tuple | ast.Set | ast.List) for item in each.elts]
            words = [each.value for each in parts + listed if isinstance(each, ast.Constant) and each.value in WORDS]
            if words and any(map(held, parts)):
                yield f"{where}:{line} compares with {words[0]!r}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("load", "make"):
            words = [each.value for each in node.args if isinstance(each, ast.Constant) and each.value in WORDS]
            if words:
                yield f"{where}:{line} asks for {words[0]!r}"


@pytest.mark.parametrize("folder", ["nastool", *FOLDERS])
def test_no_plugin_is_known_by_name(folder: str) -> None:
    files = [path for path in FILES if path.relative_to(ROOT).parts[0] == folder]
    assert files
    assert [each for path in files if path.relative_to(ROOT).as_posix() not in EXEMPT for each in known(path)] == []


@pytest.mark.parametrize(
    "text",
    [
        "from nastool.strategies.enas import ENAS",
        "x = 'bananas'",
        "if study.strategy == 'random': pass",
        "if config['evaluator']['name'] in ('train', 'supernet'): pass",
        "registry.load('evaluator', 'table')",
    ],
)
def test_what_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "x.py").write_text(text)
    assert len([*known(tmp_path / "x.py")]) == 1

"""docs/cli.md is what --help says, docs/plugins.md what `nastool list KIND NAME` does. `make docs` writes them."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.helpers.docs import DOCS, ROOT, cli_reference, plugin_reference
from tests.helpers.plugins import install


def test_plugin_reference_is_current() -> None:
    assert (DOCS / "plugins.md").read_text() == plugin_reference(), "run `make docs`"


def test_cli_reference_is_current() -> None:
    written, current = ((DOCS / "cli.md").read_text().split(), cli_reference().split())
    assert written == current, "run `make docs`"  # versions of click wrap lines differently


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def blocks(language: str, page: Path) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)
    return found


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *DOCS.glob("*.md")], ids=lambda page: page.name)
def test_python_is_whole(page: Path) -> None:
    """It compiles, and every name in it is defined in its block."""
    for source in blocks("python", page):
        if page.name == "tutorial.md":  # its blocks run; see tests/system/test_tutorial.py
            continue
        tree = ast.parse(source)
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        known = {node.id for node in names if isinstance(node.ctx, ast.Store)} | {*dir(builtins)}
        for node in ast.walk(tree):
            if isinstance(node, ast.alias):
                known.add((node.asname or node.name).partition(".")[0])
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                known.add(node.name)
            elif isinstance(node, ast.arg):
                known.add(node.arg)
        assert {node.id for node in names} <= known


@pytest.fixture
def package(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The package of plugins in docs/extending.md, as if installed: its folder and the environment to use it in."""
    page = DOCS / "extending.md"
    points = ConfigParser()
    (setup,) = blocks("ini", page)
    points.read_string(setup)
    environment = install(tmp_path, "my_package", "", dict(points["options.entry_points"]))
    (tmp_path / "my_package.py").unlink()
    for source in blocks("python", page):
        if name := re.match(r"# (\S+\.py)\n", source):
            path = tmp_path / name[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
    (tmp_path / "my_package" / "__init__.py").touch()
    return tmp_path, environment


def test_documented_plugins_keep_their_contracts(package: tuple[Path, dict[str, str]]) -> None:
    folder, environment = package
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_package.py"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", result.stdout)[-1]) > 25


def test_documented_plugins_search(package: tuple[Path, dict[str, str]]) -> None:
    folder, environment = package
    data = ["--data", "digits", "-E", "train_size=100", "--epochs", "1", "--scale", "channels=4", "-P", "layers=2"]

    def nastool(*arguments: str) -> str:
        command = [sys.executable, "-m", "nastool", *arguments]
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    trained = nastool("search", "--strategy", "greedy", "-S", "start=1", "--space", "plain", "--trials", "3", *data)
    assert '"val_acc"' in trained and '"plain"' in trained
    shared = [*data, "--retrain", "0", "--trials", "3"]
    found = nastool("search", "--strategy", "random", "--evaluator", "supernet", "--space", "plain", *shared)
    assert '"shared_acc"' in found
    listed = nastool("list", "strategies", "greedy", "--text")
    assert (
        "package my_package" in listed
        and "start: int = 10\n      Number of random architectures at the beginning" in listed
    )
    assert "works with: external, supernet, table, train" in listed

"""The source of classes and functions, with that of all that they use, as it is needed without nastool.

Left out is what does the same in less time or for a supernet: statements `if are_few(): ...`, methods marked as
`faster`, methods of nastool's classes that never ran. `deferred(f, x)` becomes `f(x)`, `active(x)` x.
"""

from __future__ import annotations

import ast
import inspect
import re
import symtable
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from itertools import accumulate, groupby
from types import ModuleType
from typing import Any, TypeGuard

from nastool.core.options import parsed
from nastool.core.space import Choose, Members
from nastool.deploy.codegen.pruning import Edit, Ran, pruned
from nastool.deploy.codegen.recipe import Unwritable
from nastool.nets import chosen
from nastool.nets.chosen import Chosen
from nastool.nets.deferring import deferred
from nastool.nets.depthwise import faster
from nastool.nets.launches import are_few
from nastool.nets.networks import active


class Sources:
    """imports: lines. pieces: texts of definitions by name, each after those that it uses."""

    def __init__(self, used: Iterable[Callable[..., Any]], reserved: Collection[str], ran: Ran | None) -> None:
        """Collects all that `used` need.

        Args:
            used: Classes and functions.
            reserved: Names that no definition may have.
            ran: By what is left out that has no part in the network; None: nothing is.

        Raises:
            Unwritable: Something has no source.
        """
        self.imports: set[tuple[str, str]] = set()
        self.pieces: dict[str, str] = {}
        self._ran = ran
        self._homes: dict[str, ModuleType | None] = dict.fromkeys(reserved)
        for value in used:
            home = inspect.getmodule(value)
            if home is None or vars(home).get(value.__name__) is not value:
                raise Unwritable(f"{value.__qualname__} is not defined at the top of a module")
            self._add(value.__name__, home)

    def joined(self) -> Iterator[str]:
        """The pieces; constants that follow each other are one."""
        groups = groupby(self.pieces.values(), key=lambda text: text.startswith(("class ", "def ", "@")))
        for are_definitions, texts in groups:
            yield from texts if are_definitions else ["\n".join(texts)]

    def _add(self, name: str, home: ModuleType) -> None:
        """What is called so in a module."""
        if _is_everywhere(home.__name__):
            self.imports.add((home.__name__, name))
            return
        definitions, imports = _top(home)
        if name in imports:
            module, imported = imports[name]
            if _is_everywhere(module):
                self.imports.add((module, imported))
            elif imported == name and name in vars(home):
                self._add(name, sys.modules[module])
            elif name in vars(home):
                raise Unwritable(f"{module} is imported whole, or {imported} as {name}")
            return  # otherwise something for type checkers
        if name not in definitions or self._homes.get(name, home) is not home:
            if name in definitions or name in vars(home):
                raise Unwritable(f"{home.__name__} has no source of {name}, or there are two")
            return  # a builtin
        if name not in self._homes:
            self._homes[name] = home
            text = self._edited(*definitions[name], home)
            for other in _globals(text):
                self._add(other, chosen if other in (Chosen.__name__, Members.__name__) else home)
            self.pieces[name] = text

    def _edited(self, text: str, first: int, home: ModuleType) -> str:
        """first: the line in which it begins."""
        tree, file = parsed(text), str(home.__file__)
        ran = self._ran if home.__name__.startswith("nastool.") else None
        starts = [0, *accumulate(len(line.encode()) for line in text.splitlines(keepends=True))]

        def place(line: int | None, column: int | None) -> int:
            return starts[(line or 0) - 1] + (column or 0)

        def is_(node: ast.expr, value: Any) -> bool:
            return isinstance(node, ast.Name) and vars(home).get(node.id) is value

        edits = list(pruned(text, file, first, self._ran)) if self._ran else []

        def drop(node: ast.stmt) -> None:
            top = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            edits.append((starts[top - 1], starts[node.end_lineno or 0], ""))

        for node in ast.walk(tree):
            if isinstance(node, ast.If) and isinstance(node.test, ast.Call) and is_(node.test.func, are_few):
                drop(node)
            elif isinstance(node, ast.FunctionDef) and any(is_(mark, faster) for mark in node.decorator_list):
                drop(node)
            elif isinstance(node, ast.ClassDef) and ran:
                for part in filter(_is_method, node.body):
                    lines = range(first + part.body[0].lineno - 1, first + (part.end_lineno or 0))
                    if not any((file, line) in ran.made or (file, line) in ran.used for line in lines):
                        drop(part)
            elif isinstance(node, ast.Call) and (is_(node.func, deferred) or is_(node.func, active)):
                what, after = node.args[0], node.args[1:]
                end = place(what.end_lineno, what.end_col_offset)
                edits.append((place(node.lineno, node.col_offset), place(what.lineno, what.col_offset), ""))
                stop = place(node.end_lineno, node.end_col_offset)
                edits.append((end, place(after[0].lineno, after[0].col_offset), "(") if after else (end, stop, ""))
            elif isinstance(node, ast.Name) and is_(node, Choose):
                start = place(node.lineno, node.col_offset)
                edits.append((start, start + len(node.id), Chosen.__name__))
        return _apply(text, edits)


def _apply(text: str, edits: Iterable[Edit]) -> str:
    """Edits inside of what is dropped are of no account; no more than one empty line, no notes for type checkers."""
    parts, at, content = [], 0, text.encode()
    for start, end, new in sorted(edits, key=lambda edit: (edit[0], -edit[1])):
        if start >= at:
            parts += [content[at:start], new.encode()]
            at = end
    found = b"".join([*parts, content[at:]]).decode()
    return re.sub(r"\n\n\n+", "\n\n", re.sub(r"  # type: ignore.*", "", found)).rstrip()


def _globals(text: str) -> Iterator[str]:
    """The names that a definition reads, and does not define."""

    def tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
        yield table
        for child in table.get_children():
            yield from tables(child)

    top, *inner = tables(symtable.symtable(text, "source", "exec"))
    found = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    for table in inner:
        found |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    return iter(sorted(found))


def _is_everywhere(module: str) -> bool:
    return module.partition(".")[0] in {*sys.stdlib_module_names, "torch"}


@cache
def _top(module: ModuleType) -> tuple[dict[str, tuple[str, int]], dict[str, tuple[str, str]]]:
    """Text and first line of what a module defines; what it imports, module and name there; "": all of it. By name."""
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        raise Unwritable(f"{module.__name__} has no source") from None
    definitions: dict[str, tuple[str, int]] = {}
    imports: dict[str, tuple[str, str]] = {}
    rows = source.splitlines()
    for statement in parsed(source).body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            names += [statement.name] if isinstance(statement, ast.ClassDef | ast.FunctionDef) else []
            first = min([statement.lineno, *(mark.lineno for mark in getattr(statement, "decorator_list", []))])
            text = "\n".join(rows[first - 1 : statement.end_lineno]) + "\n"
            definitions |= dict.fromkeys(names, (text, first))
        for node in statement.body if isinstance(statement, ast.If) else [statement]:
            for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
                as_ = f" as {alias.asname}" if alias.asname else ""
                if isinstance(node, ast.Import):
                    imports[alias.asname or alias.name.partition(".")[0]] = alias.name + as_, ""
                elif isinstance(node, ast.ImportFrom):
                    imports[alias.asname or alias.name] = node.module or "", alias.name + as_
    return definitions, imports


def _is_method(node: ast.AST) -> TypeGuard[ast.FunctionDef]:
    """Whether it is one that only what calls it needs."""
    return isinstance(node, ast.FunctionDef) and not node.name.startswith("__") and node.name != "forward"

"""Which of a network's modules become classes, and how the others are reached from these."""

from __future__ import annotations

import keyword
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from nastool.core.errors import InputError
from nastool.deploy.codegen.layout import literal
from nastool.deploy.tracing import Graph, Node, contents, is_plain, singular

SMALL = 3
"""Steps of a forward that is written where it is called."""


@dataclass(eq=False)
class Formal:
    """A parameter of a forward: a tensor, or a list of tensors. container: the argument that these were in."""

    name: str
    nodes: list[Node]
    is_list: bool
    container: str = ""


class Plan:
    """What is called, what is there, and what it is called.

    graphs: of the modules that are called, by path. What they call in turn may be written out in them: what is small,
    and modules of one type that all do different things.
    live: the paths of the modules and parameters that are there.
    """

    def __init__(self, root: Graph) -> None:
        self.network = root.module
        self.graphs = _by_path(_lowered(root, _Rules(root)))
        self.live: set[str] = set()
        for path, graph in self.graphs.items():
            for node in graph.nodes:
                for part in (node, *node.arguments()):
                    if part.kind in ("module", "parameter"):
                        names = join(path, part.target).split(".")
                        self.live |= {".".join(names[:i]) for i in range(len(names) + 1)}
        self._many = {type(graph.module) for graph in self.graphs.values() if len(graph.outputs) > 1}
        self._lists: set[tuple[type, str]] = set()
        while self._find_lists():
            pass

    def module(self, path: str) -> nn.Module:
        return self.network.get_submodule(path)

    def children(self, path: str) -> list[str]:
        """The names of the modules in a module, as far as they are there."""
        return [name for name in self.module(path)._modules if join(path, name) in self.live]

    def is_class(self, path: str) -> bool:
        """Whether it is called, and neither torch's own nor a chain of modules."""
        return path in self.graphs and (not path or not is_chain(self.graphs[path]))

    def is_list(self, path: str) -> bool:
        """Whether the modules in it have numbers, not names."""
        names = self.children(path)
        numbered = isinstance(self.module(path), nn.Sequential | nn.ModuleList)
        numbered &= all(name.isdigit() for name in names)
        return numbered and (path in self.graphs or names == [str(i) for i in range(len(names))])

    def access(self, owner: str, target: str) -> str:
        """How the forward of the module `owner` reaches `target`: such as self.cells[1]."""
        text, path = "self", owner
        for name in target.split("."):
            module = self.module(path)
            if self.is_list(path):
                text += f"[{name}]"
            elif path in self.graphs or is_plain(module):
                text += f".{name}"
            else:  # it is an nn.ModuleDict, or will be
                named = name.isidentifier() and not keyword.iskeyword(name) and not hasattr(nn.ModuleDict, name)
                text += f".{name}" if named and not isinstance(module, nn.ModuleDict) else f"[{literal(name)}]"
            path = join(path, name)
        return text

    def formals(self, graph: Graph) -> list[Formal]:
        """The parameters of the forward of a module that is called."""
        if graph.path and is_chain(graph):
            first = graph.nodes[0].graph
            return [Formal("x", graph.inputs, first is not None and self.formals(first)[0].is_list)]
        found: list[Formal] = []
        counts = Counter(node.container for node in graph.inputs)
        for node in graph.inputs:
            is_list = (type(graph.module), node.container) in self._lists
            if is_list and found and found[-1].container == node.container:
                found[-1].nodes.append(node)
                continue
            name = node.container if is_list else singular(node.container) or node.target
            if node.container and not is_list and counts[node.container] > 1:
                name += str(sum(formal.container == node.container for formal in found))
            found.append(Formal(fresh(clean(name), {formal.name for formal in found}), [node], is_list, node.container))
        return found

    def returns_list(self, graph: Graph) -> bool:
        """Whether a module that is called returns a list, be it of one tensor: as others of its type do."""
        if graph.path and is_chain(graph):
            last = graph.nodes[-1].graph
            return last is not None and self.returns_list(last)
        return bool(graph.path) and type(graph.module) in self._many

    def _find_lists(self) -> bool:
        """Look once more which arguments are lists, as they are used as a whole; whether there are new ones."""
        before = len(self._lists)
        for graph in self.graphs.values():
            wholes = [list(a) for node in graph.nodes for a in node.args if isinstance(a, list | tuple) and len(a) > 1]
            for node in graph.nodes:
                rest = list(node.args)
                for formal in self.formals(node.graph) if node.graph is not None else []:
                    if formal.is_list:
                        wholes.append(rest[: len(formal.nodes)])
                    del rest[: len(formal.nodes)]
            for container in {node.container for node in graph.inputs} - {""}:
                if [node for node in graph.inputs if node.container == container] in wholes:
                    self._lists.add((type(graph.module), container))
        return len(self._lists) > before


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def clean(name: str) -> str:
    """A name that can be a variable's."""
    bad = name in ("input", "self", "nn", "F", "torch", "Tensor") or keyword.iskeyword(name) or not name.isidentifier()
    return "x" if bad else name


def fresh(name: str, taken: set[str]) -> str:
    """The name, or one like it, that is not taken."""
    number, text = 1, name
    while text in taken:
        number += 1
        text = f"{name}_{number}" if name[-1].isdigit() else f"{name}{number}"
    return text


def is_chain(graph: Graph) -> bool:
    """Whether all that a module does is to call its modules one after another: then it is an nn.Sequential."""
    names = [node.target for node in graph.nodes]
    if not names or any(node.kind != "module" or node.kwargs or "." in node.target for node in graph.nodes):
        return False
    if any(formal.container for node in graph.nodes[1:] if node.graph for formal in node.graph.inputs):
        return False
    in_order = names == [name for name in graph.module._modules if name in names]
    containers = {node.container for node in graph.inputs}
    if not in_order or graph.outputs != graph.nodes[-1:] or len(containers) != 1:
        return False
    if len(graph.inputs) > 1 and containers == {""}:
        return False
    passed = [graph.inputs, *([node] for node in graph.nodes)]
    return all(list(node.args) == args for node, args in zip(graph.nodes, passed, strict=False))


def _by_path(graph: Graph) -> dict[str, Graph]:
    found = {graph.path: graph}
    for node in graph.nodes:
        for path, inner in _by_path(node.graph).items() if node.graph is not None else ():
            if path in found and _form(found[path]) != _form(inner):
                raise InputError(f"module {path} is called in different ways: there is no code for that")
            found.setdefault(path, inner)
    return found


# --- what is written where it is called


class _Rules:
    """Which modules are no classes of their own.

    wiring: types of small modules most of which do something else than each other, so that what counts is how they
    are connected. repeated: types of modules that all do the same to one tensor, such as residual blocks.
    """

    def __init__(self, root: Graph) -> None:
        self.wiring: set[type] = set()
        self.repeated: set[type] = set()
        found: dict[type, list[Graph]] = {}
        for graph in _seen(root, self):
            found.setdefault(type(graph.module), []).append(graph)
        for kind, graphs in found.items():
            inputs = {len(graph.inputs) for graph in graphs}
            forms = len(set(map(_form, graphs)))
            sizes = list(map(_size, graphs))
            if len(inputs) > 1 and 2 * forms > len(graphs) > 2 and sum(sizes) <= 8 * len(graphs):
                self.wiring.add(kind)
            if inputs == {1} and forms == 1 and len(graphs) > 2 and sizes[0] > 1:
                self.repeated.add(kind)

    def dissolve(self, graph: Graph, in_sequential: bool) -> bool:
        """Whether what a module does is written where it is called."""
        kind = type(graph.module)
        if not graph.nodes:
            return True
        if is_chain(graph):
            return kind in self.wiring
        own = any(a.kind == "parameter" and "." not in a.target for node in graph.nodes for a in node.arguments())
        if own or any(hasattr(nn.ModuleDict, name) for name in graph.module._modules):
            return False
        if kind is nn.Sequential:
            return True
        if in_sequential:
            return len(graph.inputs) > 1 and not any(map(_has_parameters, graph.nodes))
        return kind in self.wiring or (_size(graph) <= SMALL and kind not in self.repeated)


def _has_parameters(node: Node) -> bool:
    return node.kind == "module" or any(argument.kind == "parameter" for argument in node.arguments())


def _size(graph: Graph) -> int:
    return sum(node.kind not in ("item", "attribute") for node in graph.nodes)


def _seen(graph: Graph, rules: _Rules) -> list[Graph]:
    """The graphs of all modules that are called outside of a Sequential, with those inside them lowered."""
    found = []
    for node in graph.nodes:
        if node.graph is not None:
            found += _seen(node.graph, rules)
            if type(graph.module) is not nn.Sequential:
                found.append(_lowered(node.graph, rules))
    return found


def _form(graph: Graph) -> Any:
    """Equal for graphs that do the same, however many tensors are in their lists."""
    numbers: dict[Node, str] = {node: node.container or f"input {i}" for i, node in enumerate(graph.inputs)}
    numbers |= {node: f"node {i}" for i, node in enumerate(graph.nodes)}

    def short(item: Any) -> str:
        return numbers.get(item, item.target) if isinstance(item, Node) else repr(item)

    rows = []
    for node in graph.nodes:
        args = list(map(short, contents((node.args, node.kwargs))))
        once = [arg for arg, previous in zip(args, [None, *args], strict=False) if arg != previous]
        rows.append((node.kind, node.target, *once))
    return tuple(rows), tuple(map(short, graph.outputs))


def _lowered(graph: Graph, rules: _Rules) -> Graph:
    """The graph with what some modules do in the place of their calls."""
    by: dict[Node, Node] = {}
    outputs: dict[Node, list[Node]] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.kind == "item" and node.args[0] in outputs:
            by[node] = outputs[node.args[0]][int(node.target)]
            _rename(by[node], node)
            continue
        copy = by[node] = node.replaced(by)
        if node.graph is not None:
            copy.graph = _lowered(node.graph, rules)
            if rules.dissolve(copy.graph, type(graph.module) is nn.Sequential):
                inside, parts = _moved(copy.graph, copy)
                nodes += parts
                outputs[node] = [inside.get(output, output) for output in copy.graph.outputs]
                by[node] = outputs[node][0]
                if len(outputs[node]) == 1 and by[node] in parts:
                    _rename(by[node], node)
                continue
        nodes.append(copy)
    return replace(graph, nodes=nodes, outputs=[by.get(output, output) for output in graph.outputs])


def _rename(node: Node, outside: Node) -> None:
    """Prefer the names that the result of a call has for the caller."""
    node.names[:0] = outside.names
    node.element = outside.element or node.element


def _moved(graph: Graph, caller: Node) -> tuple[dict[Node, Node], list[Node]]:
    """A called graph's nodes as nodes of the caller's graph: which became which, and the new ones."""
    inside: dict[Node, Node] = dict(zip(graph.inputs, caller.args, strict=True))
    moved = []
    for node in graph.nodes:
        for argument in node.arguments():
            if argument.kind == "parameter":
                inside[argument] = replace(argument, target=join(caller.target, argument.target))
        new = inside[node] = node.replaced(inside)
        new.names = list(node.names)
        if node.kind == "module":
            new.target = join(caller.target, node.target)
        moved.append(new)
    return inside, moved

"""What the forward of a module that is called does, as lines of Python."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nastool.core.errors import InputError
from nastool.deploy.codegen.layout import WIDTH, Brackets, Doc, call, display, flat, literal
from nastool.deploy.codegen.plan import Formal, Plan, clean, fresh, join
from nastool.deploy.tracing import Batch, Graph, Node, contents, singular

NESTED = 5
"""Calls within each other in one statement, at most."""
INDENT = 8

_BINARY = {"add": "+", "sub": "-", "mul": "*", "div": "/", "true_divide": "/", "matmul": "@", "pow": "**"}
_REFLECTED = {"__radd__": "+", "__rsub__": "-", "__rmul__": "*", "__rtruediv__": "/", "__rdiv__": "/", "__rpow__": "**"}
_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2, "@": 2, "negative": 3, "**": 4}
_ATOM = 5
_SIZED = ("__getitem__", "view", "reshape", "expand", "narrow", "split", "torch.nn.functional.pad", "torch.split")
"""Whose numbers may follow from numbers of channels; elsewhere a number has a meaning of its own."""


@dataclass
class Operand:
    """What is passed for a parameter. whole: where it is a list, the variable or the parameter that this list is."""

    nodes: list[Node]
    is_list: bool
    whole: Node | Formal | None = None

    def values(self) -> list[Node]:
        """The results that it is made of."""
        if isinstance(self.whole, Formal):
            return self.whole.nodes[:1]
        return self.nodes if self.whole is None else [self.whole]


@dataclass
class Loop:
    """Modules that are called one after another, each with the results of the last one or two before it.

    start: what the first one is called with.
    """

    nodes: list[Node]
    container: str
    start: list[Operand]


@dataclass
class Statement:
    """An assignment to `defined` (several: items of a list), or a loop; what is returned, where nothing is defined.

    read: the variables whose values it needs.
    """

    defined: list[Node]
    value: Node | None = None
    loop: Loop | None = None
    read: set[Node] = field(default_factory=set)


class Forward:
    """The text of a forward. In it, numbers that might differ between modules of a class stand between \\0."""

    def __init__(self, plan: Plan, path: str, concatenated: bool = False) -> None:
        """concatenated: where others concatenate the tensors of a list, do it with a list of one, too."""
        self.plan, self.path, self.graph = plan, path, plan.graphs[path]
        self.formals = plan.formals(self.graph)
        if concatenated:
            self.graph = self._concatenated()
        self.items: dict[Node, list[Node]] = {}
        for node in self.graph.nodes:
            if node.kind == "item":
                self.items.setdefault(node.args[0], []).append(node)
        self.steps = [node for node in self.graph.nodes if node.kind != "item"]
        self.operands = {node: self._operands(node) for node in self.steps if node.kind == "module"}
        self.result = Operand(self.graph.outputs, plan.returns_list(self.graph))
        self._find_wholes()
        self.loops = self._find_loops()
        self.looped = {node for loop in self.loops for node in loop.nodes}
        self.roots = self._find_roots()
        while True:
            self.names: dict[Node, str] = {}
            self.written = list(self._write())
            too_long = self._too_long()
            if too_long is None:
                break
            self.roots.add(too_long)

    def rows(self) -> Iterator[tuple[int, str, Doc]]:
        """Indentation, what stands before, and the expression; the signature first."""
        parameters = [f"{formal.name}: {'list[Tensor]' if formal.is_list else 'Tensor'}" for formal in self.formals]
        returned = "list[Tensor]" if self.result.is_list else "Tensor"
        yield INDENT - 4, "", Brackets("def forward(", ("self", *parameters), f") -> {returned}:")
        for statement, before, doc in self.written:
            if statement.loop is not None:
                yield from self._loop_rows(statement.loop, [self.names[node] for node in statement.defined])
            else:
                yield INDENT, before, doc

    def text(self) -> str:
        return "\n".join(" " * indent + before + flat(doc) for indent, before, doc in self.rows())

    def _concatenated(self) -> Graph:
        """The graph with concatenations of one: of a list that has no more, of a parameter of a dict's only module."""
        alone = [formal.nodes[0] for formal in self.formals if formal.is_list and len(formal.nodes) == 1]
        by: dict[Node, Node] = {}
        nodes: list[Node] = []
        for node in self.graph.nodes:
            for argument in node.arguments():
                if argument not in by and (argument in alone or self._members([argument]) is not None):
                    by[argument] = Node("function", "torch.cat", ([argument], 1), names=argument.names)
                    nodes.append(by[argument])
            by[node] = node.replaced(by)
            nodes.append(by[node])
        return replace(self.graph, nodes=nodes, outputs=[by.get(output, output) for output in self.graph.outputs])

    # --- what is passed

    def _operands(self, node: Node) -> list[Operand]:
        """What a module is called with."""
        if node.graph is None:
            return [Operand([argument], False) for argument in node.arguments()]
        found, rest = [], list(node.args)
        for formal in self.plan.formals(node.graph):
            found.append(Operand(rest[: len(formal.nodes)], formal.is_list))
            del rest[: len(formal.nodes)]
        return found

    def _find_wholes(self) -> None:
        """Lists that are passed on as they are."""
        passed = [operand for operands in self.operands.values() for operand in operands]
        lists = [operand for operand in [*passed, self.result] if operand.is_list]
        alone = {node for operand in [*passed, self.result] if not operand.is_list for node in operand.nodes}
        alone |= {argument for node in self.steps if node not in self.operands for argument in node.arguments()}
        for formal in self.formals:
            for operand in lists:
                if formal.is_list and operand.nodes == formal.nodes:
                    operand.whole = formal
        self.ones = {
            node for node in self.steps if node.graph and node not in self.items and self.plan.returns_list(node.graph)
        }
        for made, items in [*self.items.items(), *((node, [node]) for node in self.ones)]:
            readers = [operand for operand in lists if set(operand.nodes) & set(items)]
            if not alone & set(items) and all(operand.nodes == items for operand in readers):
                for operand in readers:
                    operand.whole = made

    def _reads(self, node: Node) -> list[Node]:
        """The results that a node's expression is made of."""
        if node in self.operands:
            return [value for operand in self.operands[node] for value in operand.values()]
        batches = any(isinstance(item, Batch) for item in contents((node.args, node.kwargs)))
        return [*node.arguments(), *(self.graph.inputs[:1] if batches else [])]

    # --- statements

    def _find_loops(self) -> list[Loop]:
        found: list[Loop] = []
        position = 0
        while position < len(self.steps):
            loop = self._loop(position)
            found += [loop] if loop is not None else []
            position += len(loop.nodes) if loop is not None else 1
        return found

    def _loop(self, start: int) -> Loop | None:
        """A loop that begins with a step: over all modules of a list, of which there are some."""
        container = self.steps[start].target.rpartition(".")[0]
        if self.steps[start].kind != "module" or not container:
            return None
        path = join(self.path, container)
        names = self.plan.children(path)
        nodes = self.steps[start : start + len(names)]
        if not isinstance(self.plan.module(path), nn.ModuleList | nn.ModuleDict) or len(names) < 4:
            return None
        if [node.target for node in nodes] != [f"{container}.{name}" for name in names] or nodes[0].kwargs:
            return None
        first = self.operands[nodes[0]]
        results = [[node] for node in nodes]
        before = [operand.values() for operand in first] + results  # what each one is called with begins there
        for i, node in enumerate(nodes):
            passed = self.operands[node]
            if len(passed) != len(first) or any(operand.is_list != first[0].is_list for operand in passed):
                return None
            if [operand.values() for operand in passed] != before[i : i + len(first)]:
                return None
            if any(operand.is_list and operand.whole is None for operand in passed[max(0, len(first) - i) :]):
                return None
        later = [node for node in self.steps if node not in nodes]
        read = {value for node in later for value in self._reads(node)} | set(self.result.values())
        if len(first) not in (1, 2) or read & set(nodes[: -len(first)]):
            return None
        return Loop(nodes, container, first)

    def _find_roots(self) -> set[Node]:
        """The nodes whose results are variables."""
        readers: dict[Node, list[Node]] = {}
        for node in self.steps:
            for value in self._reads(node) if node not in self.looped else []:
                readers.setdefault(value, []).append(node)
        starts = {value for loop in self.loops for operand in loop.start for value in operand.values()}
        roots: set[Node] = set()
        cost: dict[Node, int] = {}
        for node in self.steps:
            if node in self.looped:
                continue
            nested = [value for value in dict.fromkeys(self._reads(node)) if value in cost and value not in roots]
            own = int(node.kind != "attribute" and node.target not in ("__getitem__", *_BINARY))
            while own + sum(cost[value] for value in nested) > NESTED:
                largest = max(nested, key=lambda value: cost[value])
                roots.add(largest)
                nested.remove(largest)
            cost[node] = own + sum(cost[value] for value in nested)
            returned = node in self.result.values()
            uses = len(readers.get(node, [])) + returned
            if returned and not self.result.is_list:
                named = False
            else:
                named = bool(node.element) and all(node.element != reader.element for reader in readers.get(node, []))
            if node in self.items or node in starts or (node.kind != "attribute" and (uses > 1 or named)):
                roots.add(node)
        return roots

    def _statements(self) -> Iterator[Statement]:
        ends = {loop.nodes[-1]: loop for loop in self.loops}
        wholes = {operand.whole for operands in self.operands.values() for operand in operands} | {self.result.whole}
        for node in self.steps:
            if node in ends:
                values = [value for operand in ends[node].start for value in operand.values()]
                yield Statement(
                    ends[node].nodes[-len(ends[node].start) :], loop=ends[node], read=self._variables(values)
                )
            elif node in self.roots:
                defined = [node] if node in wholes or node not in self.items else self.items[node]
                yield Statement(defined, node, read=self._variables(self._reads(node)))
        yield Statement([], read=self._variables(self.result.values()))

    def _variables(self, nodes: Iterable[Node]) -> set[Node]:
        """Those that the expressions for these results contain."""
        found: set[Node] = set()
        for node in nodes:
            if node.kind in ("input", "item") or node in self.roots or node in self.looped:
                found.add(node)
            else:
                found |= self._variables(self._reads(node))
        return found

    def _write(self) -> Iterator[tuple[Statement, str, Doc]]:
        """Statements, with what stands before their expressions; names their variables."""
        statements = list(self._statements())
        last = {node: i for i, statement in enumerate(statements) for node in statement.read}
        needed: dict[str, int] = {}  # names that are in use, and until which statement
        for formal in self.formals:
            for node in formal.nodes:
                self.names[node] = formal.name
                needed[formal.name] = max(needed.get(formal.name, -1), last.get(node, -1))
        counts = Counter(name for node in self.graph.nodes for name in set(node.names))
        for i, statement in enumerate(statements):
            doc: Doc = ""
            if statement.value is not None:
                doc = self._doc(statement.value)[0]
            elif statement.loop is None:
                doc = self._operand(self.result)
            dying = {self.names[node] for node in statement.read if last[node] == i and node in self.names}
            mine: list[str] = []
            for node in statement.defined:
                if statement.loop is not None and len(statement.defined) == 2:
                    wanted = ["before" if node is statement.defined[0] else "last"]
                else:
                    wanted = self._wanted(node, counts)
                if set(wanted) <= {"x"}:
                    wanted += sorted(dying, key=lambda name: (name != "x", name))
                free = [name for name in wanted if needed.get(name, -1) <= i and name not in mine]
                taken = {name for name, until in needed.items() if until > i} | set(mine)
                self.names[node] = free[0] if free else fresh((wanted or ["x"])[0], taken)
                needed[self.names[node]] = last.get(node, -1)
                mine.append(self.names[node])
            yield statement, f"{', '.join(mine)} = " if mine else "return ", doc

    def _wanted(self, node: Node, counts: Mapping[str, int]) -> list[str]:
        """Names for a result, the best first: its own, or those of what its expression begins with."""
        names = sorted(node.names, key=lambda name: counts[name] > 1)
        wanted = [node.element, *names] if node.element else names
        while not wanted and node.args and isinstance(node.args[0], Node) and node.args[0].kind != "input":
            node = node.args[0]
            wanted = [] if node in self.names else list(node.names)
        return list(map(clean, wanted))

    def _too_long(self) -> Node | None:
        """What is to be a statement of its own, so that another one fits into a line."""
        for statement, before, doc in self.written:
            if statement.loop is None and INDENT + len(before) + len(flat(doc)) > WIDTH:
                values = [statement.value] if statement.value is not None else self.result.values()
                inside = values if len(values) > 1 else [node for value in values for node in self._reads(value)]
                found = [
                    node
                    for node in inside
                    if node.kind not in ("input", "parameter", "item", "attribute") and node not in self.names
                ]
                if found:
                    return max(found, key=lambda node: len(flat(self._doc(node)[0])))
        return None

    def _loop_rows(self, loop: Loop, names: list[str]) -> Iterator[tuple[int, str, Doc]]:
        start = [flat(self._operand(operand)) for operand in loop.start]
        if len(start) == 2 and start[0] == start[1]:
            yield INDENT, f"{names[0]} = {names[1]} = ", start[0]
        elif start != names:
            yield INDENT, f"{', '.join(names)} = ", ", ".join(start)
        words = [singular(word) for word in loop.container.split(".") if word != "members" and word != singular(word)]
        each = fresh(clean(words[-1]) if words else "module", set(names))
        values = "" if self.plan.is_list(join(self.path, loop.container)) else ".values()"
        yield INDENT, "", f"for {each} in {self.plan.access(self.path, loop.container)}{values}:"
        yield INDENT + 4, f"{', '.join(names)} = ", ", ".join([*names[1:], f"{each}({', '.join(names)})"])

    # --- expressions

    def _value(self, node: Node) -> Doc:
        """A tensor."""
        return f"{flat(self._made(node))}[0]" if node in self.ones else self._made(node)

    def _made(self, node: Node) -> Doc:
        """What a node makes: a tensor, or a list of them."""
        if node.kind == "parameter":
            return self.plan.access(self.path, node.target)
        if node.kind == "input":
            formal = next(formal for formal in self.formals if node in formal.nodes)
            return f"{formal.name}[{formal.nodes.index(node)}]" if formal.is_list else formal.name
        if node in self.names:
            return self.names[node]
        if node.kind == "item":
            return f"{self.names[node.args[0]]}[{node.target}]"
        return self._doc(node)[0]

    def _operand(self, operand: Operand) -> Doc:
        if isinstance(operand.whole, Formal):
            return operand.whole.name
        if operand.whole is not None:
            return self._made(operand.whole)
        values = tuple(map(self._value, operand.nodes))
        return display("[", values, "]") if operand.is_list else values[0]

    def _doc(self, node: Node) -> tuple[Doc, int]:
        """A node's expression, and how strongly its outermost operator binds."""
        sized = node.target in _SIZED
        if node.kind == "module":
            function = self.plan.access(self.path, node.target)
            if node.graph is not None:
                return call(function, *map(self._operand, self.operands[node])), _ATOM
            return self._call(function, node.args, node.kwargs, sized), _ATOM
        if node.kind == "attribute":
            return f"{self._bound(node.args[0], _ATOM)}.{node.target}", _ATOM
        if node.kind == "function":
            return self._call(*self._function(node), sized), _ATOM
        return self._method(node, sized)

    def _method(self, node: Node, sized: bool) -> tuple[Doc, int]:
        tensor, *others = node.args
        name = node.target
        if name.endswith("_") and hasattr(Tensor, name[:-1]):
            name = name[:-1]  # it was in place; nothing else reads what it changes, or the check would fail
        sign = _REFLECTED.get(name) or _BINARY.get(name.strip("_"))
        if sign is not None and len(others) == 1 and not node.kwargs:
            left, right = (others[0], tensor) if name in _REFLECTED else (tensor, others[0])
            binds = _BINDS[sign]
            texts = self._bound(left, binds + (sign == "**")), self._bound(right, binds + (sign != "**"))
            space = "" if sign == "**" and all(re.fullmatch(r"-?[\w.]+", text) for text in texts) else " "
            return f"{texts[0]}{space}{sign}{space}{texts[1]}", binds
        if name == "neg":
            return f"-{self._bound(tensor, _BINDS['negative'])}", _BINDS["negative"]
        if name == "__getitem__":
            index = others[0] if isinstance(others[0], tuple) else (others[0],)
            inside = ", ".join(flat(self._constant(item, sized)) for item in index)
            return f"{self._bound(tensor, _ATOM)}[{inside}]", _ATOM
        if name.startswith("__"):
            raise self._error(f"Tensor.{name}")
        return self._call(f"{self._bound(tensor, _ATOM)}.{name}", others, node.kwargs, sized), _ATOM

    def _bound(self, value: Any, binds: int) -> str:
        """An operand, in parentheses if need be."""
        if not isinstance(value, Node):
            return flat(self._constant(value, False))
        text = flat(self._value(value))
        simple = value.kind in ("parameter", "input", "item") or value in self.names
        return text if simple or self._doc(value)[1] >= binds else f"({text})"

    def _function(self, node: Node) -> tuple[str, Sequence[Any], Mapping[str, Any]]:
        """The name of a function as it is written, and its arguments without those that are defaults."""
        where, _, name = node.target.rpartition(".")
        module, short = (functional, "F") if where == "torch.nn.functional" else (torch, "torch")
        function = getattr(module, name, None)
        if where not in ("torch", "torch.functional", "torch.nn.functional") or function is None:
            raise self._error(node.target)
        defaults = _defaults(function)
        kwargs = {
            key: value
            for key, value in node.kwargs.items()
            if key != "inplace" and (key == "training" or key not in defaults or defaults[key] is not value)
        }
        args = list(node.args)
        while short == "F" and args and args[-1] is None:
            args.pop()
        return f"{short}.{name}", args, kwargs

    def _call(self, function: str, args: Sequence[Any], kwargs: Mapping[str, Any], sized: bool) -> Doc:
        texts = [self._constant(arg, sized) for arg in args]
        for key, value in kwargs.items():
            text = "self.training" if key == "training" and value is False else flat(self._constant(value, sized))
            texts.append(f"{key}={text}")
        return call(function, *texts)

    def _constant(self, value: Any, sized: bool) -> Doc:
        """An argument. sized: with its numbers between \\0."""
        if isinstance(value, Node):
            return self._value(value)
        if isinstance(value, Batch):
            images = f"{flat(self._value(self.graph.inputs[0]))}.shape[0]"
            return images if value.times == 1 else f"{value.times} * {images}"
        if isinstance(value, list | tuple):
            return self._sequence(value, sized)
        if isinstance(value, slice):
            parts = [None if part is None else flat(self._constant(part, True)) for part in contents(value)]
            return f"{parts[0] or ''}:{parts[1] or ''}" + (f":{parts[2]}" if parts[2] else "")
        if sized and type(value) is int and abs(value) > 1:
            return f"\0{value}\0"
        if isinstance(value, torch.dtype | torch.memory_format):
            return str(value)
        if isinstance(value, torch.device):
            return f"{flat(self._value(self.graph.inputs[0]))}.device"
        return "..." if value is ... else literal(value)

    def _sequence(self, values: Sequence[Any], sized: bool) -> Doc:
        members = self._members(values)
        if members is not None:
            return members
        nodes = [value for value in values if isinstance(value, Node)]
        for formal in self.formals:
            if formal.is_list and formal.nodes == list(values):
                return formal.name
        brackets = "[]" if nodes or isinstance(values, list) else "()"
        return display(brackets[0], tuple(self._constant(value, sized) for value in values), brackets[1])

    def _members(self, values: Sequence[Any]) -> Doc | None:
        """A list of the same parameter of every module of a dict; None: it is something else."""
        targets = [value.target for value in values if isinstance(value, Node) and value.kind == "parameter"]
        if not targets or len(targets) < len(values):
            return None
        above, _, name = targets[0].rpartition(".")
        container = above.rpartition(".")[0]
        path = join(self.path, container)
        if not container or not isinstance(self.plan.module(path), nn.ModuleDict):
            return None
        if targets != [f"{container}.{child}.{name}" for child in self.plan.children(path)]:
            return None
        return f"[member.{name} for member in {self.plan.access(self.path, container)}.values()]"

    def _error(self, what: str) -> InputError:
        return InputError(f"module {self.path or 'network'}: there is no code for {what}")


def _defaults(function: Any) -> dict[str, Any]:
    """Of a function's arguments, as far as they are known."""
    try:
        found = {key: value.default for key, value in inspect.signature(function).parameters.items()}
    except (TypeError, ValueError):
        return {}
    if "kwargs" in found:  # one of torch's functions that return indices if they are asked to
        return {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}
    return found

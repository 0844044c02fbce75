"""What a network computes, as a graph of modules and operations, one level for each module with its own forward.

The network is run on one image, and then on two, and watched: `trace` returns what led to its output. So whatever a
forward decides by shapes or options has been decided; what it would decide by values is an InputError.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nastool.core.errors import InputError, short
from nastool.nets.blocks import MaxPool
from nastool.nets.depthwise import DepthwiseConv2d
from nastool.tasks.images.task import ImageTask

PLAIN: Mapping[type[nn.Module], type[nn.Module]] = {DepthwiseConv2d: nn.Conv2d, MaxPool: nn.MaxPool2d}
"""Modules that only run faster than torch's own, which compute the same from the same parameters."""
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Batch:
    """Among the arguments of a node: the number of images, times a constant."""

    times: int


@dataclass(eq=False)
class Node:
    """One step of a forward pass, or something that it begins with.

    kind: what `target` is.
        "input": the name of the module's argument
        "module": the path of the module that is called, from the one whose graph this is; `module` is itself, and
            `graph` what happens inside, unless it is one of torch's own
        "parameter": the path of a parameter or buffer. It is in no graph's `nodes`, only among arguments
        "function", "method", "attribute": the name that torch has for it, such as "torch.cat"; a method's or an
            attribute's first argument is its tensor
        "item": the index of one of several outputs of its only argument
    args, kwargs: nodes, `Batch`, Python and torch constants, and lists, tuples, dicts and slices of these. Of a
        module with a graph, one for each of the graph's inputs.
    shape: of the result for one image; () where there are several. outputs: how many. flops: for one image, if they
        were counted.
    container: of an input that was part of one, such as an item of a list: the name of that.
    names: the variables that held it. element: where it was in a list or dict, such as "state2" for states[2].
    """

    kind: Literal["input", "module", "parameter", "function", "method", "attribute", "item"]
    target: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    outputs: int = 1
    flops: int = 0
    module: nn.Module | None = None
    graph: Graph | None = None
    container: str = ""
    names: list[str] = field(default_factory=list)
    element: str = ""

    def arguments(self) -> Iterator[Node]:
        """The nodes among its arguments."""
        return (item for item in contents((self.args, self.kwargs)) if isinstance(item, Node))

    def replaced(self, by: Mapping[Node, Node]) -> Node:
        """A copy with other nodes among its arguments."""
        change = lambda item: by.get(item, item) if isinstance(item, Node) else item  # noqa: E731
        return replace(self, args=rebuilt(change, self.args), kwargs=rebuilt(change, self.kwargs))


@dataclass(eq=False)
class Graph:
    """What a module's forward does for its outputs: nothing that does not lead to them is there.

    nodes: in the order of execution. outputs: those that are read, one or several (in the order of the list, tuple or
    dict that they were in).
    """

    module: nn.Module
    path: str
    inputs: list[Node]
    nodes: list[Node]
    outputs: list[Node]


def trace(network: nn.Module, task: ImageTask, *, flops: bool = False) -> Graph:
    """What the network does in evaluation mode, on its own device; it stays as it was.

    flops: count them; that takes some seconds the first time. InputError: its forward depends on values, or does
    something that leaves no trace; or modules share parameters.
    """
    with evaluating(network):
        one, two = _run(network, task, 1, flops), _run(network, task, 2, False)
    _mark_batches(one, two)
    return one


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, and then each module's own again."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def is_plain(module: nn.Module) -> bool:
    """Whether it is one of torch's own that does something itself."""
    return plain_class(module) is not None


def plain_class(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch.nn that does what this module does; None: there is none, or it is a container."""
    found = PLAIN.get(type(module), type(module))
    return found if getattr(nn, found.__name__, None) is found and found not in CONTAINERS else None


def _run(network: nn.Module, task: ImageTask, images: int, flops: bool) -> Graph:
    parameter = next(network.parameters(), torch.empty(0))
    shape = (images, task.channels, task.height, task.width)
    batch = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
    watch = _Watch(network)
    with ExitStack() as stack:
        for module in network.modules():
            enter = module.register_forward_pre_hook(watch.paused(watch.enter), with_kwargs=True)
            leave = module.register_forward_hook(watch.paused(watch.leave), with_kwargs=True)
            stack.callback(enter.remove)
            stack.callback(leave.remove)
        with torch.no_grad(), watch.counter if flops else nullcontext(), watch:
            network(batch)
    if watch.root is None or len(watch.root.outputs) != 1:
        raise InputError(f"{type(network).__name__} is no network of several modules that returns one tensor")
    return _needed(watch.root, {0})


# --- watching


_METADATA = frozenset(
    "size dim ndimension numel nelement element_size stride storage_offset is_contiguous is_floating_point is_complex "
    "is_signed is_same_size get_device result_type __len__ __hash__".split()
)
"""Functions whose results follow from shapes and types."""


@dataclass
class _Holder:
    """A list or dict among the variables. seen: how often. held: the nodes that were in it, and as what."""

    name: str
    value: list[Any] | dict[Any, Any]
    seen: int = 0
    held: dict[Node, str] = field(default_factory=dict)

    def look(self, known: Mapping[int, Node]) -> None:
        """Note what is in it now."""
        self.seen += 1
        for key, item in self.value.items() if isinstance(self.value, dict) else enumerate(self.value):
            node = known.get(id(item)) if isinstance(item, Tensor) else None
            if node is not None and node.kind != "input" and _element(self.name, key):
                self.held.setdefault(node, _element(self.name, key))


class _Frame:
    """A call of a module that is being watched. known: the nodes of tensors, by id."""

    def __init__(self, module: nn.Module, path: str, inputs: Iterable[tuple[str, str, Tensor]]) -> None:
        self.graph = Graph(module, path, [], [], [])
        self.known: dict[int, Node] = {}
        self.read: dict[Any, Node] = {}  # dtypes and devices: where they were read
        self.holders: dict[int, _Holder] = {}
        self.parameters: dict[int, list[str]] = {}  # the variables that held one, by its id
        for name, container, tensor in inputs:
            node = Node("input", name, shape=tuple(tensor.shape), container=container)
            self.graph.inputs.append(node)
            self.known.setdefault(id(tensor), node)

    def name_elements(self, output: object) -> None:
        """After the container that held a node the longest. output: that may be one of them.

        One with a single node holds no states, and neither does a list that is made anew again and again.
        """
        if id(output) in self.holders:
            self.holders[id(output)].look(self.known)
        ever: dict[str, set[Node]] = {}
        for holder in self.holders.values():
            for node, name in holder.held.items() if isinstance(holder.value, list) else ():
                ever.setdefault(name, set()).add(node)
        for holder in sorted(self.holders.values(), key=lambda holder: -holder.seen):
            anew = any(len(ever.get(name, ())) > 1 for name in holder.held.values())
            for node, name in holder.held.items() if len(holder.held) > 1 and not anew else ():
                node.element = node.element or name


class _Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's stub
    """Counts as torch's FlopCounterMode does, which looks into modules, too."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=out) if count is not None else 0
        return out


class _Watch(TorchFunctionMode):
    """Records what happens while it is active; `enter` and `leave` are hooks of every module."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.root: Graph | None = None
        self.counter = _Flops()  # type: ignore[no-untyped-call]  # torch's stub
        self.frames: list[_Frame] = []
        self.calls: list[tuple[Node, int]] = []  # modules that are running, and the FLOPs counted before
        self.depth = 0  # inside a module of torch's own
        self.pause = False
        self.alive: list[object] = []  # an id is a tensor's only as long as it lives
        self.paths: dict[int, list[str]] = {}
        for path, module in network.named_modules(remove_duplicate=False):
            self.paths.setdefault(id(module), []).append(path)
        self.tensors: dict[int, str] = {}
        for named in (network.named_parameters, network.named_buffers):
            for name, tensor in named(remove_duplicate=False):
                if id(tensor) in self.tensors:
                    raise InputError(f"{self.tensors[id(tensor)]} and {name} are the same tensor: no code for that")
                self.tensors[id(tensor)] = name

    def paused(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """The hook, without watching what it does itself."""

        def run(*args: Any) -> Any:
            self.pause = True
            try:
                return hook(*args)
            finally:
                self.pause = False

        return run

    # modules

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns what the module is to be called with: a tensor that it gets twice is two."""
        if self.depth:
            self.depth += 1
            return None
        plain = is_plain(module)
        leaves = [] if plain else list(_inputs(module, args, kwargs))
        path = ""
        if self.frames:
            self._note_names()
            path = self._path(module)
            node = Node("module", path, module=module)
            if plain:
                node.args, node.kwargs = self._converted(args), self._converted(kwargs)
            else:
                node.args = tuple(self._node(tensor) for _, _, tensor in leaves)
            self.calls.append((node, self.counter.total))
            path = ".".join(filter(None, [self.frames[-1].graph.path, path]))
        if plain:
            self.depth = 1
            return None
        if len({id(tensor) for _, _, tensor in leaves}) < len(leaves):
            seen: set[int] = set()

            def apart(item: Any) -> Any:
                if isinstance(item, Tensor) and id(item) in seen:
                    return item.view_as(item)
                seen.add(id(item))
                return item

            args, kwargs = rebuilt(apart, args), rebuilt(apart, kwargs)
            originals, leaves = leaves, list(_inputs(module, args, kwargs))
            self.alive += [args, kwargs]
            for (_, _, original), (_, _, tensor) in zip(originals, leaves, strict=True):
                self.frames[-1].known[id(tensor)] = self._node(original)
        self.frames.append(_Frame(module, path, leaves))
        return args, kwargs

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if self.depth > 1:
            self.depth -= 1
            return output
        if self.depth:
            self.depth = 0
            if not self.frames or isinstance(module, nn.Identity):
                del self.calls[-1:]
                return output
            node, before = self.calls.pop()
            return self._add(node, output, (args, kwargs), before)
        leaves = [tensor for tensor in contents(output) if isinstance(tensor, Tensor)]
        frame = self.frames[-1]
        frame.graph.outputs = [self._node(tensor) for tensor in leaves]
        frame.name_elements(output)
        self.frames.pop()
        self.alive += [args, kwargs, output]
        if not self.frames:
            self.root = frame.graph
            return output
        node, before = self.calls.pop()
        node.graph, node.flops = frame.graph, self.counter.total - before
        inner = zip(leaves, frame.graph.outputs, strict=True)
        self._bind(node, output, {id(tensor) for tensor, made in inner if made.kind == "input"})
        return output

    # functions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.pause or self.depth or not self.frames:
            return func(*args, **kwargs)
        self._note_names()
        name = resolve_name(func) or getattr(func, "__name__", "?")
        short_name = name.rpartition(".")[2]
        before = self.counter.total
        frame = self.frames[-1]
        if short_name == "__get__":
            node = Node("attribute", name.split(".")[-2], self._converted(args[:1]))
            value = func(*args, **kwargs)
            if isinstance(value, torch.dtype | torch.device):
                frame.graph.nodes.append(node)
                frame.read[value] = node
        elif short_name in _METADATA:
            return func(*args, **kwargs)
        else:
            if short_name in ("__setitem__", "set_") or kwargs.get("out") is not None:
                raise self._error(f"{name} writes into a tensor")
            method = name.startswith("torch.Tensor.")
            kind: Literal["method", "function"] = "method" if method else "function"
            node = Node(kind, short_name if method else name, self._converted(args), self._converted(kwargs))
            value = func(*args, **kwargs)
        if not any(isinstance(leaf, Tensor) for leaf in contents(value)):
            if short_name == "__get__":
                return value
            raise self._error(f"its forward depends on values ({name})")
        return self._add(node, value, (args, kwargs), before)

    # both

    def _add(self, node: Node, value: Any, given: object, before: int) -> Any:
        """A node whose result is `value`, which must not be the very object that an argument is: a copy of it is."""
        node.flops = self.counter.total - before
        inplace = node.kind != "module" and (node.target.endswith("_") or node.kwargs.get("inplace") is True)
        if isinstance(value, Tensor) and not inplace and any(value is item for item in contents(given)):
            value = value.view_as(value)
        self.alive += [value, given]
        if isinstance(value, Tensor) and (same := _same(node, tuple(value.shape))) is not None:
            self.frames[-1].known[id(value)] = same
        else:
            self._bind(node, value)
        return value

    def _bind(self, node: Node, value: Any, skip: Collection[int] = ()) -> None:
        """Say of which tensors a node is the origin. skip: those in `value` that are another node's, by id."""
        frame = self.frames[-1]
        frame.graph.nodes.append(node)
        if isinstance(value, Tensor):
            node.shape = tuple(value.shape)
            if id(value) not in skip:
                frame.known[id(value)] = node
            return
        parts = [part for part in contents(value) if node.graph is None or isinstance(part, Tensor)]
        node.outputs = len(parts)
        for index, part in enumerate(parts):
            if isinstance(part, Tensor) and id(part) not in skip:
                item = Node("item", str(index), (node,), shape=tuple(part.shape))
                frame.graph.nodes.append(item)
                frame.known[id(part)] = item

    def _node(self, tensor: Tensor) -> Node:
        frame = self.frames[-1]
        if id(tensor) in frame.known:
            return frame.known[id(tensor)]
        name = self.tensors.get(id(tensor))
        prefix = f"{frame.graph.path}." if frame.graph.path else ""
        if name is None:
            raise self._error("a tensor is neither parameter nor buffer nor made by what can be watched")
        if not name.startswith(prefix):
            raise self._error(f"it uses {name}, which is not its own")
        names = frame.parameters.get(id(tensor), [])
        return Node("parameter", name.removeprefix(prefix), shape=tuple(tensor.shape), names=names)

    def _converted(self, value: Any) -> Any:
        read = self.frames[-1].read

        def convert(item: Any) -> Any:
            if isinstance(item, Tensor):
                return self._node(item)
            if isinstance(item, torch.dtype | torch.device):
                return read.get(item, item)
            if item is None or item is ... or isinstance(item, bool | int | float | str | torch.memory_format):
                return item
            raise self._error(f"an argument is a {type(item).__name__}")

        return rebuilt(convert, value)

    def _path(self, module: nn.Module) -> str:
        """From the module that is being watched to one inside it."""
        above = self.frames[-1].graph.path
        for path in self.paths[id(module)]:
            if not above or path.startswith(f"{above}."):
                return path.removeprefix(f"{above}.") if above else path
        raise self._error(f"it calls {self.paths[id(module)][0]}, which is not its own")

    def _error(self, problem: str) -> InputError:
        graph = self.frames[-1].graph
        what = f"module {graph.path}" if graph.path else "the network"
        return InputError(f"{what} ({type(graph.module).__name__}) cannot be traced: {short(problem, 120)}")

    def _note_names(self) -> None:
        """Look which variables of the forward that is running hold the results so far."""
        known = self.frames[-1].known
        frame = sys._getframe(2)
        while frame.f_back is not None and _is_machinery(frame.f_code.co_filename):
            frame = frame.f_back
        running = []
        while frame is not None and not _is_machinery(frame.f_code.co_filename):
            running.append(dict(frame.f_locals))
            frame = frame.f_back  # type: ignore[assignment]  # None at the end
        for variables in reversed(running):
            for name, value in variables.items():
                if isinstance(value, Tensor):
                    node = known.get(id(value))
                    names = self.frames[-1].parameters.setdefault(id(value), []) if node is None else node.names
                    if (node is None or node.kind != "input") and name not in names:
                        names.append(name)
                elif type(value) in (list, dict) and value:
                    self.frames[-1].holders.setdefault(id(value), _Holder(name, value)).look(known)


def _same(node: Node, shape: tuple[int, ...]) -> Node | None:
    """Its argument, where a step does nothing to it: such as the concatenation of one tensor, or adding zeros."""
    tensor, *others = node.args if node.args and not node.kwargs.get("alpha") else (None,)
    kept: Any = None
    if node.target == "torch.cat" and isinstance(tensor, list | tuple) and len(tensor) == 1:
        kept = tensor[0]
    elif node.target == "torch.nn.functional.pad" and others and not any(contents(others[0])):
        kept = tensor
    elif node.target == "__getitem__" and all(
        isinstance(part, slice) and not part.start and part.step in (None, 1)
        for part in (others[0] if isinstance(others[0], tuple) else others)
    ):
        kept = tensor  # all of it, if the shape is the same
    elif node.target in ("add", "add_") and len(others) == 1:
        zeros = [part.target == "torch.zeros_like" if isinstance(part, Node) else part == 0 for part in node.args]
        kept = others[0] if zeros[0] else tensor if zeros[1] else None
    return kept if isinstance(kept, Node) and kept.shape == shape else None


def _is_machinery(file: str) -> bool:
    return file in (__file__, nn.modules.module.__file__, torch.overrides.__file__, torch.utils._contextlib.__file__)


def _element(name: str, key: object) -> str:
    """A name for name[key]."""
    if isinstance(key, str) and key.isidentifier():
        return key
    return f"{singular(name)}{key}" if str(key).isdigit() else ""


def singular(name: str) -> str:
    """ "states" -> "state"."""
    if name.endswith("ies"):
        return f"{name[:-3]}y"
    return name[:-1] if len(name) > 2 and name.endswith("s") and not name.endswith("ss") else name


def _inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, str, Tensor]]:
    """The tensors that a module is called with: name, name of the list, tuple or dict that it is in ("": none)."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    for name, value in bound.arguments.items():
        yield from _named_leaves(name, "", value)


def _named_leaves(name: str, container: str, value: Any) -> Iterator[tuple[str, str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, container, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _named_leaves(_element(name, key) or name, name, item)


# --- afterwards


def _needed(graph: Graph, outputs: set[int]) -> Graph:
    """The part of a graph that leads to these outputs."""
    result = [graph.outputs[i] for i in sorted(outputs)]
    marked = {id(node) for node in result}
    nodes: list[Node] = []
    only: dict[Node, Node] = {}  # items of which there is only one
    for node in reversed(graph.nodes):
        if node.kind == "item":
            continue
        items = [item for item in graph.nodes if item.kind == "item" and item.args == (node,) and id(item) in marked]
        if id(node) not in marked and not items:
            continue
        if node.graph is not None:
            wanted = {int(item.target) for item in items} or {0}
            inner = _needed(node.graph, wanted)
            kept = [i for i, formal in enumerate(node.graph.inputs) if formal in inner.inputs]
            node.graph = inner
            node.args = tuple(node.args[i] for i in kept)
            for index, item in enumerate(items):
                item.target = str(index)
        if node.graph is not None:
            node.outputs = max(1, len(items))
            if len(items) == 1:
                only[items[0]] = node
                node.shape, node.names, node.element = items[0].shape, items[0].names, items[0].element
                items = []
        elif 0 < len(items) < node.outputs:  # unpacking would leave some over
            for item in items:
                item.kind, item.args, item.target = "method", (node, int(item.target)), "__getitem__"
        nodes += [*reversed(items), node]
        marked |= {id(argument) for argument in node.arguments()}
    inputs = [node for node in graph.inputs if id(node) in marked]
    if only:
        for node in nodes:
            changed = node.replaced(only)
            node.args, node.kwargs = changed.args, changed.kwargs
        result = [only.get(node, node) for node in result]
    return Graph(graph.module, graph.path, inputs, nodes[::-1], result)


def _mark_batches(one: Graph, two: Graph) -> None:
    """Put `Batch` where the graph for two images has twice the number that the one for one image has."""

    def error() -> InputError:
        what = f"module {one.path}" if one.path else "the network"
        return InputError(f"{what} ({type(one.module).__name__}) cannot be traced: it depends on the batch's size")

    if [(node.kind, node.target) for node in one.nodes] != [(node.kind, node.target) for node in two.nodes]:
        raise error()
    for node, other in zip(one.nodes, two.nodes, strict=True):
        if node.graph is not None and other.graph is not None:
            _mark_batches(node.graph, other.graph)
        others = iter(list(contents((other.args, other.kwargs))))

        def mark(item: Any, others: Iterator[Any] = others) -> Any:
            twin = next(others, None)
            if isinstance(item, Node) or item == twin:
                return item
            if type(item) is int and twin == 2 * item:
                return Batch(item)
            raise error()

        node.args, node.kwargs = rebuilt(mark, node.args), rebuilt(mark, node.kwargs)


def contents(value: Any) -> Iterator[Any]:
    """What is in lists, tuples, dicts and slices, nested or not."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, slice):
        value = [value.start, value.stop, value.step]
    if isinstance(value, list | tuple):
        for item in value:
            yield from contents(item)
    else:
        yield value


def rebuilt(change: Any, value: Any) -> Any:
    """The same structure with changed contents."""
    if isinstance(value, dict):
        return {key: rebuilt(change, item) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(rebuilt(change, item) for item in (value.start, value.stop, value.step)))
    if isinstance(value, list):
        return [rebuilt(change, item) for item in value]
    if isinstance(value, tuple):
        return tuple(rebuilt(change, item) for item in value)
    return change(value)

"""Shapes, parameters and FLOPs of what a diagram's nodes stand for. Imports torch.

The network is built on the meta device, which computes nothing, and run once on one example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nastool.core.diagram import Cost, Edge, Node, Section, kind_of, times
from nastool.core.errors import InputError, one_line
from nastool.core.space import SearchSpace
from nastool.core.task import Task
from nastool.core.values import Arch
from nastool.drawing.scene import compact
from nastool.nets import networks
from nastool.nets.costs import Flops, example
from nastool.nets.networks import evaluating

MOST = 400
"""Nodes of a traced network's section; what comes after is left out."""


def measured(
    sections: Sequence[Section], space: SearchSpace, arch: Arch, task: Task, scale: Any
) -> tuple[list[Section], list[str]]:
    """The sections with the costs of their nodes, and lines about the whole network.

    A section for the network is added if none of the others stands for modules.
    """
    with torch.device("meta"):
        network = networks.build(space, arch, task, scale)
    costs = Costs(network, task)
    sections = [costs.filled(section) for section in sections]
    lines = [f"{networks.count_params(network):,} parameters, {compact(costs.flops)} FLOPs for one {task.noun}"]
    if not any(node.modules for section in sections for node in section.nodes):
        sections.append(costs.filled(traced(network, task)))
    sizes = [f"{field.name}={getattr(scale, field.name)}" for field in fields(scale)]
    lines.append(", ".join([str(task), *sizes]))
    return sections, lines


@dataclass
class Call:
    """A module's call. path: its name in the network. flops: with all inside. shape: of its last tensor for one."""

    path: str
    flops: int = 0
    shape: tuple[int, ...] = ()


class Costs:
    """Costs of a network's modules.

    calls: in the order in which they begin. flops: of the whole network. InputError: it cannot be run so.
    """

    def __init__(self, network: nn.Module, task: Task) -> None:
        self.network = network
        inputs = example(network, task, 1)
        self.noun, self.shape = task.noun, tuple(inputs[0].shape[1:])
        self.calls: list[Call] = []
        running: list[Call] = []
        hooks = []
        counter = Flops()
        with counter, torch.no_grad(), evaluating(network):

            def enter(path: str) -> object:
                def hook(*_: object) -> None:
                    call = Call(path, -counter.total)
                    self.calls.append(call)
                    running.append(call)

                return hook

            def leave(module: nn.Module, inputs: object, output: object) -> None:
                call = running.pop()
                call.flops += counter.total
                tensors = _tensors(output)
                call.shape = tuple(tensors[-1].shape[1:]) if tensors else ()

            for path, module in network.named_modules():
                hooks += [module.register_forward_pre_hook(enter(path)), module.register_forward_hook(leave)]
            try:
                network(*inputs)
            except Exception as error:  # whatever a plugin's network needs more than shapes
                raise InputError(f"its network cannot be run for its shapes alone: {one_line(error)}") from error
            finally:
                for handle in hooks:
                    handle.remove()
            self.flops = counter.total

    def filled(self, section: Section) -> Section:
        """The section with the costs of its nodes."""

        def cost(node: Node) -> Cost | None:
            if node.name == self.noun and not node.modules:
                return Cost(self.shape, 0, 0)
            return self.cost(node.modules) if node.modules else None

        return replace(section, nodes=tuple(replace(node, cost=cost(node)) for node in section.nodes))

    def cost(self, paths: Sequence[str]) -> Cost | None:
        """Costs of several modules together; None: the network has none of them."""
        shape: tuple[int, ...] = ()
        flops, found = 0, False
        for path in paths:
            top: str | None = None
            for call in self.calls:
                if _within(call.path, path) and (top is None or call.path == top or not _within(call.path, top)):
                    top = call.path
                    flops += call.flops
                    shape = call.shape or shape
                    found = True
        parameters = {
            id(parameter): parameter.numel()
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad and any(_within(name, path) for path in paths)
        }
        return Cost(shape, sum(parameters.values()), flops) if found or parameters else None


def _within(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.") or not outer


# --- networks of which a space says nothing


@dataclass(eq=False)
class Step:
    """What the network's forward does itself: the call of a module, with all inside, or a function of tensors.

    sources: the steps whose results it takes; None: the inputs. path: of a module.
    """

    name: str
    sources: list[Step | None]
    shape: tuple[int, ...]
    path: str = ""
    module: nn.Module | None = None


class _Watch(TorchFunctionMode):
    """Records the steps while it is active, as hooks of modules that are not the network itself."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.made: dict[int, Step | None] = {}
        self._running = 0
        self._alive: list[object] = []  # an id is a tensor's only as long as it lives

    def enter(self, module: nn.Module, args: Any) -> None:
        self._running += 1

    def leave(self, path: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._running -= 1
        if not self._running and not isinstance(module, nn.Identity):
            self._add(type(module).__name__, (args, kwargs), output, path, module)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "?").strip("_")
        if not self._running and _tensors(output) and name != "get":
            self._add(name, (args, kwargs), output)
        return output

    def _add(self, name: str, inputs: Any, output: Any, path: str = "", module: nn.Module | None = None) -> None:
        sources = [self.made[id(tensor)] for tensor in _tensors(inputs) if id(tensor) in self.made]
        tensors = _tensors(output)
        step = Step(name, list(dict.fromkeys(sources)), tuple(tensors[-1].shape) if tensors else (), path, module)
        self.steps.append(step)
        self.made |= {id(tensor): step for tensor in tensors}
        self._alive += [inputs, output]


def steps(network: nn.Module, task: Task) -> list[Step]:
    """Those that lead to the output, in the order of execution."""
    watch, hooks = _Watch(), []
    inputs = example(network, task, 1)
    watch.made |= dict.fromkeys(map(id, inputs))
    for path, module in network.named_modules():
        if path:
            hooks.append(module.register_forward_pre_hook(watch.enter))
            hooks.append(module.register_forward_hook(partial(watch.leave, path), with_kwargs=True))
    try:
        with torch.no_grad(), evaluating(network), watch:
            output = network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    needed = {watch.made.get(id(tensor)) for tensor in _tensors(output)}
    for step in reversed(watch.steps):
        if step in needed:
            needed |= set(step.sources)
    return [step for step in watch.steps if step in needed]


def _tensors(value: Any) -> list[Tensor]:
    """Those in lists, tuples and dicts, nested or not."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in _tensors(item)]


def traced(network: nn.Module, task: Task) -> Section:
    """The network as its own forward has it; modules that run one after another and are alike are one node."""
    nodes = [Node(task.noun, task.noun, "end")]
    edges: list[Edge] = []
    names: dict[Step | None, str] = {None: task.noun}
    found = steps(network, task)
    read = [source for step in found for source in step.sources]
    last: Step | None = None
    for number, step in enumerate(found):
        sources = list(dict.fromkeys(names[source] for source in step.sources))
        if step.name == "getitem" or len(nodes) > MOST:
            names[step] = sources[0] if sources else task.noun
            continue
        name = f"step{number}"
        modules = (step.path,) if step.path else ()
        if modules and last and _alike(last, step) and read.count(last) == 1 and sources == [nodes[-1].name]:
            name = nodes[-1].name
            nodes[-1] = replace(nodes[-1], modules=(*nodes[-1].modules, *modules))
        else:
            nodes.append(Node(name, _label(step), kind_of(_label(step)), (), modules))
            edges += [Edge(source, name) for source in sources]
        names[step] = name
        last = step
    counted = [replace(node, label=times(node.label, len(node.modules))) for node in nodes]
    return Section("network", tuple(counted), tuple(edges), "chain")


def _alike(one: Step, two: Step) -> bool:
    """Whether a reader need not tell these apart."""
    return (one.name, str(one.module), one.shape) == (two.name, str(two.module), two.shape)


def _label(step: Step) -> str:
    """ "Conv2d 3x3", "Cell", "cat"; of a Sequential what it begins with."""
    if step.module is None:
        return step.name
    inner: nn.Module = step.module
    while isinstance(inner, nn.Sequential) and len(inner):
        inner = next((part for part in inner if not isinstance(part, nn.ReLU)), inner[0])
    kernel = getattr(inner, "kernel_size", None)
    if kernel is None:
        return type(inner).__name__
    return f"{type(inner).__name__} {'x'.join(map(str, (kernel, kernel) if isinstance(kernel, int) else kernel))}"

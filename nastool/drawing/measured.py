"""Shapes, parameters and FLOPs of what a diagram's nodes stand for. Imports torch.

The network is built on the meta device, which computes nothing, and run once on one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nastool.core.diagram import Cost, Edge, Node, Section, kind_of, times
from nastool.core.errors import InputError, one_line
from nastool.core.space import SearchSpace
from nastool.core.values import Arch
from nastool.deploy.tracing import Node as Step
from nastool.deploy.tracing import contents, evaluating, is_plain, trace
from nastool.drawing.scene import compact, shape_text
from nastool.nets import networks
from nastool.tasks.images.task import ImageTask

MOST = 400
"""Nodes of a traced network's section; what comes after is left out."""


def measured(
    sections: Sequence[Section], space: SearchSpace, arch: Arch, task: ImageTask, scale: Any
) -> tuple[list[Section], list[str]]:
    """The sections with the costs of their nodes, and lines about the whole network.

    A section for the network is added if none of the others stands for modules.
    """
    with torch.device("meta"):
        network = networks.build(space, arch, task, scale)
    costs = Costs(network, task)
    sections = [costs.filled(section) for section in sections]
    lines = [f"{networks.count_params(network):,} parameters, {compact(costs.flops)} FLOPs an image"]
    if not any(node.modules for section in sections for node in section.nodes):
        try:
            sections.append(costs.filled(traced(network, task)))
        except InputError as error:  # it can be used all the same
            lines.append(f"Not drawn: {error}")
    sizes = [f"{field.name}={getattr(scale, field.name)}" for field in fields(scale)]
    lines.append(", ".join([f"images of {shape_text(costs.image)}", f"{task.classes:,} classes", *sizes]))
    return sections, lines


@dataclass
class Call:
    """A module's call. path: its name in the network. flops: with all inside. shape: of its last tensor, an image's."""

    path: str
    flops: int = 0
    shape: tuple[int, ...] = ()


class Costs:
    """Costs of a network's modules.

    calls: in the order in which they begin. flops: of the whole network. InputError: it cannot be run so.
    """

    def __init__(self, network: nn.Module, task: ImageTask) -> None:
        self.network = network
        self.image = (task.channels, task.height, task.width)
        self.calls: list[Call] = []
        running: list[Call] = []
        hooks = []
        with FlopCounterMode(display=False) as counter, torch.no_grad(), evaluating(network):

            def enter(path: str) -> object:
                def hook(*_: object) -> None:
                    call = Call(path, -counter.get_total_flops())
                    self.calls.append(call)
                    running.append(call)

                return hook

            def leave(module: nn.Module, inputs: object, output: object) -> None:
                call = running.pop()
                call.flops += counter.get_total_flops()
                tensors = [item for item in contents(output) if isinstance(item, Tensor)]
                call.shape = tuple(tensors[-1].shape[1:]) if tensors else ()

            for path, module in network.named_modules():
                hooks += [module.register_forward_pre_hook(enter(path)), module.register_forward_hook(leave)]
            parameter = next(network.parameters(), torch.empty(0, device="meta"))
            try:
                network(torch.zeros(1, *self.image, device=parameter.device, dtype=parameter.dtype))
            except Exception as error:  # whatever a plugin's network needs more than shapes
                raise InputError(f"its network cannot be run for its shapes alone: {one_line(error)}") from error
            finally:
                for handle in hooks:
                    handle.remove()
            self.flops = int(counter.get_total_flops())

    def filled(self, section: Section) -> Section:
        """The section with the costs of its nodes."""

        def cost(node: Node) -> Cost | None:
            if node.name == "image" and not node.modules:
                return Cost(self.image, 0, 0)
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


def traced(network: nn.Module, task: ImageTask) -> Section:
    """The network as its own forward has it; modules that run one after another and are alike are one node.

    Raises:
        InputError: It cannot be traced.
    """
    graph = trace(network, task)
    nodes = [Node("image", "image", "end")]
    edges: list[Edge] = []
    names: dict[Step, str] = dict.fromkeys(graph.inputs, "image")
    read = [argument for step in graph.nodes for argument in step.arguments()]
    last: Step | None = None
    for number, step in enumerate(graph.nodes):
        sources = list(dict.fromkeys(names[argument] for argument in step.arguments() if argument in names))
        if step.kind in ("item", "attribute") or len(nodes) > MOST:
            names[step] = sources[0] if sources else "image"
            continue
        name = f"step{number}"
        modules = (step.target,) if step.kind == "module" else ()
        if (
            modules
            and last is not None
            and _alike(last, step)
            and read.count(last) == 1
            and sources == [nodes[-1].name]
        ):
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
    """Whether a reader need not tell these modules apart."""
    return (one.kind, str(one.module), one.shape) == (two.kind, str(two.module), two.shape)


def _label(step: Step) -> str:
    """ "Conv2d 3x3", "Cell", "cat"; of a Sequential what it begins with."""
    if step.module is None:
        return step.target.rpartition(".")[2].strip("_")
    inner: nn.Module = step.module
    while isinstance(inner, nn.Sequential) and len(inner):
        inner = next((part for part in inner if not isinstance(part, nn.ReLU)), inner[0])
    name = type(inner).__name__
    kernel = getattr(inner, "kernel_size", None)
    if is_plain(inner) and kernel is not None:
        name += f" {kernel}x{kernel}" if isinstance(kernel, int) else f" {'x'.join(map(str, kernel))}"
    return name

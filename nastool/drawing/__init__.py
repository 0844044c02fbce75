"""Drawings of architectures: as SVG, PNG, for Graphviz, and in characters.

    diagram    what is drawn: sections of nodes and edges, from `Drawable.diagram`
    measured   with a task: shapes, parameters and FLOPs of the nodes, from the network; of networks that no
               section stands for the traced modules
    layered, columns   where everything is: a graph in layers, a chain in columns
    page       sections on a page;  scene: the shapes that result
    writers/  svg, png, dot, text

With a task the network is built on the meta device, which computes nothing; without, no torch is imported.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from nastool.core.diagram import Diagram, Edge, Node, Section
from nastool.core.space import make_scale

if TYPE_CHECKING:
    from nastool.core.space import SearchSpace
    from nastool.core.task import Task
    from nastool.core.values import Arch
    from nastool.drawing.scene import Scene

__all__ = ["Diagram", "Edge", "Node", "Section", "describe", "dot", "png", "small", "svg", "text"]


def svg(space: SearchSpace, arch: Arch, task: Task | None = None, scale: object = None) -> str:
    """A self-contained SVG document.

    Args:
        space: The space.
        arch: A member.
        task: Task, for a drawing of the network with its shapes, parameters and FLOPs; None: of the architecture.
        scale: An instance of `space.Scale`, by default the published one.
    """
    from nastool.drawing.writers import svg as writer

    drawing = describe(space, arch, task, scale)
    return writer.write(_scene(drawing), drawing.title)


def png(space: SearchSpace, arch: Arch, task: Task | None = None, scale: object = None) -> bytes:
    """The same picture as a PNG file."""
    from nastool.drawing.writers import png as writer

    return writer.write(_scene(describe(space, arch, task, scale)))


def dot(space: SearchSpace, arch: Arch, task: Task | None = None, scale: object = None) -> str:
    """A graph in Graphviz' language."""
    from nastool.drawing.writers import dot as writer

    return writer.write(describe(space, arch, task, scale))


def text(
    space: SearchSpace,
    arch: Arch,
    task: Task | None = None,
    scale: object = None,
    *,
    width: int = 80,
    ascii: bool = False,
) -> str:
    """Lines of at most `width` characters, at least 20. ascii: without box drawing and other such characters."""
    from nastool.drawing.writers import text as writer

    return writer.write(describe(space, arch, task, scale), width, ascii)


def small(space: SearchSpace, arch: Arch, width: int, lines: int = 6) -> list[str]:
    """At most so many lines of at most `width` characters, without markup; quick, and without torch."""
    from nastool.core.diagram import drawn, sections
    from nastool.drawing.writers import text as writer

    return writer.small([drawn(section) for section in sections(space, arch)], width, lines)


def describe(space: SearchSpace, arch: Arch, task: Task | None = None, scale: object = None) -> Diagram:
    """Diagram of an architecture; arguments as of `svg`."""
    from nastool.core.archfile import to_string
    from nastool.core.diagram import drawn, printable, sections

    if task is not None and scale is None:
        scale = make_scale(space, {})
    shown = list(sections(space, arch, scale))
    subtitle = [", ".join(changed)] if (changed := _changed_options(space)) else []
    subtitle += [own] if (own := to_string(space, arch)) is not None else []
    if task is not None:
        from nastool.drawing.measured import measured

        shown, facts = measured(shown, space, arch, task, scale)
        subtitle += facts
    title = printable(f"{space.name}  {arch.key}", 200)
    lines = "\n".join(printable(line, 500) for line in subtitle)
    return Diagram(title, lines, tuple(drawn(section) for section in shown))


def _changed_options(space: SearchSpace) -> list[str]:
    """The options that the space was built with, where they are not the defaults: "layers=24"."""
    defaults = inspect.signature(type(space)).parameters
    return [f"{k}={v}" for k, v in space.ref.options if k not in defaults or defaults[k].default != v]


def _scene(drawing: Diagram) -> Scene:
    from nastool.drawing.page import arranged

    return arranged(drawing)

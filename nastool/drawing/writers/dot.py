"""A diagram for Graphviz, which lays it out anew."""

from __future__ import annotations

from nastool.core.diagram import Diagram
from nastool.drawing.scene import HUES, cost_text, tint


def write(diagram: Diagram) -> str:
    head = [diagram.title, *diagram.subtitle.split("\n")] if diagram.subtitle else [diagram.title]
    lines = [
        f"digraph {_quoted(diagram.title)} {{",
        f"  graph [label={_label(head)}, labelloc=t, fontname={_quoted('Helvetica')}];",
        f"  node [shape=box, style={_quoted('rounded,filled')}, fontname={_quoted('Helvetica')}];",
        f"  edge [fontname={_quoted('Helvetica')}];",
    ]
    for number, section in enumerate(diagram.sections):
        title = [section.title, section.note] if section.note else [section.title]
        lines += [f"  subgraph {_quoted(f'cluster{number}')} {{", f"    label={_label(title)};"]
        for node in section.nodes:
            text = [node.label, *node.details]
            if node.cost is not None and cost_text(node.cost):
                text.append(cost_text(node.cost))
            hue = HUES[node.kind]
            fill = "#ffffff" if node.kind in ("end", "skip") else tint(hue)
            look = f"label={_label(text)}, color={_quoted(hue)}, fillcolor={_quoted(fill)}"
            dashed = f", style={_quoted('rounded,filled,dashed')}" if node.kind == "skip" else ""
            lines.append(f"    {_quoted(f'{number}/{node.name}')} [{look}{dashed}];")
        for edge in section.edges:
            look = f"color={_quoted(HUES[edge.kind])}"
            look += f", label={_label([edge.label])}" if edge.label else ""
            look += f", style={_quoted('dashed')}" if edge.kind == "skip" else ""
            ends = (_quoted(f"{number}/{name}") for name in (edge.source, edge.target))
            lines.append(f"    {' -> '.join(ends)} [{look}];")
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _label(lines: list[str]) -> str:
    """Lines below each other. Graphviz reads HTML entities in labels, so that & has to be one."""
    return '"' + "\\n".join(_quoted(line.replace("&", "&amp;"))[1:-1] for line in lines) + '"'

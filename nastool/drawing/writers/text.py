"""A diagram for a terminal: a graph as a list of nodes with what they read, a chain as a table with skips beside it."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from nastool.core.diagram import TIMES, Diagram, Node, Section, sources_of
from nastool.drawing.scene import compact, shape_text


@dataclass(frozen=True)
class Marks:
    """The characters of lines. crossing: of two; tap: where a lane feeds a box and goes on; begin, end: its corners.

    pass_begin, pass_end: the same where another line goes on to the right.
    """

    across: str
    down: str
    crossing: str
    tap: str
    begin: str
    end: str
    pass_begin: str
    pass_end: str
    reads: str
    cut: str


UNICODE = Marks("─", "│", "┼", "●", "╮", "╯", "┬", "┴", "←", "…")
ASCII = Marks("-", "|", "+", "o", ".", "'", ".", "'", "<-", "~")


def write(diagram: Diagram, width: int, ascii: bool) -> str:
    """Lines of at most `width` characters, at least 20."""
    marks = ASCII if ascii else UNICODE
    width = max(20, width)
    lines = _wrap(diagram.title, width)
    for part in diagram.subtitle.split("\n") if diagram.subtitle else []:
        lines += _wrap(part, width)
    for section in diagram.sections:
        lines += ["", *_wrap(section.title, width)]
        lines += _wrap(section.note, width, "  ") if section.note else []
        lines += _chain(section, width, marks) if section.form == "chain" else _graph(section, width, marks)
    text = "\n".join(line.rstrip() for line in lines) + "\n"
    return _plain(text) if ascii else text


def _plain(text: str) -> str:
    """The text in ASCII."""
    text = text.translate({ord(TIMES): "x", ord("…"): "~"})
    return text.encode("ascii", "replace").decode()


def cells(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def fitted(text: str, width: int, cut: str) -> str:
    """The text, or its beginning with a mark."""
    if cells(text) <= width:
        return text
    while text and cells(text) + len(cut) > width:
        text = text[:-1]
    return (text + cut)[: max(0, width)]


def _padded(text: str, width: int, right: bool = False) -> str:
    space = " " * max(0, width - cells(text))
    return space + text if right else text + space


def _wrap(text: str, width: int, indent: str = "", later: str | None = None) -> list[str]:
    later = indent if later is None else later
    found = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=later, break_on_hyphens=False)
    return [line for part in found for line in _hard(part, width)]


def _hard(line: str, width: int) -> list[str]:
    """Broken where wide characters make it too long."""
    lines = [""]
    for character in line:
        if cells(lines[-1] + character) > width:
            lines.append("")
        lines[-1] += character
    return lines


# --- graphs


def _graph(section: Section, width: int, marks: Marks) -> list[str]:
    """One line a node: what it is, and what it reads through which operations."""
    sources = sources_of(section)
    first = min(max((cells(node.label) for node in section.nodes), default=0), max(8, width // 2 - 4))
    lines = []
    for node in section.nodes:
        terms = [f"{e.label}({e.source})" if e.label else e.source for e in sources[node.name]]
        more = [*node.details, *([_cost(node)] if _cost(node) else [])]
        begin = "  " + _padded(fitted(node.label, first, marks.cut), first)
        if terms:
            start = f"{begin}  {marks.reads} "
            joined = " + ".join(term.replace(" ", "\0") for term in terms)  # a term stays on a line
            wrapped = _wrap(joined, width, start, " " * cells(start))
            lines += [line.replace("\0", " ") for line in wrapped]
        else:
            lines.append(fitted(f"{begin}  {', '.join(more)}", width, marks.cut))
            more = []
        indent = " " * (first + 4)
        for line in more:
            lines += _wrap(line, width, indent)
    return lines


def _cost(node: Node) -> str:
    cost = node.cost
    if cost is None:
        return ""
    parts = [shape_text(cost.shape)] if cost.shape else []
    parts += [f"{cost.params:,} params"] if cost.params else []
    parts += [f"{compact(cost.flops)} FLOPs"] if cost.flops else []
    return ", ".join(parts)


# --- chains


def _chain(section: Section, width: int, marks: Marks) -> list[str]:
    """A table of layers; beside it lanes from each source to those that read it, where there is room."""
    if not section.nodes:
        return []
    reads = _reads(section)
    labels = [", ".join((node.label, *node.details)) for node in section.nodes]
    with_cost = any(node.cost is not None for node in section.nodes)
    columns: list[tuple[str, list[str], bool]] = [("layer", labels, False)]
    if with_cost:
        costs = [node.cost for node in section.nodes]
        columns.append(("output", [shape_text(c.shape) if c is not None else "" for c in costs], True))
        columns.append(("params", [f"{c.params:,}" if c is not None and c.params else "" for c in costs], True))
        columns.append(("FLOPs", [compact(c.flops) if c is not None and c.flops else "" for c in costs], True))
    if any(reads.values()):
        heading = "skips" if _follows(section) else "reads"
        columns.append((heading, [", ".join(reads[node.name]) for node in section.nodes], False))
    lanes = _lanes(section, marks)
    widths = [max(cells(title), *map(cells, rows)) for title, rows, _ in columns]
    room = width - 2
    for drop in (False, True):
        beside = 0 if drop or not lanes else max(map(len, lanes)) + 1
        if sum(widths) + 2 * (len(widths) - 1) + beside <= room:
            return _table(columns, widths, [] if drop else lanes, marks)
    below = _pairs(reads, width, marks) if columns[-1][0] in ("skips", "reads") else []
    if below:
        heading = columns.pop()[0]
        widths.pop()
        below = [f"  {heading}", *below]
    spare = room - sum(widths[1:]) - 2 * (len(widths) - 1)
    if spare >= 14:
        widths[0] = min(widths[0], spare)
        return [*_table(columns, widths, [], marks), *below]
    lines = []
    for node, name in zip(section.nodes, labels, strict=True):
        lines += _wrap(name, width, "  ", "      ")
        lines += _wrap(_cost(node), width, "      ") if _cost(node) else []
    return lines + below


def _pairs(reads: Mapping[str, Sequence[str]], width: int, marks: Marks) -> list[str]:
    """Pairs of each node and what it reads, one after another."""
    texts = [f"{name} {marks.reads} {', '.join(sources)}" for name, sources in reads.items() if sources]
    return _wrap("; ".join(texts), width, "    ")


def _follows(section: Section) -> bool:
    """Whether every node reads the one before it."""
    plain = {(edge.source, edge.target) for edge in section.edges if edge.kind != "skip"}
    return all((one.name, two.name) in plain for one, two in pairwise(section.nodes))


def _reads(section: Section) -> dict[str, list[str]]:
    """Nodes that each node reads; where each reads the one before it, only what else it reads."""
    found = {}
    before = ""
    follows, sources = _follows(section), sources_of(section)
    for node in section.nodes:
        edges = sources[node.name]
        others = [e for e in edges if not follows or e.source != before or e.kind == "skip"]
        found[node.name] = [f"{e.source} ({e.label})" if e.label else e.source for e in others]
        before = node.name
    return found


def _table(
    columns: Sequence[tuple[str, list[str], bool]], widths: Sequence[int], lanes: Sequence[str], marks: Marks
) -> list[str]:
    def row(texts: Sequence[str]) -> str:
        padded = (
            _padded(fitted(text, width, marks.cut), width, right)
            for text, width, (_, _, right) in zip(texts, widths, columns, strict=True)
        )
        return "  " + "  ".join(padded)

    lines = [row([title for title, _, _ in columns]), "  " + marks.across * (sum(widths) + 2 * (len(widths) - 1))]
    for number in range(len(columns[0][1])):
        beside = f" {lanes[number]}" if lanes else ""
        lines.append(row([texts[number] for _, texts, _ in columns]) + beside)
    return lines


def _lanes(section: Section, marks: Marks) -> list[str]:
    """Text beside each row; [] where there is nothing."""
    number = {node.name: i for i, node in enumerate(section.nodes)}
    nets: dict[int, set[int]] = {}
    for edge in section.edges:
        source, target = number[edge.source], number[edge.target]
        if target > source + 1 or edge.kind == "skip" or edge.label:
            nets.setdefault(source, set()).add(target)
    placed: list[list[tuple[int, int]]] = []
    lane_of: dict[int, int] = {}
    for source, targets in sorted(nets.items(), key=lambda item: (max(item[1]) - item[0], item[0])):
        span = (source, max(targets))
        free = (all(span[1] < low or high < span[0] for low, high in taken) for taken in placed)
        lane = next((i for i, is_free in enumerate(free) if is_free), len(placed))
        if lane == len(placed):
            placed.append([])
        placed[lane].append(span)
        lane_of[source] = lane
    grid = [[" "] * (2 * len(placed)) for _ in section.nodes]
    for source, targets in nets.items():
        for row in range(source + 1, max(targets)):
            grid[row][2 * lane_of[source] + 1] = marks.down
    for row in range(len(section.nodes)):
        touching = [s for s, targets in nets.items() if s == row or row in targets]
        far = max((2 * lane_of[source] + 1 for source in touching), default=-1)
        for x in range(far):
            grid[row][x] = marks.crossing if grid[row][x] == marks.down else marks.across
        for source in touching:
            x = 2 * lane_of[source] + 1
            if source == row:
                grid[row][x] = marks.begin if x == far else marks.pass_begin
            elif row == max(nets[source]):
                grid[row][x] = marks.end if x == far else marks.pass_end
            else:
                grid[row][x] = marks.tap
    return ["".join(row) for row in grid] if placed else []


# --- very small


def small(sections: Sequence[Section], width: int, lines: int) -> list[str]:
    """At most `lines` lines of at most `width` characters: the operations in a row, cut where they do not fit."""
    width = max(1, width)
    found: list[str] = []
    for number, section in enumerate(sections):
        heading = f"{section.title}: " if len(sections) > 1 else ""
        between = " → " if section.form == "chain" and _follows(section) else "  "
        own = _packed(heading, _tokens(section), between, width)
        left = (lines - len(found)) // (len(sections) - number)
        if len(own) > left:
            own = own[: max(0, left)]
            if own:
                own[-1] = fitted(f"{own[-1]} …", width, "…")
        found += own
    return found[: max(0, lines)]


def _tokens(section: Section) -> list[str]:
    reads, sources, follows = _reads(section), sources_of(section), _follows(section)
    tokens = []
    for node in section.nodes:
        edges = sources[node.name]
        label = " ".join(node.label.split())
        if section.form == "chain":
            more = ",".join(reads[node.name])
            shown = f" +{more}" if follows else f"({more})"
            tokens.append(label + shown if more else label)
        elif edges:
            terms = "+".join(f"{e.label}({e.source})" if e.label else e.source for e in edges)
            tokens.append(f"{node.name}={terms}" if node.kind in ("plain", "end") else f"{label}({terms})")
    return tokens


def _packed(heading: str, tokens: Sequence[str], between: str, width: int) -> list[str]:
    lines = [heading]
    fresh = True
    for token in tokens:
        link = "" if fresh else between
        if cells(lines[-1] + link + token) > width and lines[-1].strip():
            lines.append("")
            link = between.lstrip() if between.strip() else ""
        lines[-1] += link + token
        fresh = False
    return [fitted(line.rstrip(), width, "…") for line in lines]

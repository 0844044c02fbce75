"""A chain of boxes in one or more columns, with all other edges in lanes to the right of the boxes.

A lane belongs to one source. Where it feeds a box there is a dot on the line that leads into the box; where lines cross
without a dot, they only cross. From column to column lanes go through the space below the boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nastool.core.diagram import Edge, Section
from nastool.drawing.scene import EDGE, SKIP_EDGE, Box, Line, Scene, Text, box_of, size_of

SPACE = 16.0
"""Between the boxes of a column."""
LANE, NARROW = 8.0, 4.0
"""Between lanes, and between those of very many."""
COLORS = ("#6b9ac4", "#d08a5b", "#5aa88d", "#b58ba6", "#8a8a8a")
"""Colours of lanes beside each other: lighter than those of boxes."""
MARGIN = 16.0
"""Between boxes and lanes, and between columns."""


@dataclass(eq=False)
class Net:
    """One source's other edges. targets: numbers of nodes, ascending. lanes: x in each column. bus: y below these.
    color: of its line.
    """

    source: int
    skip: bool
    targets: list[int]
    lanes: dict[int, float] = field(default_factory=dict)
    bus: float = 0.0
    color: str = EDGE


def split(heights: Sequence[float], columns: int) -> list[list[int]]:
    """Numbers of boxes for each of at most so many columns, as equal in height as their order allows."""
    low, high = max(heights, default=0.0), sum(heights)
    for _ in range(40):
        middle = (low + high) / 2
        if len(_filled(heights, middle)) <= columns:
            high = middle
        else:
            low = middle
    return _filled(heights, high)


def _filled(heights: Sequence[float], limit: float) -> list[list[int]]:
    found: list[list[int]] = []
    total = 0.0
    for i, height in enumerate(heights):
        if not found or total + height > limit + 1e-6:
            found.append([])
            total = 0.0
        found[-1].append(i)
        total += height
    return found


def column(section: Section, columns: int = 1) -> Scene:
    """The section without its title. Its upper left corner is (0, 0)."""
    if not section.nodes:
        return Scene(0, 0)
    number = {node.name: i for i, node in enumerate(section.nodes)}
    nodes = list(section.nodes)
    for edge in section.edges:
        if edge.label:
            i = number[edge.target]
            detail = f"{edge.label} of {nodes[number[edge.source]].label}"
            nodes[i] = replace(nodes[i], details=(*nodes[i].details, detail))
    straight, nets = _separated(section.edges, number)
    both = 5.0 if len({net.skip for net in nets}) > 1 else 0.0  # then skips and others have ports of their own
    sizes = [(width, height + 2 * both) for width, height in map(size_of, nodes)]
    width = max(w for w, _ in sizes)
    parts = split([height + SPACE for _, height in sizes], columns)
    at = {i: c for c, part in enumerate(parts) for i in part}
    top = 16.0 if len(parts) > 1 else 0.0
    tops: dict[int, float] = {}
    bottoms = []
    for part in parts:
        y = top
        for i in part:
            tops[i] = y
            y += sizes[i][1] + SPACE
        bottoms.append(y - SPACE)
    entries = {(i, skip): tops[i] + 7 + both * (not skip) for i in tops for skip in (False, True)}
    exits = {(i, skip): tops[i] + sizes[i][1] - 7 - both * (not skip) for i in tops for skip in (False, True)}
    floor = max(bottoms) + (20.0 if len(parts) > 1 else 0.0)

    lefts, x = [], 0.0
    for c in range(len(parts)):
        lefts.append(x)
        lanes = _assign_lanes(nets, c, at, entries, exits, floor, x + width + MARGIN)
        x += width + MARGIN + (lanes + MARGIN if lanes else 0.0) + (MARGIN if c + 1 < len(parts) else 0.0)
    right = x - (MARGIN if x > width else 0.0)
    buses = _assign_buses(nets, at, floor)

    boxes: list[Box] = []
    texts: list[Text] = []
    for i, node in enumerate(nodes):
        box, inside = box_of(node, lefts[at[i]], tops[i], width, sizes[i][1])
        boxes.append(box)
        texts += inside
    lines = [_next(i, boxes, at, top, lefts) for i in sorted(straight)]
    lines += _trunks(nets, at, boxes, entries, exits)
    lines += _collectors(nets, at, boxes, entries)
    height = max(bottoms)
    if any(at[i] != at[i + 1] for i in straight):
        height += 12
    if buses:
        height = floor + buses
    return Scene(max(right, width), height, tuple(boxes), tuple(lines), tuple(texts))


def _separated(edges: Sequence[Edge], number: Mapping[str, int]) -> tuple[set[int], list[Net]]:
    """The numbers of nodes whose edge to the next one is straight, and all other edges as nets."""
    straight: set[int] = set()
    nets: dict[tuple[int, bool], Net] = {}
    for edge in edges:
        source, target, skip = number[edge.source], number[edge.target], edge.kind == "skip"
        if target == source + 1 and not skip:
            straight.add(source)
        else:
            net = nets.setdefault((source, skip), Net(source, skip, []))
            if target not in net.targets:
                net.targets.append(target)
    found = [nets[key] for key in sorted(nets)]
    several = len(found) > 2
    for i, net in enumerate(found):
        net.targets.sort()
        if several:
            net.color = COLORS[i % len(COLORS)]  # to follow a line past others
        elif net.skip:
            net.color = SKIP_EDGE
    return straight, found


def _assign_lanes(
    nets: Sequence[Net],
    c: int,
    at: Mapping[int, int],
    entries: Mapping[tuple[int, bool], float],
    exits: Mapping[tuple[int, bool], float],
    floor: float,
    left: float,
) -> float:
    """A lane in column c for each net that is there, short ones next to the boxes; returns how wide all are."""
    spans = []
    for net in nets:
        ys = [entries[target, net.skip] for target in net.targets if at[target] == c]
        if at[net.source] == c:
            ys.append(exits[net.source, net.skip])
        if ys:
            below = at[net.source] != c or at[net.targets[-1]] > c
            spans.append((min(ys), floor if below else max(ys), net))
    lanes: list[list[tuple[float, float]]] = []
    ordered = sorted(spans, key=lambda span: (span[1] - span[0], span[0]))
    chosen = [(net, _free(lanes, low, high)) for low, high, net in ordered]
    apart = _pitch(len(lanes))
    for net, lane in chosen:
        net.lanes[c] = left + lane * apart
    return len(lanes) * apart


def _pitch(lanes: int) -> float:
    """The distance between so many lanes."""
    return min(LANE, max(NARROW, 160 / max(1, lanes)))


def _free(lanes: list[list[tuple[float, float]]], low: float, high: float) -> int:
    """The first lane where nothing is between low and high; now something is."""
    for i, taken in enumerate(lanes):
        if all(high + 3 < other_low or other_high + 3 < low for other_low, other_high in taken):
            taken.append((low, high))
            return i
    lanes.append([(low, high)])
    return len(lanes) - 1


def _assign_buses(nets: Sequence[Net], at: Mapping[int, int], floor: float) -> float:
    """The lanes below the boxes; returns how high all are."""
    lanes: list[list[tuple[float, float]]] = []
    crossing = [net for net in nets if at[net.targets[-1]] > at[net.source]]
    chosen = [_free(lanes, min(net.lanes.values()), max(net.lanes.values())) for net in crossing]
    apart = _pitch(len(lanes))
    for net, lane in zip(crossing, chosen, strict=True):
        net.bus = floor + lane * apart
    return len(lanes) * apart


def _next(i: int, boxes: Sequence[Box], at: Mapping[int, int], top: float, lefts: Sequence[float]) -> Line:
    """A line from a box to the next one, which may begin the next column."""
    one, two = boxes[i], boxes[i + 1]
    start, end = one.x + one.width / 2, two.x + two.width / 2
    if at[i] == at[i + 1]:
        return Line(((start, one.bottom), (end, two.y)), EDGE, arrow=True)
    turn = lefts[at[i + 1]] - MARGIN
    low = one.bottom + 10
    points = ((start, one.bottom), (start, low), (turn, low), (turn, top - 14), (end, top - 14), (end, two.y))
    return Line(points, EDGE, arrow=True)


def _trunks(
    nets: Sequence[Net],
    at: Mapping[int, int],
    boxes: Sequence[Box],
    entries: Mapping[tuple[int, bool], float],
    exits: Mapping[tuple[int, bool], float],
) -> list[Line]:
    """Lines from each source along its lane to the last target, in every column."""
    lines = []
    for net in nets:
        home = at[net.source]
        leave = exits[net.source, net.skip]
        here = [entries[target, net.skip] for target in net.targets if at[target] == home]
        beyond = sorted(c for c in net.lanes if c != home)
        lane = net.lanes[home]
        start = [(boxes[net.source].right, leave), (lane, leave)]
        if not beyond:
            lines.append(Line((*start, (lane, max(here))), net.color, net.skip))
            continue
        last = net.lanes[beyond[-1]]
        up = {c: min(entries[target, net.skip] for target in net.targets if at[target] == c) for c in beyond}
        corner = [(lane, net.bus), (last, net.bus), (last, up[beyond[-1]])]
        dots = tuple((net.lanes[c], net.bus) for c in beyond[:-1])
        lines.append(Line((*start, *corner), net.color, net.skip, dots=dots))
        for c in beyond[:-1]:
            lines.append(Line(((net.lanes[c], net.bus), (net.lanes[c], up[c])), net.color, net.skip))
    return lines


def _collectors(
    nets: Sequence[Net], at: Mapping[int, int], boxes: Sequence[Box], entries: Mapping[tuple[int, bool], float]
) -> list[Line]:
    """Into each target one line, from the outermost of the lanes that feed it."""
    feeding: dict[tuple[int, bool], list[Net]] = {}
    for net in nets:
        for target in net.targets:
            feeding.setdefault((target, net.skip), []).append(net)
    lines = []
    for (target, skip), sources in sorted(feeding.items()):
        c, y = at[target], entries[target, skip]
        outer = max(sources, key=lambda net: net.lanes[c])
        color = outer.color if len(sources) == 1 else SKIP_EDGE if skip else EDGE
        points = ((outer.lanes[c], y), (boxes[target].right, y))
        lines.append(Line(points, color, skip, arrow=True))
        for net in sources:
            here = [other for other in net.targets if at[other] == c]
            ends = target == (here[-1] if at[net.source] == c else here[0])
            if at[net.source] == c and at[net.targets[-1]] > c:
                ends = False  # the lane goes on to the space below
            if not ends or net is not outer:
                lines.append(Line((), net.color, dots=((net.lanes[c], y),)))
    return lines

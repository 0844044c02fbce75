"""A graph in layers from top to bottom (Sugiyama, Tagawa & Toda 1981): no boxes overlap, no edge runs through one.

Layers by longest paths; an edge's label, and each layer that a long edge passes, are items of their own; crossings are
reduced by barycenters and swaps; x coordinates are weighted least squares with the order kept. In the band of a layer
edges run straight down, and only between bands to the side: so none can cut a box, whatever its height.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from nastool.core.diagram import Edge, Node, Section, sources_of
from nastool.drawing.scene import ARROW, EDGE, HUES, SKIP_EDGE, Box, Line, Scene, Text, box_of, size_of

SPACE = 18.0
"""Between boxes of a layer."""
LANE = 14.0
"""Width of a long edge where it passes a layer."""
MOST = 700
"""Layers that all edges together may pass; beyond, the picture would be a tangle."""


@dataclass(eq=False)
class Item:
    """Something that has a place in a layer. node: None for what an edge passes. above, below: its neighbours."""

    node: Node | None
    rank: int
    width: float
    height: float
    x: float = 0.0
    above: list[Item] = field(default_factory=list)
    below: list[Item] = field(default_factory=list)

    @property
    def bends(self) -> bool:
        return self.node is None


def fits(section: Section) -> bool:
    """Whether it is small enough for this layout."""
    rank = _ranks(section)
    return len(section.nodes) <= 100 and sum(rank[e.target] - rank[e.source] for e in section.edges) <= MOST


def layered(section: Section) -> Scene:
    """The section without its title. Its upper left corner is (0, 0)."""
    if not section.nodes:
        return Scene(0, 0)
    rank = _ranks(section)
    layers: list[list[Item]] = [[] for _ in range(max(rank.values()) + 1)]
    items: dict[str, Item] = {}
    for node in section.nodes:
        items[node.name] = _add(layers, Item(node, rank[node.name], *size_of(node)))
    real = {item.rank for item in items.values()}
    ways = [_way(edge, items, layers, real) for edge in section.edges]
    _order(layers)
    _place(layers)
    _straighten(layers, ways)
    return _scene(layers, section.edges, ways)


def _ranks(section: Section) -> dict[str, int]:
    """Longest paths from above; an edge with a label needs a layer in between.

    The last node is below all others, and what reads nothing but is no input is just above what reads it.
    """
    rank = {node.name: 0 for node in section.nodes}
    incoming = sources_of(section)
    outgoing: dict[str, list[Edge]] = {node.name: [] for node in section.nodes}
    for node in section.nodes:
        for edge in incoming[node.name]:
            rank[node.name] = max(rank[node.name], rank[edge.source] + _length(edge))
            outgoing[edge.source].append(edge)
    for node in section.nodes:
        if node.kind != "end" and not incoming[node.name] and outgoing[node.name]:
            rank[node.name] = min(rank[edge.target] - _length(edge) for edge in outgoing[node.name])
    *others, last = section.nodes
    if others and (incoming[last.name] or last.kind == "end"):
        rank[last.name] = max(rank[last.name], *(rank[node.name] + 1 for node in others))
    return rank


def _length(edge: Edge) -> int:
    """Layers from source to target, at least."""
    return 2 if edge.label else 1


def _add(layers: Sequence[list[Item]], item: Item) -> Item:
    layers[item.rank].append(item)
    return item


def _way(edge: Edge, items: dict[str, Item], layers: Sequence[list[Item]], real: set[int]) -> list[Item]:
    """The items of an edge from source to target. real: ranks with nodes, which labels avoid."""
    source, target = items[edge.source], items[edge.target]
    between = range(source.rank + 1, target.rank)
    middle = (source.rank + target.rank) / 2
    labelled = min(between, key=lambda rank: (rank in real, abs(rank - middle), rank)) if edge.label else -1
    way = [source]
    for rank in between:
        if rank == labelled:
            label = Node("", edge.label, edge.kind)
            width, height = size_of(label)
            way.append(_add(layers, Item(label, rank, width, height - 4)))
        else:
            way.append(_add(layers, Item(None, rank, LANE, 0)))
    way.append(target)
    for one, two in pairwise(way):
        one.below.append(two)
        two.above.append(one)
    return way


# --- the order in each layer


def _order(layers: list[list[Item]]) -> None:
    """Sweeps by barycenter, then swaps of neighbours, as long as there are fewer crossings; the best order is kept."""
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(12):
        if fewest == 0:
            break
        down = sweep % 2 == 0
        for layer in layers[1:] if down else layers[-2::-1]:
            place = {item: i for other in layers for i, item in enumerate(other)}
            at = {item: i for i, item in enumerate(layer)}
            center = {item: _mean([place[n] for n in (item.above if down else item.below)], at[item]) for item in layer}
            layer.sort(key=lambda item: center[item])
        _swap(layers)
        crossings = _crossings(layers)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    for layer, kept in zip(layers, best, strict=True):
        layer[:] = kept


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _crossings(layers: Sequence[Sequence[Item]]) -> int:
    total = 0
    for upper, lower in pairwise(layers):
        place = {item: i for i, item in enumerate(lower)}
        ends = [sorted(place[below] for below in item.below) for item in upper]
        total += sum(_inversions(one, two) for i, one in enumerate(ends) for two in ends[i + 1 :])
    return total


def _inversions(left: Sequence[int], right: Sequence[int]) -> int:
    return sum(one > two for one in left for two in right)


def _swap(layers: Sequence[list[Item]]) -> None:
    """Exchange neighbours in a layer where that removes crossings."""
    for _ in range(4):
        changed = False
        for number, layer in enumerate(layers):
            up = {item: i for i, item in enumerate(layers[number - 1])} if number else {}
            down = {item: i for i, item in enumerate(layers[number + 1])} if number + 1 < len(layers) else {}
            for i in range(len(layer) - 1):
                one, two = layer[i], layer[i + 1]
                now = then = 0
                for place, first, second in ((up, one.above, two.above), (down, one.below, two.below)):
                    left, right = [place[item] for item in first], [place[item] for item in second]
                    now += _inversions(left, right)
                    then += _inversions(right, left)
                if then < now:
                    layer[i], layer[i + 1] = two, one
                    changed = True
        if not changed:
            return


# --- coordinates


def _place(layers: Sequence[Sequence[Item]]) -> None:
    """The items' x (of their middle), so that neighbours are near each other and long edges are straight."""
    for layer in layers:
        x = 0.0
        for item in layer:
            item.x = x + item.width / 2
            x += item.width + SPACE
        for item in layer:
            item.x -= (x - SPACE) / 2
    count = len(layers)
    for sweep in range(20):
        order = range(1, count) if sweep % 2 == 0 else range(count - 2, -1, -1)
        for number in order:
            layer = layers[number]
            wanted, weights = [], []
            for item in layer:
                if sweep < 10:
                    near = item.above if sweep % 2 == 0 else item.below
                else:
                    near = [*item.above, *item.below]
                shares = [8.0 if item.bends and other.bends else 2.0 if item.bends else 1.0 for other in near]
                total = sum(shares)
                middle = sum(share * other.x for share, other in zip(shares, near, strict=True))
                wanted.append(middle / total if total else item.x)
                weights.append(total if total else 0.1)
            for item, x in zip(layer, _apart(layer, wanted, weights), strict=True):
                item.x = x


def _apart(layer: Sequence[Item], wanted: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The middles nearest to those wanted, in weighted squares, at which neighbours keep their distance.

    With the distances subtracted this is isotonic regression, solved by pooling adjacent violators.
    """
    offsets = [0.0]
    for one, two in pairwise(layer):
        offsets.append(offsets[-1] + _distance(one, two))
    pools: list[tuple[float, float, int]] = []  # value, weight, members
    for x, offset, weight in zip(wanted, offsets, weights, strict=True):
        value, members = x - offset, 1
        while pools and pools[-1][0] > value:
            other, others_weight, count = pools.pop()
            value = (value * weight + other * others_weight) / (weight + others_weight)
            weight += others_weight
            members += count
        pools.append((value, weight, members))
    found = [value for value, _, members in pools for _ in range(members)]
    return [value + offset for value, offset in zip(found, offsets, strict=True)]


def _distance(one: Item, two: Item) -> float:
    """Least distance between the middles of neighbours."""
    return (one.width + two.width) / 2 + (SPACE / 2 if one.bends or two.bends else SPACE)


def _straighten(layers: Sequence[Sequence[Item]], ways: Sequence[Sequence[Item]]) -> None:
    """Give what a long edge passes one x, where its neighbours leave room for that; then the picture begins at 0."""
    beside = {one: (left, right) for layer in layers for left, one, right in _triples(layer)}
    for _ in range(3):
        for way in ways:
            passed = way[1:-1]
            low, high = -math.inf, math.inf
            for item in passed:
                left, right = beside[item]
                low = max(low, left.x + _distance(left, item)) if left is not None else low
                high = min(high, right.x - _distance(item, right)) if right is not None else high
            if len(passed) > 1 and low <= high:
                x = min(max(sum(item.x for item in passed) / len(passed), low), high)
                for item in passed:
                    item.x = x
    start = min(item.x - item.width / 2 for layer in layers for item in layer)
    for layer in layers:
        for item in layer:
            item.x -= start


def _triples(layer: Sequence[Item]) -> Iterator[tuple[Item | None, Item, Item | None]]:
    """Every item with its neighbours."""
    return zip((None, *layer[:-1]), layer, (*layer[1:], None), strict=True)


# --- shapes


def _ports(item: Item, others: Sequence[Item], step: float = 14.0) -> list[float]:
    """For each way to another item, the x at which it meets this one's border, in the order of the others."""
    if item.bends or len(others) < 2:
        return [item.x] * len(others)
    step = min(step, (item.width - 16) / (len(others) - 1))
    order = sorted(range(len(others)), key=lambda i: others[i].x)
    ports = [0.0] * len(others)
    for place, i in enumerate(order):
        ports[i] = item.x + (place - (len(others) - 1) / 2) * step
    return ports


def _scene(layers: Sequence[Sequence[Item]], edges: Sequence[Edge], ways: Sequence[Sequence[Item]]) -> Scene:
    heights = [max((item.height for item in layer), default=0.0) for layer in layers]
    leave: dict[Item, list[float]] = {}
    enter: dict[Item, list[float]] = {}
    for layer in layers:
        for item in layer:
            leave[item], enter[item] = _ports(item, item.below), _ports(item, item.above)
    tops = [0.0]
    for number, layer in enumerate(layers[:-1]):
        widest = max((abs(item.x - below.x) for item in layer for below in item.below), default=0.0)
        tops.append(tops[-1] + heights[number] + min(64.0, 28.0 + widest / 10))
    boxes: list[Box] = []
    texts: list[Text] = []
    top_of: dict[Item, float] = {}
    for layer, top, height in zip(layers, tops, heights, strict=True):
        for item in layer:
            top_of[item] = top + (height - item.height) / 2
            if item.node is not None:
                box, inside = box_of(item.node, item.x - item.width / 2, top_of[item], item.width, item.height)
                boxes.append(box)
                texts += inside
    used: dict[tuple[Item, str], int] = {}

    def port(item: Item, side: str, ports: dict[Item, list[float]]) -> float:
        """The next one: ways are gone through in the order in which neighbours were noted."""
        number = used.get((item, side), 0)
        used[item, side] = number + 1
        return ports[item][number]

    lines: list[Line] = []
    for edge, way in zip(edges, ways, strict=True):
        skip = edge.kind == "skip"
        color = SKIP_EDGE if skip else HUES[edge.kind] if edge.label else EDGE
        points: list[tuple[float, float]] = []
        for one, two in pairwise(way):
            start, end = port(one, "below", leave), port(two, "above", enter)
            band = tops[one.rank] + heights[one.rank]
            points += [] if points else [(start, top_of[one] + one.height)]
            lead = 0.0 if two.bends else ARROW + 1  # straight, for the arrow's head
            points += [(start, band), (end, tops[two.rank] - lead), (end, top_of[two])]
            if not two.bends:
                lines.append(Line(_tidy(points), color, skip, two is way[-1], curved=True))
                points = []
    width = max(item.x + item.width / 2 for layer in layers for item in layer)
    return Scene(width, tops[-1] + heights[-1], tuple(boxes), tuple(lines), tuple(texts))


def _tidy(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Without points that come twice."""
    kept = [points[0]]
    for point in points[1:]:
        if max(abs(point[0] - kept[-1][0]), abs(point[1] - kept[-1][1])) > 1e-6:
            kept.append(point)
    return tuple(kept)

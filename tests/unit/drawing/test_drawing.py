"""Drawings: what is on them, that nothing overlaps, and `nastool show --to`."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file
from torch import Tensor, nn

from nastool import cli, drawing
from nastool.core import archfile, options, registry
from nastool.core.diagram import (
    TIMES,
    Diagram,
    Edge,
    Kind,
    Node,
    Section,
    by_decisions,
    chain,
    drawn,
    kind_of,
)
from nastool.core.diagram import (
    sections as sections_of,
)
from nastool.core.errors import TrialFailed
from nastool.core.space import SearchSpace, make_scale
from nastool.core.values import Arch, Decision, SpaceRef
from nastool.drawing import measured
from nastool.drawing.columns import column
from nastool.drawing.layered import layered
from nastool.drawing.page import PAGES, arranged
from nastool.drawing.scene import Box, Line, Scene, compact, text_width
from nastool.drawing.writers import dot, png, svg, text
from nastool.drawing.writers.text import cells
from nastool.nets import blocks, networks
from nastool.nets.costs import count_flops
from nastool.spaces.nasbench201 import NasBench201
from nastool.tasks.images.task import ImageTask
from nastool.testing.spaces import task_of
from tests.helpers import plugins
from tests.helpers.running import NASTOOL

TASK = ImageTask(3, 32, 32, 10)
SVG = "{http://www.w3.org/2000/svg}"
SPACES = sorted(registry.plugins("space"))
EVIL = '<script>&"</script> \\N ]]> \x07'


def run(*arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    command = [NASTOOL, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env={**os.environ, **env})


def space_of(name: str) -> SearchSpace:
    return registry.make_space(SpaceRef(name))


def samples(space: SearchSpace, count: int, seed: int = 0) -> list[Arch]:
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(count)]


# --- geometry


def points_of(line: Line) -> list[tuple[float, float]]:
    """Points along the line as writers draw it, close to each other."""
    found = []
    for (x0, y0), (x1, y1) in pairwise(line.points):
        for t in np.linspace(0, 1, 25):
            share = t * t * (3 - 2 * t) if line.curved else t
            # A Bezier curve whose inner points lie halfway down is x(t) = 3t^2 - 2t^3 and y(t) = 1.5t - 1.5t^2 + t^3.
            down = 1.5 * t - 1.5 * t * t + t**3 if line.curved else t
            found.append((x0 + share * (x1 - x0), y0 + down * (y1 - y0)))
    return found


def check(scene: Scene) -> None:
    """Everything lies inside, no boxes overlap, no line runs through a box, every text fits into its box."""
    near = 0.01
    for box in scene.boxes:
        assert box.x >= -near and box.y >= -near, box
        assert box.right <= scene.width + near and box.bottom <= scene.height + near, box
    for i, one in enumerate(scene.boxes):
        for two in scene.boxes[i + 1 :]:
            apart = one.right <= two.x or two.right <= one.x or one.bottom <= two.y or two.bottom <= one.y
            assert apart, (one, two)
    for line in scene.lines:
        for x, y in [*points_of(line), *line.dots]:
            assert -near <= x <= scene.width + near and -near <= y <= scene.height + near, (line, x, y)
            for box in scene.boxes:
                assert not (box.x + near < x < box.right - near and box.y + near < y < box.bottom - near), (line, box)
    for label in scene.texts:
        assert label.left >= -near and label.left + label.width <= scene.width + near, label
        assert label.y - label.size >= -near and label.y <= scene.height + near, label
        for box in scene.boxes:
            if box.y < label.y < box.bottom and box.x < label.left + label.width / 2 < box.right:
                assert box.x < label.left and label.left + label.width < box.right, (label, box)


def at(scene: Scene, x: float, y: float) -> Box:
    """The box on whose border the point lies."""
    found = [
        box
        for box in scene.boxes
        if box.x - 0.01 <= x <= box.right + 0.01
        and box.y - 0.01 <= y <= box.bottom + 0.01
        and min(abs(x - box.x), abs(x - box.right), abs(y - box.y), abs(y - box.bottom)) < 0.01
    ]
    assert len(found) == 1, (x, y, found)
    return found[0]


def first_line(scene: Scene, box: Box) -> str:
    inside = [t for t in scene.texts if box.x < t.x < box.right and box.y < t.y < box.bottom]
    return min(inside, key=lambda t: t.y).text


KINDS: tuple[Kind, ...] = ("plain", "end", "conv", "skip")
LABELS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=24)


@st.composite
def sections(draw: st.DrawFn, most: int = 9) -> Section:
    """Any graph; labels of nodes differ, those of edges differ from them."""
    count = draw(st.integers(1, most))
    nodes = []
    for i in range(count):
        details = tuple(draw(st.lists(LABELS, max_size=3)))
        kind: Kind = draw(st.sampled_from(KINDS))
        nodes.append(Node(str(i), f"{i}:{draw(LABELS)}", kind, details))
    pairs = [(i, j) for j in range(count) for i in range(j)]
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=16)) if pairs else []
    edges = []
    for number, (i, j) in enumerate(chosen):
        label = draw(st.sampled_from(("", f"op{number}")))
        edges.append(Edge(str(i), str(j), label, draw(st.sampled_from(KINDS))))
    return Section("any", tuple(nodes), tuple(edges))


@settings(max_examples=80, deadline=None)
@given(sections())
def test_layers_hold_every_edge_and_nothing_overlaps(section: Section) -> None:
    scene = layered(section)
    check(scene)
    label = {node.name: node.label for node in section.nodes}
    expected: Counter[tuple[str, str]] = Counter()
    for edge in section.edges:
        stops = [label[edge.source], *([edge.label] if edge.label else []), label[edge.target]]
        expected.update(pairwise(stops))
    found = Counter(
        (first_line(scene, at(scene, *line.points[0])), first_line(scene, at(scene, *line.points[-1])))
        for line in scene.lines
    )
    assert found == expected


@settings(max_examples=80, deadline=None)
@given(sections(), st.integers(1, 4))
def test_columns_do_not_overlap(section: Section, columns: int) -> None:
    scene = column(section, columns)
    check(scene)
    assert len(scene.boxes) == len(section.nodes)
    assert len({box.x for box in scene.boxes}) <= columns
    for line in scene.lines:
        if line.arrow:
            at(scene, *line.points[-1])


@settings(max_examples=80, deadline=None)
@given(sections())
def test_lanes_beside_a_column_connect_what_the_edges_say(section: Section) -> None:
    scene = column(section, 1)
    place = {(box.x, box.y): i for i, box in enumerate(scene.boxes)}
    dots = {dot for line in scene.lines for dot in line.dots}
    found = set()
    collectors = [line for line in scene.lines if line.arrow and line.points[0][1] == line.points[1][1]]
    for trunk in scene.lines:
        if trunk.arrow and trunk not in collectors:  # straight down
            one, two = (at(scene, *point) for point in trunk.points)
            found.add((place[one.x, one.y], place[two.x, two.y], False))
        elif trunk.points and trunk not in collectors:
            source = at(scene, *trunk.points[0])
            (x, top), (_, low) = trunk.points[1:]
            for collector in collectors:
                (far, y), end = collector.points
                joins = (x, y) in dots or (y == low and x == far)
                if top < y <= low and x <= far and joins:
                    target = at(scene, *end)
                    found.add((place[source.x, source.y], place[target.x, target.y], collector.dashed))
    expected = {(int(edge.source), int(edge.target), edge.kind == "skip") for edge in section.edges}
    assert found == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(sections(5), min_size=1, max_size=3), LABELS, LABELS)
def test_pages_hold_everything(found: Sequence[Section], title: str, subtitle: str) -> None:
    scene = arranged(Diagram(title * 5, f"{subtitle} " * 9, tuple(found)))
    check(scene)
    labels = Counter(node.label for section in found for node in section.nodes)
    assert not labels - Counter(label.text for label in scene.texts)


def test_long_chains_fit_a_page() -> None:
    nodes = [Node(str(i), f"{i}  sep_conv_5x5", "separable") for i in range(100)]
    skips = [Edge(str(i), str(j), kind="skip") for i in range(100) for j in range(i + 2, 100, 7)]
    scene = arranged(Diagram("long", "", (chain("network", nodes, skips),)))
    check(scene)
    assert max(min(w / scene.width, h / scene.height) for w, h in PAGES) > 0.5


def test_graphs_too_large_for_layers_become_chains() -> None:
    nodes = tuple(Node(str(i), str(i)) for i in range(60))
    edges = tuple(Edge(str(i), str(j)) for i in range(60) for j in range(i + 1, 60))
    started = time.perf_counter()
    scene = arranged(Diagram("large", "", (Section("all", nodes, edges),)))
    assert time.perf_counter() - started < 5
    assert len(scene.boxes) == 60


def test_widths_of_text_are_at_least_those_of_the_font() -> None:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    for sample in ("nor_conv_3x3", "MWQ@%&", "36x32  1.20 M FLOPs", "ilj|.,"):
        for weight in ("normal", "bold"):
            font = FontProperties(family="DejaVu Sans", weight=weight)
            drawn_width = TextPath((0, 0), sample, size=12, prop=font).get_extents().width
            assert drawn_width <= text_width(sample, 12, weight == "bold") <= 1.35 * drawn_width + 4


# --- values


def test_kinds() -> None:
    names = {
        "none": "none",
        "skip_connect": "skip",
        "identity": "skip",
        "avg_pool_3x3": "pool",
        "maxpool3x3": "pool",
        "sep_conv_5x5": "separable",
        "mbconv3_e3": "separable",
        "dil_conv_3x3": "dilated",
        "conv3x3-bn-relu": "conv",
        "nor_conv_1x1": "conv",
        "batch_norm": "norm",
        "Linear": "linear",
        "attention": "plain",
    }
    assert {name: kind_of(name) for name in names} == names


def test_sections_are_checked() -> None:
    with pytest.raises(ValueError, match="names that differ"):
        Section("x", (Node("a", "a"), Node("a", "b")), ())
    for edge in (Edge("b", "a"), Edge("a", "a"), Edge("a", "c")):
        with pytest.raises(ValueError, match="no edge can lead"):
            Section("x", (Node("a", "a"), Node("b", "b")), (edge,))


def test_edges_that_do_nothing_are_left_out() -> None:
    section = Section("x", (Node("a", "a"), Node("b", "b")), (Edge("a", "b", "none", "none"), Edge("a", "b", "conv")))
    assert [edge.label for edge in drawn(section).edges] == ["conv"]


def test_numbers() -> None:
    found = [compact(n) for n in (0, 999, 999.6, 1000, 12_345, 999_499, 999_999, 1_234_567, 9.9999e9)]
    assert found == ["0", "999", "1.00 k", "1.00 k", "12.3 k", "999 k", "1.00 M", "1.23 M", "10.0 G"]


# --- writers


def test_labels_are_data_in_every_form() -> None:
    nodes = (Node("a\x1b[2J", EVIL, details=(EVIL,)), Node("a\x1c[2J", "\u6f22\u5b57"), Node('"b\\', "b"))
    section = drawn(Section(EVIL, nodes, (Edge("a\x1b[2J", '"b\\', EVIL),), note=EVIL))
    diagram = Diagram(f"t {EVIL[:-1]}", "", (section,))
    picture = svg.write(arranged(diagram), diagram.title)
    assert "<script" not in picture
    root = ElementTree.fromstring(picture)
    assert {element.tag for element in root.iter()} == {
        f"{SVG}{t}" for t in ("svg", "title", "rect", "path", "polygon", "text")
    }
    shown = [element.text for element in root.iter(f"{SVG}text")]
    assert sum(part is not None and part.startswith('<script>&"</script>') for part in shown) >= 3
    graph = dot.write(diagram)
    (plain,) = list(laid_out([graph])) if shutil.which("dot") else [None]
    if plain is not None:
        assert plain.count("\nedge ") == 1 and plain.count("\nnode ") == 3
    assert Image.open(io.BytesIO(png.write(arranged(diagram)))).format == "PNG"
    assert all(line.isprintable() for line in text.small([section], 60, 6))
    for width in (20, 50, 80):
        for ascii in (False, True):
            lines = text.write(diagram, width, ascii).splitlines()
            assert all(line.isprintable() for line in lines)
            assert all(cells(line) <= width for line in lines)
            assert not ascii or "".join(lines).isascii()


def laid_out(graphs: Sequence[str]) -> Iterator[str]:
    """What Graphviz makes of each."""
    result = subprocess.run(["dot", "-Tplain"], input="".join(graphs), capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and not result.stderr, result.stderr
    yield from (part for part in result.stdout.split("stop\n") if part.strip())


def test_a_picture_is_the_same_in_both_forms() -> None:
    """Where the SVG has a box of a colour, the PNG has it, too."""
    scene = arranged(Diagram("t", "", (Section("s", (Node("a", "a", "conv"), Node("b", "b", "pool")), ()),)))
    pixels = Image.open(io.BytesIO(png.write(scene))).convert("RGB")
    scale = pixels.width / scene.width
    assert scale == pytest.approx(pixels.height / scene.height, rel=0.01) and scale == pytest.approx(2, rel=0.01)
    for box in scene.boxes:
        color = pixels.getpixel((round((box.x + 5) * scale), round((box.y + box.height / 2) * scale)))
        assert isinstance(color, tuple) and "#" + "".join(f"{part:02x}" for part in color) == box.fill
    root = ElementTree.fromstring(svg.write(scene, "t"))
    assert [rect.get("fill") for rect in root.iter(f"{SVG}rect")] == ["#ffffff", *(box.fill for box in scene.boxes)]


def test_text_of_a_graph_and_of_a_chain() -> None:
    graph = Section(
        "cell",
        (Node("in", "in"), Node("1", "1: add"), Node("out", "out")),
        (Edge("in", "1", "conv"), Edge("in", "1", "pool"), Edge("1", "out"), Edge("in", "out", kind="skip")),
    )
    nodes = [Node(name, f"{name} layer") for name in "abcd"]
    skips = [Edge("a", "c", kind="skip"), Edge("a", "d", kind="skip"), Edge("c", "d", kind="skip")]
    assert text.write(Diagram("t", "", (graph, chain("net", nodes, skips))), 60, False).split("\n") == [
        "t",
        "",
        "cell",
        "  in",
        "  1: add  \N{LEFTWARDS ARROW} conv(in) + pool(in)",
        "  out     \N{LEFTWARDS ARROW} 1 + in",
        "",
        "net",
        "  layer    skips",
        "  ──────────────",
        "  a layer        ───╮",
        "  b layer           │",
        "  c layer  a     ─┬─●",
        "  d layer  a, c  ─┴─╯",
        "",
    ]


# --- every space


@pytest.mark.parametrize("name", SPACES)
def test_every_space(name: str) -> None:
    """Twenty architectures in every form that needs no network."""
    space = space_of(name)
    graphs = []
    for arch in samples(space, 20):
        diagram = drawing.describe(space, arch)
        scene = arranged(diagram)
        check(scene)
        assert max(min(1, w / scene.width, h / scene.height) for w, h in PAGES) > 0.6
        root = ElementTree.fromstring(drawing.svg(space, arch))
        title = root.find(f"{SVG}title")
        assert title is not None and title.text == f"{name}  {arch.key}"
        assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
        shown = [element.text or "" for element in root.iter(f"{SVG}text")]
        labels = [node.label for section in diagram.sections for node in section.nodes]
        labels += [edge.label for section in diagram.sections for edge in section.edges if edge.label]
        assert not Counter(labels) - Counter(shown)
        for width in (30, 50, 80):
            for ascii in (False, True):
                lines = drawing.text(space, arch, width=width, ascii=ascii).splitlines()
                assert all(cells(line) <= width for line in lines), max(lines, key=len)
                assert not ascii or "".join(lines).isascii()
        for width in (1, 12, 40, 100):
            for count in (1, 2, 6):
                lines = drawing.small(space, arch, width, count)
                assert len(lines) <= count and all(cells(line) <= width and "\n" not in line for line in lines)
        graphs.append(drawing.dot(space, arch))
    if shutil.which("dot"):
        assert len(list(laid_out(graphs))) == len(graphs)
    image = Image.open(io.BytesIO(drawing.png(space, samples(space, 1)[0])))
    assert image.format == "PNG" and image.width > 300


@pytest.mark.parametrize("name", SPACES)
def test_what_is_drawn_of_a_network_adds_up(name: str) -> None:
    """The parameters and FLOPs of the boxes are all that the network has, each once."""
    import torch

    from nastool.core import options
    from nastool.nets import networks

    space = space_of(name)
    low = {field: 4 if field == "channels" else 2 for field in options.of(space.Scale)}
    low |= {"stem": 3, "auxiliary": 0, "twice": 0, "widen": 1, "concat": 1, "tied": 1, "bias": 1, "edges": 0}
    scale = make_scale(space, {field: low[field] for field in options.of(space.Scale)})
    task = task_of(space, height=32, width=32, classes=10, vocabulary=10)
    for arch in samples(space, 2, seed=7):
        with torch.device("meta"):
            network = networks.build(space, arch, task, scale)
        section = drawing.describe(space, arch, task, scale).sections[-1]
        costs = [node.cost for node in section.nodes if node.cost is not None]
        assert sum(cost.params for cost in costs) == networks.count_params(network)
        assert sum(cost.flops for cost in costs) == count_flops(network, task)
        assert costs[0].shape == tuple(task.example(1, "meta")[0].shape[1:]) and 10 in costs[-1].shape
        assert all(cost.shape for cost in costs)
        lines = drawing.text(space, arch, task, scale, width=60).splitlines()
        assert all(cells(line) <= 60 for line in lines)
        check(arranged(drawing.describe(space, arch, task, scale)))


def test_a_small_drawing_takes_little_time() -> None:
    for name in SPACES:
        space = space_of(name)
        archs = samples(space, 30, seed=3)
        drawing.small(space, archs[0], 60)
        started = time.perf_counter()
        for arch in archs:
            drawing.small(space, arch, 60)
        assert (time.perf_counter() - started) / len(archs) < 0.005, name


def test_drawings_without_a_task_import_no_torch() -> None:
    code = """if True:
        import sys
        import numpy as np
        from nastool import drawing
        from nastool.core import registry
        from nastool.core.values import SpaceRef
        for name in registry.plugins("space"):
            space = registry.make_space(SpaceRef(name))
            arch = space.sample(np.random.default_rng(0))
            drawing.small(space, arch, 60)
            for draw in (drawing.svg, drawing.dot, drawing.text):
                draw(space, arch)
        assert "torch" not in sys.modules and "matplotlib" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_known_cells() -> None:
    space = space_of("nasbench201")
    arch = NasBench201().from_string("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|")
    (cell,) = drawing.describe(space, arch).sections
    assert [(e.source, e.target, e.label, e.kind) for e in cell.edges] == [
        ("0", "1", "nor_conv_3x3", "conv"),
        ("1", "2", "skip_connect", "skip"),
        ("2", "3", "avg_pool_3x3", "pool"),
    ]
    assert drawing.small(space, arch, 70) == ["1=nor_conv_3x3(0)  2=skip_connect(1)  3=avg_pool_3x3(2)"]
    space = space_of("nasbench101")
    edges = {"edge 0->2": "yes", "edge 2->6": "yes", "edge 0->6": "yes", "edge 0->4": "yes"}  # 4 leads nowhere
    choices = [d.options.index(edges.get(d.name, d.options[0])) for d in space.decisions]
    (cell,) = drawing.describe(space, space.arch(choices)).sections
    assert [node.label for node in cell.nodes] == ["input", "2: conv3x3-bn-relu", "output"]
    assert {(e.source, e.target) for e in cell.edges} == {("input", "2"), ("2", "output"), ("input", "output")}


def test_known_networks() -> None:
    space = space_of("macro-cnn")
    on = {"layer3.skip1", "layer9.skip2", "layer9.skip8"}
    arch = space.arch([int(decision.name in on) for decision in space.decisions])
    (network,) = sections_of(space, arch)
    assert [(e.source, e.target) for e in network.edges if e.kind == "skip"] == [("1", "3"), ("2", "9"), ("8", "9")]
    assert [n.label for n in network.nodes if "reduction" in n.name] == [
        "reduction of 2 outputs",
        "reduction of 2 outputs",
    ]
    space = space_of("cell-cnn")
    (normal, reduction) = sections_of(space, space.arch([0] * len(space.decisions)))
    assert normal.note == "" and reduction.title == "reduction cell"
    assert [node.name for node in normal.nodes] == ["0", "1", "2", "3", "4", "5", "6", "out"]
    assert [edge.source for edge in normal.edges if edge.target == "out"] == ["1", "2", "3", "4", "5", "6"]


# --- what the texts say, against the network itself

KERNEL = re.compile(r"(conv|pool|pooling) (\d+)x(\d+)")
SCALES = {"channels": (4, 7), "cells": (1, 3), "stem": (1, 3), "head": (4, 9), "stacks": (1, 3), "width": (20, 150)}
"""From, to (of what is no switch): small networks of every shape."""


def some_scale(space: SearchSpace, rng: np.random.Generator) -> Any:
    found = {}
    for field in options.of(space.Scale):
        low, high = SCALES.get(field, (0, 1))
        found[field] = int(rng.integers(low, high + 1))
    return make_scale(space, found)


def numbers_explained(text: str, known: Collection[str]) -> str:
    """What is left of a label without what is checked elsewhere: names of places and options, its own number."""
    for name in sorted(known, key=len, reverse=True):
        text = text.replace(name, "")
    return re.sub(r"^\d+( |$|:)|(stage|stack|cell|layer|pool) ?\d+\b", "", text)


@pytest.mark.parametrize("name", [name for name in SPACES if "images" in registry.load("space", name).tasks])
@pytest.mark.parametrize("seed", range(6))
def test_what_the_texts_of_a_network_say_is_true(name: str, seed: int) -> None:
    """Every number on a box that stands for modules is one of these modules', and no other number is there."""
    rng = np.random.default_rng(seed)
    space = space_of(name)
    arch, scale = space.sample(rng), some_scale(space, rng)
    colours, height, width, classes = (int(n) for n in rng.integers([1, 9, 9, 2], [4, 40, 40, 20]))
    task = ImageTask(colours, height, width, classes)
    try:
        with torch.device("meta"):
            network = networks.build(space, arch, task, scale)
    except TrialFailed:  # too many channels
        return
    section = drawing.describe(space, arch, task, scale).sections[-1]
    known = {option.replace("_", " ") for decision in space.decisions for option in decision.options}
    known |= {option for decision in space.decisions for option in decision.options if re.search("[a-z]", option)}
    parameters = sum(node.cost.params for node in section.nodes if node.cost is not None)
    assert parameters == networks.count_params(network), "each parameter belongs to a box"
    there = dict(network.named_modules())
    before: tuple[int, ...] = (task.channels, task.height, task.width)
    for node in section.nodes:
        modules = [there[path] for path in node.modules if path in there]
        assert bool(modules) == bool(node.modules)
        inner = [module for outer in modules for module in outer.modules()]
        text = node.label
        shape = node.cost.shape if node.cost is not None else before
        if (found := re.search(rf" {TIMES}(\d+)$", text)) is not None:
            assert int(found[1]) == len(node.modules)
            text = text[: found.start()]
        elif modules and node.kind == "cell":
            assert len(node.modules) == 1
        if (found := re.search(r"(reduction) of (\d+) outputs", text)) is not None:
            assert int(found[2]) == sum(isinstance(module, blocks.FactorizedReduce) for module in inner) > 1
            text = text.replace(found[0], "")
        elif text == "reduction":
            assert sum(isinstance(module, blocks.FactorizedReduce) for module in inner) == 1
        if (found := re.search(r", (\d+)$", text)) is not None:
            assert int(found[1]) == shape[0]
            text = text[: found.start()]
        for found in KERNEL.finditer(text):
            sizes = {_pair(m.kernel_size) for m in inner if isinstance(m, nn.Conv2d | nn.MaxPool2d)}
            assert (int(found[2]), int(found[3])) in sizes or not sizes, (node, sizes)
            text = text.replace(found[0], "")
        strides = {_pair(m.stride) for m in inner if isinstance(m, nn.Conv2d | nn.MaxPool2d)} - {(1, 1)}
        for line in [*node.details, text]:
            if (found := re.search(r"stride (\d)(?:x(\d))?", line)) is not None:
                assert strides == {(int(found[1]), int(found[2] or found[1]))}, node
            elif (found := re.search(r"(concatenated|weighted sum) with (\w+)", line)) is not None:
                assert any(name.endswith("share") for name, _ in modules[0].named_parameters()) == ("sum" in line)
                assert Edge(found[2], node.name, kind="skip") in section.edges
            rest = re.sub(r"stride \dx?\d?|with \w+", "", line)
            assert not re.search(r"\d", numbers_explained(rest, known)), node
        before = shape


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


@pytest.mark.parametrize("options", [{}, {"blocks": 3, "ops": "darts"}, {"combine": "search", "normal_output": "all"}])
def test_a_cell_drawn_is_the_cell_built(options: dict[str, Any]) -> None:
    """States, where they come from, and what the note says was left out."""
    space = registry.load("space", "cell-cnn")(**options)
    checked = Counter[str]()
    for arch in samples(space, 20, seed=3):
        drawn_cells = dict(zip(("normal", "reduce"), sections_of(space, arch), strict=True))
        with torch.device("meta"):
            network: Any = networks.build(space, arch, TASK, make_scale(space, {"channels": 4, "cells": 1}))
        cells = network.cells.members
        for index, kind in enumerate(("normal", "reduce", "normal", "reduce", "normal")):
            if str(index) not in cells:
                continue
            cell, section = cells[str(index)], drawn_cells[kind]
            states = {node.name for node in section.nodes}
            assert set(cell.blocks.members) == states - {"0", "1", "out"}
            assert set(cell.inputs.members) == states & {"0", "1"}
            said = re.findall(r"\d+", section.note)
            assert sorted([*said, *cell.blocks.members], key=int) == [str(b + 2) for b in range(space.blocks)]
            for state, block in cell.blocks.members.items():
                read = [edge.source for edge in section.edges if edge.target == state]
                assert read == [block.first.name, block.second.name]
            assert set(cell.passed_on.members) <= {edge.source for edge in section.edges if edge.target == "out"}
            checked[kind] += 1
    assert min(checked["normal"], checked["reduce"]) > 20


def test_cells_of_the_benchmarks_drawn_are_those_built() -> None:
    space = space_of("nasbench201")
    for arch in samples(space, 30):
        cell = build_small(space, arch)
        (section,) = sections_of(space, arch)
        built = {name for name, module in cell.edges.items() if not isinstance(module, blocks.Zero)}
        assert {f"{edge.target}<-{edge.source}" for edge in section.edges} == built
        zeros = {node.name for node in section.nodes if "zeros" in node.details}
        fed = {name[0] for name in built}
        assert zeros == {node.name for node in section.nodes if node.name != "0"} - fed
    space = space_of("nasbench101")
    for arch in samples(space, 30):
        cell = build_small(space, arch)
        (section,) = sections_of(space, arch)
        assert {node.name for node in section.nodes} == {"input", "output", *map(str, cell.inner)}
        projected = {edge.target.replace("output", "6") for edge in section.edges if edge.source == "input"}
        assert projected == set(cell.projections)


def build_small(space: SearchSpace, arch: Arch) -> Any:
    """The first cell of a network."""
    with torch.device("meta"):
        return networks.build(space, arch, TASK, make_scale(space, {"channels": 4, "cells": 1})).get_submodule("1")


# --- plugins

PLUGIN = f'''
from dataclasses import dataclass
from nastool.core.values import Decision
from nastool.core.errors import TrialFailed
from nastool.core.space import SearchSpace

class Odd(SearchSpace):
    """Says nothing about drawings."""
    name = "odd"

    @dataclass(frozen=True)
    class Scale:
        channels: int = 4

    def __init__(self):
        super().__init__([
            Decision("first.op", ({EVIL!r}, "conv_3x3"), "first"),
            Decision("second.input", ("image", "first"), "second", ("image", "first")),
            Decision("second.op", ("max_pool", "none"), "second"),
            Decision("width", ("1", "2")),
        ])

    def network(self, choose, task, scale):
        from torch import nn
        width = scale.channels * int(choose.option("width"))
        block = lambda c: nn.Sequential(nn.Conv2d(c, width, 3, padding=1), nn.ReLU())
        return nn.Sequential(block(task.channels), block(width), block(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                             nn.Linear(width, task.classes))
'''


def test_a_plugin_that_says_nothing_is_drawn_all_the_same(tmp_path: Path) -> None:
    env = plugins.install(tmp_path / "odd", "odd_plugin", PLUGIN, {"nastool.spaces": "odd = odd_plugin:Odd"})
    choices = {"first.op": EVIL, "second.input": "first", "second.op": "max_pool", "width": "2"}
    line = json.dumps({"space": "odd", "choices": choices})

    def show(*options: str) -> subprocess.CompletedProcess[str]:
        return run("show", "-", *options, stdin=line, PYTHONPATH=env["PYTHONPATH"])

    picture = show("--to", "svg", "--input", "3x8x8")
    assert picture.returncode == 0 and "<script" not in picture.stdout, picture.stderr
    shown = [element.text for element in ElementTree.fromstring(picture.stdout).iter(f"{SVG}text")]
    assert {"first", "second", "op: max_pool", "2", "network", "Linear"} <= set(shown)
    assert f"Conv2d 3x3 {TIMES}2" in shown  # the second and third block are alike
    listed = show("--to", "text")
    assert listed.returncode == 0 and "second, op: max_pool" in listed.stdout
    graph = show("--to", "dot")
    assert graph.returncode == 0 and '"0/first" -> "0/second"' in graph.stdout and '\\"' in graph.stdout
    if shutil.which("dot"):
        assert len(list(laid_out([graph.stdout]))) == 1


def test_steps_of_a_network_that_says_nothing() -> None:
    """Modules, with all inside, and functions, of what leads to the output."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.none = (
                nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()),
                nn.Conv2d(4, 2, 3),
                nn.Identity(),
            )
            self.unused = nn.Conv2d(4, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            x = self.none(self.one(images))
            self.unused(x)
            a, b = x.chunk(2, 1)
            return torch.cat([self.two(x), (a * b)[:, :, 1:-1, 1:-1]], 1).relu_().mean((2, 3))

    network = Odd()
    found = measured.steps(network, ImageTask(3, 8, 8, 4))
    assert [step.path or step.name for step in found] == [
        "one",
        "chunk",
        "two",
        "mul",
        "getitem",
        "cat",
        "relu",
        "mean",
    ]
    by_name = {step.path or step.name: step for step in found}
    assert by_name["one"].sources == [None] and by_name["two"].sources == [by_name["one"]]
    assert by_name["cat"].sources == [by_name["two"], by_name["getitem"]]
    assert by_name["cat"].shape == (1, 4, 6, 6) and by_name["relu"].sources == [by_name["cat"]]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_decisions_without_places() -> None:
    class Plain(SearchSpace):
        name = "plain"
        network = SearchSpace.network

    Plain.__abstractmethods__ = frozenset()
    space = Plain([Decision("depth", ("2", "3")), Decision("op", ("none", "sep_conv"))])
    section = by_decisions(space, space.arch([1, 1]))
    assert [(node.label, node.details, node.kind) for node in section.nodes] == [
        ("depth", ("3",), "plain"),
        ("op", ("sep_conv",), "separable"),
    ]
    assert section.edges == ()


# --- the command

ARCH = {"1<-0": "nor_conv_3x3", "2<-0": "skip_connect", "2<-1": "none"}
ARCH |= {"3<-0": "none", "3<-1": "avg_pool_3x3", "3<-2": "nor_conv_1x1"}


@pytest.fixture
def arch_json(tmp_path: Path) -> Path:
    path = tmp_path / "arch.json"
    path.write_text(json.dumps({"space": "nasbench201", "choices": ARCH, "scale": {"channels": 4, "cells": 1}}))
    return path


def test_show_writes_a_file(arch_json: Path, tmp_path: Path) -> None:
    out = tmp_path / "best.svg"
    first = run("show", str(arch_json), "--to", "svg", "-o", str(out))
    assert (first.returncode, first.stdout, first.stderr.strip()) == (0, "", f"wrote {out}")
    before = out.read_text()
    ElementTree.fromstring(before)
    again = run("show", str(arch_json), "--to", "dot", "-o", str(out))
    assert again.returncode == 2 and "--force" in again.stderr and again.stderr.count("\n") == 1
    assert out.read_text() == before
    assert run("show", str(arch_json), "--to", "dot", "-o", str(out), "--force").returncode == 0
    assert out.read_text().startswith("digraph")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("best")] == ["best.svg"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs nastool in this process, which has torch already: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nastool", *arguments])
        capsys.readouterr()
        return cli.run(), *capsys.readouterr()

    return run


Here = Callable[..., tuple[int, str, str]]


def test_show_draws_the_network_in_the_scale_of_the_line(
    arch_json: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    code, listed, _ = here("show", str(arch_json), "--to", "text", "--input", "3x16x16")
    assert code == 0 and "channels=4, cells=1" in listed and f"16{TIMES}16" in listed
    assert all(len(line) <= 70 for line in listed.splitlines())
    plain = run("show", str(arch_json), "--to", "text", PYTHONIOENCODING="ascii")
    assert plain.returncode == 0 and plain.stdout.isascii() and "<- nor_conv_3x3(0)" in plain.stdout


def test_a_run_folder_is_drawn_for_what_it_was_trained(arch_json: Path, tmp_path: Path, here: Here) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    document = json.loads(arch_json.read_text())
    (folder / "best.json").write_text(json.dumps({**document, "weights": "run/best.safetensors"}))
    found = archfile.from_json(document)
    metadata = {
        "arch": archfile.dumps(archfile.to_json(found.space, found.arch)),
        "task": json.dumps({"channels": 1, "height": 8, "width": 8, "classes": 7}),
        "scale": json.dumps({"channels": 6, "cells": 2}),
    }
    save_file({"x": np.zeros(1)}, folder / "best.safetensors", metadata)
    code, shown, error = here("show", str(folder), "--to", "text")
    assert code == 0 and "7 classes, channels=6, cells=2" in shown, error
    (folder / "best.safetensors").write_bytes(b"damaged")
    code, shown, error = here("show", str(folder), "--to", "text")
    assert code == 0 and "cell" in shown and "classes" not in shown, error


def test_several_architectures(arch_json: Path) -> None:
    line = json.dumps(json.loads(arch_json.read_text())) + "\n"
    shown = run("show", "-", "--to", "text", stdin=line * 2)
    assert shown.returncode == 0 and shown.stdout.count("nasbench201  ") == 2
    refused = run("show", "-", "--to", "svg", stdin=line * 2)
    assert refused.returncode == 2 and "top - -k 1" in refused.stderr and not refused.stdout


def test_a_png_goes_into_a_pipe_but_to_no_terminal(arch_json: Path) -> None:
    command = [NASTOOL, "show", str(arch_json), "--to", "png"]
    piped = subprocess.run(command, capture_output=True, timeout=60)
    assert piped.returncode == 0 and Image.open(io.BytesIO(piped.stdout)).format == "PNG"
    main, terminal = pty.openpty()
    try:
        refused = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(terminal)
        os.close(main)
    assert refused.returncode == 2 and "-o FILE" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "gif"], "gif"),
        (["-o", "x.svg"], "--to"),
        (["--force"], "--to"),
        (["--to", "svg", "--force"], "-o FILE"),
        (["--to", "svg", "-o", "."], "it is a folder"),
        (["--to", "svg", "-o", "no/such/x.svg"], "there is no"),
        (["--to", "svg", "--json"], "no JSON"),
        (["--to", "svg", "--scale", "cells=1"], "--input"),
        (["--to", "svg", "--input", "3x3"], "CHANNELSxHEIGHTxWIDTH"),
    ],
)
def test_bad_input_is_one_line(arch_json: Path, arguments: list[str], message: str, here: Here) -> None:
    code, shown, error = here("show", str(arch_json), *arguments)
    assert code == 2 and not shown and message in error and "Traceback" not in error

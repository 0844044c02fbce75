"""The same scene as a PNG, drawn by matplotlib."""

from __future__ import annotations

import io
import warnings
from itertools import pairwise
from typing import Any

from nastool.drawing.scene import PAPER, Scene, trimmed

DPI = 192.0
"""Two dots for each of the scene's pixels, fewer where a picture would have more than MOST_PIXELS on a side."""
MOST_PIXELS = 12_000


def write(scene: Scene) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon
    from matplotlib.path import Path

    with matplotlib.rc_context():
        matplotlib.rcParams.update({"font.family": "DejaVu Sans", "text.parse_math": False})
        figure = Figure(figsize=(scene.width / 96, scene.height / 96), facecolor=PAPER)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, scene.width)
        axes.set_ylim(scene.height, 0)
        axes.axis("off")
        point = 72 / 96
        for line in scene.lines:
            for dot in line.dots:
                axes.add_patch(Circle(dot, 2.6, facecolor=line.color, linewidth=0, zorder=1.5))
            if not line.points:
                continue
            points, head = trimmed(line)
            verts, codes = [points[0]], [Path.MOVETO]
            for (x0, y0), (x, y) in pairwise(points):
                if line.curved and x != x0:
                    middle = (y0 + y) / 2
                    verts += [(x0, middle), (x, middle), (x, y)]
                    codes += [Path.CURVE4] * 3
                else:
                    verts.append((x, y))
                    codes.append(Path.LINETO)
            style: Any = (0, (5 / 1.3, 3 / 1.3)) if line.dashed else "-"
            stroke: Any = {"edgecolor": line.color, "linewidth": 1.3 * point, "linestyle": style, "capstyle": "butt"}
            axes.add_patch(PathPatch(Path(verts, codes), fill=False, **stroke))
            if head:
                axes.add_patch(Polygon(head, closed=True, facecolor=line.color, linewidth=0))
        for box in scene.boxes:
            rounded = f"round,pad=0,rounding_size={box.radius}"
            border: Any = {"edgecolor": box.stroke, "linewidth": 1.2 * point}
            border["linestyle"] = (0, (4 / 1.2, 3 / 1.2)) if box.dashed else "-"
            patch = FancyBboxPatch((box.x, box.y), box.width, box.height, rounded, facecolor=box.fill, **border)
            axes.add_patch(patch)
        align = {"start": "left", "middle": "center", "end": "right"}
        for text in scene.texts:
            look: Any = {"fontsize": text.size * point, "color": text.color, "va": "baseline"}
            look |= {"ha": align[text.anchor], "fontweight": "bold" if text.bold else "normal"}
            axes.text(text.x, text.y, text.text, **look)
        buffer = io.BytesIO()
        dpi = min(DPI, 96 * MOST_PIXELS / max(scene.width, scene.height))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands in its place
            figure.savefig(buffer, format="png", dpi=dpi, facecolor=PAPER)
    return buffer.getvalue()

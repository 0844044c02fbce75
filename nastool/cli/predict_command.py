"""`nastool predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nastool.cli import common
from nastool.core.errors import InputError, one_line

BATCH = 256
"""Images at a time."""


@click.command("predict", cls=common.Command)
@click.argument("model", metavar="RUN|WEIGHTS|ARCH|-")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-k", "--top", type=click.IntRange(min=1), default=1, help="Name the K most probable classes.")
@click.option(
    "--max-gigabytes",
    type=float,
    default=8.0,
    show_default=True,
    help="32 times the memory (10^9 bytes) that one image may take before it is resized.",
)
@common.json_option
def command(model: str, images: tuple[str, ...], top: int, max_gigabytes: float, json_flag: bool | None) -> int:
    """Say what images show, with a network that a search has found.

    RUN is a run folder (its best network), WEIGHTS a .safetensors file of nastool's, ARCH a file with a line of JSON
    that names its weights, such as best.json; - is stdin. Each image is read as in training, as a viewer shows it:
    turned as its EXIF data say, transparent parts on white, of several frames the first. One of another size than the
    network was trained with is resized. Prints a line for each image, in order. For a file that is none, a line on
    stderr says so, and the exit code is 2.

    \b
    Examples:
      nastool predict runs/a cat.jpg dog.png
      nastool predict runs/a photos/*.jpg | jq -r '[.image, .class] | @tsv'
      nastool top runs/a | nastool predict - cat.jpg
    """
    import numpy as np

    from nastool.core.files import Limit
    from nastool.engine import sources
    from nastool.tasks.images.data import read_image

    found = sources.model(model, common.stdin)
    limit = Limit(max_gigabytes, "--max-gigabytes ")
    failed = False
    for start in range(0, len(images), BATCH):
        paths, pixels = [], []
        for path in map(Path, images[start : start + BATCH]):
            try:
                pixels.append(read_image(path, found.task, limit))
                paths.append(path)
            except InputError as error:
                common.say(f"nastool: {one_line(error)}")
                failed = True
        if not paths:
            continue
        for path, row in zip(paths, found.predict(np.stack(pixels)), strict=True):
            order = np.argsort(-row, kind="stable")[:top]
            _show(path, [(found.classes[i], float(row[i])) for i in order], common.as_json(json_flag))
    return 2 if failed else 0


def _show(path: Path, best: list[tuple[str, float]], as_json: bool) -> None:
    if not as_json:
        common.show(f"{path}  " + "  ".join(f"{name} {probability:.4f}" for name, probability in best))
        return
    line: dict[str, Any] = {"image": str(path), "class": best[0][0], "probability": best[0][1]}
    if len(best) > 1:
        line["top"] = [{"class": name, "probability": probability} for name, probability in best]
    common.emit(line)

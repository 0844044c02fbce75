"""`nastool export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nastool.cli import common
from nastool.cli.common import say
from nastool.core.errors import InputError, short
from nastool.core.files import write_atomic, write_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from nastool.core.archfile import ArchDocument
    from nastool.deploy.models import Model

SUFFIXES = {"python": ".py", "pt2": ".pt2", "onnx": ".onnx", "safetensors": ".safetensors"}


@click.command("export", cls=common.Command)
@click.argument("source", metavar="RUN|WEIGHTS|ARCH|-", default="-")
@click.option("--to", "form", type=click.Choice(list(SUFFIXES)), required=True, help="Which form.")
@click.option("-o", "--out", metavar="FILE", help="Where; by default model.py, model.pt2, ... in this folder.")
@common.force_option
@click.option("--raw", is_flag=True, help="The bare network, for images that are normalised outside of it.")
@click.option("--space", metavar="NAME", help="Space of an architecture in its own string form.")
@common.network_options("Shape of the images, for an architecture without weights.")
def command(source: str, form: str, **given: Any) -> None:
    """Write a network as code or in another tool's format.

    SOURCE is a run folder (its best network), a .safetensors file of nastool's, or an architecture: an arch.json
    file or - for stdin (the default). An architecture whose line names its weights is exported with them; one
    without weights, or for another --input, can only become code.

    \b
      python       plain PyTorch of just this network, which needs no nastool; the weights fit it
      pt2          a program of torch.export
      onnx         for other runtimes (pip install 'nastool[onnx]')
      safetensors  the weights

    The first three take pixels from 0 to 255, channels first, and normalise them (pt2 and onnx: uint8 of shape
    (N, C, H, W), any N), unless --raw is given; they return logits, and name the classes. The code is a program, too:
    `python model.py IMAGE...` classifies with the weights in model.safetensors or best.safetensors beside it. What is
    written as pt2 and onnx is loaded again and compared on images before it counts.

    \b
    Examples:
      nastool export runs/demo --to python
      nastool export runs/demo --to onnx -o digits.onnx
      nastool sample | nastool eval --save kept | nastool export --to pt2
    """
    from nastool.deploy import models
    from nastool.engine import sources

    if form == "safetensors" and given["raw"]:
        raise InputError("--raw is for networks: weights are none, leave it out")
    name = f"model{SUFFIXES[form]}"
    out = common.target(name if given["out"] is None else given["out"], name, given["force"])
    if source.endswith(".safetensors"):
        _export(models.load(source), form, out, given["raw"])
    else:
        document = sources.only_architecture(source, given["space"], common.stdin)
        if "weights" in document.extra and given["shape"] is None:
            _export(models.of(document), form, out, given["raw"])
        else:
            _untrained(document, form, out, given)
    say(f"wrote {out}")


def _export(model: Model, form: str, out: Path, raw: bool) -> None:
    from nastool.deploy import exports

    if form == "python":
        write_atomic(out, exports.python(model, raw=raw))
    elif form == "safetensors":
        write_bytes(out, model.path.read_bytes())
    else:
        write = exports.pt2 if form == "pt2" else exports.onnx
        images, which = exports.example_images(model)
        difference = write(model, out, images, raw=raw)
        say(f"loaded again: on {len(images)} {which}, logits differ by at most {difference:.1e}")
        say(f"takes images: {exports.takes(model, raw)}")


def _untrained(document: ArchDocument, form: str, out: Path, given: dict[str, Any]) -> None:
    from nastool.deploy import exports

    if form != "python":
        where = "this architecture" if document.file is None else short(document.file)
        raise InputError(
            f"--to {form} needs weights, and {where} names none: give a run or its weights, or train it with "
            "`nastool retrain`"
        )
    if given["shape"] is None:
        raise InputError("this architecture names no weights: say what images it is for, such as --input 3x32x32")
    task, scale = common.task_and_scale(document, given)
    write_atomic(out, exports.untrained_python(document.space, document.arch, task, scale))

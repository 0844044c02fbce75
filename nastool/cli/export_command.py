"""`nastool export`."""

from __future__ import annotations

from typing import Any

import click

from nastool.cli import common
from nastool.cli.common import say

FORMS = ("python", "pt2", "onnx", "safetensors")


@click.command("export", cls=common.Command)
@click.argument("source", metavar="RUN|WEIGHTS|ARCH|-", default="-")
@click.option(
    "--to", "form", type=click.Choice(["python", "pt2", "onnx", "safetensors"]), required=True, help="Which form."
)
@click.option("-o", "--out", metavar="FILE", help="Where; by default model.py, model.pt2, ... in this folder.")
@common.force_option
@click.option("--raw", is_flag=True, help="The bare network, for images that are normalised outside of it.")
@common.trial_option
@click.option("--space", metavar="NAME", help="Space of an architecture in its own string form.")
@common.network_options("Size of the examples, for an architecture without weights; of texts the vocabulary.")
def command(source: str, form: str, **given: Any) -> None:
    """Write a network as code or in another tool's format.

    It is named by a run folder (its best network), a .safetensors file of nastool's, or an architecture: an arch.json
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
      nastool export runs/demo --trial 7 --to python
      nastool export runs/demo --pick 'latency_ms<=4' --to onnx
      nastool sample | nastool eval --save kept | nastool export --to pt2
    """
    from nastool import api
    from nastool.cli.listener import say_notes
    from nastool.engine import sources

    given["input"] = given.pop("shape")
    found = sources.only_architecture("-", given["space"], common.given()) if source == "-" else source
    say(f"wrote {api.export(found, form, given.pop('out'), **given, on_event=say_notes)}")

"""`nastool predict`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import click

from nastool.cli import common


@click.command("predict", cls=common.Command)
@click.argument("model", metavar="RUN|WEIGHTS|ARCH|-")
@click.argument("images", nargs=-1, metavar="[IMAGE|FOLDER|TABLE|TEXT]...")
@common.trial_option
@click.option(
    "-k", "--top", type=click.IntRange(min=1), default=1, help="Name the K most probable classes, or next words."
)
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of test images of the data it was trained with to write into RUN/examples, and say.",
)
@click.option(
    "--max-gigabytes",
    type=float,
    default=8.0,
    show_default=True,
    help="Memory (10^9 bytes) that a file may take; 32 times that of one image before it is resized.",
)
@common.json_option
def command(
    model: str,
    images: tuple[str, ...],
    trial: int | None,
    pick: tuple[str, ...],
    top: int,
    examples: int | None,
    max_gigabytes: float,
    json_flag: bool | None,
) -> int:
    """Say what images, rows of a table, signals or texts show.

    RUN is a run folder (its best network; of a run that has not finished the best so far), WEIGHTS a .safetensors file
    of nastool's, ARCH a file with a line of JSON that names its weights, such as best.json; - is stdin. Each image is
    read as in training, as a viewer shows it: turned as its EXIF data say, transparent parts on white, of several
    frames the first. One of another size than the network was trained with is resized. Prints a line for each image, in
    order. For a file that is none, a line on stderr says so, and the exit code is 2.

    Of a FOLDER these are all its pictures, those in sub-folders included, in the order of their names. Where
    sub-folders are named after classes, the accuracy is said, too; pictures that cannot be read are named and counted.

    A TABLE is a .csv file with a line of names, as for training (the target may be missing), or an .npz file with an
    array x of examples. Prints a line for each row; where the target is there, the accuracy or the error is said, too.

    Of a TEXT, for a network that was trained on some, prints its perplexity (of characters bits each), how many tokens
    it has and how many of these the network does not know, and the most probable next words, after the last one.

    \b
    Examples:
      nastool predict runs/a cat.jpg dog.png
      nastool predict runs/a --examples 5
      nastool predict runs/houses new.csv | jq .price
      nastool predict runs/a photos --trial 7
      nastool predict runs/a photos/*.jpg | jq -r '[.image, .class] | @tsv'
      nastool top runs/a | nastool predict - cat.jpg
      echo "the cook that" | nastool predict runs/words /dev/stdin -k 5
    """
    from nastool.cli.listener import say_notes
    from nastool.core.files import Limit
    from nastool.engine import sources
    from nastool.engine.prediction import Predictions

    if not images and examples is None:
        raise click.UsageError("name what is to be looked at: IMAGE, FOLDER, TABLE or TEXT, or give --examples N")
    found = sources.model(model, common.given(sources.picked(model, trial, pick)))
    predictions = Predictions(found, top, Limit(max_gigabytes, "--max-gigabytes "), say_notes)
    folder = sources.examples_folder(model, found)
    for line in itertools.chain(predictions.of(images), predictions.of_examples(examples, folder) if examples else ()):
        if common.as_json(json_flag):
            common.emit(line)
            continue
        common.show(_shown(line, found.targets))
    if predictions.summary:
        common.say(predictions.summary)
    return 2 if predictions.failed else 0


def _shown(line: dict[str, Any], targets: Sequence[str]) -> str:
    """A prediction as text."""
    if "next" in line:
        return _of_text(line)
    name = line["image"] if "image" in line else f"{line['file']}:{line['row']}"
    truth = line.get("truth")
    if targets:
        said = "  ".join(f"{target} {line[target]:.6g}" for target in targets)
        return f"{name}  {said}" + (f"  truth: {truth}" if truth is not None else "")
    wrong = f"  wrong: {truth}" if truth not in (None, line["class"]) else ""
    shown = "  ".join(f"{each['class']} {each['probability']:.4f}" for each in line.get("top", [line]))
    return f"{name}  {shown}{wrong}"


def _of_text(line: dict[str, Any]) -> str:
    """What is said of a text, as text."""
    (name, value), *_ = ((key, line[key]) for key in ("ppl", "bpc") if key in line)
    unknown = f", {line['unknown']:,} unknown" if line["unknown"] else ""
    likely = "  ".join(f"{each.get('word', repr(each.get('char')))} {each['probability']:.4f}" for each in line["next"])
    return f"{line['file']}  {name} {value:.4g}  {line['tokens']:,} tokens{unknown}  next: {likely}"

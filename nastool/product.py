"""What a run leaves behind for its user, beside what the search itself needs: code, all trials as text, a report.

All of it can be made again from run.db, best.json and best.safetensors, and is, whenever a sitting ends.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nastool import archfile, checkpoints
from nastool.errors import InputError, one_line, why
from nastool.files import write_atomic, write_bytes
from nastool.study import Study


@dataclass
class Product:
    """paths: what was written, by its name in RESULTS. problems: what could not be, a line each."""

    paths: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def weights(folder: Path, checkpoint: Path | None) -> dict[str, str]:
    """Make a checkpoint the run's best.safetensors; what best.json says of it.

    None: there is none, nor any of an earlier result afterwards.

    InputError: it is gone, or the disk is full.
    """
    best = folder / "best.safetensors"
    if checkpoint is None:
        best.unlink(missing_ok=True)
        return {}
    try:
        data = checkpoint.read_bytes()
    except OSError as error:
        reason = f"cannot read the best weights, {checkpoint}: {why(error)}"
        raise InputError(f"{reason}; put the file back, or begin anew with --force") from None
    write_bytes(best, data)
    return checkpoints.named(best)


def result(folder: Path, document: Mapping[str, Any]) -> None:
    """Write best.json."""
    write_atomic(folder / "best.json", archfile.dumps(document) + "\n")


def write(folder: Path, *, report: bool = True) -> Product:
    """Write what can be made from the run, and remove what an earlier result left and cannot be made any more.

    The caller holds the folder's lock. report: also the report. Nothing here is worth losing a result for: what goes
    wrong is among the problems.
    """
    product = Product()
    for name in ("best.json", "best.safetensors"):
        if (folder / name).is_file():
            product.paths[name] = folder / name

    def attempt(name: str, make: Callable[[], str]) -> None:
        try:
            write_atomic(folder / name, make())
            product.paths[name] = folder / name
        except Exception as error:
            product.problems.append(f"{name} could not be written: {one_line(error)}")
            remove(name)

    def remove(name: str) -> None:
        with suppress(OSError):  # it may be a folder of somebody else's
            (folder / name).unlink()

    if "best.safetensors" in product.paths:
        attempt("model.py", lambda: _code(folder))
    else:
        remove("model.py")
    try:
        study = Study.read(folder, ours=True)
    except InputError as error:
        product.problems.append(f"trials and report could not be written: {one_line(error)}")
        return product
    attempt("trials.jsonl", lambda: _lines(study))
    attempt("trials.csv", lambda: _table(study.columns()))
    if report:
        attempt("report.html", lambda: _report(study))
    return product


def whole(folder: Path, document: Mapping[str, Any], *, report: bool = True) -> bool:
    """Whether all is there that belongs to a result (best.json's object), and the folder is where it was.

    Not after a kill while it was written, nor where files were lost or the folder was moved since.
    """
    names = ["best.json", "trials.jsonl", "trials.csv"]
    names += ["best.safetensors", "model.py"] if "weights" in document else []
    names += ["report.html"] if report else []
    return moved(folder, document) == document and all((folder / name).is_file() for name in names)


def moved(folder: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """The same result with the paths that it has in this folder."""
    run = Path(document["run"]).name
    found = {**document, "run": str(folder / run if run.startswith("retrain-") else folder)}
    if "weights" in document:
        found["weights"] = str(folder / "best.safetensors")
    return found


def _code(folder: Path) -> str:
    from nastool import exports, models

    return exports.python(models.load(str(folder)))


def _lines(study: Study) -> str:
    return "".join(archfile.dumps(line) + "\n" for line in study.lines())


def _table(columns: Mapping[str, Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _report(study: Study) -> str:
    from nastool import report

    return report.html([study])

"""What a run leaves behind for its user, beside what the search itself needs: code, all trials as text, a report.

All of it can be made again from run.db, best.json and best.safetensors, and is, whenever a sitting ends.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nastool import archfile
from nastool.errors import one_line
from nastool.files import write_atomic
from nastool.study import Study


@dataclass
class Product:
    """paths: what was written, by its name in RESULTS. problems: what could not be, a line each."""

    paths: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def weights(folder: Path, checkpoint: Path | None) -> Path | None:
    """Make a checkpoint the run's best.safetensors; None: there is none, nor any of an earlier result afterwards."""
    best = folder / "best.safetensors"
    if checkpoint is None:
        best.unlink(missing_ok=True)
        return None
    new = best.with_suffix(".new")
    shutil.copyfile(checkpoint, new)
    os.replace(new, best)
    return best


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

    def attempt(name: str, make: Any) -> None:
        try:
            make()
            product.paths[name] = folder / name
        except Exception as error:
            (folder / name).unlink(missing_ok=True)
            product.problems.append(f"{name} could not be written: {one_line(error)}")

    if "best.safetensors" in product.paths:
        attempt("model.py", lambda: write_atomic(folder / "model.py", _code(folder)))
    else:
        (folder / "model.py").unlink(missing_ok=True)
    study = Study.read(folder, ours=True)
    attempt("trials.jsonl", lambda: write_atomic(folder / "trials.jsonl", _lines(study)))
    attempt("trials.csv", lambda: write_atomic(folder / "trials.csv", _table(study.columns())))
    if report:
        attempt("report.html", lambda: _report(study))
    return product


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


def _report(study: Study) -> None:
    from nastool import report

    report.write([study], study.path / "report.html")

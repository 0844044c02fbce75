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

from nastool.core import archfile
from nastool.core.errors import InputError, one_line, why
from nastool.core.files import write_bytes
from nastool.core.wording import csv_cell
from nastool.engine.study import Study, below
from nastool.engine.written import Written
from nastool.nets import checkpoints


@dataclass
class Product:
    """paths: what was written, by its name in RESULTS. problems: what could not be, a line each."""

    paths: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def result(folder: Path, document: Mapping[str, Any], checkpoint: Path | None) -> dict[str, Any]:
    """Write best.json, and the checkpoint as best.safetensors; None: there is none, nor one of an earlier result then.

    Returns what best.json says: the document and its weights. It comes first: until the weights are there, their digest
    leads to the checkpoint (`models.weights_of`), so at no moment do the two speak of different networks.
    InputError: the checkpoint is gone, or the disk is full.
    """
    best = folder / "best.safetensors"
    found = {key: value for key, value in document.items() if key not in ("weights", "weights_digest")}
    data = None
    if checkpoint is not None:
        try:
            data = checkpoint.read_bytes()
        except OSError as error:
            reason = f"cannot read the best weights, {checkpoint}: {why(error)}"
            raise InputError(f"{reason}; put the file back, or begin anew with --force") from None
        found |= {**checkpoints.named(checkpoint), "weights": str(best)}
    written = Written(folder)
    written.check("best.json", "best.safetensors")
    written.write("best.json", (archfile.dumps(found) + "\n").encode(errors="backslashreplace"))
    if data is None:
        written.remove("best.safetensors")
    elif checkpoint != best:
        written.write("best.safetensors", data)
    return found


def write(folder: Path, *, report: bool = True) -> Product:
    """Write what can be made from the run, and remove what an earlier result left and cannot be made any more.

    The caller holds the folder's lock. report: also the report. Nothing here is worth losing a result for: what goes
    wrong is among the problems.
    """
    product = Product()
    written = Written(folder)
    for name in ("best.json", "best.safetensors"):
        if (folder / name).is_file():
            product.paths[name] = folder / name

    def attempt(name: str, make: Callable[[], str]) -> None:
        try:
            written.write(name, make().encode(errors="backslashreplace"))
            product.paths[name] = folder / name
        except Exception as error:
            product.problems.append(f"{name} could not be written: {one_line(error)}")
            remove(name)

    def remove(name: str) -> None:
        with suppress(OSError):
            written.remove(name)

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
    if moved(folder, document) != document or not all((folder / name).is_file() for name in names):
        return False
    try:
        said = archfile.loads((folder / "best.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(said == document) and ("weights" not in document or _holds(folder, document))


def _holds(folder: Path, document: Mapping[str, Any]) -> bool:
    """Whether best.safetensors has the weights of a result; of one without a digest, whether it is there."""
    best = folder / "best.safetensors"
    digest = document.get("weights_digest")
    return best.is_file() and digest in (None, checkpoints.named(best).get("weights_digest"))


def held(folder: Path, document: Mapping[str, Any]) -> Path | None:
    """The file in a run's folder with the weights of its result: best.safetensors, or the checkpoint it is a copy of.

    None: neither is there any more.
    """
    if _holds(folder, document):
        return folder / "best.safetensors"
    kept, digest = _kept(folder, document), document.get("weights_digest")
    return kept if digest is not None and checkpoints.named(kept).get("weights_digest") == digest else None


def put_back(folder: Path, document: Mapping[str, Any]) -> None:
    """Where the checkpoint of a run's result was lost, make it of best.safetensors, so that a search can go on."""
    if "weights_digest" not in document or not isinstance(document.get("trial"), int):
        return
    kept = _kept(folder, document)
    if not kept.exists() and (kept.parent.parent / "run.db").is_file() and _holds(folder, document):
        kept.parent.mkdir(exist_ok=True)
        write_bytes(kept, (folder / "best.safetensors").read_bytes())


def _run(folder: Path, document: Mapping[str, Any]) -> Path:
    """The folder of the trainings that a result is of: the run's, or that of the last ones, from scratch, below it."""
    name = below(document)
    return folder if name is None else folder / name


def _kept(folder: Path, document: Mapping[str, Any]) -> Path:
    return _run(folder, document) / checkpoints.name_of(document["trial"])


def moved(folder: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """The same result with the paths that it has in this folder."""
    found = {**document, "run": str(_run(folder, document))}
    if "weights" in document:
        found["weights"] = str(folder / "best.safetensors")
    return found


def _code(folder: Path) -> str:
    from nastool.deploy import exports, models

    return exports.python(models.load(str(folder)))


def _lines(study: Study) -> str:
    return "".join(archfile.dumps(line) + "\n" for line in study.lines())


def _table(columns: Mapping[str, Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    writer.writerows(map(csv_cell, row) for row in zip(*columns.values(), strict=True))
    return text.getvalue()


def _report(study: Study) -> str:
    from nastool.analysis import report

    return report.html([study])

"""What a run leaves behind for its user: the result, its weights and code, all trials as text, a report.

All of it can be made again from run.db, best.json and best.safetensors, and is, whenever a run ends or is interrupted.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from nastool.core import archfile
from nastool.core.errors import InputError, one_line, why
from nastool.core.files import write_bytes
from nastool.core.space import SearchSpace
from nastool.core.values import Trial
from nastool.core.wording import csv_cell
from nastool.engine import lease
from nastool.engine.store import Store
from nastool.engine.study import Study, below, document
from nastool.engine.written import Written
from nastool.nets import checkpoints

Report = Callable[[Study], str]
"""report(study): an HTML page of a run."""


@dataclass
class Product:
    """paths: what was written, by its name in RESULTS. problems: what could not be, a line each."""

    paths: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass
class Result:
    """What a run has found; what best.json says.

    Attributes:
        space: The architecture's.
        trial: The one that counts, with state "done".
        run: Folder of the run that it is a trial of, which has its weights.
        origin: What a line of that run says of its evaluator and data.
        metrics: Further ones, such as those of its test; where both have one, these count.
        facts: What else there is to say: "comparison", "baseline", "ensemble", "seeds", "runs", ...
    """

    space: SearchSpace
    trial: Trial
    run: Path
    origin: Mapping[str, object]
    metrics: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write best.json and best.safetensors into a folder; return the object in the former.

        Raises:
            InputError: The checkpoint is gone, or the disk is full.
        """
        assert self.trial.evaluation is not None
        found = document(self.space, self.trial, {"run": str(self.run), **self.origin})
        found["metrics"].update(self.metrics)
        checkpoint = self.trial.evaluation.checkpoint
        return result(folder, {**found, **self.facts}, None if checkpoint is None else self.run / checkpoint)


def result(folder: Path, said: Mapping[str, object], checkpoint: Path | None) -> dict[str, Any]:
    """Write best.json, and the checkpoint as best.safetensors; None: there is none, nor one of an earlier result then.

    Returns what best.json says: `said` and its weights. It comes first: until the weights are there, their digest
    leads to the checkpoint (`models.weights_of`), so at no moment do the two speak of different networks.
    InputError: the checkpoint is gone, or the disk is full.
    """
    best = folder / "best.safetensors"
    found = {key: value for key, value in said.items() if key not in ("weights", "weights_digest")}
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


def write(folder: Path, store: Store, report: Report | None = None) -> Product:
    """Write what can be made from the run, and remove what an earlier result left and cannot be made any more.

    The caller holds the folder's lock. Nothing here is worth losing a result for: what goes wrong is among the
    problems.

    Args:
        folder: The run's.
        store: Its database, open to be written.
        report: Makes an HTML page of the run; None: no report is written.

    Raises:
        InputError: Another process has taken the run over.
    """
    lease.check(store)
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
        study = Study.read(folder, store=store)
    except InputError as error:
        product.problems.append(f"trials and report could not be written: {one_line(error)}")
        return product
    attempt("trials.jsonl", lambda: _lines(study))
    attempt("trials.csv", lambda: _table(study.columns()))
    if report is not None:
        attempt("report.html", lambda: report(study))
    return product


def whole(folder: Path, document: Mapping[str, object], *, report: bool = True) -> bool:
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


def _holds(folder: Path, document: Mapping[str, object]) -> bool:
    """Whether best.safetensors has the weights of a result; of one without a digest, whether it is there."""
    best = folder / "best.safetensors"
    digest = document.get("weights_digest")
    return best.is_file() and digest in (None, checkpoints.named(best).get("weights_digest"))


def held(folder: Path, document: Mapping[str, object]) -> Path | None:
    """The file in a run's folder with the weights of its result: best.safetensors, or the checkpoint it is a copy of.

    None: neither is there any more.
    """
    if _holds(folder, document):
        return folder / "best.safetensors"
    kept, digest = _kept(folder, document), document.get("weights_digest")
    return kept if digest is not None and checkpoints.named(kept).get("weights_digest") == digest else None


def put_back(folder: Path, document: Mapping[str, object]) -> None:
    """Where the checkpoint of a run's result was lost, make it of best.safetensors, so that a search can go on."""
    if "weights_digest" not in document or not isinstance(document.get("trial"), int):
        return
    kept = _kept(folder, document)
    if not kept.exists() and (kept.parent.parent / "run.db").is_file() and _holds(folder, document):
        kept.parent.mkdir(exist_ok=True)
        write_bytes(kept, (folder / "best.safetensors").read_bytes())


def _run(folder: Path, document: Mapping[str, object]) -> Path:
    """The folder of the trainings that a result is of: the run's, or that of the last ones, from scratch, below it."""
    name = below(document)
    return folder if name is None else folder / name


def _kept(folder: Path, document: Mapping[str, Any]) -> Path:
    return _run(folder, document) / checkpoints.name_of(document["trial"])


def moved(folder: Path, document: Mapping[str, object]) -> dict[str, Any]:
    """The same result with the paths that it has in this folder."""
    found = {**document, "run": str(_run(folder, document))}
    if "weights" in document:
        found["weights"] = str(folder / "best.safetensors")
    return found


def _code(folder: Path) -> str:
    import torch

    from nastool.deploy import exports, models

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for so little several take longer, many times so on a machine that is busy
    try:
        return exports.python(models.load(str(folder)))
    finally:
        torch.set_num_threads(threads)


def _lines(study: Study) -> str:
    return "".join(line + "\n" for line in study.texts())


def _table(columns: Mapping[str, Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    cells = cache(csv_cell)  # most texts come again and again
    shown = ((cells(value) if isinstance(value, str) else value for value in column) for column in columns.values())
    writer.writerows(zip(*shown, strict=True))
    return text.getvalue()


def _mean(values: Sequence[float]) -> float:
    """Of counts that are all the same, such as parameters, that count."""
    return values[0] if len(set(values)) == 1 else math.fsum(values) / len(values)


def of_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a line says of one training with each of several seeds; {} where all failed.

    "metrics" are those of one network, whose "weights" the line names if they are kept: of the first seed that worked.
    "mean" and, of two or more, "std" (n - 1) are those of each metric that all seeds have that worked. runs: "seed" and
    "metrics" or "error" of each, perhaps "weights" and their digest.
    """
    worked = [run for run in runs if "metrics" in run]
    if not worked:
        return {}
    rows = [run["metrics"] for run in worked]
    found = {key: worked[0][key] for key in ("metrics", "weights", "weights_digest") if key in worked[0]}
    shared = [name for name in rows[0] if all(name in row for row in rows)]  # "micro_batches" only some may have
    mean = found["mean"] = {name: _mean([row[name] for row in rows]) for name in shared}
    if len(rows) > 1:
        squares = {name: math.fsum((row[name] - mean[name]) ** 2 for row in rows) for name in mean}
        found["std"] = {name: math.sqrt(total / (len(rows) - 1)) for name, total in squares.items()}
    return found

"""What a network takes the examples of each class for."""

from __future__ import annotations

import json
from contextlib import suppress

from nastool.analysis.blocks import Block, Lines, Table
from nastool.analysis.report.data import MISSING
from nastool.core.errors import InputError, short
from nastool.core.files import check_tensors
from nastool.engine.study import Study
from nastool.engine.study_trial import StudyTrial


def confusion(study: Study, result: StudyTrial | None) -> list[Block]:
    """What the result takes the validation examples of each class for; [] where that was not noted, or is damaged."""
    trial = result if result is not None else study.best
    evaluation = None if trial is None else trial.trial.evaluation
    found = None if evaluation is None else evaluation.notes.get("confusion")
    if not isinstance(found, list) or not found or not all(isinstance(row, list) for row in found):
        return []
    if not all(len(row) == len(found) and all(isinstance(n, int) for n in row) for row in found):
        return []
    names = [str(i) for i in range(len(found))]
    with suppress(InputError, KeyError, ValueError):
        told = json.loads(check_tensors(study.path / "best.safetensors")["classes"])
        names = [short(name, 24) for name in told] if len(told) == len(found) else names
    rows = []
    for i, (name, row) in enumerate(zip(names, found, strict=True)):
        recall = f"{row[i] / sum(row):.4f}" if sum(row) else MISSING
        rows.append((name, *(f"{count:,}" if count else "" for count in row), recall))
    text = "What the validation examples of each class are taken for by the best network, and which share is right."
    return [Lines((text,)), Table(("class", *names, "right"), rows)]

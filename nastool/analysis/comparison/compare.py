"""Methods against each other: at equal trials, seconds and FLOPs, or by their final results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nastool.analysis.comparison.engine import Cell, Pair, cell, curve, pairs, ranking
from nastool.analysis.comparison.gather import AXES, Axis, Gathered, Method, Run
from nastool.analysis.figures.curves import Curve
from nastool.analysis.statistics import Floats, Mean, Ranks, best_until, mean
from nastool.core.errors import InputError
from nastool.core.values import Objective

FINAL: Axis = "final result"
"""In place of an axis: what a search ended with, for searches whose scores cannot be compared themselves."""
UNITS: Mapping[Axis, str] = {"trials": "trials", "seconds": "s", "flops": "FLOPs", FINAL: ""}
CURVE_POINTS = 100


@dataclass(frozen=True)
class Section:
    """One axis. cells: of each method, one a mark. pairs: one list a mark. ranks: of all methods, at the last mark."""

    axis: Axis
    marks: tuple[float, ...]
    cells: Mapping[str, tuple[Cell, ...]]
    pairs: tuple[tuple[Pair, ...], ...]
    ranks: Ranks | None
    curves: tuple[Curve, ...]
    counted: str = ""

    def mark(self, index: int) -> str:
        """ "150 trials"."""
        if self.axis == FINAL:
            return self.axis
        count, unit = _count(self.marks[index]), UNITS[self.axis]
        return f"{count} {unit.removesuffix('s') if count == '1' and unit == 'trials' else unit}"


@dataclass(frozen=True)
class Comparison:
    """tests: mean of each method's held-out metric `test_metric` over runs with a final result; chooses nothing."""

    gathered: Gathered
    objective: Objective
    sections: tuple[Section, ...]
    test_metric: str | None
    tests: Mapping[str, Mean]
    notes: tuple[str, ...] = field(default=())

    @property
    def methods(self) -> tuple[Method, ...]:
        return self.gathered.methods


def compare(gathered: Gathered, over: Sequence[Axis] = (), at: Sequence[float] = ()) -> Comparison:
    """Compare methods at equal cost.

    Args:
        gathered: what `gather` found.
        over: the axes; all that are known where empty.
        at: the marks on them, > 0, by default quarters of what all runs have.

    Raises:
        InputError: a mark that some run does not reach, an axis that is not known for all runs, say.
    """
    objective = gathered.runs[0].objective
    notes = list(gathered.notes)
    with_result = [run for run in gathered.runs if run.has_result]
    sections: list[Section] = []
    if gathered.by_scores:
        if over or at:
            raise InputError(
                "--over and --at: scores with shared weights have no curves to compare, only final results"
            )
        notes.append(
            "scores with shared weights mean nothing in another run, so only final results are compared, which were "
            "trained from scratch"
        )
        if with_result:
            sections.append(_section(gathered, FINAL, (math.inf,), objective))
    elif with_result:
        for axis in over or AXES:
            lacking = _lacking(with_result, axis)
            if lacking and over:
                raise InputError(f"--over {axis}: {lacking}")
            if lacking:
                notes.append(f"not compared at equal {axis}: {lacking}")
                continue
            sections.append(_section(gathered, axis, _marks(with_result, axis, at, notes), objective))
    if not any(method.is_random for method in gathered.methods):
        notes.append(
            "no random search among them: give the searches --with-baseline (or the same commands with -s random and "
            "another --out), since that is what a search has to be better than"
        )
    if len(gathered.methods) == 1:
        notes.append("one method only: to compare, name runs of another strategy, or with other options, as well")
    metric, tests = _tests(gathered, notes)
    return Comparison(gathered, objective, tuple(sections), metric, tests, tuple(notes))


def _lacking(runs: Sequence[Run], axis: Axis) -> str:
    """Why there is no such axis; "" where there is."""
    for run in runs:
        if axis not in run.spent:
            if axis == "seconds":
                return f"the evaluations of {run.path} took no time"
            return f"{run.path} has no {axis} of all its trials, or not of how long they were trained"
    if axis == "flops" and len({run.counted for run in runs}) > 1:
        return "the runs' FLOPs count different things"
    return ""


def _marks(runs: Sequence[Run], axis: Axis, at: Sequence[float], notes: list[str]) -> tuple[float, ...]:
    shortest = min(runs, key=lambda run: run.reach(axis))
    common = shortest.reach(axis)
    if math.isinf(common):
        common = max(float(run.spent[axis][-1]) for run in runs)
    longest = max(float(run.spent[axis][-1]) for run in runs)
    for mark in at:
        if mark > common * (1 + 1e-9):
            raise InputError(
                f"--at {mark:g}: {shortest.path} has only {_count(common)} {UNITS[axis]}: give smaller ones, or leave "
                "that run out"
            )
    if axis == "trials" and longest > common:
        notes.append(
            f"the runs are of unequal length: compared at the {_count(common)} trials that all of them have "
            f"({shortest.path} has no more)"
        )
    if at:
        return tuple(sorted(set(at)))
    if axis == "trials":
        return tuple(float(mark) for mark in sorted({max(1, round(common * part)) for part in (0.25, 0.5, 1)}))
    return tuple(_down(common * part) for part in (0.25, 0.5, 1))


def _down(value: float) -> float:
    """The next lower number of three significant digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.floor(value / unit * (1 + 1e-12)) * unit:.3g}")


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and value < 1e7 else f"{value:.4g}"


def _section(gathered: Gathered, axis: Axis, marks: tuple[float, ...], objective: Objective) -> Section:
    methods = gathered.methods
    losses = {method.name: _losses(method, axis, marks) for method in methods}
    sign = -1 if objective.goal == "max" else 1
    values = {name: sign * found for name, found in losses.items()}
    cells = {name: tuple(cell(row[np.isfinite(row)].tolist(), len(row)) for row in v.T) for name, v in values.items()}
    by_seed = [_by_seed(methods, values, index) for index in range(len(marks))]
    found = tuple(
        pairs({n: {s: v for s, v in own.items() if math.isfinite(v)} for n, own in m.items()}) for m in by_seed
    )
    ranks = ranking(_by_seed(methods, losses, -1))
    curves = () if axis == FINAL else _curves(methods, axis, marks[-1], sign)
    counted = next((run.counted for run in gathered.runs if run.counted), "") if axis == "flops" else ""
    return Section(axis, marks, cells, found, ranks, curves, counted)


def _by_seed(methods: Sequence[Method], values: Mapping[str, Floats], index: int) -> dict[str, dict[int, float]]:
    """Method -> seed -> its value at a mark."""
    return {m.name: dict(zip(m.seeds, values[m.name][:, index].tolist(), strict=True)) for m in methods}


def _losses(method: Method, axis: Axis, marks: Sequence[float]) -> Floats:
    """(runs, marks): the best so far, infinity where there is none."""
    found = np.full((len(method.runs), len(marks)), math.inf)
    for row, run in zip(found, method.runs, strict=True):
        if axis == FINAL:
            row[:] = math.inf if run.final_loss is None else run.final_loss
        elif axis in run.spent:
            row[:] = best_until(run.spent[axis], run.losses, marks)
    return found


def _curves(methods: Sequence[Method], axis: Axis, until: float, sign: int) -> tuple[Curve, ...]:
    """Curves, each from where all of a method's runs that have a result have one."""
    points = np.linspace(until / CURVE_POINTS, until, CURVE_POINTS)
    if axis == "trials":
        points = np.unique(np.ceil(points))
    found = []
    for method in methods:
        if runs := tuple(run for run in method.runs if run.has_result):
            losses = _losses(Method(method.name, runs), axis, points.tolist())
            there = np.isfinite(losses).all(axis=0)
            if there.any():
                found.append(curve(method.name, points[there], sign * losses[:, there]))
    return tuple(found)


def _tests(gathered: Gathered, notes: list[str]) -> tuple[str | None, dict[str, Mean]]:
    """The held-out metric that most runs have, and its mean for each method; none where it means different things."""
    tested = [run for run in gathered.runs if any(name.startswith("test_") for name in run.final)]
    if not tested:
        return None, {}
    for run in tested:
        if run.made != tested[0].made:
            notes.append(
                f"held-out metrics are left out: the final networks of {tested[0].path} and {run.path} were not "
                f"trained the same ({tested[0].made.partition(' [')[0]}; {run.made.partition(' [')[0]})"
            )
            return None, {}
    names = [name for run in tested for name in run.final if name.startswith("test_")]
    metric = max(dict.fromkeys(names), key=lambda name: (names.count(name), name == "test_acc"))
    found = {}
    for method in gathered.methods:
        values = [run.final[metric] for run in method.runs if metric in run.final]
        if values:
            found[method.name] = mean(np.array(values, dtype=np.float64))
    return metric, found

"""Methods against each other: at equal trials, seconds and FLOPs, or by their final results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from nastool.analysis.bench.statistics import holm
from nastool.analysis.comparison.gather import AXES, Axis, Gathered, Method, Run
from nastool.analysis.comparison.statistics import LEVEL, Difference, Mean, Ranks, best_until, difference, mean, ranks
from nastool.core.errors import InputError
from nastool.core.values import Objective

FINAL: Axis = "final result"
"""In place of an axis: what a search ended with, for searches whose scores cannot be compared themselves."""
UNITS: Mapping[Axis, str] = {"trials": "trials", "seconds": "s", "flops": "FLOPs", FINAL: ""}
CURVE_POINTS = 100


@dataclass(frozen=True)
class Cell:
    """One method at one mark. missing: runs without a result until there, in no mean. mean: None: no run has one."""

    mean: Mean | None
    missing: int


@dataclass(frozen=True)
class Pair:
    """Two methods at one mark. p: corrected by Holm's method over the pairs of that mark; NaN: too few seeds.

    values: of the first and of the second, where each has one seed.
    """

    first: str
    second: str
    difference: Difference
    p: float
    values: tuple[float, float] | None
    against_random: bool


@dataclass(frozen=True)
class Curve:
    """Mean best value so far of one method, and its 95% interval by Student's t (NaN for one run)."""

    name: str
    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Section:
    """One axis. cells: of each method, one a mark. pairs: one list a mark. ranks: of `ranked`, at the last mark."""

    axis: Axis
    marks: tuple[float, ...]
    cells: Mapping[str, tuple[Cell, ...]]
    pairs: tuple[tuple[Pair, ...], ...]
    ranks: Ranks | None
    ranked: tuple[str, ...]
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
    """over: the axes; all that are known where empty. at: the marks on them, > 0, by default quarters of what all have.

    InputError: a mark that some run does not reach, an axis that is not known for all runs, or no run with a result.
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
    losses = {method.name: _losses(method, axis, marks) for method in gathered.methods}
    cells = {name: tuple(_cell(column, objective) for column in found.T) for name, found in losses.items()}
    pairs = tuple(_pairs(gathered.methods, losses, index, objective) for index in range(len(marks)))
    last = {name: found[:, -1] for name, found in losses.items()}
    ranked, found = _ranks(gathered.methods, last)
    curves = () if axis == FINAL else _curves(gathered.methods, axis, marks[-1], objective)
    counted = next((run.counted for run in gathered.runs if run.counted), "") if axis == "flops" else ""
    return Section(axis, marks, cells, pairs, found, ranked, curves, counted)


def _losses(method: Method, axis: Axis, marks: Sequence[float]) -> NDArray[np.float64]:
    """(runs, marks): the best so far, infinity where there is none."""
    found = np.full((len(method.runs), len(marks)), math.inf)
    for row, run in zip(found, method.runs, strict=True):
        if axis == FINAL:
            row[:] = math.inf if run.final_loss is None else run.final_loss
        elif axis in run.spent:
            row[:] = best_until(run.spent[axis], run.losses, marks)
    return found


def _values(losses: NDArray[np.float64], objective: Objective) -> NDArray[np.float64]:
    return -losses if objective.goal == "max" else losses


def _cell(losses: NDArray[np.float64], objective: Objective) -> Cell:
    there = losses[np.isfinite(losses)]
    return Cell(mean(_values(there, objective)) if len(there) else None, len(losses) - len(there))


def _pairs(
    methods: Sequence[Method], losses: Mapping[str, NDArray[np.float64]], index: int, objective: Objective
) -> tuple[Pair, ...]:
    found: list[tuple[Method, Method, Difference, tuple[float, float] | None]] = []
    for first, second in combinations(methods, 2):
        x, y = (
            {
                run.seed: float(loss)
                for run, loss in zip(method.runs, losses[method.name][:, index], strict=True)
                if math.isfinite(loss)
            }
            for method in (first, second)
        )
        if not x or not y:
            continue
        both = sorted(x.keys() & y.keys())
        # Pairs, where seeds match; those that only one has would be lost, so not if that are most.
        paired = 2 * len(both) >= max(len(x), len(y))
        seeds = (both, both) if paired else (sorted(x), sorted(y))
        values = [
            _values(np.array([own[seed] for seed in part]), objective) for own, part in zip((x, y), seeds, strict=True)
        ]
        single = (float(values[0][0]), float(values[1][0])) if len(values[0]) == len(values[1]) == 1 else None
        found.append((first, second, difference(values[0], values[1], paired), single))
    tested = [i for i, (_, _, own, _) in enumerate(found) if not math.isnan(own.p)]
    corrected = dict(zip(tested, holm([found[i][2].p for i in tested]), strict=True))
    return tuple(
        Pair(a.name, b.name, own, corrected.get(i, math.nan), single, a.is_random or b.is_random)
        for i, (a, b, own, single) in enumerate(found)
    )


def _ranks(methods: Sequence[Method], last: Mapping[str, NDArray[np.float64]]) -> tuple[tuple[str, ...], Ranks | None]:
    by_seed = [{run.seed: loss for run, loss in zip(method.runs, last[method.name], strict=True)} for method in methods]
    blocks = sorted(set.intersection(*(set(own) for own in by_seed))) if by_seed else []
    table = np.array([[own[seed] for own in by_seed] for seed in blocks])
    if len(methods) < 3 or len(blocks) < 2 or not np.isfinite(table).all():
        return (), None
    return tuple(method.name for method in methods), ranks(table)


def _curves(methods: Sequence[Method], axis: Axis, until: float, objective: Objective) -> tuple[Curve, ...]:
    """From where all of a method's runs that have a result have one."""
    points = np.linspace(until / CURVE_POINTS, until, CURVE_POINTS)
    if axis == "trials":
        points = np.unique(np.ceil(points))
    found = []
    for method in methods:
        runs = tuple(run for run in method.runs if run.has_result)
        if not runs:
            continue
        losses = _losses(Method(method.name, runs), axis, points.tolist())
        there = np.isfinite(losses).all(axis=0)
        means = [mean(column) for column in _values(losses[:, there], objective).T]
        found.append(
            Curve(
                method.name,
                points[there],
                np.array([each.mean for each in means]),
                np.array([each.low for each in means]),
                np.array([each.high for each in means]),
            )
        )
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


# --- in words


def number(value: float, sign: bool = False, like: float | None = None) -> str:
    """ "0.9161", "+0.0012", "1.07e+06". sign: for differences. like: the number that it stands beside, for decimals."""
    size = abs(value if like is None else like)
    form = ".4f" if size == 0 or (5e-5 if sign else 1e-3) <= size < 1e4 else ".4g"
    return f"{value:{'+' if sign else ''}{form}}"


def p_value(p: float) -> str:
    if math.isnan(p):
        return "no test"
    return "p < 0.001" if p < 0.0005 else f"p = {p:.3f}"


def seeds(own: Difference) -> str:
    """ "10 paired seeds", "10 and 8 seeds, unpaired"."""
    if own.paired:
        return f"{own.n} paired seed{'s' if own.n > 1 else ''}"
    return f"{own.n} and {own.m} seeds, unpaired"


def verdict(pair: Pair, mark: str, objective: Objective) -> str:
    """What the numbers allow to say, in one sentence."""
    own = pair.difference
    where = f"by {mark}" if mark == FINAL else f"at {mark}"
    if math.isnan(own.p):
        if pair.values is None:
            return f"{pair.first} and {pair.second} {where}: no verdict, since one of them has one seed only."
        x, y = pair.values
        return (
            f"{pair.first} and {pair.second} {where}: no verdict from n = 1 seed "
            f"({objective.metric} {number(x)} and {number(y)}, difference {number(own.mean, True)})."
        )
    better = own.mean > 0 if objective.goal == "max" else own.mean < 0
    winner, loser = (pair.first, pair.second) if better else (pair.second, pair.first)
    facts = (
        f"{pair.first} - {pair.second} {number(own.mean, True)} in mean {objective.metric}, 95% interval "
        f"{number(own.low, True)} to {number(own.high, True)}, {p_value(pair.p)}, {seeds(own)}"
    )
    if own.wins == own.losses == 0:
        return f"{pair.first} and {pair.second} are equal {where} on every seed ({seeds(own)})."
    shown, excludes = pair.p < 1 - LEVEL, own.low * own.high > 0
    if shown and excludes and own.effect * own.mean > 0:
        return f"{winner} is better than {loser} {where} ({facts})."
    if shown:
        return f"{pair.first} and {pair.second} {where}: no clear verdict, the test and the means disagree ({facts})."
    power = ""
    if own.least_p >= 1 - LEVEL:
        power = f"; with so few seeds p cannot be below {own.least_p:.3g}"
    return (
        f"No difference is shown between {pair.first} and {pair.second} {where} ({facts}{power}), "
        "which does not make them equal."
    )

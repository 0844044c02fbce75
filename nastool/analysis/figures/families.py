"""Decisions that offer the same kind of choice, and how often which option is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nastool.core.space import SearchSpace, mattering
from nastool.core.values import Decision
from nastool.engine.study import Study
from nastool.engine.study_trial import StudyTrial


@dataclass(frozen=True)
class Family:
    """decisions: their numbers. rows, columns: of the table of them; cells: of each decision, of each option, its cell.

    A family of switches has a row for each layer and a column for each earlier one; any other has a row for each
    decision and a column for each option.
    """

    title: str
    decisions: tuple[int, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[tuple[int, int] | None, ...], ...]
    switches: bool = False


def families(space: SearchSpace) -> list[Family]:
    """All decisions with more than one option, the largest family of operations first."""
    alike: list[list[int]] = []
    switches, pointers = [], []
    for i, decision in enumerate(space.decisions):
        if decision.is_switch:
            switches.append(i)
        elif decision.refers:
            pointers.append(i)
        elif len(decision.options) > 1:
            for same in alike:
                if _goes_with(decision, space.decisions[same[0]]):
                    same.append(i)
                    break
            else:
                alike.append([i])
    found = [_table(space.decisions, same) for same in alike]
    found.sort(key=lambda family: -len(family.decisions))
    if pointers:
        found.append(_table(space.decisions, pointers))
    if switches:
        found.append(_switches(space.decisions, switches))
    return found


def _goes_with(one: Decision, other: Decision) -> bool:
    """True if they offer the same; or one of them more than the other, under the same name."""
    if one.options == other.options:
        return True
    first, second = set(one.options), set(other.options)
    named = one.name.rpartition(".")[2] == other.name.rpartition(".")[2]
    return named and "." in one.name and (first <= second or second <= first)


def _table(decisions: Sequence[Decision], chosen: Sequence[int]) -> Family:
    widest = sorted(chosen, key=lambda i: -len(decisions[i].options))
    columns = list(dict.fromkeys(option for i in widest for option in decisions[i].options))
    cells = tuple(
        tuple((row, columns.index(option)) for option in decisions[i].options) for row, i in enumerate(chosen)
    )
    names = tuple(decisions[i].name for i in chosen)
    return Family(_common(names), tuple(chosen), names, tuple(columns), cells)


def _common(names: Sequence[str]) -> str:
    """Common part of decisions' names: "op" of layer1.op1, layer1.op2."""
    ends = {name.rpartition(".")[2].rstrip("0123456789") for name in names} if all("." in n for n in names) else set()
    if len(names) == 1:
        return names[0]
    return ends.pop() if len(ends) == 1 and "" not in ends else "options"


def _switches(decisions: Sequence[Decision], chosen: Sequence[int]) -> Family:
    rows = list(dict.fromkeys(decisions[i].place or decisions[i].name for i in chosen))
    columns = list(dict.fromkeys(decisions[i].refers[1] for i in chosen))
    cells = tuple(
        (None, (rows.index(decisions[i].place or decisions[i].name), columns.index(decisions[i].refers[1])))
        for i in chosen
    )
    return Family("skip connections", tuple(chosen), tuple(rows), tuple(columns), cells, switches=True)


def scored(study: Study) -> list[StudyTrial]:
    """The trials whose architectures were chosen for themselves: without a policy's rounds, where there are others."""
    return [trial for trial in study.trials if not trial.is_round] or list(study.trials)


def weights(space: SearchSpace, trials: Sequence[StudyTrial]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Option indices (n, decisions), and which of these decisions matter."""
    choices = np.array([trial.arch.choices for trial in trials], dtype=np.intp).reshape(len(trials), -1)
    return choices, mattering(space, choices)


def shares(family: Family, choices: NDArray[np.intp], active: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share of each cell among choices of its decision where that matters, (rows, columns); NaN where it never does."""
    table = np.full((len(family.rows), len(family.columns)), np.nan)
    for i, cells in zip(family.decisions, family.cells, strict=True):
        counted = np.bincount(choices[active[:, i], i], minlength=len(cells))
        for option, cell in enumerate(cells):
            if cell is not None and counted.sum():
                table[cell] = counted[option] / counted.sum()
    return table


def totals(family: Family, choices: NDArray[np.intp], active: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The share of each option name over all decisions of the family that matter; of switches, the rate of those on.

    (columns,), or (1,) for switches; NaN where none matters.
    """
    if family.switches:
        which = list(family.decisions)
        matter = active[:, which]
        return np.array([choices[:, which][matter].mean() if matter.any() else np.nan])
    counts = np.zeros(len(family.columns))
    for i, cells in zip(family.decisions, family.cells, strict=True):
        counted = np.bincount(choices[active[:, i], i], minlength=len(cells))
        for option, cell in enumerate(cells):
            if cell is not None:
                counts[cell[1]] += counted[option]
    return counts / counts.sum() if counts.sum() else np.full(len(counts), np.nan)


def of_frequencies(family: Family, frequencies: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """`shares`, of a policy: frequencies holds a list of probabilities for each decision."""
    table = np.full((len(family.rows), len(family.columns)), np.nan)
    for i, cells in zip(family.decisions, family.cells, strict=True):
        for option, cell in enumerate(cells):
            if cell is not None:
                table[cell] = frequencies[i][option]
    return table

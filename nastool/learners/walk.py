"""Steps of a controller's LSTM, the walks along them, and the gradient of what it says of architectures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from nastool.core.values import Decision
from nastool.learners.predictors.threads import one_thread as blas_on_one_thread

Floats = NDArray[np.float32]
Choices = NDArray[np.int64]
NONE: Any = None
ZERO = np.zeros((), np.float32)
GATES = np.array([[0.5, 0.5, 1, 0.5], [0.5, 0.5, 0, 0.5]], np.float32)
"""By what the gates i, f, g, o are multiplied before and after a tanh, and what is added then."""

Index = slice | NDArray[np.intp]
Decide = Callable[[Floats, Index], Choices]
"""Log-probabilities (n, columns, options) and the columns they are of, to option indices (n, columns)."""


@dataclass(frozen=True)
class Step:
    """One step of the LSTM.

    columns: the decisions it makes: several for "select", one for "point" and "choose", none for the others.
    refers: for "select" the place of each switch, for "point" that of each option.
    head: which linear map and which embeddings a "choose" uses.
    place: of which this step's hidden state is the anchor; None: of none.
    """

    kind: Literal["input", "choose", "point", "select", "anchor"]
    columns: tuple[int, ...] = ()
    refers: tuple[str, ...] = ()
    head: str = ""
    place: str | None = None


def plan(decisions: Sequence[Decision], shared_heads: bool = True, order: Sequence[int] | None = None) -> list[Step]:
    """The steps that make these decisions, by the rules above.

    shared_heads: decisions with the same options share their linear map and embeddings, as in the published code. A
    decision that refers to a place whose decisions are not all made before it is treated as an ordinary one.
    order: the indices of all decisions, first to last; None: as they stand.
    """
    order = range(len(decisions)) if order is None else order
    turn = {i: number for number, i in enumerate(order)}
    last = {decisions[i].place: i for i in order}
    heads: dict[tuple[str, ...], int] = {}

    def places(i: int) -> tuple[str, ...]:
        refers = decisions[i].refers[1:] if decisions[i].is_switch else decisions[i].refers
        return refers if all(not place or place not in last or turn[last[place]] < turn[i] for place in refers) else ()

    def kind(i: int) -> tuple[str, str, object]:
        if not places(i):
            return decisions[i].place, "choose", i
        return decisions[i].place, *(("select", 0) if decisions[i].is_switch else ("point", i))

    wanted = {place for i in order for place in places(i)}
    wanted |= {place for place, what, _ in map(kind, order) if what == "point"}
    steps: list[Step] = []
    begins: dict[str, int] = {}  # the number of steps before each place
    inputs: dict[int, list[str]] = {}  # number of steps -> the inputs whose steps belong there
    for (place, what, _), run in itertools.groupby(order, kind):
        columns = tuple(run)
        begins.setdefault(place, len(steps))
        ends = place if place and place in wanted and columns[-1] == last[place] else None
        refers = tuple(name for i in columns for name in places(i))
        for name in refers:
            if (not name or name not in last) and not any(name in names for names in inputs.values()):
                inputs.setdefault(begins[place], []).append(name)
        if what == "select":
            steps.append(Step("select", columns, refers, place=ends))
            continue
        if what == "point":
            steps.append(Step("point", columns, refers))
        else:
            options = decisions[columns[0]].options
            head = heads.setdefault(options, len(heads)) if shared_heads else columns[0]
            steps.append(Step("choose", columns, head=str(head)))
        if ends is not None:
            steps.append(Step("anchor", place=ends))
    if steps and steps[-1].kind == "anchor":
        steps.pop()
    for position, names in sorted(inputs.items(), reverse=True):
        steps[position:position] = [Step("input", place=name) for name in names]
    return steps


@dataclass
class Cell:
    """What one layer of the LSTM does in a step, as far as its gradient needs it. Arrays begin with n architectures."""

    into: Floats
    """What the gates read: the input, then the state before."""
    gate: Floats
    """Activations of i, f, g, o."""
    before: Floats
    """The cell before."""
    bent: Floats
    """tanh of the cell after."""


def lstm(x: Floats, h: Floats, c: Floats, gates: Floats, half: Floats, lift: Floats) -> tuple[Cell, Floats, Floats]:
    """A layer's step: that, its state and its cell. gates: the matrix (2 units, 4 units), multiplied with half."""
    size = h.shape[1]
    into = np.concatenate([x, h], 1)
    gate = np.tanh(into @ gates)
    gate *= half
    gate += lift  # i, f, g, o: a sigmoid is half a tanh of the half, and a half
    after = gate[:, size : 2 * size] * c + gate[:, :size] * gate[:, 2 * size : 3 * size]
    bent = np.tanh(after)
    return Cell(into, gate, c, bent), gate[:, 3 * size :] * bent, after


class Backward:
    """The way back through a layer's steps, from the last to the first.

    of_h: the gradient by the state after the step that is next, as far as later steps have a part in it.
    """

    def __init__(self, cells: Sequence[Cell], into_gates: Floats) -> None:
        """into_gates: the matrix (4 units, 2 units), from input and state."""
        self.cells, self.into_gates = cells, into_gates
        n, size = cells[0].before.shape
        i, self.f, g, o = np.moveaxis(np.stack([cell.gate for cell in cells]).reshape(-1, n, 4, size), 2, 0)
        bent = np.stack([cell.bent for cell in cells])
        self.passed = o * (1 - bent * bent)  # from a state to its cell
        self.of_gates = np.empty((len(cells), n, 4, size), np.float32)  # until their step comes, the slopes
        self.of_gates[:, :, 0] = g * i * (1 - i)
        self.of_gates[:, :, 1] = np.stack([cell.before for cell in cells]) * self.f * (1 - self.f)
        self.of_gates[:, :, 2] = i * (1 - g * g)
        self.of_gates[:, :, 3] = bent * o * (1 - o)
        self.of_h, self.of_c = (np.zeros((n, size), np.float32) for _ in range(2))

    def step(self, number: int, of_h: Floats, there: NDArray[np.bool_] | None) -> Floats:
        """From the gradient by the state after a step to that by its input."""
        size = of_h.shape[1]
        of_state, of_after = where(there, of_h, ZERO), where(there, self.of_c, ZERO)
        of_after = of_after + of_state * self.passed[number]
        self.of_gates[number, :, :3] *= of_after[:, None]
        self.of_gates[number, :, 3] *= of_state
        of_into = self.of_gates[number].reshape(len(of_h), -1) @ self.into_gates
        of_before: Floats = of_after * self.f[number]
        self.of_h = of_into[:, size:] if there is None else where(there, ZERO, of_h) + of_into[:, size:]
        self.of_c = of_before if there is None else where(there, ZERO, self.of_c) + of_before
        found: Floats = of_into[:, :size]
        return found

    def of_matrices(self) -> tuple[Floats, Floats]:
        """The gradients by the matrices from input and from state, after all steps."""
        size = self.of_h.shape[1]
        both = self.of_gates.reshape(-1, 4 * size).T @ np.concatenate([cell.into for cell in self.cells])
        return np.ascontiguousarray(both[:, :size]), np.ascontiguousarray(both[:, size:])


@dataclass
class Taken:
    """A step of a walk, as far as its gradient needs it. Arrays begin with n architectures."""

    step: Step
    refers: Index
    """The numbers of the places that it refers to."""
    cells: list[Cell]
    """Of each layer, the lowest first."""
    state: Floats = NONE
    """After the step; where no decision of it matters, that of before."""
    there: NDArray[np.bool_] | None = None
    """(n, 1), whether a decision of it matters. None: always."""
    logs: Floats = NONE
    """Log-probabilities (n, columns, options)."""
    slope: Any = 1.0
    """Of the logits by what temperature and tanh_constant are applied to."""
    attention: Floats = NONE
    picked: Choices = NONE
    """The options chosen, or the places pointed at."""
    shares: Floats = NONE
    """Of each anchor in the next input."""


class Walk(NamedTuple):
    """All steps for some architectures, with copies of the parameters."""

    choices: Choices
    used: dict[str, Floats]
    taken: list[Taken]
    anchors: Floats


class Part(NamedTuple):
    """Steps whose log-probabilities make one tensor: selections, or decisions of as many options."""

    kind: Literal["select", "choose", "point"]
    numbers: list[int]
    """Of the steps."""
    columns: list[int]
    """All that these steps decide."""
    runs: list[slice]
    """Where in `columns` each step's are."""


def parts_of(steps: Sequence[Step], decisions: Sequence[Decision]) -> list[Part]:
    found: dict[tuple[str, int], Part] = {}
    for number, step in enumerate(steps):
        if step.columns:
            kind: Any = "select" if step.kind == "select" else "choose"
            part = found.setdefault((kind, len(decisions[step.columns[0]].options)), Part(kind, [], [], []))
            part.numbers.append(number)
            part.runs.append(slice(len(part.columns), len(part.columns) + len(step.columns)))
            part.columns.extend(step.columns)
    return list(found.values())


class Scores(torch.autograd.Function):
    """What a controller says of architectures: the fields of `Scored`, from and back to the log-probabilities."""

    @staticmethod
    def forward(
        ctx: Any, controller: Any, choices: Choices, counted: Floats, target: float | None, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        """counted: (n, decisions), 1 where a decision was drawn and matters."""
        walk = controller._walked(choices)
        log_prob, entropy, kl, rate = (np.zeros(len(choices)) for _ in range(4))  # float64, of many terms
        ctx.controller, ctx.walk, ctx.parts = controller, walk, []
        for part in controller.parts:
            logs = np.concatenate([walk.taken[number].logs for number in part.numbers], 1)
            share, weight, picked = np.exp(logs), counted[:, part.columns], choices[:, part.columns, None]
            log_prob += (np.take_along_axis(logs, picked, -1)[..., 0] * weight).sum(1)
            entropy -= ((share * logs).sum(-1) * weight).sum(1)
            aim, switches, steps = None, np.ones(1), np.ones(1)
            if part.kind == "select":
                switches = weight.sum(1).clip(min=1)
                rate += (share[..., 1] * weight).sum(1) / switches
                if target is not None:
                    aim = logs - np.log(np.array([1 - target, target], np.float32))
                    steps = (np.add.reduceat(weight, [run.start for run in part.runs], 1) > 0).sum(1).clip(min=1)
                    kl += ((share * aim).sum(-1) * weight).sum(1) / steps
            ctx.parts.append((part, logs, share, weight, picked, aim, switches, steps))
        return tuple(torch.from_numpy(value.astype(np.float32)) for value in (log_prob, entropy, kl, rate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_log_prob, of_entropy, of_kl, of_rate = (gradient.numpy()[:, None, None] for gradient in gradients)
        of_logits: dict[int, Floats] = {}
        for part, logs, share, weight, picked, aim, switches, steps in ctx.parts:
            found = -of_entropy * share * (logs + 1)
            if aim is not None:
                found += (of_kl / steps[:, None, None]) * share * (aim + 1)
            if part.kind == "select":
                found[..., 1:] += (of_rate / switches[:, None, None]) * share[..., 1:]
            found += (np.arange(logs.shape[-1]) == picked) * of_log_prob
            found *= weight[..., None]
            found = (found - share * found.sum(-1, keepdims=True)).astype(np.float32)
            for number, run in zip(part.numbers, part.runs, strict=True):
                selects = part.kind == "select"
                of_logits[number] = found[:, run, 1] - found[:, run, 0] if selects else found[:, run.start]
        with blas_on_one_thread():
            by = ctx.controller._gradients(ctx.walk, of_logits)
        return None, None, None, None, *(torch.from_numpy(by[name]) for name, _ in ctx.controller.named_parameters())


def index_of(numbers: Sequence[int]) -> Index:
    """A slice where they follow each other, with which nothing is copied."""
    first, count = numbers[0] if numbers else 0, len(numbers)
    return slice(first, first + count) if list(numbers) == list(range(first, first + count)) else np.array(numbers)


def add_at(whole: Floats, at: Index, more: Floats) -> None:
    """whole[at] += more, where a place may be there twice."""
    if isinstance(at, slice):
        whole[at] += more
    else:
        np.add.at(whole, at, more)


def where(rows: NDArray[np.bool_] | None, yes: Floats, no: Floats) -> Floats:
    """rows: (n, 1); None: all, as mostly."""
    return yes if rows is None else np.where(rows, yes, no)

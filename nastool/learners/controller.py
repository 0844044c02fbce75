"""A recurrent policy over the decisions of any search space, and how it learns from rewards.

Zoph & Le: Neural Architecture Search with Reinforcement Learning, ICLR 2017 (arXiv 1611.01578); Pham et al.: Efficient
Neural Architecture Search via Parameter Sharing, ICML 2018 (arXiv 1802.03268). The steps are those of the latter's
published code for its macro and micro spaces, each of which is what the rules below give for such decisions.

An LSTM makes the decisions in the space's `policy_order`. What a decision is follows from what the space says of it:

- *select* (set selection, NAS-RL section 3.3): the longest runs of switches of one place are decided in one step, each
  by itself, with P(on) = sigmoid(2 q), q = v . tanh(W1 a_j + W2 h), a_j the anchor of the place switched. Next input:
  the sum of the anchors switched on, divided by 1 + their number.
- *point* (micro index): a decision whose options stand for places is a softmax over such q. Next input: the anchor
  chosen.
- *choose*: any other decision is a softmax over a linear map of h. Next input: the option's embedding.
- The *anchor* of a place is the hidden state of its last step where that is a selection (macro), else that of one more
  step after it (micro; the first layer of macro), after which comes the start token. Places that point take that step
  whether they are referred to or not, so that each cell begins with the start token. A place without decisions, an
  input of the network or cell, takes a step, too, fed with the start token, at the beginning of the place that first
  refers to it; its W1 h counts in q, while as an input it is zero.

Deviations from that code: no step is taken for inputs that no decision refers to, nor after the last decision; a
decision that does not matter (`Conditional.active_many`) is skipped, so that its option has no effect on anything; and
the four differences in learning that `PolicyGradient` and `Scored` name. The log-probabilities are those of that code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nastool.core.errors import InputError
from nastool.core.space import Conditional, Ordered, SearchSpace, mattering
from nastool.core.values import Decision
from nastool.learners.predictors.threads import one_thread as blas_on_one_thread

FREQUENCY_DRAWS = 256
"""A power of two, so that shares are short numbers."""

Floats = NDArray[np.float32]
Choices = NDArray[np.int64]
NONE: Any = None
ZERO = np.zeros((), np.float32)
GATES = np.array([[0.5, 0.5, 1, 0.5], [0.5, 0.5, 0, 0.5]], np.float32)
"""By what the gates i, f, g, o are multiplied before and after a tanh, and what is added then."""

Index = slice | NDArray[np.intp]
Decide = Callable[[Floats, Index], Choices]
"""Log-probabilities (n, columns, options) and the columns they are of, to option indices (n, columns)."""


@contextmanager
def one_thread() -> Iterator[None]:
    """torch uses one thread inside: tensors this small take longer on two, and sums do not depend on the cores.

    The setting is the process's, not the calling thread's, so do not enter it from two threads at once.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


class Scored(NamedTuple):
    """What the policy says of n architectures, each of shape (n,), float32.

    log_prob: of the decisions that matter. entropy: the sum of the entropies (nats) of the distributions that these
    were drawn from, not, as in the macro code, -p log p of what was drawn. switch_kl: KL(P(on) || target rate) in nats,
    of the P that is drawn from (the code has half its logit there), summed over a step's switches, averaged over the
    steps that have any; 0 without a target. switch_rate: the mean P(on); 0 where there are no switches.
    """

    log_prob: Tensor
    entropy: Tensor
    switch_kl: Tensor
    switch_rate: Tensor


class Controller(nn.Module):
    """The policy: an LSTM of one layer without biases that makes a space's decisions one after another.

    Everything is float32 on the CPU. The steps and their gradient are numpy's: tensors are so small that torch's
    overhead would be two thirds of the time. Architectures that are scored as they were drawn are not walked again.
    Uses `decisions`, `policy_order` and `active_many` of the space alone: one with further rules must reject what is
    no member.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        hidden: int = 64,
        temperature: float | None = None,
        tanh_constant: float | None = None,
        op_tanh_reduce: float = 1.0,
        init: float = 0.1,
        shared_heads: bool = True,
        bias: Callable[[int, str], float] | None = None,
        learnt_bias: Callable[[str], float] | None = None,
        generator: torch.Generator,
    ) -> None:
        """hidden: units, >= 1. temperature: divides all logits, > 0.

        tanh_constant: then logits become this times their tanh, so none exceeds it, > 0; of ordinary decisions it is
        divided by op_tanh_reduce, > 0 (2.5 in the micro space). None: neither. init: parameters are
        drawn uniformly within +-init, > 0. shared_heads: see `plan`. bias: of an ordinary decision, by its index, and
        its option, added to the logit last and not learnt; None: 0. learnt_bias: of an option, added to its logit
        before all else, where it begins: it is learnt; None: there is none. ValueError on a bad value.
        """
        super().__init__()
        if hidden < 1:
            raise ValueError(f"need hidden >= 1, got {hidden}")
        for name, value in {
            "temperature": temperature,
            "tanh_constant": tanh_constant,
            "op_tanh_reduce": op_tanh_reduce,
            "init": init,
        }.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"need {name} > 0, got {value}")
        self.space = space
        self.hidden = hidden
        self.temperature = temperature
        self.tanh_constant = tanh_constant
        self.op_tanh_reduce = op_tanh_reduce
        order = space.policy_order if isinstance(space, Ordered) else tuple(range(len(space.decisions)))
        self.steps = plan(space.decisions, shared_heads, order)
        self.parts = _parts(self.steps, space.decisions)
        self.places = {step.place: i for i, step in enumerate(step for step in self.steps if step.place is not None)}
        self.refers = [_index([self.places[at] for at in step.refers]) for step in self.steps]
        self.columns = [_index(step.columns) for step in self.steps]
        self.numbers = np.arange(len(self.places))
        self.all_matter = not isinstance(space, Conditional)
        self._last: _Walk | None = None

        def matrix(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(rows, columns))

        self.start = matrix(1, hidden)
        self.from_input = matrix(4 * hidden, hidden)
        self.from_state = matrix(4 * hidden, hidden)
        chosen = {step.head: len(space.decisions[step.columns[0]].options) for step in self.steps if step.head}
        self.biases = {
            i: torch.tensor([bias(i, option) if bias else 0.0 for option in space.decisions[i].options])
            for step in self.steps
            if step.head
            for i in step.columns
        }
        self.heads = nn.ParameterDict({head: matrix(size, hidden) for head, size in chosen.items()})
        self.embeddings = nn.ParameterDict({head: matrix(size, hidden) for head, size in chosen.items()})
        if any(step.refers for step in self.steps):
            self.attend_anchor = matrix(hidden, hidden)
            self.attend_state = matrix(hidden, hidden)
            self.attend_vector = matrix(1, hidden)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-init, init, generator=generator)
        options = {step.head: space.decisions[step.columns[0]].options for step in self.steps if step.head}
        begin = {head: torch.tensor([learnt_bias(o) for o in of]) for head, of in options.items() if learnt_bias}
        self.learnt_biases = nn.ParameterDict({head: nn.Parameter(values) for head, values in begin.items()})

    # --- what can be asked of it

    @property
    def fingerprint(self) -> list[int]:
        """Bytes that tell its steps from others."""
        return list(blake2b(repr([(step.kind, step.columns) for step in self.steps]).encode(), digest_size=8).digest())

    def sample(
        self, n: int, generator: torch.Generator, forced: Mapping[int, int] | None = None, flatten: float = 1.0
    ) -> Tensor:
        """n architectures drawn independently: option indices (n, decisions), int64, in one pass for all.

        forced: decision -> option that is not drawn. A decision that does not matter has option 0, or the one
        forced. The generator gives n x decisions uniform numbers, whatever is drawn. flatten: draw with probabilities
        proportional to the policy's to the power of 1 / flatten, >= 1; 1: the policy itself.
        """
        noise = torch.rand(n, len(self.space.decisions), generator=generator).numpy()

        def draw(log_prob: Floats, columns: Index) -> Choices:
            share = np.exp(log_prob / flatten)
            below = share.cumsum(-1)
            drawn: Choices = (noise[:, columns, None] * below[..., -1:] >= below[..., :-1]).sum(-1)
            return drawn

        return self._decided(n, draw, forced)

    def frequencies(self, forced: Mapping[int, int] | None = None) -> tuple[tuple[float, ...], ...]:
        """For each decision the share of each option among FREQUENCY_DRAWS architectures; always the same draws."""
        drawn = self.sample(FREQUENCY_DRAWS, torch.Generator().manual_seed(0), forced)
        return tuple(
            tuple((drawn[:, i].bincount(minlength=len(decision.options)) / FREQUENCY_DRAWS).tolist())
            for i, decision in enumerate(self.space.decisions)
        )

    def most_likely(self, forced: Mapping[int, int] | None = None) -> Tensor:
        """Each decision's likeliest option given those before it: option indices (decisions,), int64."""
        return self._decided(1, lambda log_prob, _: log_prob.argmax(-1), forced)[0]

    def score(self, choices: Tensor, *, forced: Collection[int] = (), switch_target: float | None = None) -> Scored:
        """What the policy says of these architectures, differentiable in its parameters.

        choices: option indices (n, decisions), int64. forced: decisions that were not drawn; they enter only as inputs
        to later ones. switch_target: rate of on that switch_kl compares with, in (0, 1).
        """
        if switch_target is not None and not 0 < switch_target < 1:
            raise ValueError(f"need 0 < switch_target < 1, got {switch_target}")
        sizes = torch.tensor([len(decision.options) for decision in self.space.decisions])
        if choices.ndim != 2 or choices.shape[1] != len(sizes) or bool(((choices < 0) | (choices >= sizes)).any()):
            raise ValueError(f"need option indices of {len(sizes)} decisions, got {tuple(choices.shape)}")
        counted = mattering(self.space, choices.numpy()).astype(np.float32)
        counted[:, list(forced)] = 0
        return Scored(*_Scores.apply(self, choices.numpy(), counted, switch_target, *self.parameters()))

    # --- the one pass that draws and scores

    def _decided(self, n: int, decide: Decide, forced: Mapping[int, int] | None) -> Tensor:
        forced = forced or {}
        choices = np.zeros((n, len(self.space.decisions)), dtype=np.int64)
        for column, option in forced.items():
            if not 0 <= option < len(self.space.decisions[column].options):
                raise ValueError(f"decision {self.space.decisions[column].name!r} has no option number {option}")
            choices[:, column] = option
        self._last = self._walk(choices, decide, frozenset(forced))
        return torch.from_numpy(choices.copy())

    def _walked(self, choices: Choices) -> _Walk:
        """The walk that makes these choices; often it is the last one, in which they were drawn."""
        last = self._last
        as_now = last is not None and all(map(np.array_equal, last.used.values(), self._weights().values()))
        if last is None or not as_now or not np.array_equal(last.choices, choices):
            last = self._last = self._walk(choices.copy(), None)
        return last

    def _weights(self) -> dict[str, Floats]:
        """The parameters as they are, in memory that they share."""
        return {name: parameter.detach().numpy() for name, parameter in self.named_parameters()}

    def _walk(self, choices: Choices, decide: Decide | None, forced: Collection[int] = ()) -> _Walk:
        """decide: None: the choices are made; else they are written into `choices`, but for those forced."""
        with blas_on_one_thread():
            w = {name: value.copy() for name, value in self._weights().items()}
            n, size = len(choices), self.hidden
            half, lift = GATES.repeat(size, 1)
            gates = np.ascontiguousarray(np.concatenate([w["from_input"], w["from_state"]], 1).T) * half
            x = start = np.broadcast_to(w["start"], (n, size))
            h = c = np.zeros((n, size), np.float32)
            anchors = np.zeros((len(self.places), n, size), np.float32)
            keys = np.zeros_like(anchors)  # W1 times the anchors' states
            matters = None if self.all_matter else mattering(self.space, choices)
            taken: list[_Taken] = []
            for step, columns, refers in zip(self.steps, self.columns, self.refers, strict=True):
                into = np.concatenate([start if step.kind == "input" else x, h], 1)
                gate = np.tanh(into @ gates)
                gate *= half
                gate += lift  # i, f, g, o: a sigmoid is half a tanh of the half, and a half
                before = c
                after = gate[:, size : 2 * size] * c + gate[:, :size] * gate[:, 2 * size : 3 * size]
                bent = np.tanh(after)
                state = gate[:, 3 * size :] * bent
                done = _Taken(step, refers, into, gate, before, bent)
                taken.append(done)
                if not step.columns:
                    h, c = state, after
                    x = start if step.kind == "anchor" else x
                else:
                    active, there = None, None
                    if matters is not None:
                        matters = mattering(self.space, choices) if decide is not None else matters
                        active = matters[:, columns]
                        done.there = there = None if active.all() else np.any(active, 1, keepdims=True)
                    h, c = _where(there, state, h), _where(there, after, c)
                    self._scores(done, w, h, keys)
                    if decide is not None:
                        drawn = decide(done.logs, columns)
                        drawn = drawn if active is None else drawn * active
                        if forced:
                            free = [i for i, column in enumerate(step.columns) if column not in forced]
                            choices[:, np.array(step.columns)[free]] = drawn[:, free]
                        else:
                            choices[:, columns] = drawn
                    x = _where(there, self._next_input(done, w, choices[:, columns], active, anchors), x)
                done.state = h
                if step.place is not None:
                    at = self.places[step.place]
                    anchors[at] = 0 if step.kind == "input" else h
                    keys[at] = h @ w["attend_anchor"]
        return _Walk(choices, w, taken, anchors)

    def _scores(self, done: _Taken, w: Mapping[str, Floats], h: Floats, keys: Floats) -> None:
        """What the step says of its options: the log-probabilities, and what the gradient needs of their making."""
        step, constant = done.step, self.tanh_constant
        if step.kind == "choose":
            logits = h @ w[f"heads.{step.head}"].T
            if step.head in self.learnt_biases:
                logits += w[f"learnt_biases.{step.head}"]
            if constant is not None:
                constant /= self.op_tanh_reduce
        else:
            done.attention = np.tanh(keys[done.refers] + h @ w["attend_state"])
            logits = (done.attention @ w["attend_vector"][0]).T
        if self.temperature is not None:
            logits /= self.temperature
            done.slope = 1 / self.temperature
        if constant is not None:
            bent = np.tanh(logits)
            logits = constant * bent
            done.slope = done.slope * constant * (1 - bent * bent)
        if step.kind == "choose":
            logits = logits + self.biases[step.columns[0]].numpy()
        if step.kind == "select":
            twice = 2 * logits
            on = np.minimum(twice, 0) - np.log1p(np.exp(-np.abs(twice)))
            done.logs = np.stack([on - twice, on], -1)
        else:
            logits = (logits - logits.max(-1, keepdims=True))[:, None]
            done.logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def _next_input(
        self, done: _Taken, w: Mapping[str, Floats], picked: Choices, active: NDArray[np.bool_] | None, anchors: Floats
    ) -> Floats:
        step = done.step
        if step.kind == "choose":
            done.picked = picked[:, 0]
            return w[f"embeddings.{step.head}"][done.picked]
        if step.kind == "point":
            done.picked = self.numbers[done.refers][picked[:, 0]]
            return anchors[done.picked, np.arange(len(picked))]
        on = (picked if active is None else picked * active).astype(np.float32)
        done.shares = on / (1 + on.sum(1, keepdims=True))
        found: Floats = (done.shares.T[..., None] * anchors[done.refers]).sum(0)
        return found

    def _gradients(self, walk: _Walk, of_logits: Mapping[int, Floats]) -> dict[str, Floats]:
        """Of a loss by the parameters. of_logits: by the logits (n, k) of each step, by the step's number."""
        w, size, n = walk.used, self.hidden, len(walk.choices)
        found = {name: np.zeros_like(value) for name, value in w.items()}
        into_gates = np.concatenate([w["from_input"], w["from_state"]], 1)
        rows = np.arange(n)
        of_anchors, of_keys = np.zeros_like(walk.anchors), np.zeros_like(walk.anchors)
        of_x, of_h, of_c = (np.zeros((n, size), np.float32) for _ in range(3))
        onto: dict[str, list[tuple[Choices, Floats]]] = {}  # what embeddings were read, and the gradients by them
        i, f, g, o = np.moveaxis(np.stack([done.gate for done in walk.taken]).reshape(-1, n, 4, size), 2, 0)
        bent = np.stack([done.bent for done in walk.taken])
        passed = o * (1 - bent * bent)  # from a state to its cell
        of_gates = np.empty((len(walk.taken), n, 4, size), np.float32)  # by what the gates read; until then, the slopes
        of_gates[:, :, 0] = g * i * (1 - i)
        of_gates[:, :, 1] = np.stack([done.before for done in walk.taken]) * f * (1 - f)
        of_gates[:, :, 2] = i * (1 - g * g)
        of_gates[:, :, 3] = bent * o * (1 - o)
        attended: list[tuple[Floats, Floats]] = []  # states, and the gradients by what W2 makes of them
        remembered: list[tuple[Floats, Floats]] = []  # the same of W1
        for number in range(len(walk.taken) - 1, -1, -1):
            done = walk.taken[number]
            step, there = done.step, done.there
            if step.place is not None:
                at = self.places[step.place]
                remembered.append((done.state, of_keys[at]))
                of_h = of_h + of_keys[at] @ w["attend_anchor"].T
                if step.kind != "input":
                    of_h += of_anchors[at]
            if step.columns:
                of_next, of_x = _where(there, of_x, ZERO), _where(there, ZERO, of_x)
                of_raw = of_logits[number] * done.slope
                if step.kind == "choose":
                    found[f"heads.{step.head}"] += of_raw.T @ done.state
                    if step.head in self.learnt_biases:
                        found[f"learnt_biases.{step.head}"] += of_raw.sum(0)
                    of_h = of_h + of_raw @ w[f"heads.{step.head}"]
                    onto.setdefault(step.head, []).append((done.picked, of_next))
                else:
                    of_raw = np.ascontiguousarray(of_raw.T)
                    found["attend_vector"] += of_raw.reshape(1, -1) @ done.attention.reshape(-1, size)
                    inner = done.attention * done.attention
                    np.subtract(1, inner, out=inner)
                    inner *= of_raw[..., None]
                    inner *= w["attend_vector"][0]
                    of_query = inner.sum(0)
                    attended.append((done.state, of_query))
                    of_h = of_h + of_query @ w["attend_state"].T
                    _add(of_keys, done.refers, inner)
                    if step.kind == "point":
                        of_anchors[done.picked, rows] += of_next
                    else:
                        _add(of_anchors, done.refers, done.shares.T[..., None] * of_next)
            elif step.kind == "anchor":
                found["start"] += of_x.sum(0)
                of_x = np.zeros_like(of_x)
            of_state, of_after = _where(there, of_h, ZERO), _where(there, of_c, ZERO)
            of_after = of_after + of_state * passed[number]
            of_gates[number, :, :3] *= of_after[:, None]
            of_gates[number, :, 3] *= of_state
            of_into = of_gates[number].reshape(n, -1) @ into_gates
            of_h = of_into[:, size:] if there is None else _where(there, ZERO, of_h) + of_into[:, size:]
            of_c = of_after * f[number] if there is None else _where(there, ZERO, of_c) + of_after * f[number]
            if step.kind == "input":
                found["start"] += of_into[:, :size].sum(0)
            else:
                of_x = of_x + of_into[:, :size]
        found["start"] += of_x.sum(0)
        both = of_gates.reshape(-1, 4 * size).T @ np.concatenate([done.into for done in walk.taken])
        found["from_input"], found["from_state"] = map(np.ascontiguousarray, (both[:, :size], both[:, size:]))
        for head, reads in onto.items():
            picked, gradients = (np.concatenate(side) for side in zip(*reads, strict=True))
            which = np.arange(len(w[f"embeddings.{head}"]))[:, None] == picked
            found[f"embeddings.{head}"] = which.astype(np.float32) @ gradients
        for name, pairs in (("attend_state", attended), ("attend_anchor", remembered)):
            if pairs:
                states, gradients = (np.concatenate(side) for side in zip(*pairs, strict=True))
                found[name] = states.T @ gradients
        return found


@dataclass
class _Taken:
    """A step of a walk, as far as its gradient needs it. Arrays begin with n architectures."""

    step: Step
    refers: Index
    """The numbers of the places that it refers to."""
    into: Floats
    """What the gates read: the input, then the state before."""
    gate: Floats
    """Activations of i, f, g, o."""
    before: Floats
    """The cell before."""
    bent: Floats
    """tanh of the cell after."""
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


class _Walk(NamedTuple):
    """All steps for some architectures, with copies of the parameters."""

    choices: Choices
    used: dict[str, Floats]
    taken: list[_Taken]
    anchors: Floats


class _Part(NamedTuple):
    """Steps whose log-probabilities make one tensor: selections, or decisions of as many options."""

    kind: Literal["select", "choose", "point"]
    numbers: list[int]
    """Of the steps."""
    columns: list[int]
    """All that these steps decide."""
    runs: list[slice]
    """Where in `columns` each step's are."""


def _parts(steps: Sequence[Step], decisions: Sequence[Decision]) -> list[_Part]:
    found: dict[tuple[str, int], _Part] = {}
    for number, step in enumerate(steps):
        if step.columns:
            kind: Any = "select" if step.kind == "select" else "choose"
            part = found.setdefault((kind, len(decisions[step.columns[0]].options)), _Part(kind, [], [], []))
            part.numbers.append(number)
            part.runs.append(slice(len(part.columns), len(part.columns) + len(step.columns)))
            part.columns.extend(step.columns)
    return list(found.values())


class _Scores(torch.autograd.Function):
    """What a controller says of architectures: the fields of `Scored`, from and back to the log-probabilities."""

    @staticmethod
    def forward(
        ctx: Any, controller: Controller, choices: Choices, counted: Floats, target: float | None, *parameters: Tensor
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


def _index(numbers: Sequence[int]) -> Index:
    """A slice where they follow each other, with which nothing is copied."""
    first, count = numbers[0] if numbers else 0, len(numbers)
    return slice(first, first + count) if list(numbers) == list(range(first, first + count)) else np.array(numbers)


def _add(whole: Floats, at: Index, more: Floats) -> None:
    """whole[at] += more, where a place may be there twice."""
    if isinstance(at, slice):
        whole[at] += more
    else:
        np.add.at(whole, at, more)


def _where(rows: NDArray[np.bool_] | None, yes: Floats, no: Floats) -> Floats:
    """rows: (n, 1); None: all, as mostly."""
    return yes if rows is None else np.where(rows, yes, no)


class PolicyGradient:
    """REINFORCE with a moving average as baseline, or its clipped variant, for a controller.

    The loss of m architectures with rewards R is, averaged over them,

        -log_prob (R - b) - entropy_weight entropy + switch_weight switch_kl

    - The entropy is a term of the loss, whose gradient is that of the entropies met along the samples. In the
      published code it is added to the reward, where it shifts the baseline.
    - b is taken before these rewards enter it, so that the advantage is no rescaled R - b. It is a bias-corrected
      moving average: the earliest rewards count alike. Where there is none yet, b is the mean of the *other* rewards:
      unbiased, no larger than their spread, and zero advantage for a single one.
    - A reward is whatever the caller passes: its scale matters, a constant added to all of them does not.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.0, 0.999),
        eps: float = 1e-3,
        eps_outside: bool = False,
        entropy_weight: float = 1e-4,
        baseline_decay: float = 0.99,
        switch_target: float | None = None,
        switch_weight: float = 0.8,
        ppo_clip: float | None = None,
        ppo_epochs: int = 1,
        grad_clip: float | None = None,
    ) -> None:
        """lr, betas, eps: of Adam. eps_outside: eps is added to the second moment's root before that is corrected for
        its bias (TensorFlow's Adam), so that the first steps are shorter. entropy_weight: per nat, >= 0.
        baseline_decay: per reward, in [0, 1).

        The defaults are those of ENAS, but for eps_outside. switch_target, switch_weight: the rate of connections that
        is aimed at, in (0, 1), and how much that counts, >= 0. ppo_clip: the probability ratio is clipped to within
        1 +- this, in (0, 1) (PPO, Schulman et al. 2017); then every update takes ppo_epochs steps, >= 1. grad_clip:
        largest gradient norm, > 0. ValueError on a bad value.
        """
        if not lr > 0 or not eps > 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"need lr > 0, eps > 0, betas in [0, 1), got {lr}, {eps}, {betas}")
        if not entropy_weight >= 0 or not switch_weight >= 0:
            raise ValueError(f"need entropy_weight, switch_weight >= 0, got {entropy_weight}, {switch_weight}")
        if not 0 <= baseline_decay < 1:
            raise ValueError(f"need 0 <= baseline_decay < 1, got {baseline_decay}")
        if switch_target is not None and not 0 < switch_target < 1:
            raise ValueError(f"need 0 < switch_target < 1, got {switch_target}")
        if ppo_clip is not None and not 0 < ppo_clip < 1:
            raise ValueError(f"need 0 < ppo_clip < 1, got {ppo_clip}")
        if ppo_epochs < 1 or (ppo_epochs > 1 and ppo_clip is None):
            raise ValueError(f"need ppo_epochs >= 1, and 1 without ppo_clip, got {ppo_epochs}")
        if grad_clip is not None and not grad_clip > 0:
            raise ValueError(f"need grad_clip > 0, got {grad_clip}")
        self.controller = controller
        self.entropy_weight = entropy_weight
        self.baseline_decay = baseline_decay
        self.switch_target = switch_target
        self.switch_weight = switch_weight
        self.ppo_clip = ppo_clip
        self.ppo_epochs = ppo_epochs
        self.grad_clip = grad_clip
        self.eps = eps
        self.eps_outside = eps_outside
        self.adam = torch.optim.Adam(controller.parameters(), lr=lr, betas=betas, eps=eps, fused=True)
        self._average = torch.zeros((), dtype=torch.float64)  # of the rewards, from 0
        self._weight = torch.zeros((), dtype=torch.float64)  # of all rewards in it: 1 - decay^(their number)

    @property
    def baseline(self) -> float | None:
        """The moving average; None before the first update."""
        return float(self._average / self._weight) if self._weight else None

    def advantages(self, rewards: Tensor) -> Tensor:
        """R - b for rewards (m,) that are not yet part of the baseline, float64."""
        rewards = rewards.double()
        if self._weight:
            return rewards - self._average / self._weight
        return (rewards - rewards.mean()) * (len(rewards) / max(len(rewards) - 1, 1))

    def update(self, choices: Tensor, rewards: Tensor, forced: Collection[int] = ()) -> dict[str, float]:
        """Learn from m architectures that the policy drew.

        choices: (m, decisions), int64. rewards: (m,), finite, higher is better. forced: decisions not drawn. Returns
        the means of entropy, log_prob, switch_kl, switch_rate before the update, advantage (the mean of its absolute
        value), reward, and baseline, that after the update. ValueError where shapes or rewards are unfit.
        """
        if rewards.shape != (len(choices),) or not len(choices) or not bool(rewards.isfinite().all()):
            raise ValueError(f"need a finite reward for each of {len(choices)} architectures, got {rewards}")
        advantages = self.advantages(rewards).float()
        first: Scored | None = None
        with one_thread():
            for _ in range(self.ppo_epochs):
                scored = self.controller.score(choices, forced=forced, switch_target=self.switch_target)
                first = first or Scored(*(value.detach() for value in scored))
                self.adam.zero_grad()
                self._loss(scored, first.log_prob, advantages).backward()  # type: ignore[no-untyped-call]
                if self.grad_clip is not None:
                    nn.utils.clip_grad_norm_(self.controller.parameters(), self.grad_clip)
                if self.eps_outside:
                    steps = 1 + max((int(state["step"]) for state in self.adam.state.values()), default=0)
                    for group in self.adam.param_groups:
                        group["eps"] = self.eps / math.sqrt(1 - group["betas"][1] ** steps)
                self.adam.step()
        assert first is not None
        keep = self.baseline_decay ** len(rewards)
        self._average = keep * self._average + (1 - keep) * rewards.double().mean()
        self._weight = keep * self._weight + (1 - keep)
        means = dict(zip(first._fields, torch.stack(list(first)).mean(1).tolist(), strict=True))
        reward, advantage = float(rewards.double().mean()), float(advantages.abs().mean())
        return {**means, "reward": reward, "advantage": advantage, "baseline": float(self._average / self._weight)}

    def _loss(self, scored: Scored, old_log_prob: Tensor, advantages: Tensor) -> Tensor:
        if self.ppo_clip is None:
            gain = scored.log_prob * advantages
        else:
            ratio = (scored.log_prob - old_log_prob).exp()
            clipped = ratio.clamp(1 - self.ppo_clip, 1 + self.ppo_clip)
            gain = torch.minimum(ratio * advantages, clipped * advantages)
        loss = -gain - self.entropy_weight * scored.entropy
        if self.switch_target is not None:
            loss = loss + self.switch_weight * scored.switch_kl
        return loss.mean()

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that changes, as copies: the controller's parameters, Adam's moments, the baseline."""
        state = {f"controller.{name}": value.clone() for name, value in self.controller.state_dict().items()}
        for name, parameter in self.controller.named_parameters():
            for key, value in self.adam.state[parameter].items():
                state[f"adam.{key}.{name}"] = value.clone()
        state["plan"] = torch.tensor(self.controller.fingerprint)
        return {**state, "baseline.average": self._average.clone(), "baseline.weight": self._weight.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly where `state_dict` was taken. KeyError, RuntimeError: it is of another controller.

        InputError: it is of a controller that makes these decisions by other steps, as an earlier version did.
        """
        old = not any(step.kind == "point" for step in self.controller.steps)  # where steps are what they always were
        if state["plan"].tolist() != self.controller.fingerprint if "plan" in state else not old:
            raise InputError(
                "the policy of this run was trained by a version of nastool that makes a cell's decisions in another "
                "order: go on with that version, or begin anew (--force)"
            )
        prefix = "controller."
        self.controller.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        self.adam.state.clear()
        for name, parameter in self.controller.named_parameters():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"adam.{key}.{name}" in state:
                    self.adam.state[parameter][key] = state[f"adam.{key}.{name}"].clone()
        self._average, self._weight = state["baseline.average"].clone(), state["baseline.weight"].clone()

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
- With *nearness*, a decision for a place prefers those before it that are near, as in ENAS' code for recurrent cells:
  of one that is d places back, the logit is lower by d^2 / 6, and as an input its anchor is divided by 0.1 + d.
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

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nastool.core.space import Conditional, Ordered, SearchSpace, mattering
from nastool.learners.predictors.threads import one_thread as blas_on_one_thread
from nastool.learners.walk import (
    GATES,
    ZERO,
    Backward,
    Choices,
    Decide,
    Floats,
    Index,
    Scores,
    Taken,
    Walk,
    add_at,
    index_of,
    lstm,
    parts_of,
    plan,
    where,
)

FREQUENCY_DRAWS = 256
"""A power of two, so that shares are short numbers."""
INTO = ("input", "state")
"""What a layer of the LSTM reads."""


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
    """The policy: an LSTM without biases, by default of one layer, that makes a space's decisions one after another.

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
        layers: int = 1,
        temperature: float | None = None,
        tanh_constant: float | None = None,
        op_tanh_reduce: float = 1.0,
        init: float = 0.1,
        shared_heads: bool = True,
        nearness: bool = False,
        bias: Callable[[int, str], float] | None = None,
        learnt_bias: Callable[[str], float] | None = None,
        generator: torch.Generator,
    ) -> None:
        """hidden: units of each layer, >= 1. layers: of the LSTM, >= 1. temperature: divides all logits, > 0.

        tanh_constant: then logits become this times their tanh, so none exceeds it, > 0; of ordinary decisions it is
        divided by op_tanh_reduce, > 0 (2.5 in the micro space). None: neither. init: parameters are
        drawn uniformly within +-init, > 0. shared_heads: see `plan`. nearness: see above. bias: of an ordinary
        decision, by its index, and its option, added to the logit last and not learnt; None: 0. learnt_bias: of an
        option, added to its logit before all else, where it begins: it is learnt; None: there is none. ValueError on a
        bad value.
        """
        super().__init__()
        if hidden < 1 or layers < 1:
            raise ValueError(f"need hidden, layers >= 1, got {hidden}, {layers}")
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
        self.nearness = nearness
        order = space.policy_order if isinstance(space, Ordered) else tuple(range(len(space.decisions)))
        self.steps = plan(space.decisions, shared_heads, order)
        self.parts = parts_of(self.steps, space.decisions)
        self.places = {step.place: i for i, step in enumerate(step for step in self.steps if step.place is not None)}
        self.refers = [index_of([self.places[at] for at in step.refers]) for step in self.steps]
        self.columns = [index_of(step.columns) for step in self.steps]
        self.numbers = np.arange(len(self.places))
        self.all_matter = not isinstance(space, Conditional)
        self._last: Walk | None = None

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
        above = {f"from_{what}{i}": matrix(4 * hidden, hidden) for i in range(2, layers + 1) for what in INTO}
        self.above = nn.ParameterDict(above)
        self.matrices = [("from_input", "from_state")]
        self.matrices += [(f"above.from_input{i}", f"above.from_state{i}") for i in range(2, layers + 1)]
        """Of each layer, the lowest first."""
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
        return Scored(*Scores.apply(self, choices.numpy(), counted, switch_target, *self.parameters()))

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

    def _walked(self, choices: Choices) -> Walk:
        """The walk that makes these choices; often it is the last one, in which they were drawn."""
        last = self._last
        as_now = last is not None and all(map(np.array_equal, last.used.values(), self._weights().values()))
        if last is None or not as_now or not np.array_equal(last.choices, choices):
            last = self._last = self._walk(choices.copy(), None)
        return last

    def _weights(self) -> dict[str, Floats]:
        """The parameters as they are, in memory that they share."""
        return {name: parameter.detach().numpy() for name, parameter in self.named_parameters()}

    def _walk(self, choices: Choices, decide: Decide | None, forced: Collection[int] = ()) -> Walk:
        """decide: None: the choices are made; else they are written into `choices`, but for those forced."""
        with blas_on_one_thread():
            w = {name: value.copy() for name, value in self._weights().items()}
            n, size = len(choices), self.hidden
            half, lift = GATES.repeat(size, 1)
            gates = [np.ascontiguousarray(np.concatenate([w[a], w[b]], 1).T) * half for a, b in self.matrices]
            x = start = np.broadcast_to(w["start"], (n, size))
            h = c = [np.zeros((n, size), np.float32)] * len(gates)
            anchors = np.zeros((len(self.places), n, size), np.float32)
            keys = np.zeros_like(anchors)  # W1 times the anchors' states
            matters = None if self.all_matter else mattering(self.space, choices)
            taken: list[Taken] = []
            for step, columns, refers in zip(self.steps, self.columns, self.refers, strict=True):
                state, after = list[Floats](), list[Floats]()
                done = Taken(step, refers, [])
                taken.append(done)
                below = start if step.kind == "input" else x
                for layer, matrix in enumerate(gates):
                    cell, below, over = lstm(below, h[layer], c[layer], matrix, half, lift)
                    done.cells.append(cell)
                    state.append(below)
                    after.append(over)
                if not step.columns:
                    h, c = state, after
                    x = start if step.kind == "anchor" else x
                else:
                    active, there = None, None
                    if matters is not None:
                        matters = mattering(self.space, choices) if decide is not None else matters
                        active = matters[:, columns]
                        done.there = there = None if active.all() else np.any(active, 1, keepdims=True)
                    h = [where(there, *pair) for pair in zip(state, h, strict=True)]
                    c = [where(there, *pair) for pair in zip(after, c, strict=True)]
                    self._scores(done, w, h[-1], keys)
                    if decide is not None:
                        drawn = decide(done.logs, columns)
                        drawn = drawn if active is None else drawn * active
                        if forced:
                            free = [i for i, column in enumerate(step.columns) if column not in forced]
                            choices[:, np.array(step.columns)[free]] = drawn[:, free]
                        else:
                            choices[:, columns] = drawn
                    x = where(there, self._next_input(done, w, choices[:, columns], active, anchors), x)
                done.state = h[-1]
                if step.place is not None:
                    at = self.places[step.place]
                    anchors[at] = 0 if step.kind == "input" else h[-1]
                    keys[at] = h[-1] @ w["attend_anchor"]
        return Walk(choices, w, taken, anchors)

    def _scores(self, done: Taken, w: Mapping[str, Floats], h: Floats, keys: Floats) -> None:
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
        if self.nearness and step.kind == "point":
            logits = logits - _distances(logits.shape[1]) ** 2 / 6
        if step.kind == "select":
            twice = 2 * logits
            on = np.minimum(twice, 0) - np.log1p(np.exp(-np.abs(twice)))
            done.logs = np.stack([on - twice, on], -1)
        else:
            logits = (logits - logits.max(-1, keepdims=True))[:, None]
            done.logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def _next_input(
        self, done: Taken, w: Mapping[str, Floats], picked: Choices, active: NDArray[np.bool_] | None, anchors: Floats
    ) -> Floats:
        step = done.step
        if step.kind == "choose":
            done.picked = picked[:, 0]
            return w[f"embeddings.{step.head}"][done.picked]
        if step.kind == "point":
            done.picked = self.numbers[done.refers][picked[:, 0]]
            found: Floats = anchors[done.picked, np.arange(len(picked))]
            if self.nearness:
                done.shares = (1 / (0.1 + _distances(len(step.refers))[picked])).astype(np.float32)
                found *= done.shares
            return found
        on = (picked if active is None else picked * active).astype(np.float32)
        done.shares = on / (1 + on.sum(1, keepdims=True))
        found = (done.shares.T[..., None] * anchors[done.refers]).sum(0)
        return found

    def _gradients(self, walk: Walk, of_logits: Mapping[int, Floats]) -> dict[str, Floats]:
        """Of a loss by the parameters. of_logits: by the logits (n, k) of each step, by the step's number."""
        w, size, n = walk.used, self.hidden, len(walk.choices)
        found = {name: np.zeros_like(value) for name, value in w.items()}
        layers = [
            Backward([done.cells[i] for done in walk.taken], np.concatenate([w[a], w[b]], 1))
            for i, (a, b) in enumerate(self.matrices)
        ]
        rows = np.arange(n)
        of_anchors, of_keys = np.zeros_like(walk.anchors), np.zeros_like(walk.anchors)
        of_x = np.zeros((n, size), np.float32)
        onto: dict[str, list[tuple[Choices, Floats]]] = {}  # what embeddings were read, and the gradients by them
        attended: list[tuple[Floats, Floats]] = []  # states, and the gradients by what W2 makes of them
        remembered: list[tuple[Floats, Floats]] = []  # the same of W1
        for number in range(len(walk.taken) - 1, -1, -1):
            done = walk.taken[number]
            step, there, of_h = done.step, done.there, layers[-1].of_h
            if step.place is not None:
                at = self.places[step.place]
                remembered.append((done.state, of_keys[at]))
                of_h = of_h + of_keys[at] @ w["attend_anchor"].T
                if step.kind != "input":
                    of_h += of_anchors[at]
            if step.columns:
                of_next, of_x = where(there, of_x, ZERO), where(there, ZERO, of_x)
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
                    add_at(of_keys, done.refers, inner)
                    if step.kind == "point":
                        of_anchors[done.picked, rows] += of_next * done.shares if self.nearness else of_next
                    else:
                        add_at(of_anchors, done.refers, done.shares.T[..., None] * of_next)
            elif step.kind == "anchor":
                found["start"] += of_x.sum(0)
                of_x = np.zeros_like(of_x)
            of_input = layers[-1].step(number, of_h, there)
            for layer in reversed(layers[:-1]):
                of_input = layer.step(number, layer.of_h + of_input, there)
            if step.kind == "input":
                found["start"] += of_input.sum(0)
            else:
                of_x = of_x + of_input
        found["start"] += of_x.sum(0)
        for names, layer in zip(self.matrices, layers, strict=True):
            found |= zip(names, layer.of_matrices(), strict=True)
        for head, reads in onto.items():
            picked, gradients = (np.concatenate(side) for side in zip(*reads, strict=True))
            which = np.arange(len(w[f"embeddings.{head}"]))[:, None] == picked
            found[f"embeddings.{head}"] = which.astype(np.float32) @ gradients
        for name, pairs in (("attend_state", attended), ("attend_anchor", remembered)):
            if pairs:
                states, gradients = (np.concatenate(side) for side in zip(*pairs, strict=True))
                found[name] = states.T @ gradients
        return found


def _distances(options: int) -> Floats:
    """How many places back each is that a decision may point at; the last one is the place before."""
    return np.arange(options, 0, -1, dtype=np.float32)

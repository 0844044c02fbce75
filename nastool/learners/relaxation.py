"""A mixture of options that learns by gradients beside shared weights: the round that all differentiable strategies do.

Decisions with the same number of options are kept as the rows of one matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nastool.core.limits import whole
from nastool.core.space import SearchSpace
from nastool.core.values import Learnt
from nastool.learners.differentiable import MOST_LR, WATCHED_FROM, Sampler, Settings, likely, turned
from nastool.learners.draws import straight_through
from nastool.learners.rounds import MOST_TRIES, members
from nastool.learners.sharing import SKIPS, cells_of, most_skips, weighs

if TYPE_CHECKING:
    from nastool.nets.networks import Selection
    from nastool.training.policies import Trainer

BETAS, EPS = (0.5, 0.999), 1e-8
"""Of Adam, as published."""
NOTHING = frozenset({"none", "zero"})
STEPS_BACK = 4
"""Rounds that a growing eigenvalue takes back."""
POWERS = 20
"""Iterations for an eigenvalue."""


class Relaxation:
    """The weights of options, and how they learn: a `Policy`."""

    def __init__(self, space: SearchSpace, settings: Settings, sampler: Sampler, seed: int) -> None:
        """Options are nearly alike. seed: of what differs at first."""
        self.space = space
        self.settings = settings
        self.sampler = sampler
        generator = torch.Generator().manual_seed(seed)
        self.groups: dict[str, list[int]] = {}
        """Decisions by what they are, "options" or "inputs", and how many there are to choose from."""
        for i, decision in enumerate(space.decisions):
            kind = "inputs" if decision.refers else "options"
            self.groups.setdefault(f"{kind}.{len(decision.options)}", []).append(i)
        self.alpha: dict[str, Tensor] = {}
        for key, rows in self.groups.items():
            drawn = torch.randn(len(rows), int(key.partition(".")[2]), generator=generator)
            self.alpha[key] = (sampler.mean + sampler.spread * drawn).requires_grad_()
        self._moments = {name: {key: torch.zeros_like(a) for key, a in self.alpha.items()} for name in ("m", "v")}
        self._taken = 0
        self.stopped = False
        """Whether a guard has ended the learning of the architecture."""
        self.decided = [-1] * len(space.decisions)
        """Options that perturbation selection has kept."""
        self.eigenvalues: list[float] = []
        self._past: list[dict[str, Tensor]] = []
        """Alpha after the last rounds, the newest last."""
        self._costs: dict[str, list[Tensor]] | None = None

    # --- weights of options

    def alone(self, key: str) -> bool:
        """Whether one option of each of these decisions runs."""
        return self.sampler.alone or key.startswith("inputs")

    def draw(self, progress: float, generator: torch.Generator) -> dict[str, Tensor]:
        """Weights with gradients, by group; what is likeliest in them is a member, if that can be had."""
        space = whole(self.space)
        for _ in range(100):
            drawn = {key: self._draw(key, alpha, progress, generator) for key, alpha in self.alpha.items()}
            if space.is_member(space.arch(self._largest(drawn))):
                break
        return drawn

    def _draw(self, key: str, alpha: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        if key.startswith("inputs") and not self.sampler.alone:
            return straight_through(alpha, 1.0, generator)
        return self.sampler.draw(alpha, progress, generator)

    def _largest(self, weights: Mapping[str, Tensor]) -> list[int]:
        """The option of each decision with the largest weight."""
        found = [0] * len(self.space.decisions)
        for key, rows in self.groups.items():
            for i, best in zip(rows, weights[key].detach().argmax(-1).tolist(), strict=True):
                found[i] = best if self.decided[i] < 0 else self.decided[i]
        return found

    def selection(self, weights: Mapping[str, Tensor], progress: float, *, counted: bool = True) -> Selection:
        """What the supernet runs. counted: weights of options that run alone are counted, too, for their gradients."""
        best = self._largest(weights)
        if self.sampler.alone and not counted:
            return self.space.arch(best)
        chosen: dict[str, str | Mapping[str, Tensor]] = {}
        beside = self.settings.auxiliary_skip * (1 - progress)
        for key, rows in self.groups.items():
            for i, row in zip(rows, weights[key].unbind(), strict=True):
                name, options = self.space.decisions[i].name, self.space.decisions[i].options
                if self.decided[i] >= 0 or (self.alone(key) and not counted):
                    chosen[name] = options[best[i]]
                elif self.alone(key) and not self.space.decisions[i].is_switch:
                    chosen[name] = {options[best[i]]: row[best[i]]}
                else:
                    mixed = dict(zip(options, row.unbind(), strict=True))
                    for option in SKIPS & mixed.keys() if beside and weighs(self.space.decisions[i]) else ():
                        mixed[option] = mixed[option] + beside
                    chosen[name] = mixed
        return chosen

    def _still(self) -> dict[str, Tensor]:
        """The weights without chance."""
        return {
            key: (alpha.softmax(-1) if key.startswith("inputs") else self.sampler.still(alpha))
            for key, alpha in self.alpha.items()
        }

    # --- a round

    def round(self, trainer: Trainer) -> Mapping[str, float]:
        """A step of the architecture and one of the weights, in turns or at once; at the end of single architectures.

        Returns:
            The entropy of the policy (nats), the share of steps in which the architecture learnt, the mean loss that it
            learnt from, and the dominant eigenvalue, if it is looked at.
        """
        number = round(trainer.progress * trainer.rounds)
        left = max(1, trainer.rounds - number)
        single = math.floor(self.settings.single * trainer.rounds)
        if left <= single:
            for child in self.sample(len(trainer.steps), trainer.generator):
                trainer.weights_step([self.space.arch(child)])
            return {"entropy": self.entropy(), "learning": 0.0}
        deciding = left <= math.floor(self.settings.perturbation * trainer.rounds) + single
        if deciding:
            self._decide(left - single, trainer)
        learns = not self.stopped and not deciding and trainer.progress >= self.settings.warmup
        if self.sampler.counts_costs and self._costs is None:
            if costs := trainer.costs():  # none where there is no network
                names = [decision.name for decision in self.space.decisions]
                mixed = {key: rows for key, rows in self.groups.items() if self._mixes(key)}
                self._costs = {key: [costs[names[i]] for i in rows] for key, rows in mixed.items()}
        before = self._copy()
        losses = []
        for _ in trainer.steps:
            if learns and self.settings.levels == 2:
                losses.append(self._look_ahead(trainer))
            losses += self._train(trainer, learns and self.settings.levels == 1)
        found = {"learning": float(learns)}
        if learns:
            found["mixture_loss"] = torch.stack(losses).mean().item()
            found |= self._watch(trainer, number, before)
        return {"entropy": self.entropy(), **found}

    def _mixes(self, key: str) -> bool:
        return key.startswith("options")

    def _look_ahead(self, trainer: Trainer) -> Tensor:
        """A step of the architecture on the validation data. Returns its loss."""
        weights = self.draw(trainer.progress, trainer.generator)
        leaves = _leaves(weights)
        selection = self.selection(leaves, trainer.progress)
        if self.settings.order == 2:
            loss, gradients = trainer.unrolled(selection, list(leaves.values()))
        else:
            loss = trainer.loss(selection, "val")
            gradients = list(torch.autograd.grad(loss, list(leaves.values()), allow_unused=True))
        self._step(weights, gradients, trainer)
        return loss.detach()

    def _train(self, trainer: Trainer, together: bool) -> list[Tensor]:
        """A step of the weights. together: the architecture takes one, too, from the same gradients.

        Returns:
            The loss that the architecture learnt from, if it did.
        """
        weights = self.draw(trainer.progress, trainer.generator)
        if together:
            leaves = _leaves(weights)
            loss = trainer.weights_step([self.selection(leaves, trainer.progress)], gradient=True)
            self._step(weights, [leaf.grad for leaf in leaves.values()], trainer)
            return [loss.detach()]
        still = {key: value.detach() for key, value in weights.items()}
        if self.settings.smoothing:
            still = {key: self._smoothed(key, value, trainer.generator) for key, value in still.items()}
        trainer.weights_step([self.selection(still, trainer.progress, counted=False)])
        return []

    def _smoothed(self, key: str, weights: Tensor, generator: torch.Generator) -> Tensor:
        """With noise, within [0, 1], and of the same sum."""
        if self.alone(key):
            return weights
        noise = self.settings.smoothing * (2 * torch.rand(weights.shape, generator=generator) - 1)
        noisy = (weights + noise).clamp(0, 1)
        return noisy * (weights.sum(-1, keepdim=True) / noisy.sum(-1, keepdim=True).clamp(min=1e-12))

    def _step(self, weights: Mapping[str, Tensor], gradients: Sequence[Tensor | None], trainer: Trainer) -> None:
        """A step of Adam. gradients: of the loss, by weights."""
        total: Any = torch.zeros(())
        for (key, value), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is not None:
                total = total + (value * gradient.detach().to(value.device)).sum()
            if self._mixes(key):
                costs = None if self._costs is None else self._costs[key]
                total = total + self.sampler.extra(self.alpha[key], value, costs, trainer.progress)
                if self.settings.beta_decay:
                    decay = self.settings.beta_decay * trainer.progress
                    total = total + decay * self.alpha[key].logsumexp(-1).mean()
        if not total.requires_grad:
            return
        found = torch.autograd.grad(total, list(self.alpha.values()), allow_unused=True)
        self._taken += 1
        lr, (b1, b2) = self.learning_rate(trainer), BETAS
        rate = lr / (1 - b1**self._taken)
        with torch.no_grad():
            for (key, alpha), gradient in zip(self.alpha.items(), found, strict=True):
                moved = self.settings.weight_decay * alpha
                if gradient is not None:
                    moved = moved + gradient
                m, v = self._moments["m"][key], self._moments["v"][key]
                m.lerp_(moved, 1 - b1)
                v.lerp_(moved.square(), 1 - b2)
                alpha -= rate * m / ((v / (1 - b2**self._taken)).sqrt() + EPS)

    def learning_rate(self, trainer: Trainer) -> float:
        """That of all steps of a search."""
        lr, updates = self.settings.lr, self.settings.updates
        if updates is None:
            return lr
        learning = 1 - self.settings.warmup - self.settings.perturbation - self.settings.single
        steps = len(trainer.steps) * trainer.rounds * learning
        return max(lr, min(MOST_LR, lr * updates / max(1.0, steps)))

    # --- guards

    def _watch(self, trainer: Trainer, number: int, before: dict[str, Tensor]) -> dict[str, float]:
        """Ends the learning where a guard says so. before: alpha before this round. Returns what is to be reported."""
        found: dict[str, float] = {}
        begin = min(WATCHED_FROM, trainer.rounds // 2)
        if self.settings.eigenvalue_stop:
            self.eigenvalues.append(self.eigenvalue(trainer))
            self._past = [*self._past, self._copy()][-1 - STEPS_BACK :]
            found["eigenvalue"] = self.eigenvalues[-1]
            if turned(self.eigenvalues, begin, delta=STEPS_BACK) is not None:
                self._go_back(self._past[0])
        most = self.settings.skip_stop
        if most is not None and not self.stopped and number >= begin:
            if most_skips(self.space, self._preferred(self.alpha)) > most:
                self._go_back(before)
        return found

    def _go_back(self, alpha: Mapping[str, Tensor]) -> None:
        self.stopped = True
        with torch.no_grad():
            for key, value in alpha.items():
                self.alpha[key].copy_(value)

    def eigenvalue(self, trainer: Trainer) -> float:
        """The largest eigenvalue, in absolute value, of the second derivative of a validation loss by alpha."""
        leaves = list(self.alpha.values())
        loss = trainer.loss(self.selection(self._still(), trainer.progress), "val")
        first = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
        used = [(leaf, gradient) for leaf, gradient in zip(leaves, first, strict=True) if gradient is not None]
        if not used:
            return 0.0
        own = [leaf for leaf, _ in used]

        def product(vector: Tensor) -> Tensor:
            parts = torch.split(vector, [leaf.numel() for leaf in own])
            along: Any = sum((g.flatten() * part).sum() for (_, g), part in zip(used, parts, strict=True))
            second = torch.autograd.grad(along, own, retain_graph=True, allow_unused=True)
            return torch.cat(
                [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(own, second, strict=True)]
            )

        return dominant(product, sum(leaf.numel() for leaf in own), trainer.generator)

    def _decide(self, left: int, trainer: Trainer) -> None:
        """Keep what is missed most, of as many decisions as are this round's. left: rounds, this one included."""
        open_ = [i for i, option in enumerate(self.decided) if option < 0]
        count = -(-len(open_) // left)
        order = [open_[i] for i in torch.randperm(len(open_), generator=trainer.generator).tolist()]
        order.sort(key=lambda i: bool(self.space.decisions[i].refers))  # what is read is decided at last
        for i in order[:count]:
            self.decided[i] = self._kept(i, trainer)

    def _kept(self, i: int, trainer: Trainer) -> int:
        """The option of a decision without which the loss is highest; of inputs the one with which it is lowest."""
        decision = self.space.decisions[i]
        with torch.no_grad():
            weights = self._still()
        mixture: Any = self.selection(weights, trainer.progress, counted=False)
        allowed = [o for o, share in enumerate(self.shares()[i]) if share > 0]
        if decision.refers:
            trials = [{**mixture, decision.name: decision.options[o]} for o in allowed]
            return allowed[int(np.argmin(trainer.losses(trials, "val")))]
        rest = mixture[decision.name]
        trials = [
            {**mixture, decision.name: {name: 0 * w if name == decision.options[o] else w for name, w in rest.items()}}
            for o in allowed
        ]
        return allowed[int(np.argmax(trainer.losses(trials, "val")))]

    # --- what is derived

    def shares(self) -> list[list[float]]:
        """How likely each option of each decision is; `none` never, unless it may be derived."""
        found: list[list[float]] = [[] for _ in self.space.decisions]
        for key, weights in self._still().items():
            for i, row in zip(self.groups[key], weights.detach().double().tolist(), strict=True):
                options = self.space.decisions[i].options
                kept = [self.settings.none or option not in NOTHING for option in options]
                row = [p if keep or not any(kept) else 0.0 for p, keep in zip(row, kept, strict=True)]
                found[i] = [p / sum(row) for p in row]
        return found

    def _preferred(self, alpha: Mapping[str, Tensor]) -> list[int]:
        """The likeliest option of each decision at this alpha."""
        own, self.alpha = self.alpha, dict(alpha)
        try:
            return [int(np.argmax(row)) for row in self.shares()]
        finally:
            self.alpha = own

    def entropy(self) -> float:
        """Of an architecture drawn by the shares, nats."""
        return -sum(p * math.log(p) for row in self.shares() for p in row if p > 0)

    def sample(self, count: int, generator: torch.Generator) -> NDArray[np.integer[Any]]:
        """Members only, each decision by itself with the shares of its options."""
        shares = [torch.tensor(row, dtype=torch.float64) for row in self.shares()]

        def draw(n: int) -> list[list[int]]:
            columns = [torch.multinomial(row, n, replacement=True, generator=generator) for row in shares]
            return torch.stack(columns, 1).tolist()

        return np.array(members(self.space, draw, count, generator))

    def candidates(self, count: int, generator: torch.Generator) -> list[tuple[int, ...]]:
        """The likeliest members within the skip cap, no two equivalent; what is missing is drawn."""
        found: dict[str, tuple[int, ...]] = {}
        cap = self.settings.skip_cap

        def take(choices: Sequence[int]) -> bool:
            """Whether there are enough."""
            arch = self.space.arch(choices)
            if (cap is None or most_skips(self.space, choices) <= cap) and self.space.is_member(arch):
                found.setdefault(self.space.canonical(arch), arch.choices)
            return len(found) >= count

        if all(option >= 0 for option in self.decided):
            take(self.decided)
        shares = self.shares()
        enough = any(map(take, islice(likely(shares), 20 * count + 100)))
        if not enough and cap is not None:
            enough = any(map(take, islice(likely(self._capped(shares, cap)), 20 * count + 100)))
        for _ in range(0 if enough else MOST_TRIES):
            if any(map(take, self.sample(count, generator).tolist())):
                break
        return list(found.values()) or [tuple(self.sample(1, generator)[0].tolist())]

    def _capped(self, shares: Sequence[Sequence[float]], cap: int) -> list[list[float]]:
        """With so many skip connections in each cell, where they are the likeliest, and none elsewhere."""
        found = [list(row) for row in shares]
        cells: dict[int, list[tuple[float, int, int]]] = {}
        for i, (decision, cell) in enumerate(zip(self.space.decisions, cells_of(self.space.decisions), strict=True)):
            for option in SKIPS & set(decision.options) if weighs(decision) else ():
                k = decision.options.index(option)
                other = max(share for n, share in enumerate(found[i]) if n != k)
                if other > 0:
                    cells.setdefault(cell, []).append((found[i][k] / other, i, k))
        for ratios in cells.values():
            for _, i, k in sorted(ratios, reverse=True)[cap:]:
                found[i][k] = 0.0
        return found

    def conclude(self, rounds_left: int, generator: torch.Generator) -> Learnt:
        """What is likeliest, and how likely each option is; after the last round also the candidates."""
        frequencies = tuple(map(tuple, self.shares()))
        found = self.candidates(1 if rounds_left else self.settings.candidates, generator)
        return Learnt(found[0], rounds_left, None if rounds_left else tuple(found), frequencies)

    # --- what is kept

    def _copy(self) -> dict[str, Tensor]:
        return {key: alpha.detach().clone() for key, alpha in self.alpha.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """All that changes, as copies."""
        state = {f"alpha.{key}": value for key, value in self._copy().items()}
        state |= {f"{name}.{key}": value.clone() for name, all_ in self._moments.items() for key, value in all_.items()}
        for i, past in enumerate(self._past):
            state |= {f"past{i}.{key}": value.clone() for key, value in past.items()}
        return {
            **state,
            "taken": torch.tensor(self._taken),
            "stopped": torch.tensor(self.stopped),
            "decided": torch.tensor(self.decided),
            "eigenvalues": torch.tensor(self.eigenvalues, dtype=torch.float64),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on exactly where `state_dict` was taken. KeyError or RuntimeError: it is of another policy."""
        with torch.no_grad():
            for key, alpha in self.alpha.items():
                alpha.copy_(state[f"alpha.{key}"])
        for name, moments in self._moments.items():
            for key, value in moments.items():
                value.copy_(state[f"{name}.{key}"])
        self._taken, self.stopped = int(state["taken"]), bool(state["stopped"])
        self.decided = state["decided"].tolist()
        self.eigenvalues = state["eigenvalues"].tolist()
        kept = sum(f"past{i}.{next(iter(self.alpha))}" in state for i in range(STEPS_BACK + 1))
        self._past = [{key: state[f"past{i}.{key}"].clone() for key in self.alpha} for i in range(kept)]


def _leaves(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that gradients end at."""
    return {key: value.detach().clone().requires_grad_() for key, value in weights.items()}


def dominant(product: Callable[[Tensor], Tensor], size: int, generator: torch.Generator) -> float:
    """The largest eigenvalue, in absolute value, of a symmetric matrix, by power iteration.

    Args:
        product: A vector (size,) times the matrix.
        size: Its number of rows.
        generator: Source of the vector that it begins with.
    """
    vector = torch.randn(size, generator=generator)
    value = 0.0
    for _ in range(POWERS):
        vector = vector / vector.norm().clamp(min=1e-30)
        image = product(vector)
        before, value = value, float(image.norm())
        if abs(value - before) <= 1e-5 * value:
            break
        vector = image
    return value

"""Strategies that learn mixtures of options by gradients: what they share, their options and how they are derived."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nastool.core.limits import limits_of
from nastool.core.space import SearchSpace
from nastool.learners.rounds import Rounds

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nastool.learners.relaxation import Relaxation

LR = 0.0003
"""Adam's learning rate of the architecture in all of the published searches."""
MOST_LR = 0.05
"""The learning rate of a search with few steps at most."""
SKIP_CAP = 2
"""Skip connections of a candidate's cell at most."""
SINGLE = 0.3
"""Share of rounds in which single architectures train the weights, where mixtures did before."""
WATCHED_FROM = 10
"""The round after which a guard may end the learning; half of the rounds, if that is earlier."""


class Sampler:
    """How options are weighed: all that tells one differentiable strategy from another.

    It is made of the strategy's own options, by their names.
    """

    alone: ClassVar[bool] = False
    """Whether one option of each decision runs, that of the largest weight; else all run."""
    counts_costs: bool = False
    """Whether `extra` is to be given costs."""
    mean: ClassVar[float] = 0.0
    """Of alpha at first; its standard deviation is `spread`."""
    spread: ClassVar[float] = 0.001

    def draw(self, alpha: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        """The weights of options, with gradients.

        Args:
            alpha: What is learnt, (n, options), of n decisions.
            progress: Share of all steps that were taken, in [0, 1].
            generator: Source of draws.
        """
        return self.still(alpha)

    def still(self, alpha: Tensor) -> Tensor:
        """The same without chance, as its mean or as near as can be; rows are the larger the likelier an option is."""
        return alpha.softmax(-1)

    def extra(self, alpha: Tensor, weights: Tensor, costs: Sequence[Tensor] | None, progress: float) -> Tensor | float:
        """What is added to the loss of the architecture, a scalar.

        Args:
            alpha: As of `draw`.
            weights: What `draw` made of it.
            costs: For each of the n decisions, as of `Trainer.costs`.
            progress: As of `draw`.
        """
        return 0.0


@dataclass(frozen=True)
class Settings:
    """What a mixture is and how it learns; the options of `Differentiable` of the same names.

    updates: number of steps for which lr is meant; fewer take a larger one; None: it is what it is. sampler: the
    options of the strategy itself.
    """

    candidates: int
    lr: float
    updates: int | None
    weight_decay: float
    warmup: float
    levels: int
    none: bool
    skip_cap: int | None
    skip_stop: int | None
    eigenvalue_stop: bool
    perturbation: float
    single: float
    beta_decay: float
    smoothing: float
    auxiliary_skip: float
    order: int = 1
    sampler: Mapping[str, Any] = field(default_factory=dict)


class Differentiable(Rounds):
    """Options are weighed, and the weights learn by gradients; what is likeliest at the end is scored.

    A mixture runs every option of a decision, and takes as much memory and time as all of them. Decisions that say
    where something comes from (inputs of blocks, skip connections that are on or off) are not mixed: one option is
    drawn by Gumbel's trick and has a straight-through gradient, as in GDAS. A number or word that changes shapes
    (`choose.value`) can be neither, so spaces with such decisions are refused.
    """

    goes_with = {"space": "nasbench201", "evaluator": "supernet"}  # noqa: RUF012  # a ClassVar in Strategy
    settings: Settings
    sampler: ClassVar[type[Sampler]]
    updates: ClassVar[int] = 19_550
    """Steps of the published search: 50 epochs of half of CIFAR-10 in batches of 64."""
    levels: ClassVar[int] = 2
    none: ClassVar[bool] = False
    single: ClassVar[float] = SINGLE

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        candidates: int = 100,
        lr: float | None = None,
        weight_decay: float = 0.001,
        warmup: float = 0.0,
        levels: int | None = None,
        order: int = 1,
        none: bool | None = None,
        skip_cap: int | None = None,
        skip_stop: int | None = None,
        eigenvalue_stop: bool = False,
        perturbation: float = 0.0,
        single: float | None = None,
        beta_decay: float = 0.0,
        smoothing: float = 0.0,
        auxiliary_skip: float = 0.0,
        preset: Literal["published"] | None = None,
        **own: Any,
    ) -> None:
        """Makes a strategy whose options are nearly alike in weight.

        Args:
            candidates: Number of architectures scored at the end, the likeliest ones, in [1, 10000]; 1 is what the
                published codes do, and what is to be avoided: the likeliest one is often not the best.
            lr: Learning rate of Adam for the architecture, in (0, 1]; by default 0.0003 for as many steps as the
                published search has. For n times fewer steps it is n times as large, so that weights may become as
                different, at most 0.05.
            weight_decay: Of the architecture, in [0, 1].
            warmup: Share of rounds, in [0, 1), in which the weights are trained and the architecture is left as it is.
            levels: 2: the architecture learns from the validation data, the weights from the training data, in turns;
                1: both learn from the same minibatch of the training data in one step. By default as published.
            order: 1: the architecture's gradient is that of the validation loss at the weights as they are; 2: after a
                step that they would take, by finite differences (DARTS, equations 7 and 8), for five passes instead of
                one.
            none: Whether `none` may be what is derived; by default as published for cells of CNNs: for snas alone.
            skip_cap: Skip connections of a cell of a candidate at most, in [0, 1000] (P-DARTS, Chen et al. 2019); by
                default 2. A large number or preset=published leaves it out.
            skip_stop: After the first round in which more than so many skip connections of a cell are likeliest, in [0,
                1000], the architecture goes back to what it was before that round, and stays so (DARTS+, Liang et al.
                2019; there 2); looked at from round 10 on, or from half of the rounds. By default not.
            eigenvalue_stop: The architecture goes back to what it was 4 rounds ago, and stays so, when the dominant
                eigenvalue of the validation loss' second derivative by alpha becomes 1.3 times as large within 4 rounds
                (means of 5 each), from the same round on (DARTS-ES, Zela et al. 2020). Takes the memory of a second
                derivative.
            perturbation: Share of rounds at the end, in [0, 1), in which decisions are made one after the other, in
                random order: what is kept is the option without which the validation loss is highest, and the
                others are trained with it (DARTS-PT, Wang et al. 2021). That is the first candidate.
            single: Share of rounds at the end, in [0, 1), in which the architecture is left as it is and each step of
                the weights takes one architecture drawn by it: with weights that learnt in mixtures alone a single one
                may be hardly better than chance, and its score says nothing. By default 0.3; 0 for gdas, and for snas,
                whose mixtures are nearly single at the end; 0 with perturbation or preset=published.
            beta_decay: Weight at the end, in [0, 1000], of the mean logarithm of sums of exp(alpha), which keeps
                options alike; it grows linearly from 0 (beta-DARTS, Ye et al. 2022; there 50).
            smoothing: Half the range of the noise, in [0, 1], that is added to the weights of options where the shared
                weights learn (SDARTS-RS, Chen & Hsieh 2020; there 0.03).
            auxiliary_skip: Weight at first, in [0, 10], of one more skip connection beside each mixture that has one;
                it falls to 0 linearly, and is in no network that is derived (DARTS-, Chu et al. 2021; there 1).
            preset: published: lr is not made larger, and there is no skip_cap; give candidates=1 for the architecture
                that the published code derives.
        """
        super().__init__(space, seed=seed)
        published = preset == "published"
        self.settings = Settings(
            candidates=candidates,
            lr=LR if lr is None else lr,
            updates=self.updates if lr is None and not published else None,
            weight_decay=weight_decay,
            warmup=warmup,
            levels=self.levels if levels is None else levels,
            none=self.none if none is None else none,
            skip_cap=SKIP_CAP if skip_cap is None and not published else skip_cap,
            skip_stop=skip_stop,
            eigenvalue_stop=eigenvalue_stop,
            perturbation=perturbation,
            single=(0.0 if perturbation or published else self.single) if single is None else single,
            beta_decay=beta_decay,
            smoothing=smoothing,
            auxiliary_skip=auxiliary_skip,
            order=order,
            sampler=own,
        )
        self.sampler(**own)  # says what is wrong with them
        self._check()
        if limits_of(space) is not None:
            self.notes = (f"{self.name} trains mixtures of all options; only its candidates are within --limit",)

    @classmethod
    def make_policy(cls, space: SearchSpace, options: Mapping[str, Any], seed: int) -> Relaxation:
        from nastool.learners.relaxation import Relaxation

        settings = Settings(**options)
        return Relaxation(space, settings, cls.sampler(**settings.sampler), seed)

    def _check(self) -> None:
        """ValueError names what is out of its range."""
        given = dataclasses.asdict(self.settings)
        for name, low, high in (
            ("candidates", 1, 10_000),
            ("weight_decay", 0, 1),
            ("levels", 1, 2),
            ("skip_cap", 0, 1000),
            ("skip_stop", 0, 1000),
            ("beta_decay", 0, 1000),
            ("smoothing", 0, 1),
            ("auxiliary_skip", 0, 10),
            ("order", 1, 2),
        ):
            if given[name] is not None and not low <= given[name] <= high:
                raise ValueError(f"need {low:,} <= {name} <= {high:,}, got {given[name]}")
        if not 0 < self.settings.lr <= 1:
            raise ValueError(f"need 0 < lr <= 1, got {self.settings.lr}")
        for name in ("warmup", "perturbation", "single"):
            if not 0 <= given[name] < 1:
                raise ValueError(f"need 0 <= {name} < 1, got {given[name]}")
        if not given["warmup"] + given["perturbation"] + given["single"] < 1:
            raise ValueError("warmup, perturbation and single leave no rounds for the architecture to learn in")
        if self.settings.order == 2 and self.settings.levels == 1:
            raise ValueError("order=2 looks a step of the weights ahead on the validation data: it needs levels=2")
        alone = ("perturbation", "smoothing", "auxiliary_skip") if self.sampler.alone else ()
        if wrong := [name for name in alone if given[name]]:
            raise ValueError(f"{wrong[0]} changes mixtures, and {self.name} runs one option alone: leave it out")


def likely(shares: Sequence[Sequence[float]]) -> Iterator[tuple[int, ...]]:
    """Option indices of all decisions, the likeliest first; what has no probability never comes.

    Args:
        shares: The probability of each option of each decision, independent of the others.
    """
    ranked = [sorted((i for i, share in enumerate(row) if share > 0), key=lambda i: (-row[i], i)) for row in shares]
    losses = [[math.log(row[order[0]] / row[i]) for i in order] for row, order in zip(shares, ranked, strict=True)]
    first = (0,) * len(ranked)
    heap, seen = [(0.0, first)], {first}
    while heap:
        loss, ranks = heapq.heappop(heap)
        yield tuple(order[rank] for order, rank in zip(ranked, ranks, strict=True))
        for i, rank in enumerate(ranks):
            if rank + 1 < len(ranked[i]):
                after = (*ranks[:i], rank + 1, *ranks[i + 1 :])
                if after not in seen:
                    seen.add(after)
                    heapq.heappush(heap, (loss - losses[i][rank] + losses[i][rank + 1], after))


def turned(values: Sequence[float], begin: int, *, window: int = 5, delta: int = 4, factor: float = 1.3) -> int | None:
    """The round to go back to after the last of these; None: go on (early stopping of Zela et al., ICLR 2020).

    Args:
        values: Dominant eigenvalues, of rounds 0, 1, ...
        begin: The first round after which it may stop.
        window: Rounds whose eigenvalues are averaged, up to each.
        delta: How many rounds back the mean is compared with.
        factor: It has grown if it is more than so many times as large.
    """
    last = len(values) - 1
    if last < max(begin, delta):
        return None

    def mean(t: int) -> float:
        part = values[max(0, t - window + 1) : t + 1]
        return sum(part) / len(part)

    return last - delta if mean(last) > factor * mean(last - delta) else None

"""Neural ensemble search via Bayesian sampling: Shu et al., UAI 2022, arXiv 2109.02533."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Learnt
from nastool.ensembles.posterior import Choices, Factorised, Floats, distinct, fitted, stein_set
from nastool.learners import rounds
from nastool.learners.rounds import Rounds

if TYPE_CHECKING:
    import torch

    from nastool.training.policies import Trainer

WORST = 700.0
"""Loss that stands for one that is no number."""
MANY = 20
"""So many are drawn at once in place of members that repeat others."""


@dataclass(frozen=True)
class Settings:
    """How the posterior is fitted and sets are drawn; the options of `NESBS` of the same names."""

    members: int
    sampler: Literal["mc", "svgd-rd"]
    delta: float
    sets: int
    steps: int
    children: int
    lr: float
    examples: float

    @property
    def candidates(self) -> int:
        """How many are scored at the end: the members of the best set."""
        return self.members


class NESBS(Rounds):
    """An ensemble is drawn from a posterior over architectures that is fitted to what shared weights say of them.

    Each round is one epoch of weights that all architectures share, each minibatch on one that is drawn uniformly.
    After the last the weights stay, and the posterior p(a|D) is approximated by one in which decisions are independent:
    stochastic ascent of the evidence lower bound, where the log likelihood of an architecture is minus its validation
    loss times `examples`. Sets of so many `members` are drawn from it, by Monte Carlo, or by Stein variational gradient
    descent with regularised diversity, each set's particles together. Each set is scored with the shared weights by the
    loss of its mean prediction on all validation data, and the members of the best are the last trials; what is trained
    from scratch at the end, each with another seed, is the ensemble. Whatever is scored is part of the search's time.

    Deviations: the published numbers of steps, learning rates and of the relaxation's width are not known; here
    the bound's gradient is that of the expectation under the posterior itself, by the score function, not of a sum over
    a fixed sample of architectures.
    """

    name = "nesbs"
    settings: Settings
    goes_with = {"space": "macro-cnn", "evaluator": "supernet"}  # noqa: RUF012  # a ClassVar in Strategy

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        members: int = 3,
        sampler: Literal["mc", "svgd-rd"] = "svgd-rd",
        delta: float = 0.0,
        sets: int = 10,
        steps: int = 100,
        children: int = 20,
        lr: float = 0.2,
        examples: float = 300.0,
    ) -> None:
        """Makes a strategy.

        Args:
            members: Number of networks whose mean is the result, in [1, 1000].
            sampler: How a set is drawn: each member by itself (mc), or all together, held apart (svgd-rd).
            delta: With svgd-rd how much diversity is worth, in [-100, 100]: 0 is plain Stein variational gradient
                descent, -0.5 seeks the likeliest alone, and the larger it is the more members differ.
            sets: How many sets are scored, in [1, 10000].
            steps: Number of steps of the posterior, in [0, 100000]; 0 leaves it uniform.
            children: Number of architectures that are looked at for each step, on one minibatch, in [2, 10000].
            lr: Learning rate of the first of these steps, in (0, 10], of logits; falls to 0.
            examples: How many validation examples' evidence counts, in [0, 1e9]: with more the posterior is narrower.
        """
        super().__init__(space, seed=seed)
        self.settings = Settings(members, sampler, delta, sets, steps, children, lr, examples)
        self.members = members
        _check(self.settings)

    @classmethod
    def make_policy(cls, space: SearchSpace, options: Mapping[str, Any], seed: int) -> NESBSPolicy:
        return NESBSPolicy(space, Settings(**options))


class NESBSPolicy:
    """The posterior: uniform until the weights are trained."""

    def __init__(self, space: SearchSpace, settings: Settings) -> None:
        self.space = space
        self.settings = settings
        self.posterior = Factorised.uniform([len(decision.options) for decision in space.decisions])
        self.chosen: list[tuple[int, ...]] = []
        """The members of the best set; before there is one an architecture of the last step."""

    def round(self, trainer: Trainer) -> Mapping[str, float]:
        """An epoch of uniform sampling; after the last the posterior and the best of the sets that are drawn from it.

        Returns:
            The posterior's entropy, nats; in the end also "set_loss", that of the best set's mean prediction, and
            "member_loss", the mean of its members' losses.
        """
        rng = _numpy(trainer.generator)
        for _ in trainer.steps:
            child = self.space.sample(rng)
            trainer.weights_step([child])
        self.chosen = [child.choices]
        found = self.fit(trainer) if trainer.progress >= 1 else {}
        return {"entropy": self.posterior.entropy(), **found}

    def fit(self, trainer: Trainer) -> Mapping[str, float]:
        """Fit the posterior, draw sets, and take the best. Returns its loss and the mean of its members' losses."""
        settings, rng = self.settings, _numpy(trainer.generator)

        def log_likelihood(choices: Choices) -> Floats:
            """On a minibatch."""
            archs = [self.space.arch(row) for row in choices.tolist()]
            rewards = np.array(trainer.rewards(archs, "val", likelihood=True))
            found: Floats = settings.examples * np.log(np.maximum(rewards, math.exp(-WORST)))
            return found

        self.posterior = fitted(
            [len(decision.options) for decision in self.space.decisions],
            lambda posterior: self._draw(posterior, settings.children, rng, trainer.generator),
            log_likelihood,
            settings.steps,
            settings.lr,
        )
        sets = [self.one_set(rng, trainer.generator) for _ in range(settings.sets)]
        archs = [[self.space.arch(member) for member in each] for each in sets]
        losses = trainer.mean_losses(archs, "val")
        best = int(np.argmin([loss if math.isfinite(loss) else WORST for loss in losses]))
        self.chosen = sets[best]
        alone = trainer.mean_losses([[arch] for arch in archs[best]], "val")
        return {"set_loss": losses[best], "member_loss": float(np.mean(alone))}

    def one_set(self, rng: np.random.Generator, generator: torch.Generator) -> list[tuple[int, ...]]:
        """Members of the space, no two equivalent; fewer than `members` where there are hardly any more."""
        settings, space = self.settings, self.space
        if settings.sampler == "mc":
            drawn = self._draw(self.posterior, settings.members, rng, generator).tolist()
        else:
            drawn = stein_set(self.posterior, settings.members, settings.delta, rng).tolist()
        archs = [arch for arch in map(space.arch, drawn) if space.is_member(arch)]
        more: list[Arch] = []

        def another() -> tuple[int, ...]:
            if not more:
                again = self._draw(self.posterior, max(settings.members, MANY), rng, generator)
                more.extend(map(space.arch, again.tolist()))
            return more.pop().choices

        def key(choices: tuple[int, ...]) -> str:
            return space.canonical(space.arch(choices))

        return distinct([arch.choices for arch in archs], settings.members, another, key)

    def _draw(self, posterior: Factorised, count: int, rng: np.random.Generator, generator: torch.Generator) -> Choices:
        return np.array(rounds.members(self.space, lambda n: posterior.sample(n, rng).tolist(), count, generator))

    def sample(self, count: int, generator: torch.Generator) -> NDArray[np.integer[Any]]:
        """Members only, see `rounds.members`."""
        return self._draw(self.posterior, count, _numpy(generator), generator)

    def conclude(self, rounds_left: int, generator: torch.Generator) -> Learnt:
        """How likely each option is; after the last round the members of the best set as candidates."""
        options = [len(decision.options) for decision in self.space.decisions]
        shares = [row[:n].tolist() for row, n in zip(self.posterior.shares, options, strict=True)]
        candidates = None if rounds_left else tuple(self.chosen)
        return Learnt(self.chosen[0], rounds_left, candidates, tuple(map(tuple, shares)))

    def state_dict(self) -> dict[str, torch.Tensor]:
        import torch

        chosen = torch.tensor(self.chosen, dtype=torch.int64).reshape(-1, len(self.space.decisions))
        return {"shares": torch.from_numpy(self.posterior.shares.copy()), "chosen": chosen}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.posterior = Factorised(state["shares"].double().numpy().copy())
        self.chosen = list(map(tuple, state["chosen"].tolist()))


def _numpy(generator: torch.Generator) -> np.random.Generator:
    """A generator that follows from the next number of a given one."""
    import torch

    return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))


def _check(settings: Settings) -> None:
    """ValueError names what is out of its range."""
    ranges: Sequence[tuple[str, float, float]] = (
        ("members", 1, 1000),
        ("delta", -100, 100),
        ("sets", 1, 10_000),
        ("steps", 0, 100_000),
        ("children", 2, 10_000),
        ("examples", 0, 1e9),
    )
    for name, low, high in ranges:
        if not low <= (value := getattr(settings, name)) <= high:
            raise ValueError(f"need {low:g} <= {name} <= {high:,g}, got {value:g}")
    if not 0 < settings.lr <= 10:
        raise ValueError(f"need 0 < lr <= 10, got {settings.lr:g}")
    if settings.delta and settings.sampler == "mc":
        raise ValueError("delta is what sampler=svgd-rd holds members apart by: leave one of the two out")

"""Neural architecture search with reinforcement learning: Zoph & Le, ICLR 2017, arXiv 1611.01578."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from nastool.core.errors import short
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Arch, Proposal, Trial

if TYPE_CHECKING:
    import torch

DRAWS = ((8, 1.0), (64, 1.0), (64, 1.5), (64, 2.0), (64, 4.0), (64, 8.0))
"""Numbers of architectures that the policy draws at a time, and how flat it is made, until one is a member and new."""

FREQUENCIES_EVERY = 10
"""After how many trials the policy says what it draws, for reports."""


@runtime_checkable
class Deep(Protocol):
    """A space with a decision on how many layers there are."""

    depth: str
    """Its name."""


class Reinforce(Strategy):
    """A recurrent controller learns by policy gradient which decisions lead to good architectures.

    The controller (`nastool.learners.controller`) makes the space's decisions one after another. After every `batch`
    results it is updated by REINFORCE with a moving average of the rewards as baseline, or by its clipped variant.

    With `replicas` it is the paper's asynchronous training: so many replicas of the controller at a time, each of which
    takes the policy as it is, draws `batch` architectures and, once all of these are back, sends its gradient. Nobody
    waits for another replica, so gradients are of policies that are some updates old, their staleness, which the
    report shows. As many replicas as workers keep all of these at work; 1 is the serial loop, whatever the number of
    workers. The parameters are in one place, since shards of them change nothing but their place: Adam steps tensor by
    tensor.

    Deviations: the controller is that of ENAS' code; without `replicas` an update takes the next results that come,
    whichever policy drew them; rewards are by default free of the objective's unit, where the paper has
    `reward=cube`; there is an entropy bonus. A trial that failed counts as the worst result so far. With `dedup` only
    new architectures are measured: the policy draws until one is, flattened step by step where it has little new to
    offer (at last one is drawn uniformly), and learns as if that had been its first draw. So what it learns from
    follows the policy truncated to what is new (or, in spaces with rules, to members).
    """

    name = "reinforce"

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        batch: int = 1,
        lr: float = 0.01,
        hidden: int = 64,
        reward: Literal["rank", "value", "cube"] = "rank",
        entropy_weight: float = 0.03,
        baseline_decay: float = 0.95,
        beta1: float = 0.9,
        temperature: float | None = None,
        tanh_constant: float | None = None,
        ppo_clip: float | None = None,
        ppo_epochs: int = 1,
        dedup: bool = True,
        depth_start: int | None = None,
        depth_step: int = 2,
        depth_every: int = 1600,
        replicas: int | None = None,
        staleness: Literal["scale", "drop", "weigh"] = "weigh",
        layers: int = 1,
    ) -> None:
        """Makes a strategy with a controller as it is initialised.

        The defaults were chosen on NAS-Bench-201's CIFAR-100.

        Args:
            batch: Number of results an update learns from, the paper's m, in [1, 1000].
            lr: Learning rate of Adam, > 0.
            beta1: Decay of Adam's first moment, in [0, 1).
            hidden: Units of each layer of the LSTM, in [1, 1000].
            reward: rank: the fraction of all results so far that are worse, less that of those better; value: how many
                standard deviations of these it is better than their mean; cube: the objective to the power of 3, or of
                one that is minimised its negative, as the paper has it of accuracies.
            entropy_weight: Weight of the entropy, per nat, >= 0.
            baseline_decay: Decay of the moving average of rewards, per result, in [0, 1).
            temperature: Divisor of the logits, > 0.
            tanh_constant: Bound of the logits, > 0.
            ppo_clip: Bound of the change of probabilities, in (0, 1); with it every update takes ppo_epochs steps.
            ppo_epochs: Number of steps of an update with ppo_clip, in [1, 100].
            dedup: Compare canonical forms with all earlier proposals.
            depth_start: Depth of the first networks, >= 1, in a space with a decision on depth, which then is not
                learned: trial n has the depth depth_start + depth_step * (n // depth_every), or the nearest below that
                there is (once its architectures are used up, any).
            depth_step: Growth of the depth, see depth_start, >= 0.
            depth_every: Number of trials of the same depth, see depth_start, >= 1.
            replicas: Number of batches that are measured at a time, the paper's K, in [1, 1000], each drawn by one
                policy and learnt from as a whole; what has no place in them waits. none: nothing waits.
            staleness: What is made of a gradient that comes t updates late, with replicas. scale: it is divided by
                1 + t; drop: it is left out if t > 2 replicas, else taken as it is; weigh: it is taken where the policy
                is by now, each architecture with importance weight, at most 1.5.
            layers: Number of layers of the LSTM, in [1, 10]; the paper's has 2 of 35 units.
        """
        super().__init__(space, seed=seed)
        if not 1 <= batch <= 1000:
            raise ValueError(f"need 1 <= batch <= 1000, got {short(batch)}")
        if not 1 <= hidden <= 1000 or not 1 <= ppo_epochs <= 100:
            raise ValueError(f"need 1 <= hidden <= 1000, 1 <= ppo_epochs <= 100, got {hidden}, {ppo_epochs}")
        if not 1 <= layers <= 10:
            raise ValueError(f"need 1 <= layers <= 10, got {short(layers)}")
        if depth_step < 0 or depth_every < 1 or (depth_start is not None and depth_start < 1):
            raise ValueError(
                "need depth_start >= 1, depth_step >= 0, depth_every >= 1, "
                f"got {depth_start}, {depth_step}, {depth_every}"
            )
        if replicas is not None and not 1 <= replicas <= 1000:
            raise ValueError(f"need 1 <= replicas <= 1000, got {short(replicas)}")
        if replicas is not None and replicas > 1 and ppo_clip is not None:
            raise ValueError(f"several replicas go without ppo_clip, got {replicas}, {ppo_clip}")
        self.batch = batch
        self.replicas = replicas
        self.staleness = staleness
        self.reward = reward
        self.dedup = dedup
        self.depth_start = depth_start
        self.depth_step = depth_step
        self.depth_every = depth_every
        self._depth_column, self._depths = -1, [0]
        if depth_start is not None:
            names = [decision.name for decision in space.decisions]
            if not isinstance(space, Deep) or space.depth not in names:
                raise ValueError(f"space {space.name} has no decision on its depth: leave out depth_start")
            self._depth_column = names.index(space.depth)
            self._depths = [int(option) for option in space.decisions[self._depth_column].options]

        from nastool.learners.controller import Controller
        from nastool.learners.policy_gradient import PolicyGradient

        self.controller = Controller(
            space,
            hidden=hidden,
            layers=layers,
            temperature=temperature,
            tanh_constant=tanh_constant,
            generator=self._generator(),
        )
        self.learner = PolicyGradient(
            self.controller,
            lr=lr,
            betas=(beta1, 0.999),
            entropy_weight=entropy_weight,
            baseline_decay=baseline_decay,
            ppo_clip=ppo_clip,
            ppo_epochs=ppo_epochs,
        )
        self.seen: set[str] = set()
        self._losses: list[float] = []  # all so far, sorted; infinite where failed
        self._finite = 0
        self._mean = self._squares = 0.0  # of the finite ones; the sum of squared deviations
        self.version = 0
        """How many updates the policy has had."""
        self.late: Counter[int] = Counter()
        """By how many updates gradients came late, with replicas: how often each."""
        self._told: dict[int | None, list[Trial]] = {}  # by number of the batch, until it is whole
        self._drawn_by: dict[int, int] = {}  # batch that is not learnt from yet -> version
        self._batches_of: Counter[int] = Counter()  # version -> how many these are
        self._policies: dict[int, Mapping[str, torch.Tensor]] = {}  # earlier versions that these are of

    # --- the loop

    def propose(self) -> Proposal | None:
        version, notes = self.version, dict[str, Any]()
        if self.replicas is not None:
            if self.asked % self.batch:
                version = self._drawn_by[self.asked // self.batch]
            elif len(self._drawn_by) == self.replicas:
                return None
            notes = {"batch": self.asked // self.batch, "version": version}
        with self.learner.policy(self._policies.get(version)):
            arch = self._draw()
            if arch is None:
                return None
            if self.asked % FREQUENCIES_EVERY == 0:
                notes["frequencies"] = list(map(list, self.controller.frequencies(self._forced(self.asked))))
                if self.late:
                    notes["staleness"] = {str(updates): count for updates, count in sorted(self.late.items())}
        return Proposal(arch, notes=notes)

    def ask(self) -> Proposal | None:
        proposal = super().ask()
        if proposal is not None:
            self._out(proposal)
        return proposal

    def _out(self, proposal: Proposal) -> None:
        """Take in that this proposal is out, of which batch, and who drew it."""
        number: Any = proposal.notes.get("batch")
        version: Any = proposal.notes.get("version")
        if self.replicas is not None and number not in self._drawn_by:
            self._drawn_by[number] = version
            self._batches_of[version] += 1

    def remember(self, proposal: Proposal) -> None:
        super().remember(proposal)
        if self.dedup:
            self.seen.add(self.space.canonical(proposal.arch))

    def tell(self, trial: Trial) -> None:
        number: Any = None if self.replicas is None else trial.proposal.notes["batch"]
        batch = self._told.setdefault(number, [])
        batch.append(trial)
        if len(batch) < self.batch:
            return
        del self._told[number]
        if self.replicas is None:
            self._learn(batch, self.version)
        else:  # whichever came first
            self._learn(sorted(batch, key=lambda trial: trial.id), self._back(number))

    def _back(self, number: int) -> int:
        """Take in that this batch is back, and return the version that drew it."""
        version = self._drawn_by.pop(number)
        self._batches_of[version] -= 1
        self.late[self.version - version] += 1
        return version

    def _learn(self, trials: Sequence[Trial], version: int) -> None:
        import torch

        for trial in trials:
            self._count(trial.loss)
        late, factor = self.version - version, None
        if late and self.staleness != "weigh":
            factor = 1.0 if self.staleness == "drop" else 1 / (1 + late)
        drawn_by = self._policies.get(version)
        if not self._batches_of[version]:
            self._policies.pop(version, None)
            del self._batches_of[version]
        if self.replicas is not None and self.staleness == "drop" and late > 2 * self.replicas:
            return
        choices = torch.tensor([trial.proposal.arch.choices for trial in trials])
        rewards = torch.tensor([self._reward(trial.loss) for trial in trials], dtype=torch.float64)
        if self._batches_of[self.version]:
            self._policies[self.version] = self.learner.parameters()
        self.learner.update(choices, rewards, self._forced(trials[0].id), drawn_by, factor)
        self.version += 1

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return state if self.replicas is None else {**state, "version": self.version}

    def load_state_dict(self, state: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        for trial in trials:  # all first: so it is known which policies will be needed again
            self._out(trial.proposal)
        versions = [self._drawn_by[number] for number in range(len(self._drawn_by))]
        if any(not 0 <= version <= state["version"] for version in versions):
            raise ValueError("a trial was drawn by a policy that is still to come")
        super().load_state_dict(state, trials)

    # --- rewards

    def _count(self, loss: float) -> None:
        insort(self._losses, loss)
        if math.isfinite(loss):
            self._finite += 1
            step = loss - self._mean
            self._mean += step / self._finite
            self._squares += step * (loss - self._mean)

    def _reward(self, loss: float) -> float:
        """Reward of a result that is in the statistics."""
        if self.reward == "rank":
            worse = len(self._losses) - bisect_right(self._losses, loss)
            return (worse - bisect_left(self._losses, loss)) / len(self._losses)
        if not self._finite or (self.reward == "value" and not self._squares > 0):
            return 0.0
        loss = min(loss, self._losses[self._finite - 1])
        if self.reward == "cube":
            return -(min(max(loss, -1e6), 1e6) ** 3)  # still a number as float32
        return (self._mean - loss) / math.sqrt(self._squares / self._finite)

    # --- drawing

    def _generator(self) -> torch.Generator:
        """One for torch that follows the strategy's own."""
        import torch

        return torch.Generator().manual_seed(int(self.rng.integers(2**63)))

    def _forced(self, trial: int) -> Mapping[int, int]:
        """The depth at this trial, where there is a schedule: decision -> option."""
        if self.depth_start is None:
            return {}
        wanted = self.depth_start + self.depth_step * (trial // self.depth_every)
        fitting = [i for i, depth in enumerate(self._depths) if depth <= wanted]
        return {self._depth_column: max(fitting, key=self._depths.__getitem__, default=0)}

    def _draw(self) -> Arch | None:
        """The policy's first draw that is a member and new, or any that is; None: there is none."""
        forced = self._forced(self.asked)
        generator = self._generator()
        tried: set[tuple[int, ...]] = set()
        for count, flatten in DRAWS:
            for row in self.controller.sample(count, generator, forced, flatten).tolist():
                arch = self.space.arch(row)
                if arch.choices not in tried and self._fits(arch):
                    return arch
                tried.add(arch.choices)
        if forced:
            for _ in range(1000):
                choices = np.array(self.space.sample(self.rng).choices)
                choices[list(forced)] = list(forced.values())
                arch = self.space.arch(choices)
                if self._fits(arch):
                    return arch
        return self.space.sample_new(self.rng, self.seen, self.space.canonical)  # without dedup, seen is empty

    def _fits(self, arch: Arch) -> bool:
        return self.space.is_member(arch) and self.space.canonical(arch) not in self.seen

"""Efficient neural architecture search: Pham et al., ICML 2018, arXiv 1802.03268."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nastool.core.space import SearchSpace, fair_set
from nastool.core.values import Decision, Learnt
from nastool.learners.rounds import Rounds, members
from nastool.learners.sharing import cells_of, has_weights

if TYPE_CHECKING:
    import torch

    from nastool.training.policies import Trainer

MIN_STEPS = 10
MOST_LR = 10.0
"""So many times as large as in the published search the learning rate begins at most."""
Choices = NDArray[np.integer[Any]]

PLAIN: dict[str, Any] = {
    "steps_per_minibatch": 30 / 281,
    "children": 10,
    "temperature": None,
    "op_tanh_reduce": 1.0,
    "op_bias": 0.0,
    "warmup": 0.0,
    "eps_outside": False,
    "op_bias_later": None,
    "op_bias_learnt": 0.0,
    "nearness": False,
    "reward": "likelihood",
    "relative": True,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "macro": {**PLAIN, "lr": 0.001, "updates": 15_500, "tanh_constant": 1.5, "children": 20}
    | {"steps_per_minibatch": 50 / 351},
    "micro": {**PLAIN, "lr": 0.0035, "updates": 4500, "tanh_constant": 1.1, "op_tanh_reduce": 2.5}
    | {"op_bias": 0.47, "op_bias_later": 0.22},
    "plain": {**PLAIN, "lr": 0.001, "updates": 12_500, "tanh_constant": 2.5, "op_bias": 0.47, "warmup": 0.5},
    "bare": {**PLAIN, "lr": 0.03, "updates": None, "temperature": 5.0, "tanh_constant": 2.25, "nearness": True}
    | {"steps_per_minibatch": 25 / 1327, "reward": "task", "relative": False},
}
"""Values of the options that are not given, by the kind of the space: with switches, with decisions that refer to
another place, with neither, and where no operation has weights."""
AS_IN_CODE: dict[str, Any] = {"eps_outside": True, "reward": "task", "relative": False, "updates": None}
PUBLISHED: dict[str, dict[str, Any]] = {
    "macro": AS_IN_CODE,
    "micro": {**AS_IN_CODE, "op_bias": 0.25, "op_bias_later": 0.0, "op_bias_learnt": 10.0},
    "plain": AS_IN_CODE | {"children": 20, "steps_per_minibatch": 50 / 351, "op_bias": 0.0, "warmup": 0.0},
    "bare": {**AS_IN_CODE, "lr": 0.00005},
}
"""What differs from that in the published code; of plain spaces in NAS-Bench-201's, whose controller is macro's."""


@dataclass(frozen=True)
class Settings:
    """What the controller is and how it learns; the options of `ENAS` of the same names.

    steps: None: steps_per_minibatch times the minibatches of the weights' phase, at least MIN_STEPS. updates: number of
    steps for which lr is meant; fewer take a larger one; None: it is what it is. The defaults are an earlier version's.
    """

    steps: int | None
    steps_per_minibatch: float
    children: int
    candidates: int
    lr: float
    hidden: int
    temperature: float | None
    tanh_constant: float | None
    op_tanh_reduce: float
    op_bias: float
    warmup: float
    entropy_weight: float
    baseline_decay: float
    skip_target: float
    skip_weight: float
    eps_outside: bool = False
    op_bias_later: float | None = None
    op_bias_learnt: float = 0.0
    nearness: bool = False
    reward: Literal["task", "likelihood"] = "task"
    relative: bool = False
    updates: int | None = None
    fair: bool = False


class ENAS(Rounds):
    """A controller learns by REINFORCE which child networks do well with weights that all of them share.

    Each round is one epoch of the loop of section 2.2: the evaluator trains the shared weights, one child drawn from
    the controller per minibatch; then the controller takes `steps` steps, each on the rewards of `children`
    sampled children. A round's trial is the child that looked best in the round before. After the last round the
    candidates, drawn from the controller, are the trials: each is scored on all validation data.

    The defaults are those of the authors' code, but for how rewards count and for a learning rate that suits the number
    of steps: of its macro search for spaces with skip connections that are on or off, of its micro search for all
    others; but where no decision refers to an earlier layer or block, as in
    NAS-Bench-201, the logits may be as large as in that benchmark's own runs of ENAS. Where no operation has weights,
    as in recurrent cells, they are those of the authors' later code for these, but for a learning rate for short
    searches (there 0.00005). An architecture has the log-probability that it has in the code, with the same weights.
    Deviations from the code, of which `preset=published` takes back those that an option names:

    - A child is worth its likelihood, not its accuracy, and relative to the other children of its step (`reward`,
      `relative`): of 64 images the accuracy says which were drawn rather than which child it is, and next to
      differences of a few hundredths the rate of skip connections would be most of what is learnt.
    - The children of one step are compared on the same validation minibatch; the authors take one for each.
    - The entropy is that of the whole distributions, and a term of the loss (in their macro code: of the sampled
      options, added to the reward, where it also moves the baseline).
    - The divergence from skip_target is that of the probability that is sampled, sigmoid(2 q); theirs uses sigmoid(q),
      so that their target of .4 means a rate of .31.
    - The advantage uses the baseline before it is updated.
    - op_bias is as large as theirs at the beginning: in their micro search one of 10 inside the tanh, learnt, and in
      the normal cell one of +-.25 outside favour separable convolutions. The former saturates, so that their controller
      can hardly tell these apart: ours is outside and not learnt, and favours all operations with weights. Theirs is
      op_bias=.25, op_bias_later=0, op_bias_learnt=10.
    - Adam's epsilon is added after the correction of the moments' bias, in TensorFlow before it (`eps_outside`).
    - The derived architecture is the best of `candidates`, not of 10 scored on a minibatch each.
    - The learning rate of the shared weights falls at every step, not at every epoch.
    - Rewards use the batch's statistics in batch normalisation; in their macro search running averages.

    What that code does with the shared weights, the recipes enas-micro-cifar10 and enas-macro-cifar10 say: it does not
    clip, drops no path in the search, leaves the auxiliary classifier as it was drawn, lets weights off the path decay
    and keep momentum, and rewards micro children with dropout on. The other recipes are ours.
    """

    name = "enas"
    settings: Settings
    goes_with = {"space": "macro-cnn", "evaluator": "supernet"}  # noqa: RUF012  # a ClassVar in Strategy

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        candidates: int = 100,
        steps: int | None = None,
        children: int | None = None,
        lr: float | None = None,
        hidden: int = 64,
        temperature: float | None = None,
        tanh_constant: float | None = None,
        op_tanh_reduce: float | None = None,
        op_bias: float | None = None,
        warmup: float | None = None,
        entropy_weight: float = 0.0001,
        baseline_decay: float = 0.99,
        skip_target: float = 0.4,
        skip_weight: float = 0.8,
        eps_outside: bool | None = None,
        op_bias_later: float | None = None,
        op_bias_learnt: float | None = None,
        nearness: bool | None = None,
        reward: Literal["task", "likelihood"] | None = None,
        relative: bool | None = None,
        fair: bool | None = None,
        preset: Literal["published"] | None = None,
    ) -> None:
        """Makes a strategy with a controller as it is initialised.

        Args:
            candidates: Number of architectures scored at the end, in [1, 10000].
            steps: Number of the controller's steps per round, >= 1; by default so many for each minibatch of the
                weights' phase that there are 50 (30 without skip connections) on CIFAR-10, as published, but at least
                10.
            children: Number of children sampled for each step, >= 1; by default 20 with skip connections, else 10.
            lr: Learning rate of Adam, in (0, 1]; by default, for as many steps as the published searches have, 0.001
                (15,500; where no decision refers to another place 12,500), without skip connections 0.0035 (4,500).
                For n times fewer steps it begins sqrt(n) times as large, at most 10 times, for 300 with 0.0072, and
                falls to that. Where no operation has weights 0.03: with that temperature a hundred steps of 0.003
                change next to nothing.
            hidden: Units of the LSTM, in [1, 1000].
            temperature: Divisor of the logits, in [0.001, 1000]; by default 5 where no operation has weights, else 1.
            tanh_constant: Bound of the logits, in [0.001, 1000]; by default 1.5 or 1.1, or 2.5 where no decision refers
                to another place, 2.25 where no operation has weights.
            op_tanh_reduce: Divisor of that bound for all decisions but those for an earlier layer or block, in [0.001,
                1000]; by default 1, in micro spaces 2.5.
            op_bias: Number that is added to the logits of operations with weights and subtracted from those of others
                (skip, pooling, none), in [0, 1000]; by default 0 or 0.47. Shared weights learn slowly: without it the
                controller soon prefers operations that have none.
            op_bias_later: Instead of op_bias in cells after the first, such as the reduction cell, in [0, 1000]; by
                default 0.22, or op_bias where that is given or no decision refers to another place.
            op_bias_learnt: Bias of operations with weights that is added to the logit before its tanh, and learnt from
                there on, in [0, 1000]; by default 0.
            eps_outside: Adam's epsilon, 0.001, is added before the correction of the second moment's bias, as in
                TensorFlow: the first step is then 15 times shorter, the 50th 3 times; by default false.
            warmup: Share of rounds, in [0, 1), in which the controller is left as it is; by default 0, or 0.5 where no
                decision refers to another place: the larger the logits, the sooner the controller settles on what
                learns fast, which is then all that is trained.
            nearness: Decisions for an earlier place prefer near ones: of one d places back the logit is lower by
                d^2 / 6, and as the controller's next input it is divided by 0.1 + d; by default where no operation
                has weights.
            entropy_weight: Weight of the controller's entropy, in [0, 1000].
            baseline_decay: Decay of the moving average of rewards, in [0, 1).
            skip_target: Rate of skip connections, in (0, 1).
            skip_weight: Weight of diverging from that rate, in [0, 1000].
            reward: What a child is worth: exp(-loss) on a minibatch, of classes the geometric mean of the probability
                of the right one (likelihood), or the task's reward, of classes the accuracy (task); by default
                likelihood, and task where no operation has weights.
            relative: A child counts relative to the others of the same step, in units of their usual spread, so that
                neither skip_weight nor Adam's epsilon outweighs what it is worth; by default, but not where no
                operation has weights.
            fair: In the rounds of the warm-up the weights are trained by sets of children, one a step, in which each
                option of a decision occurs equally often (Chu et al., FairNAS, ICCV 2021), instead of by the
                controller's; such a round takes as many times as long as a decision has options. By default not.
            preset: With "published", options that are not given are as in the published code, whose learning rate is
                one for thousands of steps.
        """
        super().__init__(space, seed=seed)
        kind = kind_of(space)
        given = {
            "lr": lr,
            "children": children,
            "temperature": temperature,
            "tanh_constant": tanh_constant,
            "op_tanh_reduce": op_tanh_reduce,
            "op_bias": op_bias,
            "warmup": warmup,
            "eps_outside": eps_outside,
            "op_bias_later": op_bias_later,
            "op_bias_learnt": op_bias_learnt,
            "nearness": nearness,
            "reward": reward,
            "relative": relative,
        }
        values = DEFAULTS[kind] | (PUBLISHED[kind] if preset == "published" else {})
        values |= {name: value for name, value in given.items() if value is not None}
        if op_bias is not None:
            values["op_bias_later"] = op_bias_later
        if lr is not None:
            values["updates"] = None
        self.settings = Settings(
            steps=steps,
            candidates=candidates,
            hidden=hidden,
            entropy_weight=entropy_weight,
            baseline_decay=baseline_decay,
            skip_target=skip_target,
            skip_weight=skip_weight,
            fair=bool(fair),
            **values,
        )
        _check(self.settings)

    @classmethod
    def make_policy(cls, space: SearchSpace, options: Mapping[str, Any], seed: int) -> ENASPolicy:
        return ENASPolicy(space, Settings(**options), seed)


class ENASPolicy:
    """The controller, and a round: the loop of section 2.2."""

    def __init__(self, space: SearchSpace, settings: Settings, seed: int) -> None:
        import torch

        from nastool.learners.controller import Controller
        from nastool.learners.policy_gradient import PolicyGradient

        self.space = space
        self.settings = settings
        first, later = settings.op_bias, settings.op_bias_later
        sizes = [first if there or later is None else later for there in in_first_cell(space.decisions)]
        learnt = settings.op_bias_learnt
        controller = Controller(
            space,
            hidden=settings.hidden,
            temperature=settings.temperature,
            tanh_constant=settings.tanh_constant,
            op_tanh_reduce=settings.op_tanh_reduce,
            bias=lambda i, option: sizes[i] if has_weights(option) else -sizes[i],
            nearness=settings.nearness,
            learnt_bias=(lambda option: learnt if has_weights(option) else 0.0) if learnt else None,
            generator=torch.Generator().manual_seed(seed),
        )
        self.learner = PolicyGradient(
            controller,
            lr=settings.lr,
            betas=(0.0, 0.999),
            eps=1e-3,
            eps_outside=settings.eps_outside,
            entropy_weight=settings.entropy_weight,
            baseline_decay=settings.baseline_decay,
            switch_target=settings.skip_target,
            switch_weight=settings.skip_weight,
            relative=settings.relative,
        )
        self.best: list[int] = []

    def sample(self, count: int, generator: torch.Generator) -> Choices:
        """Members only, see `members`."""

        def draw(count: int) -> list[list[int]]:
            return self.learner.controller.sample(count, generator).tolist()

        return np.array(members(self.space, draw, count, generator))

    def round(self, trainer: Trainer) -> Mapping[str, float]:
        """A child for each step of the weights, or a fair set, then `learn`."""
        import torch

        if self.settings.fair and trainer.progress + 1 / trainer.rounds <= self.settings.warmup:
            rng = np.random.default_rng(int(torch.randint(2**62, (), generator=trainer.generator)))
            for _ in trainer.steps:
                trainer.weights_step(fair_set(self.space, rng))
        else:
            for child in self.sample(len(trainer.steps), trainer.generator):
                trainer.weights_step([self.space.arch(child)])
        return self.learn(trainer)

    @property
    def fair_share(self) -> float:
        return self.settings.warmup if self.settings.fair else 0.0

    def learn(self, trainer: Trainer) -> Mapping[str, float]:
        """`steps` steps of REINFORCE. Returns the means of their rewards, the entropy (nats) and the rate of skips.

        While progress is not beyond `warmup`: children are sampled and looked at once, and nothing is learnt.
        """
        found: list[Mapping[str, float]] = []
        learns = trainer.progress > self.settings.warmup
        by_default = max(MIN_STEPS, round(self.settings.steps_per_minibatch * len(trainer.steps)))
        steps = self.settings.steps or by_default
        self.learner.adam["lr"] = self.learning_rate(steps, trainer)
        for _ in range(steps if learns else 1):
            children = self.sample(self.settings.children, trainer.generator)
            archs = [self.space.arch(child) for child in children]
            rewards = trainer.rewards(archs, "val", self.settings.reward == "likelihood")
            learnt = self.reinforce(children, rewards) if learns else self.look(children)
            found.append({"reward": float(np.mean(rewards)), **learnt})
        self.best = children[int(np.argmax(rewards))].tolist()
        shown = ["reward", "entropy"]
        if any(decision.is_switch for decision in self.space.decisions):
            shown.append("switch_rate")
        return {name: float(np.mean([step[name] for step in found])) for name in shown}

    def learning_rate(self, steps: int, trainer: Trainer) -> float:
        """That of a round with so many steps."""
        lr, learning = self.settings.lr, 1 - self.settings.warmup
        if self.settings.updates is None:
            return lr
        fewer = self.settings.updates / (steps * trainer.rounds * learning)
        begins = min(1.0, lr * min(MOST_LR, math.sqrt(max(1.0, fewer))))
        return lr + (begins - lr) * min(1.0, (1 - trainer.progress) / learning)

    def reinforce(self, children: Choices, rewards: Sequence[float]) -> Mapping[str, float]:
        """A step of the controller."""
        import torch

        return self.learner.update(torch.from_numpy(children), torch.tensor(rewards))

    def look(self, children: Choices) -> Mapping[str, float]:
        """What the controller says of children, their means, without a step."""
        import torch

        with torch.no_grad():
            scored = self.learner.controller.score(torch.from_numpy(children))
        return {name: float(value.mean()) for name, value in scored._asdict().items()}

    def conclude(self, rounds_left: int, generator: torch.Generator) -> Learnt:
        """The best child of the round's last step, and how often each option of each decision is drawn.

        After the last round also the candidates, no two equivalent.
        """
        frequencies = tuple(map(tuple, self.learner.controller.frequencies()))
        learnt = Learnt(tuple(self.best), rounds_left, frequencies=frequencies)
        if rounds_left:
            return learnt
        found: dict[str, list[int]] = {}
        for _ in range(20):  # a collapsed policy has fewer to offer
            for choices in self.sample(self.settings.candidates, generator).tolist():
                found.setdefault(self.space.canonical(self.space.arch(choices)), choices)
            if len(found) >= self.settings.candidates:
                break
        candidates = tuple(map(tuple, found.values()))[: self.settings.candidates]
        return dataclasses.replace(learnt, candidates=candidates)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.learner.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.learner.load_state_dict(state)


def kind_of(space: SearchSpace) -> str:
    """Key of `DEFAULTS`."""
    if any(decision.is_switch for decision in space.decisions):
        return "macro"
    options = [option for decision in space.decisions if not decision.refers for option in decision.options]
    if not any(map(has_weights, options)):
        return "bare"
    return "micro" if any(decision.refers for decision in space.decisions) else "plain"


def in_first_cell(decisions: Sequence[Decision]) -> list[bool]:
    """Whether each decision is of the first cell: the places that refer to each other, through others or not.

    Where no decision refers to a place, all are of one cell.
    """
    return [cell == 0 for cell in cells_of(decisions)]


def _check(settings: Settings) -> None:
    """ValueError names what is out of its range."""
    for name, low, high in (
        ("candidates", 1, 10_000),
        ("steps", 1, 100_000),
        ("children", 1, 10_000),
        ("hidden", 1, 1000),
    ):
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"need {low} <= {name} <= {high:,}, got {value}")
    if not 0 < settings.lr <= 1:
        raise ValueError(f"need 0 < lr <= 1, got {settings.lr}")
    for name in ("temperature", "tanh_constant", "op_tanh_reduce"):
        value = getattr(settings, name)
        if value is not None and not 0.001 <= value <= 1000:
            raise ValueError(f"need 0.001 <= {name} <= 1000, got {value}")
    for name in ("entropy_weight", "skip_weight", "op_bias", "op_bias_later", "op_bias_learnt"):
        if (value := getattr(settings, name)) is not None and not 0 <= value <= 1000:
            raise ValueError(f"need 0 <= {name} <= 1000, got {value}")
    for name in ("baseline_decay", "warmup"):
        if not 0 <= (value := getattr(settings, name)) < 1:
            raise ValueError(f"need 0 <= {name} < 1, got {value}")
    if settings.fair and not settings.warmup:
        raise ValueError("fair sets train the weights in the warm-up, and there is none: give warmup, too")
    if not 0 < settings.skip_target < 1:
        raise ValueError(f"need 0 < skip_target < 1, got {settings.skip_target}")

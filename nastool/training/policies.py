"""What shared weights and a policy are to each other: the steps that a policy may take, and what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Learnt

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from nastool.nets.networks import Selection

Part = Literal["train", "val"]


class Trainer(Protocol):
    """What a policy drives in its round."""

    @property
    def steps(self) -> range:
        """The steps of the weights in one round, of which each takes another minibatch of the training data."""
        ...

    @property
    def generator(self) -> torch.Generator:
        """Source of the round's draws, of the CPU; orders of minibatches come from it, too."""
        ...

    @property
    def progress(self) -> float:
        """Share of all steps that the weights have taken, in [0, 1]."""
        ...

    def weights_step(self, selections: Sequence[Selection], gradient: bool = False) -> Tensor:
        """One step of the weights on the next minibatch of the training data.

        Args:
            selections: What the supernet runs. The gradients of several are averaged; of architectures each weight's
                over those that have it, so that what few of them share learns as fast as what all do.
            gradient: Soft weights get a gradient, too; else they count as numbers.

        Returns:
            The mean loss, a scalar on the device.
        """
        ...

    def loss(self, selection: Selection, part: Part) -> Tensor:
        """Loss of a selection on another minibatch, a scalar with gradients by the weights of options.

        There are none by the network's weights, for which nothing is kept in memory.
        """
        ...

    def unrolled(self, selection: Selection, architecture: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The validation loss after a step that the weights would take, and its gradients: DARTS' second order.

        Args:
            selection: Made of `architecture`.
            architecture: What the gradients are by. The weights stay as they are.
        """
        ...

    def losses(self, selections: Sequence[Selection], part: Part) -> list[float]:
        """The loss of each on all examples of a part, the same for all; nothing changes, and there are no gradients."""
        ...

    def mean_losses(self, sets: Sequence[Sequence[Arch]], part: Part) -> list[float]:
        """The loss of each set's mean prediction on all examples of a part; nothing changes, and no gradients.

        An architecture of several sets is run once. Of a task without ensembles it is the mean of the members' losses,
        which that of a mean prediction never exceeds.
        """
        ...

    def costs(self) -> Mapping[str, Tensor]:
        """What the options of each decision cost, of those that are no inputs, float32 (places, options, 3).

        There is a place for each module that the decision stands in, such as one in each cell. Costs are the number of
        parameters, the multiply-adds of one example, and the numbers that are read and written for one.
        """
        ...

    @property
    def rounds(self) -> int:
        """Number of rounds of the whole training, those done included."""
        ...

    def rewards(self, selections: Sequence[Arch], part: Part, likelihood: bool = False) -> list[float]:
        """The task's reward of each, higher is better, all on one minibatch, which is another one at every call.

        likelihood: instead exp(-loss), in (0, 1]: of classes the geometric mean of the probability of the right one.
        That differs less from minibatch to minibatch than an accuracy does, which counts images.
        """
        ...


class Policy(Protocol):
    """What a strategy has learn beside shared weights: a distribution over architectures, or a mixture of options.

    It is made by the strategy's `make_policy`, lives with the evaluator, and knows no networks.
    """

    def round(self, trainer: Trainer) -> Mapping[str, float]:
        """Train the weights (a step for each of `Trainer.steps`) and itself. Returns what is worth reporting."""
        ...

    def conclude(self, rounds_left: int, generator: torch.Generator) -> Learnt:
        """What `Strategy.tell` is told after a round. rounds_left: 0 where the weights are not trained any further."""
        ...

    def state_dict(self) -> dict[str, torch.Tensor]: ...

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None: ...


@runtime_checkable
class Sampling(Protocol):
    """A policy whose children can be drawn, so that its gain can be measured (`SharedWeights.gain`)."""

    def sample(self, count: int, generator: torch.Generator) -> NDArray[np.integer[Any]]:
        """Option indices (count, decisions) of children, all members of the space; nothing of the policy changes."""
        ...


@runtime_checkable
class LearningLast(Protocol):
    """A policy whose rounds train the weights alone, but for the last, after which it learns all that it learns."""

    def fit(self, trainer: Trainer) -> Mapping[str, float]:
        """Learn; the weights stay. Returns what is worth reporting."""
        ...


@runtime_checkable
class BeginsFairly(Protocol):
    """A policy in whose first rounds the weights are trained by fair sets (`fair_set`), one a step."""

    @property
    def fair_share(self) -> float:
        """Share of these rounds, in [0, 1]."""
        ...


class Drawn:
    """Takes one step with each of the children, or sets of them, that were drawn beforehand, and learns nothing.

    Single ones, drawn uniformly, are random search with weight sharing (Li & Talwalkar 2019).
    """

    def __init__(self, children: Sequence[Sequence[Arch]]) -> None:
        """Makes a policy for one round. children: those of each step."""
        self.children = children

    def round(self, trainer: Trainer) -> Mapping[str, float]:
        for children in self.children:
            trainer.weights_step(children)
        return {}

    def conclude(self, rounds_left: int, generator: torch.Generator) -> Learnt:
        return Learnt(self.children[-1][-1].choices, rounds_left)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        pass


@runtime_checkable
class HasPolicy(Protocol):
    """A strategy with a policy that an evaluator trains; it needs "policy"."""

    @classmethod
    def make_policy(cls, space: SearchSpace, options: Mapping[str, Any], seed: int) -> Policy:
        """The untrained policy. options: those that its proposals carry."""
        ...

"""How a network is trained: one value that tasks and trainings read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from nastool.core.errors import InputError

Schedule = Literal["cosine", "constant", "decay"]

MAX_EPOCHS = 100_000
RANGES: Mapping[str, tuple[float, float]] = {
    "steps": (0, 1_000_000),
    "epochs": (1, MAX_EPOCHS),
    "batch_size": (2, 65_536),
    "lr": (1e-9, 1000),
    "momentum": (0, 0.9999),
    "weight_decay": (0, 1),
    "warmup_epochs": (0, MAX_EPOCHS),
    "final_lr": (0, 1000),
    "label_smoothing": (0, 0.9999),
    "grad_clip": (0, 1e9),
    "crop_padding": (0, 256),
    "cutout": (0, 1024),
    "restart_epochs": (0, MAX_EPOCHS),
    "restart_factor": (1, 100),
    "dropout": (0, 0.9999),
    "drop_path": (0, 0.9999),
    "auxiliary_weight": (0, 100),
    "average": (0, MAX_EPOCHS),
    "average_after": (0, MAX_EPOCHS),
    "best_of": (1, MAX_EPOCHS),
    "flops_bonus": (0, 10),
    "hold_epochs": (0, MAX_EPOCHS),
    "decay": (1e-9, 1),
    "decay_epochs": (1, MAX_EPOCHS),
}
"""Smallest and largest value of each number in a recipe."""

OPTIMIZER_RANGES: Mapping[str, tuple[float, float]] = {
    "beta1": (0, 0.9999),
    "beta2": (0, 0.999999),
    "smoothing": (0, 0.999999),
    "eps": (1e-16, 1),
    "lambd": (0, 1),
}
"""The same of its section `optimizer`."""

TEXT_RANGES: Mapping[str, tuple[float, float]] = {
    "bptt": (1, 100_000),
    "init": (0, 1000),
    "activation": (0, 1000),
    "slowness": (0, 1000),
}
"""The same of its section `text`."""

HALVED, SPREAD, SHORTEST = 0.05, 5.0, 5.0
"""Of lengths that vary: share of those around half of bptt, standard deviation, the shortest one (AWD-LSTM)."""

SMALLEST_BATCH = 16
"""Minibatches are made no smaller than that for the sake of `steps`."""

LATER = frozenset({"decay_norms", "decay_off_path", "train_auxiliary", "reward_dropout", "optimizer", "average"}) | {
    "average_after",
    "best_of",
    "flops_bonus",
    "hold_epochs",
    "decay",
    "decay_epochs",
    "text",
}
"""Fields that recipes did not have at first; at their defaults they mean what was done before."""


PLACES = ("words", "embedding", "input", "nodes", "output", "weights")
"""Where networks for texts may have dropout."""

RuleName = Literal["sgd", "adamw", "asgd", "rmsprop"]


@dataclass(frozen=True)
class Rule:
    """The rule by which weights follow gradients, beside what all rules share: a recipe's lr and weight_decay.

    name: "sgd" with the recipe's momentum and nesterov; "adamw" (Loshchilov & Hutter 2019); "asgd", the falling steps
        of averaged SGD (Polyak & Juditsky 1992), whose average is the recipe's; "rmsprop" with the recipe's momentum.
    beta1, beta2: decay of adamw's means of gradients and of their squares.
    smoothing: decay of rmsprop's mean of squares.
    eps: added to the root of adamw's and rmsprop's mean of squares.
    lambd: by which asgd's learning rate falls: lr / (1 + lambd lr step)^0.75.
    """

    name: RuleName = "sgd"
    beta1: float = 0.9
    beta2: float = 0.999
    smoothing: float = 0.99
    eps: float = 1e-8
    lambd: float = 0.0001

    def __post_init__(self) -> None:
        if self.name not in get_args(RuleName):
            raise InputError(f"optimizer: need name {', '.join(get_args(RuleName))}, got {self.name!r}")
        _check_ranges(self, OPTIMIZER_RANGES, "optimizer ")


@dataclass(frozen=True)
class Text:
    """How a network for texts is trained, beside what all recipes say.

    bptt: tokens that a step sees of each text, from where the step before ended; gradients go no further back.
    varying: that number is drawn for each step (`lengths`), and the learning rate of the step is in proportion to it.
    init: all weights are drawn uniformly from so far around 0; 0: as the network's modules draw them.
    dropout: rates in [0, 1) by place, each with one mask for all the time steps of a batch: "words" (whole words of the
        vocabulary, Gal & Ghahramani 2016), "embedding" (of the words), "input" (of the recurrent part), "nodes" (within
        it, and between its layers), "output" (of it), "weights" (of matrices from state to state, Wan et al. 2013).
        Places that are left out have none.
    activation: what the mean square of the recurrent part's outputs after their dropout is multiplied with and added to
        the loss (AR, Merity et al. 2017). undropped: the outputs before it, as in ENAS' code.
    slowness: the same of their differences from one time step to the next (TAR), before dropout.
    """

    bptt: int = 35
    varying: bool = False
    init: float = 0.0
    dropout: Mapping[str, float] = field(default_factory=dict)
    activation: float = 0.0
    undropped: bool = False
    slowness: float = 0.0

    def __post_init__(self) -> None:
        _check_ranges(self, TEXT_RANGES, "text ")
        if self.varying and self.bptt < 2 * SHORTEST:
            raise InputError(f"text varying: needs bptt of at least {2 * SHORTEST:g}, got {self.bptt}")
        if not isinstance(self.dropout, Mapping):
            raise InputError(f"text dropout: need rates by place, got {self.dropout!r}")
        for place, rate in self.dropout.items():
            if place not in PLACES:
                raise InputError(f"text dropout: no place {place!r}; there are {', '.join(PLACES)}")
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
                raise InputError(f"text dropout {place}: need a number from 0 to less than 1, got {rate!r}")

    def steps(self, total: int) -> int:
        """Number of steps in which texts of so many tokens each, at least 1, are gone through."""
        return math.ceil(total / (self.bptt * (1 - HALVED / 2 if self.varying else 1)))

    def lengths(self, total: int, seed: int) -> list[int]:
        """Number of tokens, at least 1, of each of the `steps` in their order; together they are the total.

        Where they vary, they are AWD-LSTM's, a normal number around bptt, or in one of 20 cases around half of it, and
        then made longer or shorter alike to fill the steps.
        """
        steps = self.steps(total)
        if not self.varying:
            return [self.bptt] * (steps - 1) + [total - self.bptt * (steps - 1)]
        rng = np.random.default_rng(seed)
        around = np.where(rng.random(steps) < HALVED, self.bptt / 2, self.bptt)
        drawn = np.clip(rng.normal(around, SPREAD), min(SHORTEST, self.bptt / 2), 2 * self.bptt)
        ends = np.round(np.cumsum(drawn) * (total / drawn.sum())).astype(int)
        return [int(length) for length in np.diff(ends, prepend=0)]


@dataclass(frozen=True)
class Recipe:
    """How long and with what a network is trained. The defaults are the recipe `default`.

    InputError where a value is out of its range.

    optimizer: the rule of the steps, by default SGD.
    average: what comes out has the mean of the weights after each step of so many last epochs; 0: the last weights.
    average_after: the mean begins after the first epoch whose validation loss (of training, where all data are trained
        on) is higher than the lowest one more than so many epochs before, as of AWD-LSTM; 0: never.
    best_of: a trial's metrics on the validation data are, one by one, the best of so many last epochs, as NAS-RL has it
        of the accuracy; 1: the last one's. The weights are the last epoch's.
    steps: fewest steps of a training; where few images make fewer, batch_size is halved, down to 16, and then there
        are more epochs (`on_few`), but no more rounds of shared weights; 0: never.
    epochs: passes over the training images.
    batch_size: images a step, >= 2 (batch normalisation needs more than one).
    lr: learning rate at its highest.
    momentum, nesterov: of SGD; nesterov needs momentum > 0.
    weight_decay: L2 penalty, on the weights of convolutions and linear layers; decay_norms: also on normalisations'
        scale and shift and on biases. What is no weight of a layer, such as the share of a weighted sum, has none.
    decay_off_path: of shared weights, those that a step's child does not have decay in it and keep their momentum, too,
        as in ENAS' code; else they stay as they are.
    schedule: "cosine" falls from lr to final_lr step by step, "constant" stays at lr, "decay" does so for hold_epochs
        and is multiplied by decay then and after each further decay_epochs, down to final_lr.
    warmup_epochs: the learning rate first rises linearly from 0 for so many epochs (may be a fraction).
    final_lr: learning rate of the cosine's end.
    label_smoothing: in [0, 1).
    grad_clip: largest L2 norm of the gradient; 0 does not clip.
    crop_padding: zeros around the image before it is cropped at random to its size, pixels; 0 does not crop.
    flip: mirror each image left to right with probability 0.5.
    cutout: side of the square that is blanked at random, pixels; 0 does not blank.
    restart_epochs, restart_factor: the cosine starts again after so many epochs, and each time after so many times
        as many (SGDR's T_0 and T_mult); 0: one cosine over all epochs.
    dropout: probability, before the classifier (for networks that have a place for it).
    drop_path: probability at the end with which a path into a block is left out of a training step; it rises from 0
        linearly (ScheduledDropPath, Zoph et al. 2018; for networks that have such paths). drop_path_by_depth: less in
        earlier cells, as in ENAS.
    auxiliary_weight: of the auxiliary classifier's loss (for networks with one: scale auxiliary=1). train_auxiliary:
        else that classifier stays as it was drawn, as in ENAS' code, and only the network before it learns from it.
    reward_dropout: dropout is on when a policy's children are rewarded, as in ENAS' micro code.
    flops_bonus: of shared weights, what an architecture gains for each factor of e in FLOPs (evaluator supernet).
    scale: size of the networks, unless one is given; what a space's Scale does not have is left out.
    text: of networks for texts.
    retrain: the recipe by which what a search found with this one is trained afterwards; "" for the data's default.
    """

    steps: int = 0
    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0005
    decay_norms: bool = True
    decay_off_path: bool = False
    schedule: Schedule = "cosine"
    warmup_epochs: float = 1.0
    final_lr: float = 0.0
    label_smoothing: float = 0.0
    grad_clip: float = 5.0
    crop_padding: int = 2
    flip: bool = False
    cutout: int = 0
    restart_epochs: int = 0
    restart_factor: int = 2
    dropout: float = 0.0
    drop_path: float = 0.0
    drop_path_by_depth: bool = False
    auxiliary_weight: float = 0.0
    train_auxiliary: bool = True
    reward_dropout: bool = False
    flops_bonus: float = 0.0
    scale: Mapping[str, int] = field(default_factory=dict)
    retrain: str = ""
    description: str = ""
    optimizer: Rule = field(default_factory=Rule)
    average: float = 0.0
    average_after: int = 0
    best_of: int = 1
    hold_epochs: int = 0
    decay: float = 1.0
    decay_epochs: int = 1
    text: Text = field(default_factory=Text)

    def __post_init__(self) -> None:
        _check_ranges(self, RANGES)
        if not isinstance(self.optimizer, Rule):
            raise InputError(f"optimizer: need its name and values, got {self.optimizer!r}")
        if not isinstance(self.text, Text):
            raise InputError(f"text: need its values, got {self.text!r}")
        if self.average and self.average_after:
            raise InputError("average_after: the recipe says when the average begins: leave out average or this")
        if self.schedule not in get_args(Schedule):
            raise InputError(f"schedule: need {', '.join(get_args(Schedule))}, got {self.schedule!r}")
        if not isinstance(self.scale, Mapping) or not all(
            isinstance(key, str) and isinstance(value, int) and not isinstance(value, bool)
            for key, value in self.scale.items()
        ):
            raise InputError(f"scale: need whole numbers by name, got {self.scale!r}")
        if self.optimizer.name == "sgd" and self.nesterov and not self.momentum:
            raise InputError("nesterov: true needs momentum > 0")
        if self.final_lr > self.lr:
            raise InputError(f"final_lr: need at most lr = {self.lr:g}, got {self.final_lr:g}")

    def replace(self, **changes: Any) -> Recipe:
        """A copy with the changes that are not None; InputError as for the constructor."""
        return dataclasses.replace(self, **{key: value for key, value in changes.items() if value is not None})

    def on_few(self, steps_of: Callable[[Recipe], int], longer: bool = True) -> Recipe:
        """A copy whose batch_size and epochs make at least `steps` steps of few examples.

        Args:
            steps_of: Number of steps of an epoch by a recipe.
            longer: There may be more epochs.
        """

        def enough(own: Recipe) -> bool:
            try:
                return self.epochs * steps_of(own) >= self.steps
            except InputError:  # there are too few for a single step
                return not self.steps

        own = self
        while own.batch_size > SMALLEST_BATCH and not enough(own):
            own = own.replace(batch_size=max(SMALLEST_BATCH, own.batch_size // 2))
        return own.replace(epochs=max(self.epochs, math.ceil(self.steps / steps_of(own)))) if longer else own

    def values(self) -> dict[str, Any]:
        """What it says, less its description and `steps`, and less `LATER` fields at their defaults.

        So a run's identity stays; what steps come to is among the values that a run keeps (`settled_options`).
        """
        defaults = dataclasses.asdict(Recipe())
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in ("description", "steps") and not (name in LATER and value == defaults[name])
        }

    def scale_for(self, scale: type[Any]) -> dict[str, int]:
        """What of `scale` a space's Scale class has."""
        return {key: value for key, value in self.scale.items() if key in {f.name for f in dataclasses.fields(scale)}}

    def learning_rate(self, step: int, steps_per_epoch: int, part: tuple[float, float] = (0.0, 1.0)) -> float:
        """The learning rate of step 0, 1, ... < epochs x steps_per_epoch.

        The cosine is SGDR's (Loshchilov & Hutter 2017, eq. 5), over the steps after warm-up.
        A warm-up longer than the training is cut to half of it.
        part: from, to: these epochs are that part of a longer training, whose schedule it is.
        """
        begin, end = part
        total = round(self.epochs * steps_per_epoch / (end - begin), 6)  # what it is but for rounding
        step += round(begin * total)
        warmup = min(self.warmup_epochs * steps_per_epoch, total / 2)
        if step < warmup:
            return self.lr * min(1.0, (step + 1) / (warmup + 1))
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "decay":
            later = step // steps_per_epoch - self.hold_epochs
            return max(self.final_lr, self.lr * self.decay ** max(0, later // self.decay_epochs + 1))
        start, length = warmup, total - warmup
        if self.restart_epochs:
            length = self.restart_epochs * steps_per_epoch
            while step >= start + length:
                start, length = start + length, length * self.restart_factor
        progress = (step - start) / length
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * progress)) / 2


def _check_ranges(values: Recipe | Rule | Text, ranges: Mapping[str, tuple[float, float]], prefix: str = "") -> None:
    """Raises InputError: a number is out of its range, or a field of another type than it is declared with."""
    for each in dataclasses.fields(values):
        value, kind, name = getattr(values, each.name), str(each.type), prefix + each.name
        if each.name in ranges:
            number = isinstance(value, int if kind == "int" else int | float) and not isinstance(value, bool)
            low, high = ranges[each.name]
            if not number or not low <= value <= high:
                noun = "a whole number" if kind == "int" else "a number"
                raise InputError(f"{name}: need {noun} from {low:g} to {high:g}, got {value!r}")
        elif kind == "bool" and not isinstance(value, bool):
            raise InputError(f"{name}: need true or false, got {value!r}")
        elif kind == "str" and not isinstance(value, str):
            raise InputError(f"{name}: need text, got {value!r}")

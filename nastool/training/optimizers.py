"""Optimisers by a recipe, what they remember under the names of parameters, and averages of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.asgd import asgd
from torch.optim.rmsprop import rmsprop

from nastool.core.recipe import Recipe
from nastool.nets.networks import undecayed

MOMENTUM = "momentum_buffer"
"""The memory that is saved under a parameter's bare name; other is under `weight:exp_avg`, say."""
AVERAGE = "average"


class Optimizer:
    """The optimiser of one network, and the average of its weights.

    A step is torch's own function. Its classes, such as SGD, import torch's compiler, which takes as long as torch.
    """

    def __init__(self, network: nn.Module, parameters: Sequence[nn.Parameter], recipe: Recipe, steps: int) -> None:
        """Begins without a memory.

        Args:
            network: What `parameters` belong to.
            parameters: Those that are trained.
            recipe: Its rule, and its values for the parameters.
            steps: Number of steps of an epoch.
        """
        self.named = dict(network.named_parameters())
        trained = {id(parameter) for parameter in parameters}
        self.trained = {name: parameter for name, parameter in self.named.items() if id(parameter) in trained}
        spared = {id(parameter) for parameter in undecayed(network, norms=not recipe.decay_norms)}
        self.decay = {name: 0.0 if id(p) in spared else recipe.weight_decay for name, p in self.trained.items()}
        self._names = {id(parameter): name for name, parameter in self.trained.items()}
        self.lr = recipe.lr
        """Learning rate of the last step."""
        self._step, self._remembers = _rule(recipe)
        self._zeros: dict[int, Tensor] = {}
        """Of each parameter by its id, where those without a gradient are moved, too, by decay and momentum."""
        if recipe.decay_off_path:
            self._zeros = {id(parameter): torch.zeros_like(parameter) for parameter in self.trained.values()}
        self._every = self._alike(self._zeros)
        self._memory: dict[str, dict[str, Tensor]] = {}
        self.begin = max(0, round((recipe.epochs - recipe.average) * steps)) if recipe.average else math.inf
        """The number of the first step whose weights are averaged; inf: none."""
        self._average: dict[str, Tensor] = {}
        if self._remembers == (MOMENTUM,):
            for name in self.trained:
                self._begin(name)

    def step(self, moved: Iterable[nn.Parameter], lr: float, done: int) -> None:
        """Moves weights along their gradients, and averages all.

        Args:
            moved: Those trained parameters that have a gradient.
            lr: Learning rate.
            done: Number of steps before this one.
        """
        self.lr = lr
        grads: dict[int, Tensor | None] = {id(parameter): parameter.grad for parameter in moved}
        for (decay, _), names in (self._every or self._alike(grads)).items():
            parameters = [self.trained[name] for name in names]
            of_these = [grads.get(key) if key in grads else self._zeros[key] for key in map(id, parameters)]
            memories = [self._memory[name] if name in self._memory else self._begin(name) for name in names]
            lists = [[memory[what] for memory in memories] for what in self._remembers]
            with torch.no_grad():
                self._step(parameters, of_these, *lists, lr=lr, weight_decay=decay)
        if done >= self.begin:
            if not self._average:
                self._average = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
            new = [self.trained[name].detach() for name in self._average]
            torch._foreach_lerp_(list(self._average.values()), new, 1 / (done - self.begin + 1))

    def _alike(self, keys: Iterable[int]) -> dict[tuple[float, torch.dtype], list[str]]:
        """Names by weight decay and type. keys: ids of trained parameters."""
        found: dict[tuple[float, torch.dtype], list[str]] = {}
        for key in keys:
            name = self._names[key]
            found.setdefault((self.decay[name], self.trained[name].dtype), []).append(name)
        return found

    def memory(self) -> dict[str, Tensor]:
        """What it remembers, by parameter and by what it is: `weight` is the momentum of that parameter."""
        found: dict[str, Tensor] = {}
        for name in self.trained:
            for what, value in self._memory.get(name, {}).items():
                found[name if what == MOMENTUM else f"{name}:{what}"] = value
        return found | {f"{name}:{AVERAGE}": value for name, value in self._average.items()}

    def remember(self, memory: Mapping[str, Tensor], *, resumed: bool = False) -> None:
        """Goes on from a `memory`; of a parameter that it does not name, or of another rule, nothing is taken.

        Args:
            memory: Of any device.
            resumed: It is of this very training, whose average goes on, too.

        Raises:
            KeyError: The network has no such parameter.
            ValueError: A parameter has another shape.
        """
        by_name: dict[str, dict[str, Tensor]] = {}
        for key, value in memory.items():
            name, _, what = key.partition(":")
            by_name.setdefault(name, {})[what or MOMENTUM] = self._placed(self.named[name], what, value)
        for name, found in by_name.items():
            average = found.pop(AVERAGE, None)
            if resumed and average is not None:
                self._average[name] = average
            if name in self.trained and found.keys() == set(self._remembers):
                self._memory[name] = found

    def _begin(self, name: str) -> dict[str, Tensor]:
        """The memory of a parameter before its first step, kept."""
        parameter = self.trained[name]
        begin = {"step": torch.tensor(0.0), "mu": torch.tensor(1.0), "eta": torch.tensor(self.lr)}
        zeros = torch.zeros_like(parameter)
        found = {what: self._placed(parameter, what, begin.get(what, zeros)) for what in self._remembers}
        self._memory[name] = found
        return found

    def _placed(self, parameter: nn.Parameter, what: str, value: Tensor) -> Tensor:
        """A copy where the rule wants it: beside the parameter and laid out like it, or a number."""
        if value.dim() == 0 and what:
            counts = what == "step" and "square_avg" in self._remembers  # RMSprop's, which stays on the CPU
            return value.to("cpu" if counts else parameter.device, copy=True)
        if value.shape != parameter.shape:
            raise ValueError(f"memory of shape {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}")
        return torch.empty_like(parameter, requires_grad=False).copy_(value)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Meanwhile the weights are their average, if there is one."""
        own = {name: self.named[name].detach().clone() for name in self._average}
        self._set(self._average)
        try:
            yield
        finally:
            self._set(own)

    def take_average(self) -> None:
        """The weights become their average, if there is one."""
        self._set(self._average)

    def _set(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in weights.items():
                self.named[name].copy_(value)


def _rule(recipe: Recipe) -> tuple[Callable[..., None], tuple[str, ...]]:
    """The recipe's step, and what it remembers of a parameter.

    The step takes lists of parameters, of their gradients and of each thing remembered, lr and weight_decay.
    """
    chosen, momentum = recipe.optimizer, (MOMENTUM,) if recipe.momentum else ()
    values: dict[str, Any]
    if chosen.name == "adamw":
        values = {"beta1": chosen.beta1, "beta2": chosen.beta2, "eps": chosen.eps, "amsgrad": False, "maximize": False}
        return (
            lambda p, g, step, avg, sq, **rates: adamw(p, g, avg, sq, [], step, fused=True, **values, **rates),
            ("step", "exp_avg", "exp_avg_sq"),
        )
    if chosen.name == "asgd":  # its own average is never begun: `Optimizer` has one for all rules
        values = {"lambd": chosen.lambd, "t0": math.inf, "alpha": 0.75}
        return partial(asgd, **values), ("ax", "mu", "eta", "step")
    if chosen.name == "rmsprop":
        values = {"alpha": chosen.smoothing, "eps": chosen.eps, "momentum": recipe.momentum, "centered": False}
        return (
            lambda p, g, step, sq, buffers=(), **rates: rmsprop(p, g, sq, [], list(buffers), step, **values, **rates),
            ("step", "square_avg", *momentum),
        )
    values = {"momentum": recipe.momentum, "nesterov": recipe.nesterov, "dampening": 0.0, "maximize": False}
    return (
        # `sgd` sorts parameters by their devices first, which takes longer than all else
        lambda p, g, buffers=(), **rates: torch._fused_sgd_(
            p, g, list(buffers), is_first_step=False, **values, **rates
        ),
        momentum,
    )

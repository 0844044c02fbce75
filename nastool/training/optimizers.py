"""Optimisers by a recipe, what they remember under the names of parameters, and averages of weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nastool.core.recipe import Recipe
from nastool.nets.networks import undecayed

MOMENTUM = "momentum_buffer"
"""The memory that is saved under a parameter's bare name; other is under `weight:exp_avg`, say."""
AVERAGE = "average"


class Optimizer:
    """The optimiser of one network, and the average of its weights."""

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
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if id(p) not in spared], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if id(p) in spared], "weight_decay": 0.0},
        ]
        self.rule, self._remembers = _rule([group for group in groups if group["params"]], recipe)
        self._begin = max(0, round((recipe.epochs - recipe.average) * steps)) if recipe.average else math.inf
        """The number of the first step whose weights are averaged."""
        self._average: dict[str, Tensor] = {}
        if self._remembers == {MOMENTUM}:
            for parameter in parameters:  # fused SGD fails where it has to make some of them later
                self.rule.state[parameter][MOMENTUM] = torch.zeros_like(parameter)

    def step(self, lr: float, done: int) -> None:
        """Moves the weights along their gradients, and averages them.

        Args:
            lr: Learning rate.
            done: Number of steps before this one.
        """
        for group in self.rule.param_groups:
            group["lr"] = lr
        self.rule.step()
        if done >= self._begin:
            if not self._average:
                self._average = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
            new = [self.trained[name].detach() for name in self._average]
            torch._foreach_lerp_(list(self._average.values()), new, 1 / (done - self._begin + 1))

    def memory(self) -> dict[str, Tensor]:
        """What it remembers, by parameter and by what it is: `weight` is the momentum of that parameter."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.trained.items():
            for what, value in self.rule.state[parameter].items() if parameter in self.rule.state else ():
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
            if name in self.trained and found.keys() == self._remembers:
                self.rule.state[self.trained[name]] = found

    def _placed(self, parameter: nn.Parameter, what: str, value: Tensor) -> Tensor:
        """A copy where the rule wants it: beside the parameter and laid out like it, or a number."""
        if value.dim() == 0 and what:
            count = what == "step" and isinstance(self.rule, torch.optim.RMSprop)
            return value.clone() if count else value.to(parameter.device, copy=True)
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


def _rule(groups: list[dict[str, Any]], recipe: Recipe) -> tuple[torch.optim.Optimizer, set[str]]:
    """The recipe's rule, and what it remembers of a parameter once that was stepped."""
    chosen = recipe.optimizer
    momentum = {MOMENTUM} if recipe.momentum else set()
    if chosen.name == "adamw":
        betas = (chosen.beta1, chosen.beta2)
        adamw = torch.optim.AdamW(groups, lr=recipe.lr, betas=betas, eps=chosen.eps, fused=True)
        return adamw, {"step", "exp_avg", "exp_avg_sq"}
    if chosen.name == "asgd":  # its own average is never begun: `Optimizer` has one for all rules
        return torch.optim.ASGD(groups, lr=recipe.lr, lambd=chosen.lambd, t0=math.inf), {"step", "eta", "mu", "ax"}
    if chosen.name == "rmsprop":
        more = {"square_avg", "step"} | momentum
        return torch.optim.RMSprop(groups, recipe.lr, chosen.smoothing, chosen.eps, momentum=recipe.momentum), more
    sgd = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=True)
    return sgd, momentum

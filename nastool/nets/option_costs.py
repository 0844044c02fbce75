"""What each option of each decision costs where it stands in a supernet."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from nastool.nets.costs import Flops, example
from nastool.nets.networks import OneOf, Supernet, chosen_options, evaluating

if TYPE_CHECKING:
    from nastool.core.task import Task

EXAMPLES = 2
"""Run at once: of one alone batch normalisation may have nothing to normalise."""


def costs(network: Supernet, task: Task) -> dict[str, Tensor]:
    """For each decision that is no input, float32 (places, options, 3), on the CPU, as of `Trainer.costs`.

    As in SNAS: parameters, multiply-adds (a pooling's are its window times its outputs), and numbers read and written:
    inputs, outputs and parameters. What has neither parameters nor a window costs nothing. An operation that reads a
    state that is chosen stands in one place, whichever it reads.
    """
    space = network.space
    hard = chosen_options(space, space.sample(np.random.default_rng(0)))
    mixed = {d.name: d.options for d in space.decisions if not d.refers}
    one = torch.tensor(1.0)
    network.select({**hard, **{name: dict.fromkeys(options, one) for name, options in mixed.items()}})
    found: dict[str, list[dict[str, list[float]]]] = {name: [] for name in mixed}
    counter = Flops()
    handles = []

    def begin(began: dict[str, int], module: nn.Module, inputs: Any) -> None:
        began["flops"] = counter.total

    def end(
        place: dict[str, list[float]], option: str, began: dict[str, int], module: nn.Module, inputs: Any, output: Any
    ) -> None:
        size = sum(parameter.numel() for parameter in module.parameters())
        adds = (counter.total - began["flops"]) / 2 / EXAMPLES
        for part in module.modules():
            if isinstance(part, _AvgPoolNd | _MaxPoolNd):
                adds += _window(part, output) * output.numel() / EXAMPLES
        moved = (inputs[0].numel() + output.numel()) / EXAMPLES + size if adds else 0.0
        place[option] = [float(size), adds, moved]

    for module in network.modules():
        if isinstance(module, OneOf) and module.decision in mixed:
            place: dict[str, list[float]] = {}
            found[module.decision].append(place)
            for option in mixed[module.decision]:
                began: dict[str, int] = {}
                part = module.of(option)
                handles += [
                    part.register_forward_pre_hook(partial(begin, began)),
                    part.register_forward_hook(partial(end, place, option, began)),
                ]
    try:
        with torch.no_grad(), evaluating(network), counter:
            network(*example(network, task, EXAMPLES))
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: torch.tensor(
            [[place[o] for o in mixed[name]] for place in places if place]
            or torch.zeros(1, len(mixed[name]), 3).tolist()
        )
        for name, places in found.items()
    }


def _window(pool: nn.Module, output: Tensor) -> int:
    """Numbers that each output of a pooling is made of."""
    size: Any = pool.kernel_size
    return int(np.prod(size)) if isinstance(size, tuple) else int(size) ** (output.dim() - 2)

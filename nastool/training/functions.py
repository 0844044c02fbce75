"""Evaluators that are functions in a file: `--evaluator my.py:measure`."""

from __future__ import annotations

import inspect
import random
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nastool.core import options, registry
from nastool.core.errors import InputError, short
from nastool.core.evaluator import Evaluator, Report
from nastool.core.space import SearchSpace, make_scale
from nastool.core.task import Data, Task
from nastool.core.values import Arch, Evaluation, Proposal, Scalar
from nastool.nets import checkpoints, devices
from nastool.training.hardware import device_of
from nastool.training.loop import seeds

if TYPE_CHECKING:
    import torch
    from torch import nn

NETWORKS = ("network", "net", "model")
"""What a function of one parameter calls a network; by another name it is the architecture's choices."""


@dataclass(frozen=True)
class RunningTrial:
    """What a function is told of the trial that it measures.

    Attributes:
        id: Number of the trial.
        seed: Its seed; the generators of random, numpy and torch are seeded with it already.
        arch: Option of each decision, by name.
        key: 12 hexadecimal digits that name the architecture.
        budget: As of a `Proposal`, such as a number of epochs; None: the function's own.
        report: Called with a step and metrics of it: what the live view and reports draw.
        task: What networks are for: the shapes of their two ends; None where the function takes no network.
        data: The data that were given, in parts: `trial.data.batches("train", trial.device)`; None: none were.
        device: torch's device that the network is on; None where the function takes no network.
    """

    id: int
    seed: int
    arch: Mapping[str, str]
    key: str
    budget: float | None
    report: Report
    task: Task | None = None
    data: Data | None = None
    device: torch.device | None = None


class OfChoices(Evaluator):
    """A function of an architecture's choices, (arch) or (arch, trial), that returns metrics."""

    provides = frozenset({"budget"})
    function: ClassVar[Callable[..., Any]]
    places: ClassVar[int] = 1
    """Number of its parameters that are no options."""
    own: Mapping[str, Any]
    """Its keyword-only parameters, which are options."""

    def __init__(self, space: SearchSpace, **own: Any) -> None:
        """Makes an evaluator."""
        super().__init__(space)
        self.own = own
        self.objective = getattr(self.function, "objective", self.objective)

    def prepare(self) -> None:
        pass

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        start = time.perf_counter()
        trial = RunningTrial(trial_id, seed, self._choices(proposal.arch), proposal.arch.key, proposal.budget, report)
        with _seeded(seed):
            found = self.function(*(trial.arch, trial)[: self.places], **self.own)
        return Evaluation(metrics_of(found), time.perf_counter() - start)

    def _choices(self, arch: Arch) -> dict[str, str]:
        return {d.name: d.options[i] for d, i in zip(self.space.decisions, arch.choices, strict=True)}


class OfNetwork(OfChoices):
    """A function of a freshly initialised network, (network) or (network, trial), that returns metrics.

    Its weights, as the function leaves them, are kept, so that the best network can be exported.
    """

    needs = frozenset({"network"})
    local_options = frozenset({"device"})

    def __init__(
        self,
        space: SearchSpace,
        *,
        data: str | None = None,
        input: str | None = None,
        classes: int = 10,
        scale: Mapping[str, int] | None = None,
        device: str = "auto",
        **own: Any,
    ) -> None:
        """Makes an evaluator.

        Args:
            data: Data set (`nastool list data`) that networks are built for, and that the function gets as trial.data.
            input: Sizes of an example, such as 3x32x32, that they are built for where there are no data.
            classes: Number of classes, with input.
            scale: Fields of the space's `Scale`; the others keep their defaults.
            device: "auto" (the GPU where there is one), "cpu", "cuda" or "cuda:N": where the network is put.

        Raises:
            InputError: Something is wrong that shows without looking at data or devices.
        """
        super().__init__(space, **own)
        if (data is None) == (input is None):
            raise InputError("say what networks are built for: --data, or -E input= such as 3x32x32, one of them")
        if data is not None and registry.task_for(data).kind() not in space.tasks:
            fit = f"space {space.name} has networks for {', '.join(sorted(space.tasks))}"
            raise InputError(f"{fit}, and {short(data, 100)} is for {registry.task_for(data).kind()}: give other data")
        devices.check(device)
        self._data_name, self._device_option = data, device
        self._task = None if input is None else registry.task_of(space, input, classes)
        self.scale = make_scale(space, scale or {})
        self._prepared = False

    def prepare(self) -> None:
        if self._prepared:
            return
        self.device = device_of(self._device_option)
        self.data: Data | None = None
        if self._data_name is not None:
            self.data = registry.task_for(self._data_name).load(self._data_name)
        task = self._task if self.data is None else self.data.task
        assert task is not None
        self.task = task
        self._prepared = True

    def describe(self) -> Mapping[str, Scalar]:
        facts = {} if self.data is None else {"data": self.data.name, **self.data.describe()}
        return {"device": str(self.device), "built_for": str(self.task), **facts}

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        start = time.perf_counter()
        self.prepare()
        network = self._build(proposal.arch, seed)
        arch = proposal.arch
        given = (trial_id, seed, self._choices(arch), arch.key, proposal.budget, report)
        trial = RunningTrial(*given, self.task, self.data, self.device)
        with _seeded(seed):
            metrics = metrics_of(self.function(*(network, trial)[: self.places], **self.own))
        checkpoint = None
        if self.workdir is not None:
            about: Mapping[str, Any] = {} if self.data is None else self.data.metadata()
            checkpoint = checkpoints.save(
                self.workdir, trial_id, network, self.space, arch, self.scale, self.task, about
            )
        return Evaluation(metrics, time.perf_counter() - start, checkpoint)

    def _build(self, arch: Arch, seed: int) -> nn.Module:
        """Freshly initialised, the same on every device: weights are drawn on the CPU."""
        import torch

        from nastool.nets.networks import build

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds(seed)[0])
            return build(self.space, arch, self.task, self.scale).to(self.device)


def evaluator_of(thing: object, name: str) -> type[Evaluator] | None:
    """An evaluator that calls a function; None: it is none.

    Raises:
        InputError: Its parameters are not those that an evaluator has.
    """
    if not inspect.isfunction(thing):
        return None
    parameters = list(inspect.signature(thing).parameters.values())
    places = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    own = [each for each in parameters if each.kind is each.KEYWORD_ONLY]
    if len(places) not in (1, 2) or len(places) + len(own) < len(parameters):
        where = options.place_of(thing)
        wanted = "(network, trial) or (arch), perhaps with options after a *"
        raise InputError(
            f"{where}: {thing.__name__}{inspect.signature(thing)} is no evaluator: its parameters are {wanted}"
        )
    first = places[0].name
    base = OfNetwork if first in NETWORKS or (len(places) == 2 and first != "arch") else OfChoices

    def init(self: Any, space: SearchSpace, **given: Any) -> None:
        base.__init__(self, space, **given)

    hints = typing.get_type_hints(thing)
    shared = [
        each for each in inspect.signature(base.__init__, eval_str=True).parameters.values() if each.name != "own"
    ]
    named = [each.replace(annotation=hints.get(each.name, each.annotation)) for each in own]
    init.__signature__ = inspect.Signature([*shared, *named])  # type: ignore[attr-defined]
    init.__doc__ = base.__init__.__doc__
    body = {"__init__": init, "__doc__": thing.__doc__ or base.__doc__, "function": staticmethod(thing)}
    cls: type[Evaluator] = type(thing.__name__, (base,), body | {"places": len(places)})
    cls.__module__, cls.__qualname__ = thing.__module__, thing.__qualname__
    return cls


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Meanwhile the global generators of random, numpy and torch, where that is imported, are seeded."""
    import sys

    states = random.getstate(), np.random.get_state()  # noqa: NPY002  # the function may use it
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        if "torch" in sys.modules:
            import torch

            with torch.random.fork_rng():
                torch.manual_seed(seed % 2**63)
                yield
        else:
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def metrics_of(found: Any) -> dict[str, float]:
    """What a function returned, as metrics. TypeError: it is none, with the remedy."""
    if not isinstance(found, Mapping):
        what = "nothing" if found is None else f"a {type(found).__name__}"
        raise TypeError(f'it returned {what}: return a dictionary of numbers, such as {{"val_acc": 0.93}}')
    return {str(name): _number(str(name), value) for name, value in found.items()}


def _number(name: str, value: Any) -> float:
    if not hasattr(value, "detach"):
        return value  # type: ignore[no-any-return]  # whoever asked looks at it
    if value.is_meta:
        raise TypeError(f"metric {short(name, 30)!r} is a tensor on the meta device, which holds no number: compute it")
    if value.numel() != 1:
        many = f"has {value.numel()} values"
        raise TypeError(f"metric {short(name, 30)!r} {many}: return one number, such as value.mean().item()")
    if value.requires_grad or value.device.type != "cpu":
        where = f"on {value.device}" if value.device.type != "cpu" else "with gradients"
        raise TypeError(f"metric {short(name, 30)!r} is a tensor {where}: return a number, as value.item() makes")
    return float(value.item())

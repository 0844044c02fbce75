"""The outputs of several children of one supernet on the same images, in one pass over its modules.

A small network on a large GPU waits for the launches of its kernels, and those of 20 children are 20 times as many. So
each child's forward pass is only recorded at first: what goes from module to module is a `Later`, not yet a tensor.
Calls that are the same for several children (their stem, a common beginning) are recorded once. Then

- on a CPU they are computed one after another, each once;
- on a GPU the calls of one module (or `deferred` function) by several children are computed at once, on their
  batches one after another as one batch; batch normalisations at the same place of the network at once, too, whose
  options children may have chosen differently, with each child's own statistics.

Spaces need not know. A module is recorded as a whole if no choice is inside it (`networks.OneOf`, `networks.Subset`);
anything else that is done to a `Later` has it computed at once, by itself, which is right and not fast.
"""

from __future__ import annotations

import heapq
import itertools
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from nastool.core.errors import fault_of, one_line
from nastool.nets.deferring import Call, Later, added
from nastool.nets.joined import batch_norm, joined, totals

if TYPE_CHECKING:
    from nastool.core.values import Arch
    from nastool.nets.networks import Supernet

LARGEST = 2**23
"""Numbers in the images of all children of a pass on a GPU, at most: 21 children x 128 images of 3 x 32 x 32. More than
that is no longer small."""

AGREES = 0.02
"""How far, relative to its norm, a module's output may be from that on each child's batch by itself."""

SAME = nn.ReLU, nn.AvgPool2d, nn.MaxPool2d
"""Modules that do the same where they are described alike."""

BY_IMAGE = *SAME, nn.Conv2d, nn.Linear
"""Modules that do not mix images. Of others that is found out."""


class _Changed(Exception):
    """A tensor that others are to read was changed in place."""


class OnePass:
    """Runs several children of a supernet whose weights do not change meanwhile."""

    def __init__(self, network: Supernet, *, grouped: bool | None = None) -> None:
        """network: in evaluation mode. grouped: run calls of several children at once; None: on a GPU."""
        self.network = network
        parameter = next(network.parameters())
        self.grouped = parameter.device.type == "cuda" if grouped is None else grouped
        self.apart = (
            getattr(network, "cutting", None) is not None
        )  # what is recorded runs later, with other parts of the weights
        """One child after the other: what the network does is not to be recorded, or changes tensors in place."""
        self.most: int | None = None
        """How many children fit the memory at once, once that is known."""
        self.ways = 1
        """Of how many children the batch is that is computed now."""
        self.in_use = False
        self.recording: _Recording | None = None
        self.sites: dict[nn.Module, int] = {}
        self._find(network)
        self.norms = [module for module in network.modules() if _mixes(module)] if self.grouped else []
        self.dropouts = [module for module in network.modules() if isinstance(module, nn.modules.dropout._DropoutNd)]
        self.random: set[Any] = set()
        """Modules that draw."""
        self.known_steps: dict[Call, list[Call]] = {}
        self.agreeing: dict[Hashable, bool] = {}
        """Whether a call gives the same on several children's batches as on each."""

    def _find(self, module: nn.Module, site: int | None = None) -> None:
        """The largest modules without choices. All in the options of a decision have one site, all in a member of a
        subset, and those of a subset's members that have no choices."""
        from nastool.nets.networks import OneOf, Subset

        if getattr(module, "defers_itself", False):  # defers what it does by itself
            return
        if not _chooses(module):
            if not isinstance(module, nn.Identity):
                self.sites[module] = len(self.sites) if site is None else site
            return
        if site is None and isinstance(module, OneOf):
            site = len(self.sites)
        options = {OneOf: "options", Subset: "members"}.get(type(module))
        common = len(self.sites)
        for member in (getattr(module, options) if options else module).children():
            new = common if not _chooses(member) else len(self.sites)
            self._find(member, new if site is None and isinstance(module, Subset) else site)

    @contextmanager
    def installed(self) -> Iterator[OnePass]:
        """Meanwhile its modules can be recorded."""
        drawing = any(map(_draws, self.dropouts))
        self.random = {module for module in self.network.modules() if _draws(module)} if drawing else set()
        self.known_steps = {}
        for norm in self.norms:
            norm.__dict__["forward"] = partial(self._norm, norm)
        for module in self.sites:
            module.__dict__["forward"] = partial(self._called, module)
        self.in_use = True
        try:
            yield self
        finally:
            self.in_use = False
            for module in {*self.norms, *self.sites}:
                del module.__dict__["forward"]

    def logits(
        self, archs: Sequence[Arch], images: Tensor, *, then: Callable[[Any], Any] = lambda output: output
    ) -> list[Any]:
        """What the network makes of the images as each of these children. Draws of dropout are each child's own.

        then: is given each output, and what it makes of it is returned instead; on a CPU before the next is computed.
        """
        most = len(archs)
        if self.grouped:
            most = min(most, self.most or most, max(1, LARGEST // images.numel()))
        found: list[Any] = []
        while len(found) < len(archs):
            try:
                found += self._pass(archs[len(found) : len(found) + most], images, then)
            except RuntimeError as error:
                if most == 1 or fault_of(error) != "memory":
                    raise
                self.most = most = most // 2
        return found

    def _pass(self, archs: Sequence[Arch], images: Tensor, then: Callable[[Any], Any]) -> list[Any]:
        with torch.no_grad():  # not in inference mode, where no versions are counted
            if not self.apart and len(archs) > 1:
                try:
                    return self._recorded(archs, images, then)
                except Exception as error:
                    if fault_of(error) is not None:
                        raise
                    self.apart = True
                    print(f"children are rewarded one after the other: {one_line(error)}", file=sys.stderr)  # the log
            found = []
            for arch in archs:
                self.network.select(arch)
                found.append(then(self.network(images)))
            return found

    def _recorded(self, archs: Sequence[Arch], images: Tensor, then: Callable[[Any], Any]) -> list[Any]:
        # On a CPU neighbours with a long common beginning keep what is shared for the shortest time.
        indices = range(len(archs))
        order = indices if self.random or self.grouped else sorted(indices, key=lambda i: archs[i].choices)
        outputs: list[Any] = [None] * len(archs)
        self.recording = recording = _Recording(self)
        try:
            for i in order:
                self.network.select(archs[i])
                outputs[i] = self.network(images)
        finally:
            self.recording = None
        return recording.compute(outputs, order, then)

    # --- what takes the place of modules' forward

    def _called(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.recording is None or kwargs or not all(isinstance(arg, Later | Tensor) for arg in args):
            if _mixes(module) and self.grouped:
                return self._norm(module, *args)
            return type(module).forward(module, *args, **kwargs)
        return self.recording.call(module, args) if self.steps(module) else args[0]

    def steps(self, call: Call) -> list[Call]:
        """What it does, one after the other."""
        if call not in self.sites or not isinstance(call, nn.Module):
            return [call]
        if call not in self.known_steps:
            self.known_steps[call] = list(_steps(call))
        return self.known_steps[call]

    def _norm(self, norm: nn.Module, x: Any) -> Any:
        if self.ways == 1 or not isinstance(x, Tensor):
            return type(norm).forward(norm, x)
        return batch_norm([cast(nn.BatchNorm2d, norm)] * self.ways, x)


def _chooses(module: nn.Module) -> bool:
    from nastool.nets.networks import OneOf, Subset

    return any(isinstance(part, OneOf | Subset) for part in module.modules())


def _draws(module: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.dropout._DropoutNd) and m.training and m.p > 0 for m in module.modules())


def _mixes(module: nn.Module) -> bool:
    """Whether it is a batch normalisation by the statistics of the batch at hand."""
    return type(module) is nn.BatchNorm2d and not module.track_running_stats


def _steps(module: nn.Module) -> Iterator[nn.Module]:
    """What it does, one after the other, but for what does nothing."""
    if type(module) is nn.Sequential:
        for part in module:
            yield from _steps(part)
    elif isinstance(module, nn.modules.dropout._DropoutNd):
        if _draws(module):
            yield module
    elif not isinstance(module, nn.Identity) and (module.training or not getattr(module, "only_in_training", False)):
        yield module


class _Recording:
    """The calls of some children, and how they are computed."""

    def __init__(self, one_pass: OnePass) -> None:
        self.one_pass = one_pass
        self.calls: list[Later] = []
        self.known: dict[Hashable, Later] = {}
        self.alone: set[Call] = set()
        self.complete = False

    def call(self, call: Call, args: tuple[Any, ...], alone: bool = False) -> Later:
        """The call's result, that of the same call before if there was one."""
        key = (call, *((id(arg),) if isinstance(arg, Later | Tensor) else arg for arg in args))
        owner = getattr(call, "__self__", call)
        known = None if owner in self.one_pass.random else self.known.get(key)
        if known is None:
            sites = [arg.site for arg in args if isinstance(arg, Later)]
            site = self.one_pass.sites.get(cast(nn.Module, call), max(sites, default=-1) + 0.5)
            self.known[key] = known = Later(self, call, args, site)
            self.calls.append(known)
            for arg in args:
                if isinstance(arg, Later):
                    arg.readers += 1
            if alone:
                self.alone.add(call)
        return known

    # --- computing

    def compute(self, outputs: Sequence[Any], order: Iterable[int], then: Callable[[Any], Any]) -> list[Any]:
        self.complete = True
        for output in outputs:
            for part in _laters(output):
                part.readers += 1
        if self.one_pass.grouped:
            self._by_site()
            return [then(_values(output)) for output in outputs]
        found: list[Any] = list(outputs)
        for i in order:
            for part in _laters(found[i]):
                self.compute_alone(part)
            values = _values(found[i])
            for part in _laters(found[i]):
                part.readers -= 1
                if not part.readers:
                    part.value = None
            found[i] = then(values)
        return found

    def compute_alone(self, later: Later) -> None:
        """With what it depends on; nothing of it is recorded."""
        if later.value is not None:
            return
        for arg in later.args:
            if isinstance(arg, Later):
                self.compute_alone(arg)
        before, self.one_pass.recording = self.one_pass.recording, None
        try:
            later.take(later.call(*self._read(later)))
        finally:
            self.one_pass.recording = before

    def _read(self, later: Later) -> list[Any]:
        """The arguments of a call that is computed now."""
        values = []
        for arg in later.args:
            if isinstance(arg, Later):
                value = arg.value
                assert value is not None
                if isinstance(value, Tensor) and value._version != arg.version:
                    raise _Changed
                arg.readers -= 1
                if self.complete and not arg.readers:
                    arg.value = None
                values.append(value)
            else:
                values.append(arg)
        return values

    def _by_site(self) -> None:
        """All that can be computed, the first site first."""
        missing: dict[Later, int] = {}
        next_ones: dict[Later, list[Later]] = {}
        ready: list[tuple[float, int, Later]] = []
        number = itertools.count()
        for later in self.calls:
            if later.value is not None:
                continue
            args = {arg for arg in later.args if isinstance(arg, Later) and arg.value is None}
            missing[later] = len(args)
            for arg in args:
                next_ones.setdefault(arg, []).append(later)
            if not args:
                heapq.heappush(ready, (later.site, next(number), later))
        while ready:
            together = [heapq.heappop(ready)[2]]
            while ready and ready[0][0] == together[0].site:
                together.append(heapq.heappop(ready)[2])
            self._together(together)
            for later in together:
                for after in next_ones.pop(later, ()):
                    missing[after] -= 1
                    if not missing[after]:
                        heapq.heappush(ready, (after.site, next(number), after))

    def _together(self, calls: list[Later]) -> None:
        runs = []
        for later in calls:
            if later.call in self.alone:
                self.compute_alone(later)
            else:
                runs.append(_Run(later, self.one_pass.steps(later.call), self._read(later)))
        read = [(value, value._version) for run in runs for value in run.values if isinstance(value, Tensor)]
        order = {call: i for i, call in enumerate(dict.fromkeys(run.later.call for run in runs))}
        runs.sort(key=lambda run: order[run.later.call])  # so that what is computed at once lies one after the other
        if len(order) < len(runs):
            single = [run for run in runs if len(run.values) == 1]
            for group in _grouped(single, lambda run: run.values[0].shape):
                _give(group, joined([run.values[0] for run in group]))
        left = runs
        while left:
            others = [run for run in left if not _mixes_next(run)]
            for group in _grouped(others or left, _Run.kind):
                self._step(group)
            left = [run for run in left if run.steps]
        if any(value._version != version for value, version in read):
            raise _Changed  # before or after another one has read it
        for run in runs:
            run.later.take(run.values[0])

    def _step(self, group: list[_Run]) -> None:
        """The next step of calls that do the same, on values of the same shapes."""
        steps = [run.steps.pop(0) for run in group]
        if steps[0] is added and len(group) > 1:
            _give(group, totals([run.values for run in group]))
        elif _mixes(cast(nn.Module, steps[0])):
            x = batch_norm(steps, joined([run.values[0] for run in group]))  # type: ignore[arg-type]  # all of them
            if all(run.steps and type(run.steps[0]) is nn.ReLU for run in group):
                x.relu_()
                for run in group:
                    run.steps.pop(0)
            _give(group, x)
        else:
            self._on_one_batch(steps[0], group)

    def _on_one_batch(self, call: Call, group: list[_Run]) -> None:
        known = self.one_pass.agreeing
        fixed = [value for value in group[0].values if not isinstance(value, Tensor)]
        key = (call, *fixed)
        if len(group) > 1 and known.get(key, True):
            whole = self._whole(call, group)
            if known.get(key) or (key not in known and isinstance(call, BY_IMAGE)):
                _give(group, whole)
                return
        apart = [call(*run.values) for run in group]
        if len(group) > 1 and key not in known:
            known[key] = _agree(whole, apart)
        for run, value in zip(group, apart, strict=True):
            run.values = [value]

    def _whole(self, call: Call, group: list[_Run]) -> Any:
        places = zip(*(run.values for run in group), strict=True)
        args = [joined(place) if isinstance(place[0], Tensor) else place[0] for place in places]
        self.one_pass.ways = len(group)
        try:
            return call(*args)
        finally:
            self.one_pass.ways = 1


class _Run:
    """A call that is being computed: what is left to do, and to what."""

    def __init__(self, later: Later, steps: Sequence[Call], values: list[Any]) -> None:
        self.later = later
        self.steps = list(steps)
        self.values = values

    def kind(self) -> Hashable:
        """What runs have in common that can take their next step at once."""
        step: Any = self.steps[0] if self.steps else None
        if _mixes(step):
            step = (nn.BatchNorm2d, step.eps, step.affine, len(self.steps) > 1 and type(self.steps[1]) is nn.ReLU)
        elif isinstance(step, SAME):
            step = (type(step), step.extra_repr())
        if step is added:
            return (step, self.values[0].shape, self.values[0].dtype)
        return (step, *((v.shape, v.dtype) if isinstance(v, Tensor) else v for v in self.values))


def _laters(output: Any) -> list[Later]:
    """What is still to be computed of what a network returned."""
    return [part for part in (output if isinstance(output, tuple) else (output,)) if isinstance(part, Later)]


def _values(output: Any) -> Any:
    """The tensors of what a network returned."""
    if isinstance(output, tuple):
        return tuple(map(_values, output))
    return output.value if isinstance(output, Later) else output


def _mixes_next(run: _Run) -> bool:
    return _mixes(cast(nn.Module, run.steps[0]))


def _grouped(runs: Iterable[_Run], key: Callable[[_Run], Hashable]) -> list[list[_Run]]:
    groups: dict[Hashable, list[_Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def _give(group: Sequence[_Run], whole: Tensor) -> None:
    """To each run its part of a batch."""
    for run, part in zip(group, whole.chunk(len(group)), strict=True):
        run.values = [part]


def _agree(whole: Any, apart: list[Any]) -> bool:
    if not isinstance(whole, Tensor) or not all(isinstance(part, Tensor) for part in apart):
        return False
    if whole.shape != (len(apart) * apart[0].shape[0], *apart[0].shape[1:]):
        return False
    right = torch.cat(apart).float()
    return bool((whole.float() - right).norm() <= AGREES * right.norm())

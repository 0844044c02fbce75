"""What one network hands down to another: weights, the optimiser's memory, and how batch normalisation begins.

A space says which part of which tensor goes where (`Growing.inherit`); here that is carried out. The copies that
move weights move the optimiser's memory, too, whose new entries are zero. A child is exact, up to rounding, in
evaluation mode as soon as `apply` has run; in training mode, where batch normalisation uses the batch's statistics,
`calibrate` brings it close.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from nastool.core.space import SearchSpace
    from nastool.core.values import Arch

Index = tuple[NDArray[np.intp], ...]
"""An entry for each dimension, broadcast against one another as numpy and torch do."""


def block(*rows: Sequence[int] | range) -> Index:
    """The entries at every combination of these positions, one sequence a dimension."""
    return np.ix_(*(np.asarray(row, dtype=np.intp) for row in rows))


@dataclass(frozen=True)
class Fill:
    """child[where] = value, before anything is copied."""

    name: str
    where: Index
    value: float


@dataclass(frozen=True)
class Copy:
    """child[target] = parent[source], in tensors of the names `name` and `source_name`."""

    name: str
    target: Index
    source_name: str
    source: Index


@dataclass
class Inheritance:
    """How a child network begins with its parent's weights.

    fills: new weights that are not as freshly initialised: zeros, and the ones of an identity.
    copies: old weights. Whatever neither mentions stays as it was drawn.
    identity: name of a batch normalisation -> the channels whose normalisation it has to undo, since the layer is an
        identity at birth.
    fresh: name of a batch normalisation -> the channels that did not exist before.
    exact: in evaluation mode the child computes the parent's function.
    """

    fills: list[Fill] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    identity: dict[str, list[int]] = field(default_factory=dict)
    fresh: dict[str, list[int]] = field(default_factory=dict)
    exact: bool = True

    def apply(self, child: nn.Module, parent: Mapping[str, Tensor]) -> None:
        """Give the child, freshly initialised, what it inherits. parent: the parent's state_dict."""
        import torch
        from torch import nn

        state = child.state_dict()  # shares its tensors with the child
        with torch.no_grad():
            for fill in self.fills:
                state[fill.name][_on(fill.where, state[fill.name])] = fill.value
            for name, channels in self.identity.items():
                norm = child.get_submodule(name)
                assert isinstance(norm, nn.BatchNorm2d)
                _undo(norm, channels)
            self._copy(state, parent)

    def expand(self, memory: Mapping[str, Tensor], child: nn.Module) -> dict[str, Tensor]:
        """The optimiser's memory for the child's parameters: the parent's where weights are the parent's, else zero.

        memory: of each of the parent's parameters tensors in its shape, such as momentum, and numbers, such as the
            count of its steps; under its name, or its name, ":" and what they are. A parameter that has nothing of the
            parent's gets no numbers.
        """
        import torch

        kinds: dict[str, dict[str, Tensor]] = {}
        for key, value in memory.items():
            name, _, kind = key.partition(":")
            kinds.setdefault(kind, {})[name] = value
        sources = {copy.name: copy.source_name for copy in self.copies}
        found: dict[str, Tensor] = {}
        for kind, values in kinds.items():
            if kind and not any(value.dim() for value in values.values()):
                whole = {name: values[source] for name, source in sources.items() if source in values}
            else:
                whole = {name: torch.zeros_like(parameter) for name, parameter in child.named_parameters()}
                self._copy(whole, values)
            found |= {f"{name}:{kind}" if kind else name: value for name, value in whole.items()}
        return found

    def calibrate(self, child: nn.Module, *inputs: Tensor) -> None:
        """Set the statistics of new channels from a batch of inputs, so that training mode begins near the parent.

        They are those of training mode, where the layers before normalise by these inputs, too; old channels keep
        theirs. An identity's scale and shift follow them: sqrt(variance + eps) and mean, so evaluation mode stays exact
        (Elsken et al. 2017, type I with C = 1/A). Needs N * H * W > 1 where the normalisation is; else nothing changes.
        """
        import torch
        from torch import nn
        from torch.nn.functional import batch_norm

        def calibrate(norm: nn.BatchNorm2d, x: Tensor, name: str) -> Tensor | None:
            """The output in training mode."""
            if x[:, 0].numel() < 2:
                return None
            identity = self.identity.get(name, [])
            channels = sorted({*identity, *self.fresh.get(name, [])})
            if channels:
                assert norm.running_mean is not None and norm.running_var is not None
                norm.running_var[channels], norm.running_mean[channels] = torch.var_mean(x[:, channels], (0, 2, 3))
                _undo(norm, identity)
            return batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)

        handles = []
        for name, module in child.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                hook = lambda norm, inputs, _, name=name: calibrate(norm, inputs[0], name)  # noqa: E731
                handles.append(module.register_forward_hook(hook))
        training = child.training
        child.eval()
        try:
            with torch.no_grad():
                child(*inputs)
        finally:
            child.train(training)
            for handle in handles:
                handle.remove()

    def _copy(self, state: Mapping[str, Tensor], parent: Mapping[str, Tensor]) -> None:
        for copy in self.copies:
            if copy.name in state and copy.source_name in parent:  # an optimiser remembers no statistics
                target, source = state[copy.name], parent[copy.source_name].to(state[copy.name].device)
                values = source[_on(copy.source, source)]
                target[_on(copy.target, target)] = values.to(target.dtype)


def matching(child: Mapping[str, tuple[int, ...]], parent: Mapping[str, tuple[int, ...]]) -> Inheritance:
    """Weights go where name and shape are the same (Real et al., ICML 2017); the rest is new.

    child, parent: name -> shape of every parameter and buffer. Exact only where nothing differs.
    """
    same = [name for name, shape in child.items() if parent.get(name) == shape]
    copies = [Copy(name, _everything(child[name]), name, _everything(child[name])) for name in same]
    fresh = {
        name.removesuffix(".running_mean"): list(range(shape[0]))
        for name, shape in child.items()
        if name.endswith(".running_mean") and name not in same
    }
    return Inheritance([], copies, {}, fresh, exact=dict(child) == dict(parent))


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter and buffer."""
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def _everything(shape: Collection[int]) -> Index:
    return block(*(range(length) for length in shape)) if shape else ()


def _on(index: Index, tensor: Tensor) -> tuple[torch.Tensor, ...]:
    import torch

    return tuple(torch.from_numpy(part).to(tensor.device) for part in index)


def _undo(norm: nn.BatchNorm2d, channels: list[int]) -> None:
    """Scale and shift that undo the normalisation by the running statistics."""
    import torch

    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        norm.weight[channels] = (norm.running_var[channels] + norm.eps).sqrt()
        norm.bias[channels] = norm.running_mean[channels]


# --- what a space says of it


@runtime_checkable
class Growing(Protocol):
    """A space whose networks grow; it provides "inherit"."""

    def start(self) -> Arch:
        """The small network that growing begins with."""
        ...

    def morphisms(self, arch: Arch) -> Mapping[str, Sequence[Arch]]:
        """Kind -> every member that one function-preserving step of this kind leads to, in a fixed order.

        Every kind is there, possibly empty. `inherit` is exact from arch to each of them, and to what any number of
        such steps leads to.
        """
        ...

    def inherit(self, parent: Arch, child: Arch, task: Any, scale: Any) -> Inheritance:
        """What the network of `child` takes from that of `parent`, a member, too."""
        ...


def growing(space: SearchSpace) -> Growing:
    """The space as one that grows. ValueError: it does not."""
    if not isinstance(space, Growing):
        raise ValueError(f"space {space.name} has no network morphisms")
    return space


def inherited(space: SearchSpace, parent: Arch, child: Arch, task: Any, scale: Any) -> Inheritance:
    """What the network of `child` takes from that of `parent`, both members of the space.

    As of `Growing.inherit`; in other spaces tensors are taken over where name and shape are the same.
    """
    import torch

    from nastool.nets.networks import build

    if isinstance(space, Growing):
        return space.inherit(parent, child, task, scale)
    with torch.device("meta"):
        return matching(*(shapes(build(space, arch, task, scale)) for arch in (child, parent)))

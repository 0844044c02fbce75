"""Building blocks that several spaces' networks are made of. Plain modules: (N, C, H, W) in and out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nastool.core.space import Members
from nastool.nets import launches
from nastool.nets.deferring import deferred, total
from nastool.nets.depthwise import DepthwiseConv2d, faster
from nastool.nets.launches import are_few
from nastool.nets.networks import active


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias, padded so that output = ceil(input / stride)."""
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(c_in, c_out, kernel, stride), nn.BatchNorm2d(c_out))


def conv_bn_relu(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_bn(c_in, c_out, kernel, stride), nn.ReLU())


def relu_conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), *conv_bn(c_in, c_out, kernel, stride))


class Separable(nn.Module):
    """Depthwise, then pointwise convolution, with nothing in between (Chollet 2017)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv2d(c_in, kernel, stride, dilation)
        self.pointwise = conv(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


def sep_conv(channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """ReLU, separable convolution, BN, all twice; the first has the stride (NASNet)."""
    layers: list[nn.Module] = []
    for step in (stride, 1):
        layers += [nn.ReLU(), Separable(channels, channels, kernel, step), nn.BatchNorm2d(channels)]
    return nn.Sequential(*layers)


def dil_conv(channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """ReLU, separable convolution with dilation 2, BN (DARTS)."""
    return nn.Sequential(nn.ReLU(), Separable(channels, channels, kernel, stride, 2), nn.BatchNorm2d(channels))


def cross_conv(channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """ReLU, 1 x kernel, then kernel x 1 convolution, BN (NASNet)."""
    row = nn.Conv2d(channels, channels, (1, kernel), (1, stride), (0, kernel // 2), bias=False)
    column = nn.Conv2d(channels, channels, (kernel, 1), (stride, 1), (kernel // 2, 0), bias=False)
    return nn.Sequential(nn.ReLU(), row, column, nn.BatchNorm2d(channels))


class MaxPool(nn.MaxPool2d):
    """`nn.MaxPool2d`."""

    @faster
    def forward(self, x: Tensor) -> Tensor:
        """Where nothing is to be learnt, on a CPU, 3x3 with stride 1 is four maxima of shifted images.

        That takes two thirds of the time in float32 and a quarter in bfloat16.
        """
        fast = x.device.type == "cpu" and (self.kernel_size, self.stride) == (3, 1)
        if not fast or (torch.is_grad_enabled() and x.requires_grad):
            out: Tensor = super().forward(x)
            return out
        for dim in (3, 2):
            length = x.shape[dim] - 1
            if length:
                wider = x.clone()
                for here, there in ((0, 1), (1, 0)):
                    part = wider.narrow(dim, here, length)
                    torch.maximum(part, x.narrow(dim, there, length), out=part)
                x = wider
        return x


def pool(kind: str, kernel: int, stride: int = 1) -> nn.Module:
    """ "avg" (over the positions inside the image) or "max" pooling, output = ceil(input / stride)."""
    if kind == "max":
        return MaxPool(kernel, stride, kernel // 2)
    return nn.AvgPool2d(kernel, stride, kernel // 2, count_include_pad=False)


def halve(x: Tensor, weight: Tensor) -> Tensor:
    """1x1 convolution that halves height and width (rounded up) and sees every second position diagonally twice.

    The first half of the channels looks at the even positions, the second at the odd ones, with zeros beyond the
    image. weight: (c_out, c_in, 1, 1).
    """
    even = (weight.shape[0] + 1) // 2
    if are_few():
        if weight.shape[0] == 2 * even:
            return functional.conv2d(launches.diagonals([x]), weight, groups=2)
    if torch.is_grad_enabled() and even < weight.shape[0]:
        # One 2x2 convolution. Slices and strided 1x1 convolutions pass gradients back that are not channels_last, and
        # then all before them is slow: a training step of ENAS' macro supernet takes 1.8 times as long on a CPU.
        both = [functional.pad(weight[:even], (0, 1, 0, 1)), functional.pad(weight[even:], (1, 0, 1, 0))]
        return functional.conv2d(functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)), torch.cat(both), stride=2)
    out = functional.conv2d(x, weight[:even], stride=2)
    if even == weight.shape[0]:
        return out
    height, width = x.shape[2:]
    shifted = functional.pad(x, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]
    return torch.cat([out, functional.conv2d(shifted, weight[even:], stride=2)], 1)


class FactorizedReduce(nn.Module):
    """Half the height and width by `halve`, then BN: a reduction that skips less than a strided 1x1 convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = conv(c_in, c_out, 1)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(halve(x, self.conv.weight))
        return out


class DropPath(nn.Module):
    """Zeroes whole images of a batch in training and scales the others by 1 / (1 - probability).

    probability: in [0, 1), set from outside. 0: the input itself. depth: where in the network it is, in
    (0, 1]. It has no state, and one instance may stand on several edges: each call draws anew, from torch's global
    generator.
    """

    only_in_training = True

    def __init__(self, depth: float) -> None:
        super().__init__()
        self.depth = depth
        self.probability = 0.0
        self.keep: Tensor | None = None  # 1 - probability where it is on a GPU, so that a recorded step can change it
        # Which of how many images x is (from, to, of), where a batch comes in parts: drawn is for all of it.
        self.images: tuple[int, int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep: Any = 1 - self.probability if self.keep is None else self.keep
        start, end, images = self.images or (0, x.shape[0], x.shape[0])
        return x * x.new_empty((images, 1, 1, 1)).bernoulli_(keep).div_(keep)[start:end]


class Variational(nn.Module):
    """Dropout with one mask for all time steps of a batch (Gal & Ghahramani 2016); kept numbers are scaled up.

    place: Where it stands, one of a recipe's places. probability: the rate there, in [0, 1), set from outside. At 0,
    and in evaluation, nothing is done. It has no state; each call draws anew, from torch's global generator.
    """

    only_in_training = True

    def __init__(self, place: str, per_example: bool = True) -> None:
        """per_example: The first dimension of what it is called with is the examples of a batch."""
        super().__init__()
        self.place = place
        self.per_example = per_example
        self.probability = 0.0
        self.images: tuple[int, int, int] | None = None  # which examples x has (from, to, of), of a batch in parts

    def mask(self, x: Tensor) -> Tensor | None:
        """What x is multiplied with at every time step: (N, H) for x (N, H), (N, 1, H) for x (N, T, H); None: by 1."""
        if not self.training or self.probability == 0:
            return None
        keep = 1 - self.probability
        start, end, count = self.images or (0, x.shape[0], x.shape[0])
        shape = (count, *[1] * (x.dim() - 2), x.shape[-1])  # of matrices every number for itself
        return x.new_empty(shape).bernoulli_(keep).div_(keep)[start:end]

    def forward(self, x: Tensor) -> Tensor:
        mask = self.mask(x)
        return x if mask is None else x * mask


class GlobalPool(nn.Module):
    """(N, C, H, W) -> (N, C): the mean over positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Zero(nn.Module):
    """No connection: zeros in the input's shape, or a stride's. `Dag` leaves it out."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Residual(nn.Module):
    """x -> body(x) + shortcut(x)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class Dag(nn.Module):
    """A cell of nodes 0 .. n: node 0 is the input, every other the sum of its incoming edges, the last the output.

    All nodes have the input's shape; a node without incoming edges is zero.
    """

    def __init__(self, edges: Mapping[tuple[int, int], nn.Module]) -> None:
        """edges: (source, target) -> module, 0 <= source < target."""
        super().__init__()
        self.edges = nn.ModuleDict({f"{target}<-{source}": module for (source, target), module in edges.items()})
        nodes = max(target for _, target in edges)
        self.inputs: Sequence[Sequence[tuple[int, str]]] = [
            [(source, f"{target}<-{source}") for source, t in edges if t == target] for target in range(1, nodes + 1)
        ]

    def _leaving(self, source: int) -> dict[int, nn.Module]:
        """The edges of a node by their targets."""
        names = {target: f"{target}<-{source}" for target in range(source + 1, len(self.inputs) + 1)}
        edges = {target: active(self.edges[name]) for target, name in names.items() if name in self.edges}
        return {target: edge for target, edge in edges.items() if not isinstance(edge, Zero)}

    def joins(self) -> list[list[nn.Module]]:
        """See `launches.few_launches`."""
        from nastool.nets import together

        sources = range(len(self.inputs))
        return [group for node in sources for group in together.joins(list(self._leaving(node).values()))]

    def forward(self, x: Tensor) -> Tensor:
        if are_few():
            return self._train(x)
        states = [x]
        for inputs in self.inputs:
            terms = []
            for source, name in inputs:
                edge = active(self.edges[name])
                if not isinstance(edge, Zero):
                    terms.append(edge(states[source]))
            states.append(total(*terms) if terms else deferred(torch.zeros_like, x))
        return states[-1]

    def _train(self, x: Tensor) -> Tensor:
        """The same node by node: the edges that leave one run together."""
        from nastool.nets import together

        states: list[Tensor | None] = [x, *(None for _ in self.inputs)]
        for source in range(len(self.inputs)):
            edges = self._leaving(source)
            state = states[source]
            terms = together.run(list(edges.values()), [torch.zeros_like(x) if state is None else state] * len(edges))
            for target, term in zip(edges, terms, strict=True):
                total = states[target]
                states[target] = term if total is None else total + term
        return torch.zeros_like(x) if states[-1] is None else states[-1]


class TrainingOnly(nn.Sequential):
    """Modules that only training needs, such as an auxiliary classifier; counts of parameters leave them out."""

    training_only = True


class Heads(NamedTuple):
    """What a network with several heads returns in training.

    Attributes:
        mean: What it says in evaluation, (N, outputs).
        heads: What each of them says, logits or numbers (N, outputs).
        shared: What all of them read.
    """

    mean: Tensor
    heads: tuple[Tensor, ...]
    shared: Tensor

    def learn_alike(self) -> None:
        """Has backward multiply the gradients of what the heads have of their own by their number.

        A loss that counts each of M heads 1 / M teaches the backbone like one network, its gradient being a mean, but a
        head only at 1 / M of the learning rate.
        """
        for factor, tensors in ((len(self.heads), self.heads), (1 / len(self.heads), [self.shared])):
            for each in tensors:
                if each.requires_grad:
                    each.register_hook(partial(torch.mul, other=factor))  # type: ignore[no-untyped-call]  # torch's stub


class Vote(nn.Module):
    """Outputs (N, classes) -> the logarithms of the mean of their probabilities; of numbers their mean; one as it is.

    Of several in training `Heads`.
    """

    def __init__(self, numbers: bool) -> None:
        super().__init__()
        self.numbers = numbers

    def forward(self, shared: Tensor, *heads: Tensor) -> Any:
        if len(heads) == 1:
            return heads[0]
        if self.numbers:
            mean = torch.stack(heads).mean(0)
        else:
            mean = torch.stack(heads).log_softmax(-1).logsumexp(0) - math.log(len(heads))
        return Heads(mean, heads, shared) if self.training else mean


class Add(nn.Module):
    """x + y."""

    defers_itself = True

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = total(x, y)
        return out


class Concat(nn.Module):
    """The concatenation of x and y through a module."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.body(torch.cat([x, y], 1))
        return out


class Take(nn.Module):
    """One of several named tensors, through a module."""

    def __init__(self, name: str, body: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.body = body

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        out: Tensor = self.body(tensors[self.name])
        return out


class Sum(nn.Module):
    """The sum of those tensors that have a member, each through its member."""

    def __init__(self, parts: Members) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        terms = [part(tensors[name]) for name, part in self.parts.active.items()]
        terms = self.parts.weighed(terms)
        if are_few():
            if len(terms) > 3:
                return launches.summed(terms)
        out: Tensor = total(*terms)
        return out


class Join(nn.Module):
    """1x1 convolution over the concatenation of those tensors that have a member.

    A convolution of a concatenation is the sum of one for each part, so there is a weight for each tensor that may
    take part, in the child as in the supernet; those of the ones that do are concatenated, too, and run as one.
    """

    def __init__(
        self, parts: Members, before: nn.Module, *, halves: bool = False, bias: nn.Parameter | None = None
    ) -> None:
        """parts: bias-free 1x1 `Conv2d`s. before: applied to the concatenation. halves: `halve` instead."""
        super().__init__()
        self.parts = parts
        self.before = before
        self.halves = halves
        self.bias = bias
        with torch.no_grad():  # drawn as one convolution's would be, whose variance falls with all its inputs
            for part in parts.members.values():
                part.weight /= len(parts.members) ** 0.5

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """tensors: by name, (N, c, H, W) of one N, H, W; others may be among them."""
        if are_few():
            return self.convolved(self.concatenated(tensors))
        active = tuple(self.parts.active)
        out: Tensor = deferred(self._of, active, *(tensors[name] for name in active))
        return out

    def _of(self, names: Sequence[str], *parts: Tensor) -> Tensor:
        weights: list[Tensor] = [self.parts.members[name].weight for name in names]  # type: ignore[misc]  # torch's stub
        weights = self.parts.weighed(weights)
        x = self.before(torch.cat(parts, 1) if len(parts) > 1 else parts[0])
        return self._convolve(x, torch.cat(weights, 1) if len(weights) > 1 else weights[0])

    def concatenated(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """What is convolved."""
        out: Tensor = self.before(launches.concatenated([tensors[name] for name in self.parts.active]))
        return out

    def convolved(self, x: Tensor) -> Tensor:
        """Within `launches.few_launches`."""
        weights = self._weights()
        if len({weight.shape for weight in weights}) > 1:
            return self._convolve(x, torch.cat(weights, 1))
        return self._convolve(x, self.stacked().flatten(1)[..., None, None])

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        return halve(x, weight) if self.halves else functional.conv2d(x, weight, self.bias)

    def _weights(self) -> list[Tensor]:
        return [part.weight for part in self.parts.active.values()]  # type: ignore[misc]  # torch's stub

    def stacked(self) -> Tensor:
        """The weights of all inputs that take part: (c_out, inputs, channels of each)."""
        return launches.stacked(self._weights()).flatten(2).transpose(0, 1)

    def joins(self) -> list[list[nn.Module]]:
        """See `launches.few_launches`."""
        parts = list(self.parts.active.values())
        return [parts] if len({part.in_channels for part in parts}) == 1 < len(parts) else []

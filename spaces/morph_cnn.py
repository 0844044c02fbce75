"""Convolutional networks that can grow: the space of network morphism (Elsken et al. 2017, arXiv 1711.04528)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nastool.core.arrays import Choices
from nastool.core.diagram import Edge, Node, Section, chain
from nastool.core.errors import InputError
from nastool.core.space import Choose, SearchSpace, check_scale
from nastool.core.values import Arch, Decision
from nastool.nets.definitions.morph_form import Layer, value_of
from nastool.nets.inheritance import Copy, Fill, Inheritance, block

if TYPE_CHECKING:
    from torch import nn

    from nastool.tasks.images.task import ImageTask

KERNELS = ("3x3", "5x5")
NONE = "none"
JOINS = ("concat", "add")
KINDS = ("deeper", "wider", "concat", "add", "kernel")
"""Kinds of morphisms. The last one, 3x3 to 5x5 with zeros around it, is not among the paper's."""

Channel = tuple[str, int]
"""A layer's name, and which of the channels of its value."""


class MorphCNN(SearchSpace):
    """Stages of convolutions that can grow while they are trained: deeper, wider, with skips added or concatenated.

    A stage has slots for layers, the first always filled. A layer is convolution, batch normalisation, ReLU. Its value
    y may be joined with the value v of an earlier layer of the stage, or of the stage's input: "concat" lets the next
    layer read [y, v]; "add" makes y into r*y + (1 - r)*v, with a learnable r in [0, 1] for each channel that both have.
    Between stages stands a max pooling that halves height and width; the widths of stage s count in 2^(s-1) times
    `channels`. A skip from an empty slot is none.

    Deviations from the paper: r is one number per channel, not per skip, which lets layers with a skip between them
    grow wider one by one; and growing is bounded by the slots and `max_width`.
    """

    name = "morph-cnn"
    provides = frozenset({"network", "inherit"})

    @dataclass(frozen=True)
    class Scale:
        """Size of the network.

        Args:
            channels: Channels of a layer of width 1 in the first stage.
        """

        channels: int = 16

        def __post_init__(self) -> None:
            check_scale(self)

    def __init__(self, *, stages: int = 3, layers: int = 6, min_width: int = 1, max_width: int = 8) -> None:
        """Makes a space.

        Args:
            stages: Number of stages, from 1 to 8.
            layers: Slots for layers in each stage, from 1 to 30.
            min_width: Width that growing starts with, a power of two from 1 to 1,024.
            max_width: Width that growing ends with, a power of two from min_width to 1,024.
        """
        if not 1 <= stages <= 8:
            raise InputError(f"space {self.name}: need 1 <= stages <= 8, got {stages}")
        if not 1 <= layers <= 30:
            raise InputError(f"space {self.name}: need 1 <= layers <= 30, got {layers}")
        for name, value in (("min_width", min_width), ("max_width", max_width)):
            if not 1 <= value <= 1024 or value & (value - 1):
                raise InputError(f"space {self.name}: {name}: need a power of two from 1 to 1,024, got {value}")
        if min_width > max_width:
            raise InputError(
                f"space {self.name}: growing starts with layers of min_width = {min_width}, which max_width = "
                f"{max_width} does not allow: raise max_width or lower min_width"
            )
        widths = tuple(str(2**i) for i in range(min_width.bit_length() - 1, max_width.bit_length()))
        decisions = []
        for stage in range(1, stages + 1):
            sources = {} if stage == 1 else {"input": f"stage{stage}.input"}
            for slot in range(1, layers + 1):
                place = f"stage{stage}.layer{slot}"
                decisions.append(Decision(f"{place}.conv", KERNELS if slot == 1 else (NONE, *KERNELS), place))
                decisions.append(Decision(f"{place}.width", widths, place))
                if sources:
                    refers = ("", *sources.values())
                    decisions.append(Decision(f"{place}.skip", (NONE, *sources), place, refers))
                    decisions.append(Decision(f"{place}.join", JOINS, place))
                sources[f"layer{slot}"] = place
        super().__init__(decisions, stages=stages, layers=layers, min_width=min_width, max_width=max_width)
        self.stages, self.layers = stages, layers
        self.widths = tuple(int(width) for width in widths)
        self._column = {decision.name: i for i, decision in enumerate(self.decisions)}

    # --- what matters

    def active_many(self, choices: Choices) -> NDArray[np.bool_]:
        active = np.ones(choices.shape, dtype=np.bool_)
        for stage in range(1, self.stages + 1):
            sources = np.ones((len(choices), 1 + (stage > 1)), np.bool_)  # whether what a skip's options name is there
            sources[:, 0] = False
            for slot in range(1, self.layers + 1):
                place = f"stage{stage}.layer{slot}"
                there = (choices[:, self._column[f"{place}.conv"]] != 0) | (slot == 1)
                active[:, self._column[f"{place}.width"]] = there
                if (column := self._column.get(f"{place}.skip")) is not None:
                    active[:, column] = there
                    joined = np.take_along_axis(sources, choices[:, [column]], 1)[:, 0]
                    active[:, self._column[f"{place}.join"]] = there & joined
                sources = np.column_stack([sources, there])
        return active

    def canonical(self, arch: Arch) -> str:
        """The layers that are there, whatever slots they are in, such as "3x16 3x32+1 | 5x64,0": 0 is the input."""
        stages: list[list[str]] = [[] for _ in range(self.stages)]
        numbers: dict[str, int] = {}
        for layer in self.read(arch):
            texts = stages[layer.stage - 1]
            text = f"{layer.kernel}x{layer.width}"
            if layer.source is not None:
                number = 0 if layer.from_stage_input else numbers[layer.source]
                text += f"{'+' if layer.join == 'add' else ','}{number}"
            texts.append(text)
            numbers[layer.name] = len(texts)
        return " | ".join(" ".join(texts) for texts in stages)

    def read(self, arch: Arch | Mapping[str, str], channels: int = 1) -> list[Layer]:
        """The layers that are there, in order.

        Args:
            arch: An architecture, or the option of each decision.
            channels: Channels of a layer of width 1 in the first stage.
        """
        if isinstance(arch, Arch):
            names = (decision.options[choice] for decision, choice in zip(self.decisions, arch.choices, strict=True))
            arch = dict(zip(self._column, names, strict=True))
        found: list[Layer] = []
        before: Layer | None = None  # the last layer of the stage before
        for stage in range(1, self.stages + 1):
            here: dict[str, Layer] = {}
            for slot in range(1, self.layers + 1):
                place = f"stage{stage}.layer{slot}"
                kernel = arch[f"{place}.conv"]
                if kernel == NONE:
                    continue
                skip = arch.get(f"{place}.skip", NONE)
                source = before if skip == "input" else here.get(skip)
                here[f"layer{slot}"] = Layer(
                    f"stage{stage}_layer{slot}",
                    stage,
                    slot,
                    int(kernel[0]),
                    int(arch[f"{place}.width"]) * channels * 2 ** (stage - 1),
                    None if source is None else source.name,
                    skip == "input",
                    arch.get(f"{place}.join", ""),
                )
            found += here.values()
            before = found[-1]
        return found

    # --- growing

    def start(self) -> Arch:
        return self.arch([0] * len(self.decisions))  # the first options: 3x3, the least width, no further layer

    def morphisms(self, arch: Arch) -> dict[str, list[Arch]]:
        """Each kind of KINDS with its members one morphism away, in a fixed order.

        "deeper": a layer after another one, of either kernel, as narrow as what it reads allows, in the middle one of
        the empty slots there. "wider": one layer, by 2 or 4. "concat", "add": one skip where a layer has none, from any
        earlier one. "kernel": one layer from 3x3 to 5x5.
        """
        layers = self.read(arch)
        by_name = {layer.name: layer for layer in layers}
        found: dict[str, list[Arch]] = {kind: [] for kind in KINDS}
        begin = list(arch.choices)
        for layer in layers:
            column = self._column.get(f"stage{layer.stage}.layer{layer.slot}.skip")
            if layer.source is None and column is not None:
                begin[column] = 0  # one from an empty slot would come with the layer that fills it

        def add(kind: str, layer: Layer | int, slot: int, **changes: str) -> None:
            choices = list(begin)
            stage = layer if isinstance(layer, int) else layer.stage
            for what, option in changes.items():
                column = self._column.get(f"stage{stage}.layer{slot}.{what}")
                if column is not None:
                    choices[column] = self.decisions[column].options.index(option)
            found[kind].append(self.arch(choices))

        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            end = following.slot if following is not None and following.stage == layer.stage else self.layers + 1
            unit = 2 ** (layer.stage - 1)
            reads = sum(by_name[name].width for name in value_of(layer))
            enough = [width for width in self.widths if width * unit >= reads]
            if end - layer.slot > 1 and enough:
                for kernel in KERNELS:
                    slot = (layer.slot + end) // 2
                    add("deeper", layer.stage, slot, conv=kernel, width=str(enough[0]), skip=NONE)
            for factor in (2, 4):
                if (width := layer.width // unit * factor) in self.widths:
                    add("wider", layer, layer.slot, width=str(width))
            if layer.source is None:
                earlier = [f"layer{other.slot}" for other in layers if other.stage == layer.stage]
                earlier = earlier[: earlier.index(f"layer{layer.slot}")]
                for source in (["input"] if layer.stage > 1 else []) + earlier:
                    for join in JOINS:
                        add(join, layer, layer.slot, skip=source, join=join)
            if layer.kernel == 3:
                add("kernel", layer, layer.slot, conv="5x5")
        return found

    def inherit(self, parent: Arch, child: Arch, task: ImageTask, scale: Scale) -> Inheritance:
        """Exact for every composition of morphisms. Otherwise what both have is kept, and the rest is new.

        Zeros are the weights by which old channels read new ones (Elsken et al. 2017, type II); new channels of old
        layers are as freshly drawn, which is the only place for noise that changes nothing.
        """
        before, after = self.read(parent, scale.channels), self.read(child, scale.channels)
        return _Heredity(before, after, task).inheritance

    # --- drawings

    def diagram(self, arch: Arch, scale: Scale | None = None) -> list[Section]:
        """The layers that are there, numbered through, with their skips."""
        layers = self.read(arch, 1 if scale is None else scale.channels)
        numbers = {layer.name: str(i) for i, layer in enumerate(layers, 1)}
        nodes, skips = [Node("image", "image", "end")], []
        pooled, stage = "", 1
        for i, layer in enumerate(layers, 1):
            if layer.stage != stage:
                stage, pooled = layer.stage, f"pool{layer.stage - 1}"
                nodes.append(Node(pooled, f"{pooled}: max pooling 2x2", "pool"))
            details = []
            if layer.source is not None:
                source = pooled if layer.from_stage_input else numbers[layer.source]
                skips.append(Edge(source, str(i), kind="skip"))
                details = [f"concatenated with {source}" if layer.join == "concat" else f"weighted sum with {source}"]
            width = f"width {layer.width // 2 ** (layer.stage - 1)}" if scale is None else f"{layer.width}"
            label = f"{i}  conv {layer.kernel}x{layer.kernel}, {width}"
            nodes.append(Node(str(i), label, "conv", tuple(details), (f"layers.{layer.name}",)))
        nodes.append(Node("head", "head: global pooling, linear", "linear", modules=("classifier",)))
        return [chain("network", nodes, skips)]

    # --- the network

    def network(self, choose: Choose, task: ImageTask, scale: Scale) -> nn.Module:
        """The stages, global average pooling, linear. Widths change shapes, so there is no weight-sharing supernet."""
        from nastool.nets.definitions.morph import Network

        chosen = {decision.name: choose.option(decision.name) for decision in self.decisions}
        return Network(tuple(self.read(chosen, scale.channels)), task.channels, task.outputs)


class _Heredity:
    """Works out which channel of the child is which of the parent, layer by layer, and from that what is copied.

    The channels of a value keep their order; a layer gets new ones at its end. A new layer carries what it reads, each
    channel in one of its own, as an identity. So a channel of the child is one of the parent's, or a new one (None).
    """

    def __init__(self, parent: Sequence[Layer], child: Sequence[Layer], task: ImageTask) -> None:
        self.inheritance = Inheritance()
        self.old = {layer.name: layer for layer in parent}
        self.new = {layer.name: layer for layer in child}
        self.inheritance.exact = self.old.keys() <= self.new.keys()
        self.was_read: dict[str, list[Channel]] = {}
        """The channels that each layer of the parent reads."""
        self.channels: dict[str, list[Channel | None]] = {}
        """Channels of the parent that those of each value of the child are."""
        image: list[Channel] = [("image", c) for c in range(task.channels)]
        was = image
        for layer in parent:
            self.was_read[layer.name] = was
            was = [(name, c) for name in value_of(layer) for c in range(self.old[name].width)]
        now: list[Channel | None] = list(image)
        for layer in child:
            if layer.name in self.old:
                self._keep(self.old[layer.name], layer, now)
            else:
                self._insert(layer, now)
            now = [channel for name in value_of(layer) for channel in self.channels[name]]
        self._weight("classifier", range(task.outputs), was, now)
        self._copy("classifier.bias", range(task.outputs))

    def _keep(self, old: Layer, new: Layer, now: list[Channel | None]) -> None:
        """A layer that the parent has, too. now: the channels that it reads."""
        kept = range(min(old.width, new.width))
        name = f"layers.{new.name}"
        self._weight(f"{name}.conv.0", kept, self.was_read[old.name], now, (old.kernel, new.kernel))
        for what in ("weight", "bias", "running_mean", "running_var"):
            self._copy(f"{name}.conv.1.{what}", kept)
        self._copy(f"{name}.conv.1.num_batches_tracked")
        if new.width > old.width:
            self.inheritance.fresh[f"{name}.conv.1"] = list(range(old.width, new.width))
        self.inheritance.exact &= new.width >= old.width and new.kernel >= old.kernel
        self.channels[new.name] = [(new.name, c) if c in kept else None for c in range(new.width)]
        if old.source is not None and old.join == "add":
            self._keep_share(old, new)

    def _keep_share(self, old: Layer, new: Layer) -> None:
        """The shares of a sum, as far as it is a sum with the same channels. Where new ones meet, y has all of it."""
        assert old.source is not None
        was = [self._survivor((old.source, c)) for c in range(min(old.width, self.old[old.source].width))]
        now: list[Channel | None] = []
        if new.source is not None and new.join == "add":
            now = self.channels[new.source][: min(new.width, len(was))]
        same = 0
        while same < len(now) and now[same] == was[same] is not None:
            same += 1
        if same:
            self._copy(f"layers.{new.name}.share", range(same))
        self.inheritance.exact &= same == len(was)

    def _insert(self, layer: Layer, now: list[Channel | None]) -> None:
        """A new layer, as an identity as far as it is wide enough. now: the channels that it reads."""
        first = {channel: column for column, channel in reversed(list(enumerate(now))) if channel is not None}
        carried = sorted(first.items(), key=lambda item: item[1])[: layer.width]
        rows = range(len(carried))
        columns = [column for _, column in carried]
        side, middle = range(layer.kernel), np.array(layer.kernel // 2)
        weight = f"layers.{layer.name}.conv.0.weight"
        self.inheritance.fills += [
            Fill(weight, block(rows, range(len(now)), side, side), 0.0),
            Fill(weight, (np.array(rows, np.intp), np.array(columns, np.intp), middle, middle), 1.0),
        ]
        norm = f"layers.{layer.name}.conv.1"
        self.inheritance.identity[norm] = list(rows)
        self.inheritance.fresh[norm] = list(range(len(carried), layer.width))
        self.channels[layer.name] = [channel for channel, _ in carried] + [None] * (layer.width - len(carried))

    def _weight(
        self,
        name: str,
        rows: Sequence[int],
        was: Sequence[Channel],
        now: Sequence[Channel | None],
        kernels: tuple[int, int] | None = None,
    ) -> None:
        """Rows of a linear map: what reads the same channel is copied, the others read nothing yet.

        was, now: the channel that each column of parent and child reads. kernels: sides in parent and child.
        """
        free: dict[Channel, list[int]] = {}
        for column, channel in reversed(list(enumerate(now))):
            if channel is not None:
                free.setdefault(channel, []).append(column)
        sources, targets = [], []
        for column, channel in enumerate(map(self._survivor, was)):
            if channel is not None and free.get(channel):
                sources.append(column)
                targets.append(free[channel].pop())
        self.inheritance.exact &= len(sources) == len(was)
        if not sources:
            return  # better freshly drawn than all zero
        old: tuple[range, ...] = ()
        new: tuple[range, ...] = ()
        whole: tuple[range, ...] = ()
        if kernels is not None:
            side = min(kernels)
            old, new = ((range((kernel - side) // 2, (kernel + side) // 2),) * 2 for kernel in kernels)
            whole = (range(kernels[1]),) * 2
        name = f"{name}.weight"
        self.inheritance.fills.append(Fill(name, block(rows, range(len(now)), *whole), 0.0))
        self.inheritance.copies.append(Copy(name, block(rows, targets, *new), name, block(rows, sources, *old)))

    def _copy(self, name: str, *rows: Sequence[int]) -> None:
        where = block(*rows) if rows else ()
        self.inheritance.copies.append(Copy(name, where, name, where))

    def _survivor(self, channel: Channel | None) -> Channel | None:
        """The channel, or where its layer is gone, the one that this layer read at its place."""
        while channel is not None and channel[0] != "image" and channel[0] not in self.new:
            reads = self.was_read[channel[0]]
            channel = reads[channel[1]] if channel[1] < len(reads) else None
        return channel

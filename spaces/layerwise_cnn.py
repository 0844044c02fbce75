"""The convolutional space of NAS-RL: Zoph & Le, ICLR 2017, arXiv 1611.01578, section 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nastool.core.arrays import Choices
from nastool.core.diagram import Edge, Node, Section, kind_of
from nastool.core.errors import InputError, TrialFailed
from nastool.core.space import Choose, SearchSpace, check_scale
from nastool.core.values import Arch, Decision
from nastool.nets.definitions.layerwise_form import Layer, channels_of, loose_ends

if TYPE_CHECKING:
    from torch import nn

    from nastool.tasks.images.task import ImageTask

SIZES = ("1", "3", "5", "7")
STRIDES = ("1", "2", "3")
FILTERS = ("24", "36", "48", "64")
TYPES = ("conv", "max_pool", "batch_norm")
USES = {
    "filter_height": ("conv", "max_pool"),
    "filter_width": ("conv", "max_pool"),
    "stride_height": ("conv", "max_pool"),
    "stride_width": ("conv", "max_pool"),
    "filters": ("conv",),
}
"""Types of layers that have each attribute."""
MAX_CHANNELS = 65_536
"""Most channels that a layer may read: those that keep theirs and read all earlier ones double them each time."""


class LayerwiseCNN(SearchSpace):
    """NAS-RL: a whole network, each layer with its filter size, filter count and connections to earlier layers.

    Decisions per layer, in the paper's order: its type (with `types`), filter height, filter width, strides (with
    `strides`), filters, then a switch for each earlier layer (with `skips`; without, a layer reads the one before).
    A decision that a layer's type has no use for, and all of the layers beyond the depth, do not matter.
    """

    name = "layerwise-cnn"
    depth = "depth"

    @dataclass(frozen=True)
    class Scale:
        """Size of the network.

        Args:
            width: Per cent of the filter counts that are built, rounded, at least one filter.
            more_filters: Filters that each convolution has beside these; the paper's largest network has 40.
        """

        width: int = 100
        more_filters: int = 0

        def __post_init__(self) -> None:
            check_scale(self, zeros={"more_filters"})

        def filters(self, chosen: int) -> int:
            """How many a convolution has."""
            return max(1, round(chosen * self.width / 100)) + self.more_filters

    def __init__(
        self,
        *,
        layers: int = 6,
        min_layers: int | None = None,
        types: bool = False,
        strides: bool = False,
        skips: bool = True,
    ) -> None:
        """Makes a space.

        Args:
            layers: Most layers of a network, from 1 to 50.
            min_layers: Fewest layers, >= 1; then the first decision is the depth, from this to `layers`.
            types: A layer may also be a max pooling or a batch normalisation.
            strides: Each layer's strides are searched, from 1 to 3 in each direction; otherwise 1.
            skips: A layer reads any of the earlier ones.
        """
        if not 1 <= layers <= 50:
            raise InputError(f"space {self.name}: need 1 <= layers <= 50, got {layers}")
        if min_layers is not None and not 1 <= min_layers <= layers:
            raise InputError(f"space {self.name}: need 1 <= min_layers <= layers, got {min_layers}, {layers}")
        self.layers = layers
        self.min_layers = layers if min_layers is None else min_layers
        self.skips = skips
        decisions = []
        if min_layers is not None:
            decisions.append(Decision("depth", tuple(str(n) for n in range(min_layers, layers + 1))))
        for i in range(1, layers + 1):
            place = f"layer{i}"
            attributes: dict[str, tuple[str, ...]] = {"type": TYPES} if types else {}
            attributes |= {"filter_height": SIZES, "filter_width": SIZES}
            attributes |= {"stride_height": STRIDES, "stride_width": STRIDES} if strides else {}
            attributes |= {"filters": FILTERS}
            decisions += [Decision(f"{place}.{name}", options, place) for name, options in attributes.items()]
            if skips:
                decisions += [Decision(f"{place}.skip{j}", ("0", "1"), place, ("", f"layer{j}")) for j in range(1, i)]
        built_with = {"layers": layers, "min_layers": min_layers, "types": types, "strides": strides, "skips": skips}
        super().__init__(decisions, **built_with)
        self._column = {decision.name: i for i, decision in enumerate(self.decisions)}
        self._layer_of = np.array([int(d.place.removeprefix("layer") or 0) for d in self.decisions])

    # --- what matters

    def active_many(self, choices: Choices) -> NDArray[np.bool_]:
        depth = np.full(len(choices), self.layers)
        if "depth" in self._column:
            depth = choices[:, 0].astype(np.intp) + self.min_layers
        active: NDArray[np.bool_] = self._layer_of <= depth[:, None]
        if "layer1.type" in self._column:
            for i in range(1, self.layers + 1):
                kind = choices[:, self._column[f"layer{i}.type"]]
                for name, kinds in USES.items():
                    column = self._column.get(f"layer{i}.{name}")
                    if column is not None:
                        active[:, column] &= np.isin(kind, [TYPES.index(one) for one in kinds])
        return active

    # --- drawings

    def diagram(self, arch: Arch, scale: Scale | None = None) -> list[Section]:
        """The layers that are there, each with those that it reads."""
        options = (decision.options[choice] for decision, choice in zip(self.decisions, arch.choices, strict=True))
        layers = self.read(dict(zip(self._column, options, strict=True)))
        nodes = [Node("image", "image", "end")]
        edges = []
        for i, layer in enumerate(layers, 1):
            label = layer.kind.replace("_", " ")
            details = []
            if layer.kind in USES["filter_height"]:
                label += f" {layer.size[0]}x{layer.size[1]}"
                details = [f"stride {layer.stride[0]}x{layer.stride[1]}"] if layer.stride != (1, 1) else []
            if layer.kind == "conv":
                filters = layer.filters if scale is None else scale.filters(layer.filters)
                label += f", {filters}"
            nodes.append(Node(str(i), f"{i}  {label}", kind_of(layer.kind), tuple(details), (f"operations.{i - 1}",)))
            edges += [Edge(str(j) if j else "image", str(i)) for j in layer.inputs or (0,)]
        nodes.append(Node("head", "head: global pooling, linear", "linear", modules=("classifier",)))
        edges += [Edge(str(j), "head") for j in loose_ends(layers)]
        note = "What a layer reads is concatenated." if any(len(layer.inputs) > 1 for layer in layers) else ""
        return [Section("network", tuple(nodes), tuple(edges), "chain", note)]

    # --- the network

    def read(self, chosen: Mapping[str, str]) -> list[Layer]:
        """The layers that are there, in order.

        Args:
            chosen: Option of each decision.
        """
        found = []
        for i in range(1, int(chosen.get("depth", self.layers)) + 1):
            option = {name: chosen.get(f"layer{i}.{name}", "1") for name in USES}
            if self.skips:
                inputs = tuple(j for j in range(1, i) if chosen[f"layer{i}.skip{j}"] == "1")
            else:
                inputs = (i - 1,) if i > 1 else ()
            found.append(
                Layer(
                    chosen.get(f"layer{i}.type", "conv"),
                    (int(option["filter_height"]), int(option["filter_width"])),
                    (int(option["stride_height"]), int(option["stride_width"])),
                    int(option["filters"]),
                    inputs,
                )
            )
        return found

    def network(self, choose: Choose, task: ImageTask, scale: Scale) -> nn.Module:
        """The layers, then what no layer reads concatenated, global average pooling, linear.

        As in the paper: inputs are concatenated along channels; a layer without inputs reads the image; of inputs that
        differ in size the smaller are padded with zeros to the largest height and width. A convolution is
        followed by batch normalisation and ReLU. Where the paper does not say: padding keeps the size (with strides
        its ceiling), zeros are added alike on both sides (an odd one at the end), and a pooling's window is the filter
        size. Channels depend on the connections, so there is no weight-sharing supernet.
        """
        from nastool.nets.definitions.layerwise import Network

        chosen = {decision.name: choose.option(decision.name) for decision in self.decisions}
        layers = tuple(replace(layer, filters=scale.filters(layer.filters)) for layer in self.read(chosen))
        channels = channels_of(layers, task.channels)
        for number, layer in enumerate(layers, 1):
            if (c_in := sum(channels[j] for j in layer.inputs or (0,))) > MAX_CHANNELS:
                raise TrialFailed(f"layer {number} reads {c_in:,} channels, more than {MAX_CHANNELS:,}")
        return Network(layers, task.channels, task.outputs)

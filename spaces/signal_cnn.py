"""Convolutional networks for signals: which operation in each layer. A space of nastool's own, not a published one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nastool.core.errors import InputError
from nastool.core.space import Choose, SearchSpace, check_scale
from nastool.core.values import Decision

if TYPE_CHECKING:
    from torch import nn

    from nastool.tasks.signals import SignalTask

OPS = ("conv3", "conv7", "conv15", "dilated7", "separable15", "max_pool", "skip")
"""What a layer may be: convolutions of 3, 7 and 15 values, of 7 each 4 apart, of 15 for each channel alone and then 1,
all with a residual connection; the maximum of 3 values; nothing."""


class SignalCNN(SearchSpace):
    """Convolutions along time: in each layer one of 7 operations; stages half as long and twice as wide each time.

    Residual networks with kernels of several lengths are strong on such data (Wang et al. 2017; InceptionTime, Fawaz et
    al. 2020); the operations, stages and widths here are nastool's own choice.
    """

    name = "signal-cnn"
    provides = frozenset({"network", "supernet"})
    tasks = frozenset({"signals"})

    @dataclass(frozen=True)
    class Scale:
        """Size of the network.

        Args:
            channels: Channels of the first stage.
        """

        channels: int = 16

        def __post_init__(self) -> None:
            check_scale(self)

    def __init__(self, *, stages: int = 3, layers: int = 2) -> None:
        """Makes a space.

        Args:
            stages: Number of stages, from 1 to 8.
            layers: Number of layers of each stage, from 1 to 20.
        """
        if not 1 <= stages <= 8 or not 1 <= layers <= 20:
            raise InputError(f"space {self.name}: need stages from 1 to 8, layers from 1 to 20, got {stages}, {layers}")
        self.stages, self.layers = stages, layers
        names = [f"layer{i}" for i in range(1, stages * layers + 1)]
        super().__init__([Decision(name, OPS, name) for name in names], stages=stages, layers=layers)

    def network(self, choose: Choose, task: SignalTask, scale: Scale) -> nn.Module:
        from nastool.nets.definitions.signal import Network

        return Network(choose, self.stages, self.layers, task.channels, scale.channels, task.outputs)

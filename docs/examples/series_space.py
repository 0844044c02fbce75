"""A space for that task: networks of convolutions along time, each of which may be wide, dilated, pooling or none."""

from dataclasses import dataclass

from torch import nn

from nastool.core.space import SearchSpace, check_scale
from nastool.core.values import Decision


def conv(width: int, kernel: int, dilation: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(width, width, kernel, padding="same", dilation=dilation), nn.GroupNorm(1, width), nn.ReLU()
    )


class SeriesCNN(SearchSpace):
    """Convolutional networks for series: in each of 3 layers one of 4 operations, 64 architectures."""

    name = "series-cnn"
    tasks = frozenset({"series"})
    provides = frozenset({"network", "supernet"})

    @dataclass(frozen=True)
    class Scale:
        """Size of the networks.

        Args:
            channels: Number of channels of every layer.
        """

        channels: int = 8

        def __post_init__(self) -> None:
            check_scale(self)

    def __init__(self) -> None:
        operations = ("conv3", "conv7", "pool", "skip")
        super().__init__([Decision(f"layer{i}", operations, f"layer{i}") for i in (1, 2, 3)])

    def network(self, choose, task, scale) -> nn.Module:
        width = scale.channels
        options = {
            "conv3": lambda: conv(width, 3, 2),
            "conv7": lambda: conv(width, 7, 1),
            "pool": lambda: nn.AvgPool1d(3, stride=1, padding=1),
            "skip": nn.Identity,
        }
        layers = [choose.layer(decision.name, options) for decision in self.decisions]
        stem = nn.Sequential(nn.Conv1d(task.channels, width, 9, padding="same"), nn.GroupNorm(1, width), nn.ReLU())
        end = (nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(width, task.classes))
        return nn.Sequential(stem, *layers, *end)

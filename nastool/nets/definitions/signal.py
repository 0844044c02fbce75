"""Networks of convolutions along time (`spaces/signal_cnn.py`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from nastool.core.space import Choose


class Conv(nn.Module):
    """x + f(x), where f is ReLU, a convolution along time, batch normalisation."""

    def __init__(self, width: int, kernel: int, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        layers: list[nn.Module] = [nn.ReLU()]
        layers += [nn.Conv1d(width, width, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)]
        layers += [nn.Conv1d(width, width, 1, bias=False)] if groups > 1 else []
        self.layers = nn.Sequential(*layers, nn.BatchNorm1d(width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(x)
        return y


def down(c_in: int, c_out: int) -> nn.Sequential:
    """Half as long and c_out wide: pooling, ReLU, a convolution, batch normalisation."""
    pool = nn.AvgPool1d(2, ceil_mode=True)
    return nn.Sequential(pool, nn.ReLU(), nn.Conv1d(c_in, c_out, 1, bias=False), nn.BatchNorm1d(c_out))


class Network(nn.Sequential):
    """A stem, stages of searched layers, each half as long and twice as wide as the one before, the mean over time."""

    def __init__(self, choose: Choose, stages: int, layers: int, channels: int, width: int, outputs: int) -> None:
        """layers: of each stage. channels: of the signals. width: of the first stage."""
        found: list[nn.Module] = [
            nn.Sequential(nn.Conv1d(channels, width, 7, padding=3, bias=False), nn.BatchNorm1d(width))
        ]
        for number in range(stages * layers):
            if number and number % layers == 0:
                found.append(down(width, 2 * width))
                width *= 2
            options: dict[str, Callable[[], nn.Module]] = {
                "conv3": partial(Conv, width, 3),
                "conv7": partial(Conv, width, 7),
                "conv15": partial(Conv, width, 15),
                "dilated7": partial(Conv, width, 7, 4),
                "separable15": partial(Conv, width, 15, 1, width),
                "max_pool": partial(nn.MaxPool1d, 3, 1, 1),
                "skip": nn.Identity,
            }
            found.append(choose.layer(f"layer{number + 1}", options))
        end = (nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout(0.0), nn.Linear(width, outputs))
        super().__init__(*found, *end)

"""A space in 20 lines: how wide the layers are, how many and of which kind, and what the last one reads."""

from torch import nn

from nastool import choices as c


def conv(c_in: int, c_out: int, kernel: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2), nn.BatchNorm2d(c_out), nn.ReLU())


class Network(nn.Module):
    def __init__(self, stem: nn.Module, blocks: nn.Module, read: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.read, self.head = stem, blocks, read, head

    def forward(self, images):
        first = self.stem(images)
        last = self.blocks(first)
        return self.head(self.read(first, last, first + last).mean((2, 3)))


class Net(c.Space):
    """One to four layers after a stem, of one width."""

    def network(self, choose, task, scale) -> nn.Module:
        width = choose.value("width", [16, 32, 64])

        def block(i: int) -> nn.Module:
            kernel = lambda: choose.value(f"kernel{i}", [3, 5])  # noqa: E731  # asked only where there is a convolution
            options = {"conv": lambda: conv(width, width, kernel()), "pool": lambda: nn.MaxPool2d(3, 1, 1)}
            return choose.layer(f"op{i}", options)

        blocks = choose.repeat("depth", 1, 4, block)
        read = choose.inputs("read", ["stem", "blocks", "both"])
        return Network(conv(task.channels, width, 3), blocks, read, nn.Linear(width, task.outputs))

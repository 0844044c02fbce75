"""Networks for tables: the MLPs and residual networks of Gorishniy et al., NeurIPS 2021, arXiv 2106.11959."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nastool.core.arrays import Choices
from nastool.core.space import Choose, SearchSpace, check_scale
from nastool.core.values import Decision

if TYPE_CHECKING:
    from torch import nn

    from nastool.tasks.tabular.task import TabularTask

KINDS = ("mlp", "resnet")
BLOCKS = ("1", "2", "3", "4", "6", "8")
WIDTHS = ("16", "32", "64", "128", "192", "256", "384", "512")
HIDDEN = ("1", "2", "4")


class TabularNet(SearchSpace):
    """MLPs and residual networks for tables: how many blocks, how wide, with a linear path beside them or without.

    What blocks are made of is published, and so are two networks in it: the MLP of 2 blocks 384 wide, and the ResNet of
    2 blocks 192 wide with twice as many hidden units (the examples of the authors' package, with dropout .1 and .15
    after the hidden layer: here the recipe's). The authors searched 1 to 8 blocks (16 on large tables) of any width up
    to 512 (1024), and hidden factors from 1 to 4; the grid here is coarser and begins at 16, for small tables. The
    linear path is the one of Wide & Deep (Cheng et al. 2016), on all features.
    """

    name = "tabular-net"
    tasks = frozenset({"tabular"})

    @dataclass(frozen=True)
    class Scale:
        """Size of the network.

        Args:
            width: Per cent of the widths that are built, rounded.
        """

        width: int = 100

        def __post_init__(self) -> None:
            check_scale(self)

    def __init__(self) -> None:
        super().__init__(
            [
                Decision("kind", KINDS),
                Decision("blocks", BLOCKS),
                Decision("width", WIDTHS),
                Decision("hidden", HIDDEN),
                Decision("linear", ("no", "yes")),
            ]
        )

    # --- what matters

    def active_many(self, choices: Choices) -> NDArray[np.bool_]:
        """Hidden units are a residual block's alone."""
        active = np.ones(choices.shape, dtype=bool)
        active[:, 3] = choices[:, 0] == KINDS.index("resnet")
        return active

    # --- the network

    def network(self, choose: Choose, task: TabularTask, scale: Scale) -> nn.Module:
        """Widths change shapes throughout, so there is no weight-sharing supernet."""
        from nastool.nets.definitions.tabular import Beside, mlp, resnet

        width = max(1, round(int(choose.option("width")) * scale.width / 100))
        blocks = int(choose.option("blocks"))
        if choose.option("kind") == "mlp":
            network = mlp(task.features, width, blocks, task.outputs)
        else:
            network = resnet(task.features, width, blocks, width * int(choose.option("hidden")), task.outputs)
        return Beside(network, task.features, task.outputs) if choose.option("linear") == "yes" else network

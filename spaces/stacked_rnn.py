"""Recurrent layers one after another, torch's own: what cells that were searched for are to be compared with."""

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

    from nastool.tasks.language.task import LanguageTask

KINDS = ("lstm", "gru", "tanh")
LAYERS = ("1", "2", "3", "4")
WIDTHS = ("50", "75", "100", "150", "200")


class StackedRNN(SearchSpace):
    """Stacks of LSTM, GRU or plain tanh layers: which, how many, how wide, with residual connections or without.

    The widths are in per cent of the scale's. Baselines for recurrent cells: Zaremba et al. 2014 (2 LSTM layers of 200,
    650 or 1500) and AWD-LSTM (Merity et al. 2018, 3 layers of 1150 and 400) are in it, as zoo:lstm-small,
    zoo:lstm-medium, zoo:lstm-large and zoo:awd-lstm.
    """

    name = "stacked-rnn"
    tasks = frozenset({"language-model"})

    @dataclass(frozen=True)
    class Scale:
        """Size of the network.

        Args:
            hidden: Units of each layer, at a width of 100 %.
            embedding: Numbers that a token is embedded as, and units of the last layer if tied, at a width of 100 %;
                0: as hidden.
            tied: 1 has the decoder's weights be the embedding's.
            biases: Biases of each layer, 2 as torch has, for input and state, or 1.
        """

        hidden: int = 200
        embedding: int = 0
        tied: int = 1
        biases: int = 2

        def __post_init__(self) -> None:
            check_scale(self, switches=("tied",), zeros=("embedding",))
            if self.biases > 2:
                raise ValueError(f"need 1 <= biases <= 2, got {self.biases}")

    def __init__(self) -> None:
        widths = Decision("width", WIDTHS)
        super().__init__(
            [Decision("kind", KINDS), Decision("layers", LAYERS), widths, Decision("residual", ("no", "yes"))]
        )

    # --- what matters

    def active_many(self, choices: Choices) -> NDArray[np.bool_]:
        """What a single layer reads has another meaning than what it returns: there is no residual connection."""
        active = np.ones(choices.shape, dtype=bool)
        active[:, 3] = choices[:, 1] > 0
        return active

    # --- the network

    def network(self, choose: Choose, task: LanguageTask, scale: Scale) -> nn.Module:
        """Kinds differ in what their states are, and widths throughout: there is no weight-sharing supernet."""
        from nastool.nets.definitions.language import LanguageModel, Stack

        share, count = int(choose.option("width")) / 100, int(choose.option("layers"))
        hidden, width = (max(1, round(share * size)) for size in (scale.hidden, scale.embedding or scale.hidden))
        layers = [hidden] * (count - 1) + [width if scale.tied else hidden]
        residual = count > 1 and choose.option("residual") == "yes"
        stack = Stack(choose.option("kind"), [width, *layers], scale.biases, residual)
        return LanguageModel(task.vocabulary, width, stack, outputs=layers[-1], tied=bool(scale.tied))

"""Recurrent layers one after another, torch's own: what cells that were searched for are to be compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nastool.core.space import Choose, SearchSpace, check_scale
from nastool.core.values import Decision

if TYPE_CHECKING:
    from torch import nn

    from nastool.tasks.language.task import LanguageTask

KINDS = ("lstm", "gru", "tanh")
LAYERS = ("1", "2", "3", "4")


class StackedRNN(SearchSpace):
    """Stacks of LSTM, GRU or plain tanh layers: which, and how many.

    Baselines for recurrent cells: Zaremba et al. 2014 (2 LSTM layers of 200, 650 or 1500) and AWD-LSTM (Merity et al.
    2018, 3 layers of 1150 and 400) are in it, as zoo:lstm-small, zoo:lstm-medium, zoo:lstm-large and zoo:awd-lstm.
    """

    name = "stacked-rnn"
    tasks = frozenset({"language-model"})

    @dataclass(frozen=True)
    class Scale:
        """Size of the network.

        Args:
            hidden: Units of each layer.
            embedding: Numbers that a token is embedded as, and units of the last layer if tied; 0: as hidden.
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
        super().__init__([Decision("kind", KINDS), Decision("layers", LAYERS)])

    def network(self, choose: Choose, task: LanguageTask, scale: Scale) -> nn.Module:
        """Kinds differ in what their states are, so there is no weight-sharing supernet."""
        from nastool.nets.definitions.language import LanguageModel, Stack

        width = scale.embedding or scale.hidden
        layers = [scale.hidden] * int(choose.option("layers"))
        if scale.tied:
            layers[-1] = width
        stack = Stack(choose.option("kind"), [width, *layers], scale.biases)
        return LanguageModel(task.vocabulary, width, stack, outputs=layers[-1], tied=bool(scale.tied))

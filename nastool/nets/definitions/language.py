"""Networks for texts: what is around a recurrent part, and stacks of torch's own layers (`spaces/stacked_rnn.py`).

A network maps tokens (N, T) and a state to logits (N, T, V) and the next state. N texts are beside each other, T tokens
long. A state is a tuple of tensors whose first dimension is N; None: zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula

from nastool.nets.blocks import Variational

State = tuple[Tensor, ...]
INITIAL = 0.1
"""Embeddings are drawn uniformly from so far around 0 (AWD-LSTM), unless a recipe says how all weights are."""


@register_flop_formula(torch.ops.aten.mkldnn_rnn_layer, get_raw=True)
def _layer_flops(x: Tensor, from_input: Tensor, from_state: Tensor, *_: Any, **__: Any) -> int:
    """FLOPs of a layer on the CPU, which torch does not know; x: (T, N, inputs). Elsewhere it is made of products."""
    return 2 * x.shape[0] * x.shape[1] * (from_input.numel() + from_state.numel())


@register_flop_formula(torch.ops.aten._cudnn_rnn, get_raw=True)
def _cudnn_flops(x: Tensor, weights: Sequence[Tensor], *_: Any, **__: Any) -> int:
    """The same of a layer on a GPU."""
    return 2 * x.shape[0] * x.shape[1] * sum(weight.numel() for weight in weights if weight.dim() == 2)


class LanguageModel(nn.Module):
    """Embedding, dropouts, a recurrent part, decoder.

    In training it also returns the recurrent part's outputs (N, T, H) before and after their dropout, for the
    regularisation of activations.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        recurrent: nn.Module,
        *,
        outputs: int | None = None,
        tied: bool = True,
        bias: bool = True,
    ) -> None:
        """Makes a network.

        Args:
            vocabulary: Number of different tokens.
            width: Numbers that a token is embedded as, the recurrent part's input.
            recurrent: Maps (N, T, width) and a state to (N, T, outputs) and the next state.
            outputs: Numbers that the recurrent part returns; by default as many as width.
            tied: The decoder's weights are the embedding's (Press & Wolf 2017), which needs outputs = width.
            bias: The decoder has a bias.
        """
        super().__init__()
        outputs = outputs or width
        if tied and outputs != width:
            raise ValueError(f"a tied decoder needs as many outputs as embedding, got {outputs} and {width}")
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.uniform_(self.embedding.weight, -INITIAL, INITIAL)
        self.words = Variational("words", per_example=False)
        self.embedded = Variational("embedding")
        self.input = Variational("input")
        self.recurrent = recurrent
        self.output = Variational("output")
        self.decoder = nn.Linear(outputs, vocabulary, bias)
        nn.init.uniform_(self.decoder.weight, -INITIAL, INITIAL)
        if bias:
            nn.init.zeros_(self.decoder.bias)
        if tied:
            self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor, state: Any = None) -> Any:
        x = self.embedding(tokens)
        dropped_words = self.words.mask(self.embedding.weight[:, :1])
        if dropped_words is not None:
            x = x * functional.embedding(tokens, dropped_words)
        raw, state = self.recurrent(self.input(self.embedded(x)), state)
        dropped = self.output(raw)
        logits = self.decoder(dropped)
        return (logits, state, (raw, dropped)) if self.training else (logits, state)


class Layer(nn.Module):
    """One of torch's recurrent layers, whose recurrent weights may drop out (Merity et al. 2018)."""

    def __init__(self, kind: str, width: int, hidden: int, biases: int = 2) -> None:
        """kind: "lstm", "gru" or "tanh". biases: 2 as torch has, one for the input and one for the state, or 1."""
        super().__init__()
        self.kind = kind
        self.hidden = hidden
        gates = hidden * {"lstm": 4, "gru": 3, "tanh": 1}[kind]
        self.from_input = nn.Linear(width, gates)
        self.from_state = nn.Linear(hidden, gates, bias=biases == 2)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)
        self.weights = Variational("weights", per_example=False)

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        if state is None:
            state = tuple(x.new_zeros(x.shape[0], self.hidden) for _ in range(2 if self.kind == "lstm" else 1))
        bias, recurrent = self.from_input.bias, self.weights(self.from_state.weight)
        other = torch.zeros_like(bias) if self.from_state.bias is None else self.from_state.bias
        # Then: with biases, one layer, no dropout of its own, one direction, N first.
        given = ([self.from_input.weight, recurrent, bias, other], True, 1, 0.0, self.training, False, True)
        own = [part[None] for part in state]
        if self.kind == "lstm":
            y, h, c = torch.lstm(x, own, *given)
            return y, (h[0], c[0])
        y, h = (torch.gru if self.kind == "gru" else torch.rnn_tanh)(x, own[0], *given)
        return y, (h[0],)


class Stack(nn.Module):
    """Recurrent layers one after another, with dropout between them."""

    def __init__(self, kind: str, widths: Sequence[int], biases: int = 2, residual: bool = False) -> None:
        """Makes a stack.

        Args:
            kind, biases: As of `Layer`.
            widths: Of the input, and of each layer.
            residual: Later layers return the sum of what they read and what they make of it, where both are as wide.
        """
        super().__init__()
        self.layers = nn.ModuleList(Layer(kind, width, hidden, biases) for width, hidden in pairwise(widths))
        self.between = Variational("nodes")
        self.residual = residual
        self.states = 2 if kind == "lstm" else 1

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        found: State = ()
        for number, layer in enumerate(self.layers):
            read = self.between(x) if number else x
            own = None if state is None else state[number * self.states : (number + 1) * self.states]
            x, new = layer(read, own)
            if self.residual and number and x.shape == read.shape:
                x = x + read
            found += new
        return x, found

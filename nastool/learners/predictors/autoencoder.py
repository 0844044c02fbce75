"""An autoencoder of architectures whose embedding predicts a value: the model of NAO and of SemiNAS.

Luo, Tian, Qin, Chen & Liu: Neural Architecture Optimization, NeurIPS 2018 (arXiv 1808.07233); Luo, Tan, Wang, Qin,
Chen & Liu: Semi-Supervised Neural Architecture Search, NeurIPS 2020 (arXiv 2002.10389). Layers as in the authors' code
for NAS-Bench-101.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastool.core.arrays import Choices
from nastool.core.values import Decision

START = 0
"""The token that comes before the first."""
DROPOUT = 0.1
RECONSTRUCTION = 0.2
"""Weight of the decoder's negative log-likelihood; the predictor's squared error has the rest of 1."""
BATCH, WEIGHT_DECAY, CLIP = 100, 1e-4, 5.0


class Tokens:
    """Architectures as sequences of tokens, one for each decision.

    Decisions with the same options share these tokens; `START` is none of them. size: number of tokens with it.
    """

    def __init__(self, decisions: Sequence[Decision]) -> None:
        first: dict[tuple[object, ...], int] = {}
        self.size = 1
        for decision in decisions:
            if decision.options not in first:
                first[decision.options] = self.size
                self.size += len(decision.options)
        self.first = np.array([first[decision.options] for decision in decisions], dtype=np.int64)
        self.counts = np.array([len(decision.options) for decision in decisions], dtype=np.int64)

    def of(self, choices: Choices) -> Tensor:
        """Option indices (n, decisions) -> tokens of the same shape, int64."""
        return torch.from_numpy(choices.astype(np.int64) + self.first)

    def choices(self, tokens: Tensor) -> Choices:
        """What `of` was given."""
        return (tokens.numpy() - self.first).astype(np.intp)

    def outside(self) -> Tensor:
        """(decisions, size) bool: the tokens that are not of a decision."""
        token = np.arange(self.size)
        first = self.first[:, None]
        return torch.from_numpy((token < first) | (token >= first + self.counts[:, None]))


class Autoencoder(nn.Module):
    """Encoder (bidirectional LSTM), decoder (LSTM with attention to the encoder) and predictor (residual MLP).

    An architecture is encoded as one vector of length 1 for each token, (n, decisions, hidden); its embedding is their
    mean, of length 1, too.
    """

    def __init__(self, tokens: Tokens, generator: torch.Generator, *, hidden: int = 64, width: int = 16) -> None:
        """hidden: of all vectors. width: of the predictor's narrow layer. generator: draws weights and dropout."""
        super().__init__()
        self.generator = generator
        self.outside = tokens.outside()
        with torch.device("meta"):  # so that nothing is drawn from the global generator
            self.embed, self.embed_before = nn.Embedding(tokens.size, hidden), nn.Embedding(tokens.size, hidden)
            self.encoder = nn.LSTM(hidden, hidden, batch_first=True, bidirectional=True)
            self.joined = nn.Linear(2 * hidden, hidden)
            self.narrow, self.wide, self.last = nn.Linear(hidden, width), nn.Linear(width, hidden), nn.Linear(hidden, 1)
            self.decoder = nn.LSTM(hidden, hidden, batch_first=True)
            self.query = nn.Linear(hidden, hidden, bias=False)
            self.attended = nn.Linear(2 * hidden, hidden)
            self.scores = nn.Linear(hidden, tokens.size)
        self.to_empty(device="cpu")
        for module in self.modules():
            own = list(module.parameters(recurse=False))
            if isinstance(module, nn.Embedding):
                nn.init.normal_(own[0], generator=generator)
                continue
            inputs = module.hidden_size if isinstance(module, nn.LSTM) else own[0].shape[-1] if own else 1
            for parameter in own:  # torch's default
                nn.init.uniform_(parameter, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)

    def encode(self, tokens: Tensor) -> Tensor:
        """(n, decisions) -> (n, decisions, hidden)."""
        x = self.embed(tokens)
        return F.normalize(x + self.joined(self.encoder(x)[0]), dim=-1)

    def value(self, encoded: Tensor) -> Tensor:
        """(n, decisions, hidden) -> the predicted values (n,)."""
        embedding = x = _embedding(encoded)
        for layer in (self.narrow, self.wide):
            x = self._dropout(F.relu(layer(x)))
        found: Tensor = self.last((embedding + x) * math.sqrt(0.5))
        return found[:, 0]

    def _dropout(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand(x.shape, generator=self.generator) >= DROPOUT) / (1 - DROPOUT)

    def logits(self, encoded: Tensor, tokens: Tensor) -> Tensor:
        """(n, decisions, tokens): what comes next, given all tokens before (n, decisions)."""
        before = F.pad(tokens[:, :-1], (1, 0), value=START)
        return self._decoded(encoded, before, _initial(encoded))[0]

    def _decoded(
        self, encoded: Tensor, before: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        embedded = self.embed_before(before)
        x, state = self.decoder(embedded, state)
        x = (embedded + x) * math.sqrt(0.5)
        mix = F.softmax(self.query(x) @ encoded.mT, dim=-1) @ encoded
        x = (x + torch.tanh(self.attended(torch.cat([mix, x], dim=-1)))) * math.sqrt(0.5)
        return self.scores(x), state

    @torch.no_grad()
    def decode(self, encoded: Tensor) -> Tensor:
        """(n, decisions, hidden) -> tokens (n, decisions): greedily, each of its own decision's."""
        state, token, found = _initial(encoded), torch.full((len(encoded), 1), START), []
        for outside in self.outside:
            logits, state = self._decoded(encoded, token, state)
            token = logits[:, 0].masked_fill(outside, -math.inf).argmax(1, keepdim=True)
            found.append(token)
        return torch.cat(found, 1)

    @torch.no_grad()
    def predict(self, tokens: Tensor) -> Tensor:
        """Values (n,) of architectures (n, decisions), without dropout."""
        self.eval()
        return self.value(self.encode(tokens))

    def uphill(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What architectures are encoded as, and the gradient of their predicted values by that, of the same shape."""
        self.eval()
        encoded = self.encode(tokens).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.value(encoded).sum(), encoded)
        return encoded.detach(), gradient

    def moved(self, encoded: Tensor, gradient: Tensor, step: float) -> Tensor:
        """Tokens of what is decoded after a step of this length along the gradient; 0: of the architectures."""
        return self.decode(F.normalize(encoded + step * gradient, dim=-1))

    def fit(self, tokens: Tensor, values: Tensor, *, epochs: int, learning_rate: float = 1e-3) -> None:
        """Train it on these architectures (n, decisions) and values (n,), with a new Adam; from where it is."""
        self.train()
        optimizer = torch.optim.Adam(self.parameters(), learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(tokens), generator=self.generator), BATCH):
                seen, wanted = tokens[rows], values[rows]
                encoded = self.encode(seen)
                likelihood = F.cross_entropy(self.logits(encoded, seen).flatten(0, 1), seen.flatten())
                error = F.mse_loss(self.value(encoded), wanted)
                optimizer.zero_grad()
                torch.autograd.backward((1 - RECONSTRUCTION) * error + RECONSTRUCTION * likelihood)
                nn.utils.clip_grad_norm_(self.parameters(), CLIP)
                optimizer.step()


def _embedding(encoded: Tensor) -> Tensor:
    return F.normalize(encoded.mean(1), dim=-1)


def _initial(encoded: Tensor) -> tuple[Tensor, Tensor]:
    state = _embedding(encoded)[None]
    return state, state

"""A text on a device, in batches of pieces that go on from each other."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nastool.core.errors import InputError
from nastool.core.recipe import Recipe
from nastool.core.task import Batch

IGNORED = -100
"""What stands for a token that is not to be predicted: torch's own default."""
STREAMS = 64
"""Parts of a text that are measured beside each other, at most."""
WARM_UP = 128
"""Tokens before each of these but the first that a network reads before it is asked: its state has settled by then."""
LONGER = 8
"""How many times longer than that each is, at least."""
AT_ONCE = 2048
"""Tokens of a batch that is measured, about."""
PIECE, BEFORE = 35, 10
"""Tokens of a piece for policies that are predicted, and those that are only read before."""


class TextBatches:
    """One part of a text.

    A batch is the tokens that a network reads, (N, T) int64, and those that follow each, (N, T), IGNORED where they do
    not count. In training and measuring, row i of a batch goes on where row i of the batch before ended.
    """

    def __init__(self, tokens: Tensor, before: int) -> None:
        """Keeps a text.

        Args:
            tokens: (n,) int32, on the device.
            before: What stands before the first one, so that that can be predicted, too.
        """
        self.tokens = torch.cat([tokens.new_tensor([before]), tokens])
        self.device = tokens.device

    def __len__(self) -> int:
        return len(self.tokens) - 1

    def steps(self, recipe: Recipe) -> int:
        """Number of batches of `train`. InputError: the text is too short for one."""
        length, bptt = len(self) // recipe.batch_size, recipe.text.bptt
        if length < bptt:
            raise InputError(
                f"{len(self):,} training tokens are {length} in each of {recipe.batch_size} streams, fewer than the "
                f"recipe's bptt of {bptt}: give a longer text, or a smaller batch_size or bptt"
            )
        return recipe.text.steps(length)

    def train(self, recipe: Recipe, generator: torch.Generator) -> Iterator[Batch]:
        """The text as batch_size streams of equal length, piece by piece; what is left over at its end is dropped."""
        self.steps(recipe)  # for its error
        length = len(self) // recipe.batch_size
        read, said = (self.tokens[i:][: recipe.batch_size * length].view(-1, length) for i in (0, 1))
        seed = int(torch.randint(2**31, (), generator=generator, device=self.device)) if recipe.text.varying else 0
        end = 0
        for size in recipe.text.lengths(length, seed):
            start, end = end, end + size
            yield read[:, start:end].long(), said[:, start:end].long()

    def in_order(self, batch_size: int | None = None, parts: int = 1) -> Iterator[Batch]:
        """Every token once, predicted by all before it, or, in all streams but the first, by WARM_UP tokens or more.

        The text is so many streams beside each other, batch_size or what fits, and all go on from batch to batch.
        """
        streams = max(1, min(batch_size or STREAMS, len(self) // (LONGER * WARM_UP)))
        warm = WARM_UP if streams > 1 else 0
        length = -(-(len(self) - warm) // streams)
        missing = streams * length + warm - len(self)
        read = torch.cat([self.tokens[:-1], self.tokens.new_zeros(missing)])
        said = torch.cat([self.tokens[1:], self.tokens.new_full((missing,), IGNORED)])
        read, said = (each.unfold(0, length + warm, length) for each in (read, said))
        at_once = max(1, AT_ONCE // (streams * parts))
        for start in range(0, length + warm, at_once):
            piece = said[:, start : start + at_once].long()
            piece[1:, : max(0, warm - start)] = IGNORED
            yield read[:, start : start + at_once].long(), piece

    def mixed(self, batch_size: int) -> Iterator[Batch]:
        """The same: what a network says of one stream is to depend on no other."""
        return self.in_order()

    def minibatches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Pieces that each begin without a state, PIECE tokens of which count, in an order drawn anew; without end.

        generator: of the CPU.
        """
        while True:
            first = int(torch.randint(PIECE, (), generator=generator)) if len(self) > 2 * PIECE else 0
            places = torch.arange(first, max(first + 1, len(self) - self._width + 1), PIECE)
            places = places[torch.randperm(len(places), generator=generator)]
            size = min(batch_size, len(places))
            for start in range(0, len(places) - size + 1, size):
                yield self._at(places[start : start + size])

    def some(self, n: int, generator: torch.Generator) -> Batch:
        """n such pieces, drawn at random. generator: of the CPU."""
        return self._at(torch.randint(len(self) - self._width + 1, (n,), generator=generator))

    @property
    def _width(self) -> int:
        return min(PIECE + BEFORE, len(self))

    def _at(self, places: Tensor) -> Batch:
        """The pieces that begin at these places."""
        at = (places[:, None] + torch.arange(self._width)).to(self.device)
        said = self.tokens[at + 1].long()
        said[:, : max(0, self._width - PIECE)] = IGNORED
        return self.tokens[at].long(), said

"""A text as data: split, with its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nastool.core.task import Part
from nastool.core.values import Scalar
from nastool.tasks.language import floors
from nastool.tasks.language.text import Parts
from nastool.tasks.tensors import PARTS, TensorData

if TYPE_CHECKING:
    import torch

    from nastool.tasks.language.batches import TextBatches
    from nastool.tasks.language.task import LanguageTask


MOST_COUNTED = 2_000_000
"""Tokens of a training text in which pairs are counted, which takes up to a second."""


class TextData(TensorData):
    """A text, read and split."""

    task: LanguageTask
    nouns = "tokens"

    def __init__(self, name: str, task: LanguageTask, text: Parts) -> None:
        """Keeps a text.

        Args:
            name: As it was asked for.
            task: What networks for it are for.
            text: Its tokens by part.
        """
        arrays = {part: (text.tokens[part],) for part in PARTS}
        about = {"words": text.vocabulary.words}
        super().__init__(name, task, *arrays.values(), about=about, digest=text.digest, note=text.note)
        self.vocabulary = text.vocabulary

    def describe(self) -> Mapping[str, Scalar]:
        """Also what a model of pairs reaches on the validation text, if that is quickly known."""
        facts: dict[str, Any] = {"text": str(self.task), **super().describe()}
        (train,), (val,) = (self.arrays(part) or () for part in ("train", "val"))
        if not len(val) or len(train) > MOST_COUNTED:
            return facts
        loss = floors.bigram(train, val, self.task.vocabulary, self.vocabulary.end)
        name, value = next(iter(self.task.named(loss).items()))
        said = f"pairs of {self.task.unit}s, without a memory, reach {name} {value:.4g} on the validation text"
        return {
            **facts,
            "read": "; ".join(filter(None, [facts.get("read", ""), said])),
            f"bigram_{name}": round(value, 3),
        }

    def batches(self, part: Part, device: torch.device) -> TextBatches:
        import torch

        from nastool.tasks.language.batches import TextBatches

        (tokens,) = self.arrays(part) or ()
        return TextBatches(torch.tensor(tokens, device=device), self.vocabulary.end)

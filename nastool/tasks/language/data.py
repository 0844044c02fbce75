"""A text as data: split, with its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nastool.core.task import Part
from nastool.core.values import Scalar
from nastool.tasks.language.text import Parts
from nastool.tasks.tensors import PARTS, TensorData

if TYPE_CHECKING:
    import torch

    from nastool.tasks.language.batches import TextBatches
    from nastool.tasks.language.task import LanguageTask


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
        return {"text": str(self.task), **super().describe()}

    def batches(self, part: Part, device: torch.device) -> TextBatches:
        import torch

        from nastool.tasks.language.batches import TextBatches

        (tokens,) = self.arrays(part) or ()
        return TextBatches(torch.tensor(tokens, device=device), self.vocabulary.end)

"""Language modelling: networks that say which word or character comes next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nastool.core.errors import TrialFailed
from nastool.core.files import path_of
from nastool.core.recipe import Recipe
from nastool.core.task import Batch, Batches, Network, Step, Task
from nastool.core.values import Goal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nastool.tasks.language.data import TextData

SENTENCES = 4500, 500, 500
"""Lines of the made-up text for training, validation and testing."""
REMEMBERED = 1000
"""Tokens at the end of a text that decide what comes next, at most."""
MOST = 700.0
"""Nats that are said of a larger loss, or of one that is no number, as where a state grows from word to word."""
MOST_READABLE = 30.0
"""Perplexities beyond exp of that are not told apart."""
GOOD: Mapping[str, float] = {"word": 80.0, "char": 2.0}
"""Perplexity of a token that is rewarded with 1."""


@dataclass(frozen=True)
class LanguageTask(Task):
    """Texts: networks that say which word or character comes next.

    A network is called with tokens (N, T) int64, N texts beside each other, and perhaps the state in which it was left
    by what comes before them; it returns logits (N, T, vocabulary) and its state, a tensor or a tuple of tensors whose
    first dimension is N. In training a third result may be there, the hidden values before the logits.

    Args:
        vocabulary: Number of different tokens, at least 2.
        unit: What a token is, "word" or "char".
    """

    vocabulary: int
    unit: Literal["word", "char"] = "word"

    name = "language-model"
    metrics: ClassVar[Mapping[str, Goal]] = {"ppl": "min", "loss": "min"}
    objective = "ppl"
    noun = "token"
    file = "TEXT.txt"
    kept = ("words",)
    data_options = frozenset({"val_fraction", "train_size", "max_gigabytes", "all_data"})
    datasets: ClassVar[Mapping[str, str]] = {
        "sentences": "a small made-up text of words, 60,000 tokens, in which much depends on what was long ago",
        "sentences-chars": "the same by characters",
        "text:DIR": "train.txt, perhaps valid.txt and test.txt, by words; or one file, whose end is held out",
        "chars:DIR": "the same by characters",
    }

    def __post_init__(self) -> None:
        if not 2 <= self.vocabulary <= 10_000_000:
            raise ValueError(f"a text needs a vocabulary from 2 to 10,000,000, got {self.vocabulary}")
        if self.unit not in ("word", "char"):
            raise ValueError(f"need unit word or char, got {self.unit!r}")

    def __str__(self) -> str:
        return f"texts of {self.vocabulary:,} different {'words' if self.unit == 'word' else 'characters'}"

    # --- data

    @classmethod
    def recipe_for(cls, data: str) -> str:
        return "text"

    @classmethod
    def goals(cls, data: str, **options: Any) -> tuple[Mapping[str, Goal], str]:
        """Perplexity of a word, or bits a character; and the loss in nats a token."""
        if _unit(data) == "char":
            return {"bpc": "min", "loss": "min"}, "bpc"
        return cls.metrics, cls.objective

    @classmethod
    def check(cls, data: str, **options: Any) -> None:
        from nastool.tasks.splitting import check_options

        check_options(**options)

    @classmethod
    def load(cls, data: str, *, max_gigabytes: float = 8.0, **options: Any) -> TextData:
        from nastool.core.files import Limit
        from nastool.tasks.language import text
        from nastool.tasks.language.data import TextData

        reader = text.Reader(_unit(data), Limit(max_gigabytes))
        _, colon, path = data.partition(":")
        if colon:
            parts = reader.parts(path_of(path))
        else:
            from nastool.tasks.language import sentences
            from nastool.tasks.tensors import PARTS

            made = zip(PARTS, SENTENCES, strict=True)
            parts = {part: reader.text("\n".join(sentences.lines(n, seed))) for seed, (part, n) in enumerate(made)}
        found = text.split(path or data, reader, parts, **options)
        if not colon:  # there is nothing to say of how it was read
            found = replace(found, note="")
        return TextData(data, cls(len(found.vocabulary.words), _unit(data)), found)

    # --- networks

    def example(self, n: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        """One token each, so that costs are those of a token."""
        import torch

        return (torch.arange(n, device=device).remainder(self.vocabulary)[:, None],)

    def step(self, network: Network, batch: Batch, carry: object, recipe: Recipe) -> Step:
        """Mean cross-entropy in nats, smoothed as the recipe says; the state is carried on.

        Minimised are also the recurrent part's outputs and how fast they change (AR, TAR), where the recipe says so and
        the network gives them. Where lengths vary, so does the learning rate.
        """
        from nastool.nets.crossentropy import mean_loss

        read, said = batch
        logits, state, *hidden = self._called(network, read, carry)
        loss = mean_loss(logits.flatten(0, 1), said.flatten(), recipe.label_smoothing)
        extra = None
        given = recipe.text
        if hidden and (given.activation or given.slowness):
            raw, dropped = (each.float() for each in hidden[0])
            extra = given.activation * (raw if given.undropped else dropped).square().mean()
            if given.slowness and raw.shape[1] > 1:
                extra = extra + given.slowness * (raw[:, 1:] - raw[:, :-1]).square().mean()
        return Step(loss, _detached(state), extra, read.shape[1] / given.bptt if given.varying else 1.0)

    def shapes(self) -> tuple[str, ...]:
        return ("T",)

    def returns(self) -> str:
        return f"logits (N, T, {self.vocabulary}) and the state after them, which it may be given with the next"

    def wrong(self, output: object) -> str | None:
        if not isinstance(output, tuple) or len(output) < 2:
            return f"a {type(output).__name__}, not a pair: return its logits and its state"
        shape = tuple(getattr(output[0], "shape", ()))
        if len(shape) != 3 or shape[2] != self.vocabulary:
            return f"logits of shape {shape}: they are (N, T, {self.vocabulary}), task.vocabulary wide"
        return None

    def _called(self, network: Network, read: Tensor, state: object) -> tuple[Any, ...]:
        """What a network returns. TrialFailed: it is no logits and state."""
        found: Any = network(read, state)
        if (wrong := self.wrong(found)) is not None:
            raise TrialFailed(f"the network returns {wrong}")
        return tuple(found)

    # --- measuring

    def measure(self, network: Network, batches: Iterable[Batch]) -> dict[str, float]:
        """loss, the mean cross-entropy in nats a token, and exp(loss), or for characters loss / ln 2, bits."""
        total: Any = 0
        count: Any = 0
        state: object = None
        for read, said in batches:
            logits, state, *_ = self._called(network, read, state)
            total = total + _losses(logits, said).double().sum()
            count = count + (said >= 0).sum()
        mean = float(total) / int(count)
        return self.named(min(mean, MOST) if mean == mean else MOST)

    def named(self, loss: float) -> dict[str, float]:
        """The metrics of a loss, in nats a token, that of the objective first."""
        if self.unit == "char":
            return {"bpc": loss / math.log(2), "loss": loss}
        return {"ppl": math.exp(min(loss, MOST_READABLE)), "loss": loss}

    def rewards(self, outputs: Sequence[Any], batch: Batch) -> Tensor:
        """80 / perplexity of a word, as in ENAS' code; of a character 2 / perplexity. (m,)"""
        import torch

        count = (batch[-1] >= 0).sum()
        losses = [_losses(out[0], batch[-1]).double().sum() / count for out in outputs]
        return GOOD[self.unit] / torch.stack(losses).exp()

    def predict(self, network: Network, batches: Iterable[Batch]) -> Tensor:
        """The probability of each token that comes, (n,) float32, in the order of the text, on the CPU."""
        import torch

        batches = list(batches)
        counts = torch.cat([said for _, said in batches], 1) >= 0
        found = torch.zeros(counts.shape)
        state: object = None
        start = 0
        for read, said in batches:
            logits, state, *_ = self._called(network, read, state)
            found[:, start : start + said.shape[1]] = (-_losses(logits, said)).exp().cpu()
            start += said.shape[1]
        return found[counts.cpu()]

    def measure_mean(self, predictions: Sequence[Tensor], batches: Batches) -> dict[str, float]:
        import torch

        mean = torch.stack([each.double() for each in predictions]).mean(0)
        return self.named(-float(mean.clamp_min(torch.finfo(torch.float32).tiny).log().mean()))

    # --- use

    def check_kept(self, about: dict[str, Any]) -> None:
        from nastool.tasks.language.text import ENDS

        words = about["words"] = tuple(about["words"])
        if len(set(words)) != self.vocabulary or not all(isinstance(word, str) for word in words):
            raise ValueError("words are not as many as the vocabulary")
        if ENDS[self.unit] not in words:
            raise ValueError("there is no word for the end of a line")

    def said_of(
        self, network: torch.nn.Module, path: str, about: Mapping[str, Any], max_gigabytes: float, top: int
    ) -> dict[str, Any]:
        """The metrics on a text, how many tokens it has and how many are unknown, and what comes next.

        Next is what comes after its last token, without the end of the last line.
        """
        import torch

        from nastool.core.files import Limit
        from nastool.tasks.language import text
        from nastool.tasks.language.batches import TextBatches

        reader = text.Reader(self.unit, Limit(max_gigabytes, "--max-gigabytes "))
        vocabulary = text.Vocabulary(about["words"], self.unit)
        read = reader.file(path_of(path))
        tokens, unknown = vocabulary.encode(reader.words, read)
        batches = TextBatches(torch.from_numpy(tokens), vocabulary.end)
        with torch.inference_mode():
            measured = self.measure(network, batches.in_order())
            logits, *_ = self._called(network, batches.tokens[None, -REMEMBERED - 1 : -1].long(), None)
            found = logits[0, -1].float().softmax(0).topk(min(top, self.vocabulary))
        best = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        likely = [{self.unit: vocabulary.words[i], "probability": p} for i, p in best]
        return {"file": path, **measured, "tokens": len(read), "unknown": unknown, "next": likely}


def _unit(data: str) -> Literal["word", "char"]:
    """What the tokens of a data set are."""
    return "char" if data.startswith("chars:") or data.endswith("-chars") else "word"


def _losses(logits: Tensor, said: Tensor) -> Tensor:
    """-log of the probability of each token, (N, T); 0 where it does not count."""
    from nastool.nets.crossentropy import losses

    return losses(logits.flatten(0, 1), said.flatten()).view(said.shape)


def _detached(state: Any) -> Any:
    """The same without gradients."""
    if state is None:
        return None
    return tuple(map(_detached, state)) if isinstance(state, tuple) else state.detach()

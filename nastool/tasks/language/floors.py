"""What models without a memory reach on a text, for comparison: counts of words, and of pairs of words."""

from __future__ import annotations

import math

import numpy as np

from nastool.tasks.language.text import Tokens

DISCOUNT = 0.75
"""What is taken off each count of a pair, to be spread over all words."""


def unigram(train: Tokens, part: Tokens, size: int) -> float:
    """Loss in nats a token of the words' frequencies in training, by maximum likelihood; inf where one was not there.

    Args:
        train: The training text.
        part: The text that is measured.
        size: Of the vocabulary.
    """
    counts = np.bincount(train, minlength=size)
    with np.errstate(divide="ignore"):
        return math.log(len(train)) - float(np.log(counts[part]).mean())


def bigram(train: Tokens, part: Tokens, size: int, before: int) -> float:
    """Loss of interpolated Kneser-Ney bigrams (Chen & Goodman 1999, eq. 24) with one discount; arguments as above.

    before: What stands before the first token of a text. A word that training has not is as likely as one that it has
    once.
    """

    def pairs(tokens: Tokens) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.append(before, tokens[:-1]).astype(np.int64) * size + tokens

    seen, counts = np.unique(pairs(train), return_counts=True)
    first, second = np.divmod(seen, size)
    of_first = np.bincount(first, weights=counts, minlength=size)
    followers = np.bincount(first, minlength=size)
    continues = np.maximum(np.bincount(second, minlength=size), 1)
    asked = pairs(part)
    at = np.minimum(np.searchsorted(seen, asked), len(seen) - 1)
    count = np.where(seen[at] == asked, counts[at], 0)
    word = asked // size
    total = np.maximum(of_first[word], 1)
    spread = np.where(of_first[word] > 0, DISCOUNT * followers[word] / total, 1)
    likely = np.maximum(count - DISCOUNT, 0) / total + spread * continues[part] / continues.sum()
    return -float(np.log(likely).mean())

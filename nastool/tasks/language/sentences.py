"""A small text that is made up by a grammar, so that what a language model has to remember is known.

Lines are sentences. What a model of pairs of words cannot know, and one with a memory can: the topic, which stays over
several lines and decides nearly all nouns and verbs; whether the subject is one or many, which decides the verb's form
however long the clause between them is; whether the next line's subject is "it" or "they"; how many clauses are open.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from random import Random

TOPICS = (
    ("cook waiter guest spoon kettle oven soup plate knife cake", "serve taste boil bake slice praise"),
    ("sailor captain gull boat anchor harbour net mast island wave", "steer sink rescue lift paint leave"),
    ("farmer goat horse barn field plough fence apple cart duck", "feed chase milk harvest pull guard"),
    ("doctor nurse patient clinic pill bandage scale chart needle ward", "heal examine visit weigh wrap calm"),
    ("singer drum flute stage choir organ song dancer violin curtain", "play hear tune open follow applaud"),
    ("robot engine pilot rocket moon crater signal antenna lander cable", "launch repair scan orbit charge track"),
)
"""Nouns and verbs of each topic, the frequent ones first."""
OWN = 0.93
"""Probability that a noun or verb is of the topic at hand."""
STAYS = 0.88
"""Probability that the next line has the same topic."""


def lines(count: int, seed: int) -> list[str]:
    """So many sentences. Only `Random.random` is drawn from, which is the same in every version of Python."""
    grammar = _Grammar(Random(seed))
    return [grammar.line() for _ in range(count)]


class _Grammar:
    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.topics = [tuple(words.split() for words in topic) for topic in TOPICS]
        self.topic = 0
        self.subject: bool | None = None
        """Whether the last line's subject was many; None: there is none that could be meant."""

    def happens(self, probability: float) -> bool:
        return self.rng.random() < probability

    def one_of(self, words: Sequence[str]) -> str:
        """A word; the n-th is n times rarer than the first."""
        weights = list(accumulate(1 / (i + 1) for i in range(len(words))))
        return words[bisect(weights, self.rng.random() * weights[-1])]

    def of_topic(self, kind: int) -> str:
        """A noun (0) or verb (1)."""
        topic = self.topic if self.happens(OWN) else int(self.rng.random() * len(TOPICS))
        return self.one_of(self.topics[topic][kind])

    def line(self) -> str:
        if not self.happens(STAYS):
            self.topic, self.subject = int(self.rng.random() * len(TOPICS)), None
        words = self.sentence(self.subject if self.happens(0.4) else None)
        if self.happens(0.15):
            words = ["they" if self.subject else "it", "said", ":", '"', *self.sentence(None), '"']
        return " ".join([*words, "."])

    def sentence(self, meant: bool | None) -> list[str]:
        """Subject, verb and object. meant: the subject is "they" or "it"; None: it is named."""
        if meant is None:
            subject, many = self.noun()
        else:
            subject, many = ["they" if meant else "it"], meant
        self.subject = many
        return [*subject, *self.verb(many), *self.noun()[0], *(self.place() if self.happens(0.3) else ())]

    def noun(self, depth: int = 0) -> tuple[list[str], bool]:
        """A noun with its article, perhaps a clause about it, and whether it is many."""
        many = self.happens(0.5)
        article = self.one_of(["the", "many", "two", "those"] if many else ["the", "a", "this", "one"])
        words = [article, *([self.one_of(["old", "small", "new", "red"])] if self.happens(0.25) else ())]
        words.append(self.of_topic(0) + "s" * many)
        if depth < 2 and self.happens(0.25):
            other, others = self.noun(depth + 1)
            words += ["that", *other, *self.verb(others), ","]
        return words, many

    def verb(self, many: bool) -> list[str]:
        if self.happens(0.2):
            return ["do" if many else "does", "not", self.of_topic(1)]
        return [self.of_topic(1) + "s" * (not many)]

    def place(self) -> list[str]:
        return [self.one_of(["near", "with", "behind", "without"]), *self.noun(1)[0]]

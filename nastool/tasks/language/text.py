"""Texts as arrays of tokens: what words there are, reading files piece by piece, splitting. Imports no torch."""

from __future__ import annotations

import codecs
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nastool.core.errors import InputError, short, why
from nastool.core.files import Limit
from nastool.core.task import Part
from nastool.tasks.arrays import PARTS

Unit = Literal["word", "char"]
Tokens = NDArray[np.int32]
"""Places of words in a vocabulary, (n,)."""

UNKNOWN = "<unk>"
"""The word that stands for all that are not in the vocabulary."""
ENDS: Mapping[Unit, str] = {"word": "<eos>", "char": "\n"}
"""The token at the end of each line."""
MOST_WORDS = 10_000
"""Size of the vocabulary of a text that was not prepared, as Mikolov's Penn Treebank has it."""
LONGEST = 10_000
"""Characters without a blank, or blanks, from which on a file is no text."""
BYTES = 16
"""Memory that a token takes while a text is read and split."""
HELD_OUT = 0.1
"""Part of a text, its end, that is for testing, and of the rest for validation, where there are no files of these."""
SUFFIXES = (".txt", ".tokens", ".text", ".raw")
_CHUNK = 1 << 22
_BLANKS = " \t\r\f\v"
_LINE_END = re.compile(rf"[{_BLANKS}]*\n[{_BLANKS}]*")


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that a network knows.

    Attributes:
        words: Each by its number.
        unit: What they are.
    """

    words: tuple[str, ...]
    unit: Unit

    @cached_property
    def places(self) -> dict[str, int]:
        """Number of each word."""
        return {word: i for i, word in enumerate(self.words)}

    @property
    def end(self) -> int:
        """Number of the token at the end of a line, which is also what stands before a text."""
        return self.places[ENDS[self.unit]]

    def encode(self, words: Sequence[str], tokens: Tokens) -> tuple[Tokens, int]:
        """A text, and how many of its tokens are not known: they are <unk>, or left out where there is none.

        Args:
            words: Those of its reader, by number.
            tokens: As that has read them.
        """
        own = np.array([self.places.get(word, -1) for word in words], np.int32)
        found = own[tokens]
        missing = int((found < 0).sum())
        unknown = self.places.get(UNKNOWN)
        return (found[found >= 0] if unknown is None else np.where(found < 0, np.int32(unknown), found)), missing


class Reader:
    """Reads texts; those that one has read have one numbering of words, in the order in which they come."""

    def __init__(self, unit: Unit, limit: Limit | None = None) -> None:
        """Has read nothing yet.

        Args:
            unit: What tokens are.
            limit: Memory that all may take.
        """
        self.unit = unit
        self.limit = limit or Limit()
        self.digest = blake2b(digest_size=8)
        """Of all that was read."""
        self._places: defaultdict[str, int] = defaultdict()
        self._places.default_factory = self._places.__len__
        self._read = 0

    @property
    def words(self) -> list[str]:
        """All that came, by number."""
        return list(self._places)

    def parts(self, given: Path) -> dict[Part, Tokens]:
        """The texts in a folder, or of a file that is all for training. InputError."""
        try:
            folder = given.is_dir()
        except ValueError:  # no name that a file could have
            folder = False
        paths: Mapping[Part, Path] = files_in(given) if folder else {"train": given}
        return {part: self.file(path) for part, path in paths.items()}

    def file(self, path: Path) -> Tokens:
        """The tokens of a file. InputError names it, the line and the remedy."""
        try:
            size = path.stat().st_size
            with open(path, "rb") as file:
                return self._tokens(str(path), iter(lambda: file.read(_CHUNK), b""), size)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"cannot read {short(path)}: {why(error)}") from None

    def text(self, text: str, name: str = "the text") -> Tokens:
        """The tokens of a text. name: what it is called in messages."""
        content = text.encode(errors="surrogateescape")
        return self._tokens(name, iter([content]), len(content))

    def _tokens(self, path: str, chunks: Iterator[bytes], size: int) -> Tokens:
        """size: bytes of all chunks, if known."""
        found: list[Tokens] = []
        for piece, share in self._pieces(path, chunks, size):
            found.append(np.fromiter(map(self._places.__getitem__, piece), np.int32, len(piece)))
            now = sum(map(len, found)) / share
            self.limit.check(path, round(BYTES * (self._read + now)) + 150 * len(self._places))
        self._read += sum(map(len, found))
        if not found:
            raise InputError(f"{path} is empty: give a text")
        end = self._places[ENDS[self.unit]]
        if found[-1][-1] != end:
            found.append(np.array([end], np.int32))
        return np.concatenate(found)

    def _pieces(self, path: str, chunks: Iterator[bytes], size: int) -> Iterator[tuple[Sequence[str], float]]:
        """Tokens by and by, but for a last end of a line that is not there, and the share of the file that is read.

        It is never an empty sequence.
        """
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        line, rest, fresh, done = 1, "", True, 0
        for raw in itertools.chain(chunks, [b""]):
            try:
                text = decoder.decode(raw, not raw)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                raise InputError(f"{path}, line {line}: no UTF-8: save it as UTF-8, or give a text") from None
            if "\0" in text:
                line += text[: text.index("\0")].count("\n")
                raise InputError(f"{path}, line {line}: holds a NUL character, so it is no text: give one")
            self.digest.update(raw)
            done += len(raw)
            line += text.count("\n")
            text = rest + text
            if self.unit == "word":
                rest = "" if not raw or not text or text[-1].isspace() else text.rsplit(None, 1)[-1]
                piece: Sequence[str] = text[: len(text) - len(rest)].replace("\n", f" {ENDS['word']} ").split()
            else:
                kept = text.rstrip(_BLANKS)
                rest = text[len(kept) :]
                kept = _LINE_END.sub("\n", kept)
                piece = kept.lstrip(_BLANKS) if fresh else kept
                fresh = piece.endswith("\n") if piece else fresh
            longest = max((rest, *piece) if self.unit == "word" else (rest,), key=len)
            if len(longest) > LONGEST:
                line -= text[text.index(longest) :].count("\n")
                what = "without a blank" if self.unit == "word" else "that are blanks"
                raise InputError(f"{path}, line {line}: {LONGEST:,} characters {what}, so it is no text: give one")
            if piece:
                yield piece, min(1.0, done / max(size, 1))


@dataclass(frozen=True)
class Parts:
    """A text for training, validation and testing.

    Attributes:
        vocabulary: Of the training part.
        tokens: By part; "val" is empty where validation examples are trained on, too.
        digest: 16 hexadecimal digits that name the source.
        note: What was read and what was made of it, in a line.
    """

    vocabulary: Vocabulary
    tokens: Mapping[Part, Tokens]
    digest: str
    note: str


def files_in(folder: Path) -> dict[Part, Path]:
    """The file of each part: train.txt, or one with train among the words of its name, as in ptb.train.txt.

    Raises:
        InputError: There is none for training, or several for one part.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {short(folder)}: {why(error)}") from None
    found: dict[Part, str] = {}
    plain: set[Part] = set()
    for name in names:
        words = re.split(r"[._-]", name.lower())
        parts = {PARTS[word] for word in words if word in PARTS}
        if len(parts) != 1 or not name.lower().endswith(SUFFIXES):
            continue
        (part,) = parts
        is_plain = len(words) == 2
        if part in found and is_plain == (part in plain):
            both = f"{found[part]} and {name} are both for {part}"
            raise InputError(f"{folder}: {both}: give a folder with one, or call the right one {part}.txt")
        if is_plain or part not in found:
            found[part] = name
            plain |= {part} if is_plain else set()
    if "train" not in found:
        there = ", ".join(names[:10]) or "nothing"
        needed = "need that, and valid.txt and test.txt where they are apart"
        raise InputError(f"{folder} has no train.txt: {needed}; found {short(there)}")
    return {part: folder / name for part, name in found.items()}


def split(
    name: str,
    reader: Reader,
    parts: Mapping[Part, Tokens],
    *,
    val_fraction: float | None = None,
    train_size: int | None = None,
    all_data: bool = False,
) -> Parts:
    """Texts that were read, as a network sees them.

    The vocabulary is the training part's. Where that has the word <unk>, it was prepared, and all its words are kept;
    else, as in Mikolov's preparation of the Penn Treebank, the most frequent 10,000 that come more than once, and <unk>
    for the others, if there are any.

    Args:
        name: Of the data, for messages.
        reader: Which has read them.
        parts: "train", perhaps "val" and "test". Where one is missing, it is the end of the training part.
        val_fraction: Part of the training text that is for validation, in (0, 1); not where there is such a text.
        train_size: Number of training tokens that are kept, from the beginning; the vocabulary stays.
        all_data: The validation text is trained on, too.

    Raises:
        InputError: There is too little, or the options do not go with it.
    """
    words, notes = reader.words, []
    end = words.index(ENDS[reader.unit])
    train, val, test = parts["train"], parts.get("val"), parts.get("test")
    if val is not None and val_fraction is not None:
        raise InputError(f"{name} brings its own validation text: leave out val_fraction")
    if test is None:
        train, test = _cut(train, HELD_OUT, end)
        notes.append("no test text, so the end of the training text is held out")
    if val is None:
        train, val = _cut(train, val_fraction or HELD_OUT, end)
        notes.append("no validation text, so it is the end of the training text")
    counts = np.bincount(train, minlength=len(words))
    vocabulary, note = _vocabulary(name, words, counts, reader.unit, end)
    notes += [note] * bool(note)
    empty = int(np.count_nonzero((train == end) & (np.roll(train, 1) == end)))
    if empty:
        notes.append(f"{empty:,} empty lines count as {ENDS['word'] if reader.unit == 'word' else 'characters'} each")
    found: dict[Part, Tokens] = {}
    of_parts: Mapping[Part, Tokens] = {"train": train, "val": val, "test": test}
    for part, tokens in of_parts.items():
        found[part], missing = vocabulary.encode(words, tokens)
        if part != "train" and missing and UNKNOWN not in vocabulary.places:
            notes.append(f"{missing:,} {part} tokens are not in the training text and left out")
        if not len(found[part]):
            raise InputError(f"{name}: no {part} token is left: give more text")
    if all_data:
        found["train"] = np.concatenate([found["train"], found["val"]])
        found["val"] = found["val"][:0]
    if train_size is not None:
        if train_size > len(found["train"]):
            raise InputError(
                f"{name}: need train_size <= {len(found['train'])} (its training tokens), got {train_size}"
            )
        found["train"] = found["train"][:train_size]
    what = "different words" if reader.unit == "word" else "different characters"
    sizes = ", ".join(f"{part} {len(tokens):,} tokens" for part, tokens in found.items())
    read = f"{name}: {len(vocabulary.words):,} {what}, {sizes}"
    return Parts(vocabulary, found, reader.digest.hexdigest(), "; ".join([read, *notes]))


def _cut(tokens: Tokens, fraction: float, end: int) -> tuple[Tokens, Tokens]:
    """A text and its end, which begins with a line where there are several."""
    place = min(max(1, round(len(tokens) * (1 - fraction))), len(tokens) - 1)
    ends = np.flatnonzero(tokens[:-1] == end) + 1
    if len(ends):
        place = int(ends[np.abs(ends - place).argmin()])
    return tokens[:place], tokens[place:]


def _vocabulary(
    name: str, words: Sequence[str], counts: NDArray[np.int64], unit: Unit, end: int
) -> tuple[Vocabulary, str]:
    """The vocabulary, frequent words first, and what to know of it. counts: of each word in the training text."""
    order = np.argsort(-counts, kind="stable")
    order = order[(counts[order] > 0) & (order != end)]
    note = ""
    if UNKNOWN not in words or not counts[words.index(UNKNOWN)]:
        kept = order[counts[order] > 1][: MOST_WORDS - 2]
        if rest := len(order) - len(kept):
            note = f"{rest:,} rare ones count as {UNKNOWN}"
            kept, words = np.append(kept, len(words)), [*words, UNKNOWN]
        order = kept
    if len(order) < 2:
        raise InputError(f"{name}: the training text has too few words that come twice: nothing to learn; give more")
    order = np.append(end, order)
    return Vocabulary(tuple(words[i] for i in order.tolist()), unit), note

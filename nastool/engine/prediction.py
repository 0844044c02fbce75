"""What a trained network says of pictures, rows of tables, texts and other examples in files and folders."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nastool.core.errors import InputError, one_line, short
from nastool.core.files import Limit
from nastool.core.task import SaysOfFiles
from nastool.deploy.models import Model
from nastool.engine.command_options import nobody
from nastool.engine.events import Listener, Note
from nastool.tasks.images.data import read_image
from nastool.tasks.images.reading import suffixes, write_pixels
from nastool.tasks.images.task import ImageTask

BATCH = 256
"""Examples at a time."""
TABLES = (".csv", ".tsv", ".txt", ".npz")
"""Suffixes of files that hold many examples."""


@dataclass
class Predictions:
    """Predictions of a network, and how many there were by now.

    Attributes:
        model: The network.
        top: Number of classes that are named for each picture, the most probable ones, >= 1.
        limit: 32 times the memory that one picture may take before it is resized.
        on_event: Told of each picture that cannot be read.
        pictures: Number of those that were read.
        unreadable: Number of those in folders that were not.
        failed: Number of those named one by one that were not.
        judged: Number of those of which it is known what should be said, as from a folder named after a class.
        right: Number of these that were taken for that class.
        square: Sum of the squared errors of numbers, over examples and targets.
    """

    model: Model
    top: int = 1
    limit: Limit = Limit()  # noqa: RUF009  # it is frozen
    on_event: Listener = nobody
    pictures: int = 0
    unreadable: int = 0
    failed: int = 0
    judged: int = 0
    right: int = 0
    square: float = 0.0

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"top: need an integer >= 1, got {self.top}")

    def of(self, sources: Iterable[str | Path]) -> Iterator[dict[str, Any]]:
        """Yield an object for each picture: "image", "class", "probability"; "truth" where it is known.

        Of a text it has "file", "ppl" or "bpc", "loss", "tokens", "unknown" and what comes "next".

        Of an example in a file of many it has "file" and "row", counted from 1, in place of "image"; where numbers are
        said, these by the names of the targets.

        Args:
            sources: Files, and folders with pictures at any depth, which come in the order of their names.

        Raises:
            InputError: There is no picture in a folder; a file of many examples cannot be read.
        """
        sources = list(sources)
        if isinstance(self.model.task, SaysOfFiles):
            yield from filter(None, map(self._of_file, map(str, sources)))
            return
        many = [each for each in sources if Path(each).suffix.lower() in TABLES]
        for source in many:
            yield from self._rows(str(source))
        pictures = [each for each in sources if each not in many]
        every = itertools.chain.from_iterable(map(self._in, map(Path, pictures)))
        while batch := list(itertools.islice(every, BATCH)):
            there = [(path, truth, pixels) for path, truth, named in batch if (pixels := self._read(path, named))]
            if not there:
                continue
            found = self.model.predict(np.stack([pixels for _, _, (pixels,) in there]))
            for (path, truth, _), row in zip(there, found, strict=True):
                yield self._said({"image": str(path)}, truth, row)

    def of_examples(self, count: int, folder: Path) -> Iterator[dict[str, Any]]:
        """The same for test images of the data that the network was trained with, which are written as CLASS/N.png.

        Args:
            count: Number of images, drawn at random, always the same ones.
            folder: Where they are written.

        Raises:
            InputError: It is for no images, it is not known what it was trained with, or the data are not there any
                more.
        """
        model = self.model
        if not isinstance(model.task, ImageTask):
            raise InputError(f"--examples: {model.path} holds a network for {model.task.name}, not for images")
        options = model.document.get("evaluator", {}).get("options", {})
        if "data" not in options:
            raise InputError(f"--examples: {model.path} does not say what it was trained with: name a run, or images")
        data = ImageTask.load(options["data"], **{k: v for k, v in options.items() if k in ImageTask.data_options})
        if data.digest != model.document.get("data_digest", data.digest):
            raise InputError(f"--examples: data {short(options['data'])} are not those that it was trained with")
        images = data.test or data.val
        drawn = np.random.default_rng(0).permutation(len(images))[:count]
        for number, (i, row) in enumerate(zip(drawn, model.predict(images.x[drawn]), strict=True)):
            truth = model.classes[images.y[i]] if model.classes else images.y[i].tolist()
            path = folder / (truth.replace("/", "_") if model.classes else "") / f"{number}.png"
            yield self._said({"image": str(write_pixels(path, images.x[i]))}, truth, row)

    def _of_file(self, path: str) -> dict[str, Any] | None:
        """What is said of a file as a whole; None: it cannot be read."""
        model = self.model
        assert isinstance(model.task, SaysOfFiles)
        try:
            return model.task.said_of(model.network, path, model.about, self.limit.gigabytes, self.top)
        except InputError as error:
            self._refused(error, True)
            return None

    def _refused(self, error: InputError, named: bool) -> None:
        """Says and counts what cannot be read. named: by the user, not found in a folder."""
        self.on_event(Note(f"nastool: {one_line(error)}"))
        self.failed, self.unreadable = self.failed + named, self.unreadable + (not named)

    def _rows(self, path: str) -> Iterator[dict[str, Any]]:
        """The examples in a file of many."""
        model = self.model
        x, truth = model.task.read(path, {**model.about, "classes": model.classes}, self.limit.gigabytes)
        for start in range(0, len(x), BATCH):
            for i, said in enumerate(model.predict(x[start : start + BATCH]), start):
                yield self._said({"file": path, "row": i + 1}, None if truth is None else truth[i], said)

    def _in(self, source: Path) -> Iterator[tuple[Path, str | None, bool]]:
        """The files that a source names, with the class that a folder says, and whether it names the file itself."""
        try:
            is_folder = source.is_dir()
        except (OSError, ValueError):
            is_folder = False
        if not is_folder:
            yield source, None, True
            return
        files = (Path(folder, name) for folder, _, names in os.walk(source) for name in names)
        paths = sorted(
            path
            for path in files
            if path.suffix.lower() in suffixes()
            and not any(part.startswith(".") for part in path.relative_to(source).parts)
        )
        if not paths:
            raise InputError(f"{short(source)} holds no pictures ({', '.join(sorted(suffixes()))})")
        for path in paths:
            above = (unicodedata.normalize("NFC", part) for part in path.relative_to(source).parent.parts)
            yield path, next((name for name in above if name in self.model.classes), None), False

    def _read(self, path: Path, named: bool) -> tuple[Any, ...]:
        """Its pixels, as the only element; (): it cannot be read."""
        task = self.model.task
        if not isinstance(task, ImageTask):
            files = (
                f"give a file of {task.noun}s ({', '.join(TABLES)})" if self.model.normalises else "use it from Python"
            )
            raise InputError(f"{self.model.path} holds a network for {task.name}, not for images: {files}")
        try:
            pixels = (read_image(path, task, self.limit),)
        except InputError as error:
            self._refused(error, named)
            return ()
        self.pictures += 1
        return pixels

    def _said(self, what: dict[str, Any], truth: Any, row: Any) -> dict[str, Any]:
        """An object for an example. what: names it. truth: a class, or numbers; None: unknown."""
        if self.model.targets:
            found = what | {name: float(number) for name, number in zip(self.model.targets, row, strict=True)}
            if truth is not None and not np.isnan(truth).any():
                self.judged += 1
                self.square += float(np.square(np.subtract(truth, row)).mean())
                found["truth"] = truth[0] if len(truth) == 1 else truth
            return found
        order = np.argsort(-row, kind="stable")[: self.top]
        best = [{"class": self.model.classes[i], "probability": float(row[i])} for i in order]
        found = what | best[0]
        if truth:
            found["truth"] = truth
            self.judged, self.right = self.judged + 1, self.right + (truth == found["class"])
        return found | ({"top": best} if len(best) > 1 else {})

    @property
    def summary(self) -> str:
        """Accuracy and what could not be read, in words; "": there is nothing to say."""
        said = [f"accuracy {self.right / self.judged:.4f} ({self.right} of {self.judged})"] if self.judged else []
        if self.model.targets and self.judged:
            said = [f"rmse {(self.square / self.judged) ** 0.5:.6g} (of {self.judged})"]
        if self.unreadable:
            said.append(f"{self.unreadable} of {self.unreadable + self.pictures} pictures could not be read")
        return "; ".join(said)

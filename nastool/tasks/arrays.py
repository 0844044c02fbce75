"""Arrays of the user's own as examples: their names in a file, labels and numbers, what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from nastool.core.errors import InputError, short
from nastool.core.files import Limit, npz_names, read_npz
from nastool.core.task import Part
from nastool.tasks.supervised import Balance, Predicts, Statistics

PARTS: Mapping[str, Part] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What arrays and folders of a part are called, in lower case, and the part."""
_KINDS = {
    **dict.fromkeys(("x", "image", "images", "signal", "signals"), "x"),
    **dict.fromkeys(("y", "label", "labels", "target", "targets"), "y"),
}
UNEVEN = 3
"""From so many times as many examples of one class as of another on, that is said."""


def roles(path: str, names: Sequence[str], others: Sequence[str] = ()) -> tuple[dict[str, str], list[str]]:
    """x_train, y_train, ... "classes" and others to the name of the array that is it; and the names of the rest.

    Other common names of these are taken where their meaning is plain: X_train, train_images, x_valid, labels_test.
    InputError: two mean the same.
    """
    exact = {"classes", *others, *(f"{kind}_{part}" for kind in "xy" for part in ("train", "val", "test"))}
    roles = {name: name for name in names if name in exact}
    left_out = []
    for name in names:
        words = name.lower().split("_")
        kinds = [_KINDS[word] for word in words if word in _KINDS]
        parts = [PARTS[word] for word in words if word in PARTS]
        if name in exact:
            continue
        if len(kinds) != 1 or len(parts) > 1 or len(words) != 1 + len(parts):
            left_out.append(name)
            continue
        role = f"{kinds[0]}_{parts[0] if parts else 'train'}"
        if role in roles:
            if parts:
                raise InputError(f"{path}: {roles[role]} and {name} mean the same: keep one")
            left_out.append(name)
        else:
            roles[role] = name
    return roles, left_out


@dataclass
class Arrays:
    """Arrays as they were found, of parts that are not split yet.

    Attributes:
        path: Where they are from, for messages.
        x: What networks read, by part; "train" is there.
        y: What they should say, of the same parts and as many examples.
        others: Arrays of other meanings, such as "classes".
        names: Name of each array in the file, such as "x_train".
        left_out: Names of arrays that mean nothing.
    """

    path: str
    x: dict[str, NDArray[Any]]
    y: dict[str, NDArray[Any]]
    others: dict[str, NDArray[Any]]
    names: Mapping[str, str]
    left_out: Sequence[str] = ()

    @classmethod
    def of(
        cls, path: str, arrays: Mapping[str, NDArray[Any]], names: Mapping[str, str], left_out: Sequence[str] = ()
    ) -> Self:
        """Arrays by role, with the twins found together. InputError: one is missing, or they do not fit."""
        for key in ("x_train", "y_train"):
            if key not in arrays:
                there = ", ".join([*names.values(), *left_out]) or "nothing"
                raise InputError(f"{path}: no array {key!r}; need x_train and y_train, found {there}")
        x, y = ({key[2:]: each for key, each in arrays.items() if key[:2] == kind} for kind in ("x_", "y_"))
        for part in x.keys() ^ y.keys():
            has, lacks = ("x", "y") if part in x else ("y", "x")
            raise InputError(f"{path}: {has}_{part} is there without {lacks}_{part}")
        others = {key: each for key, each in arrays.items() if key[:2] not in ("x_", "y_")}
        return cls(path, x, y, others, names, left_out)

    @classmethod
    def read(cls, path: str, others: Sequence[str] = (), limit: Limit | None = None) -> Self:
        """Those of an .npz file. InputError: it is none, or has not what is needed."""
        names, left_out = roles(path, npz_names(path), others)
        found = read_npz(path, names.values(), limit)
        return cls.of(path, {role: found[name] for role, name in names.items()}, names, left_out)

    def check(self, noun: str) -> None:
        """Raises InputError: a part has no examples, not as many of both, or of another shape than for training."""
        for part, x in self.x.items():
            if x.ndim == 0 or self.y[part].ndim == 0:
                raise InputError(f"{self.path}: {'x' if x.ndim == 0 else 'y'}_{part} is a single value, not an array")
            if len(x) != len(self.y[part]):
                count = f"x_{part} has {len(x)} {noun}s but y_{part} {len(self.y[part])} labels"
                raise InputError(f"{self.path}: {count}")
            if not len(x):
                raise InputError(f"{self.path}: x_{part} holds no {noun}")
            if x.shape[1:] != self.x["train"].shape[1:]:
                found, wanted = ("x".join(map(str, each.shape[1:])) for each in (x, self.x["train"]))
                raise InputError(f"{self.path}: {noun}s of x_{part} are {found}, those of x_train {wanted}")

    @property
    def remarks(self) -> list[str]:
        """What to know of how the file was read."""
        others = [name for role, name in self.names.items() if role != name]
        found = [f"read from {', '.join(others)}"] * bool(others)
        return found + [f"left out: array {', '.join(short(name, 30) for name in self.left_out)}"] * bool(self.left_out)


@dataclass(frozen=True)
class Target:
    """What is to be said of examples: `y` by part, labels (N,) int64 or numbers (N, targets) float64.

    Attributes:
        y: By part.
        classes: Names of the classes; (): they are numbers.
        names: Names of the targets; (): they are classes.
    """

    y: dict[str, NDArray[Any]]
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """In words: "3 classes", "numbers from 25 to 346"."""
        if self.classes:
            return f"{len(self.classes)} classes"
        low, high = min(float(y.min()) for y in self.y.values()), max(float(y.max()) for y in self.y.values())
        return f"{len(self.names)} times " * (len(self.names) > 1) + f"numbers from {low:.6g} to {high:.6g}"


def statistics_of(train: NDArray[Any], classes: int, balance: Balance) -> Statistics:
    """The facts of a training part. train: its labels (N,) or numbers (N, targets)."""
    if train.ndim == 1:
        counts = np.maximum(np.bincount(train, minlength=classes), 1)
        weights = tuple((len(train) / classes / counts).tolist()) if balance == "weigh" else ()
        return Statistics(weights, balance is not None)
    std = train.std(0)
    return Statistics(mean=tuple(train.mean(0).tolist()), std=tuple(np.where(std > 0, std, 1).tolist()))


def are_numbers(y: NDArray[Any], predict: Predicts) -> bool:
    """Whether a target is numbers, and not classes: any that are no whole numbers, unless predict says so."""
    if predict is not None:
        return predict == "numbers"
    return bool(y.dtype.kind == "f" and y.size and not (y == np.rint(y)).all())


def target_of(found: Arrays, predict: Predicts) -> Target:
    """What the arrays say. InputError: there are labels or numbers of no known meaning."""
    path, y = found.path, {part: _plain(each) for part, each in found.y.items()}
    what = {part: f"{path}: {found.names.get(f'y_{part}', f'y_{part}')}" for part in y}
    if are_numbers(y["train"], predict):
        columns = {part: numbers(what[part], each) for part, each in y.items()}
        width = columns["train"].shape[1]
        for part, column in columns.items():
            if column.shape[1] != width:
                raise InputError(f"{what[part]} has {column.shape[1]} targets, {what['train']} {width}")
        return Target(columns, names=("target",) if width == 1 else tuple(f"target{i}" for i in range(width)))
    if any(each.dtype.kind in "US" for each in y.values()):
        known = sorted({str(name) for name in np.unique(y["train"].astype(str))})
        classes = class_names(path, found.others["classes"]) if "classes" in found.others else tuple(known)
        for part, each in y.items():
            if new := set(np.unique(each.astype(str)).tolist()) - set(classes):
                raise InputError(f"{what[part]}: no class {short(min(new))!r}; there are {short(', '.join(classes))}")
        place = {name: i for i, name in enumerate(classes)}
        codes = {p: np.array([place[name] for name in each.astype(str).tolist()], np.int64) for p, each in y.items()}
        if len(classes) < 2:
            raise InputError(f"{what['train']} has {len(classes)}; need at least 2 classes")
        return Target(codes, classes)
    found_labels = {part: labels(what[part], each) for part, each in y.items()}
    present = np.unique(found_labels["train"])
    if "classes" in found.others:
        classes = class_names(path, found.others["classes"])
        source = f"{path}: classes names {len(classes)}"
    else:
        missing = np.flatnonzero(present != np.arange(len(present)))
        if missing.size:
            raise InputError(
                f"{path}: no training example has label {missing[0]}, but there are higher ones; number the "
                "labels 0, 1, 2, ... without gaps, or name all in an array 'classes'"
            )
        classes = tuple(map(str, range(len(present))))
        source = f"{path}: y_train has {len(classes)}"
    if len(classes) < 2:
        raise InputError(f"{source}; need at least 2 classes")
    for part, each in found_labels.items():
        if each.max(initial=0) >= len(classes):
            raise InputError(f"{source}: need labels < {len(classes)}, got {each.max()} in y_{part}")
    return Target(found_labels, classes)


def _plain(y: NDArray[Any]) -> NDArray[Any]:
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def numbers(what: str, y: NDArray[Any]) -> NDArray[np.float64]:
    """Numbers to be said, (N, targets). InputError: they are none, or not finite."""
    if y.ndim not in (1, 2) or y.dtype.kind not in "iuf" or not y.size:
        raise InputError(f"{what}: need numbers of shape (N,) or (N, targets), got {y.dtype} {y.shape}")
    columns = y.reshape(len(y), -1).astype(np.float64)
    check_finite(what, columns)
    return columns


def check_finite(what: str, values: NDArray[Any]) -> None:
    """Raises InputError: some are not; the message names the first."""
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        bad = np.argwhere(~finite)
        place = ", ".join(map(str, bad[0]))
        many = f"{len(bad):,} values are not finite, the first {values[tuple(bad[0])]} at [{place}]"
        raise InputError(f"{what}: {many}: leave such examples out, or fill in numbers")


def labels(what: str, y: NDArray[Any]) -> NDArray[np.int64]:
    """Labels as whole numbers. InputError: they are none."""
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        remedy = ""
        if y.ndim == 2:
            remedy = "; if they are one-hot, save y.argmax(1)"
        elif y.ndim == 1 and (y.dtype.kind == "b" or (y.dtype.kind == "f" and (y == np.rint(y)).all())):
            remedy = "; save y.astype(int), or say -E predict=numbers"
        raise InputError(f"{what}: need whole numbers of shape (N,), got {y.dtype} {y.shape}{remedy}")
    if y.min(initial=0) < 0:
        raise InputError(f"{what}: need labels >= 0, got {y.min()}")
    if y.max(initial=0) > 1_000_000:
        raise InputError(f"{what}: need labels <= 1000000, got {y.max()}")
    return y.astype(np.int64)


def class_names(path: str, names: NDArray[Any]) -> tuple[str, ...]:
    """Names of classes, as an array "classes" has them. InputError: it has not."""
    classes = tuple(map(str, names.ravel()))
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(classes)) != len(classes):
        raise InputError(f"{path}: classes must be strings of shape (K,) that differ, got {names.dtype} {names.shape}")
    return classes


def says(path: str) -> Literal["classes", "numbers"]:
    """What the target in an .npz file is; of a file that cannot be read it is not known, and said to be classes."""
    with suppress(InputError):
        names, _ = roles(path, npz_names(path))
        if "y_train" in names and are_numbers(read_npz(path, [names["y_train"]])[names["y_train"]], None):
            return "numbers"
    return "classes"


def uneven(train: NDArray[Any], classes: Sequence[str]) -> str:
    """What to know of classes of different sizes; "": nothing. train: the labels."""
    counts = np.bincount(train, minlength=len(classes))
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] < UNEVEN * max(counts[least], 1):
        return ""
    return (
        f"{counts[most]:,} training examples of {short(classes[most], 30)}, {counts[least]:,} of "
        f"{short(classes[least], 30)}: -E balance=weigh counts all classes alike"
    )


def read_examples(
    path: str, about: Mapping[str, Any], others: Sequence[str], limit: Limit
) -> tuple[NDArray[Any], dict[str, NDArray[Any]], list[Any] | None]:
    """Arrays of an .npz file to predict: x, or the only x_...; those of other meanings; what each should say.

    Args:
        path: The file.
        about: As of `Task.read`.
        others: Names of arrays of other meanings.
        limit: Memory that they may take.

    Raises:
        InputError: There is no such array, or several.
    """
    names, _ = roles(path, npz_names(path), others)
    found = [role for role in names if role.startswith("x_")]
    if len(found) != 1:
        there = ", ".join(names[role] for role in found) or "none"
        raise InputError(f"{path}: need one array of examples, x, found {there}: save one alone")
    arrays = {role: read_npz(path, [name], limit)[name] for role, name in names.items()}
    truth = arrays.get(f"y_{found[0][2:]}")
    x = arrays[found[0]]
    if truth is None or len(truth) != len(x):
        return x, arrays, None
    classes = list(about.get("classes", ()))
    if not classes:
        return x, arrays, truth.reshape(len(x), -1).tolist()
    plain = _plain(truth)
    return (
        x,
        arrays,
        [str(y) if plain.dtype.kind in "US" else classes[int(y)] if 0 <= y < len(classes) else None for y in plain],
    )

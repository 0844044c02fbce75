"""A folder of images, one folder a class: which files belong to which part and class, and what is left out."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nastool.core.errors import InputError, hint, short, why
from nastool.tasks.arrays import PARTS
from nastool.tasks.images.reading import suffixes

_SYSTEM = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"}
    | {"system volume information", "lost+found", "__pycache__"}
)
"""What operating systems and other programs leave in folders, in lower case."""
_KINDS_SHOWN = 6


@dataclass(frozen=True)
class Found:
    """What `scan` found.

    parts: "train", perhaps "val" and "test": the files, in order, each with the index of its class.
    left_out: what else there is, with how many. remarks: what else there is to know.
    """

    classes: tuple[str, ...]
    parts: Mapping[str, list[tuple[Path, int]]]
    left_out: Counter[str]
    remarks: list[str]


@dataclass
class _Entries:
    """What lies in a folder, sorted."""

    folders: list[Path] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def scan(root: Path) -> Found:
    """Find root/CLASS/**/IMAGE, or root/PART/CLASS/**/IMAGE with PART of `PARTS` in any case.

    Classes are in lexical order of the folders' names (of the training part), as torchvision's ImageFolder has them,
    and called by these in Unicode's composed form (NFC). Links are followed. Left out: what is hidden, and files whose
    suffix is not one of `suffixes`.

    InputError: it is not clear which images belong to which part and class, or there are none.
    """
    left_out: Counter[str] = Counter()
    remarks: list[str] = []
    roots = _parts(root, left_out)
    classes: tuple[str, ...] = ()
    parts: dict[str, list[tuple[Path, int]]] = {}
    for part, folder in roots.items():
        inside = _entries(folder)
        if part == "test" and inside.images and not inside.folders:
            left_out[f"image without class in {folder.name}/"] += len(inside.images)
            left_out += inside.others
            continue
        left_out += inside.others
        named = _named(folder, inside, part)
        if part == "train":
            classes = tuple(named)
        for name in named:
            if name not in classes:
                raise InputError(f"{named[name]}: no class {name!r} in {roots['train']}; {hint(name, classes[:20])}")
        missing = [name for name in classes if name not in named]
        if missing:
            remarks.append(f"{folder.name}/ has no {', '.join(map(short, missing[:3]))}" + ("..." * (len(missing) > 3)))
        parts[part] = [
            (path, classes.index(name)) for name, inner in named.items() for path in _images_in(inner, left_out)
        ]
    return Found(classes, parts, left_out, remarks)


def counted(things: Mapping[str, int]) -> str:
    """ "3 hidden files, 2 .txt files": the most frequent first, the rest in one number."""
    pairs = sorted(things.items(), key=lambda pair: (-pair[1], pair[0]))
    if len(pairs) > _KINDS_SHOWN:
        pairs = [*pairs[: _KINDS_SHOWN - 1], ("other file", sum(count for _, count in pairs[_KINDS_SHOWN - 1 :]))]
    return ", ".join(f"{count:,} {_plural(what) if count != 1 else what}" for what, count in pairs)


def _plural(what: str) -> str:
    head, *rest = what.split(" without", 1)
    return " without".join([f"{head}s", *rest])


def _entries(folder: Path) -> _Entries:
    """InputError: the folder cannot be read, or holds a link to nothing that may have been an image or a class."""
    found = _Entries()
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(f"cannot read {short(folder)}: {why(error)}") from None
    for name in names:
        path, suffix = folder / name, os.path.splitext(name)[1].lower()
        if name.lower() in _SYSTEM:
            found.others["system file"] += 1
            continue
        if name.startswith("."):
            found.others["image not yet fetched from iCloud" if suffix == ".icloud" else "hidden file"] += 1
            continue
        try:
            mode = path.stat().st_mode
        except OSError as error:
            if suffix and suffix not in suffixes():
                found.others["broken link"] += 1
                continue
            what = "is a link to nothing" if path.is_symlink() else f"cannot be read ({why(error)})"
            raise InputError(f"{path} {what}: mend or remove it") from None
        if stat.S_ISDIR(mode):
            found.folders.append(path)
        elif not stat.S_ISREG(mode):
            found.others["device or pipe"] += 1
        elif suffix in suffixes():
            found.images.append(path)
        else:
            found.others[f"{short(suffix, 12)} file" if suffix else "file without suffix"] += 1
    return found


def _parts(root: Path, left_out: Counter[str]) -> dict[str, Path]:
    """The folders of the parts, "train" first; the only part is root itself where it holds the classes."""
    top = _entries(root)
    named: dict[str, list[Path]] = {}
    for folder in top.folders:
        if folder.name.lower() in PARTS:
            named.setdefault(PARTS[folder.name.lower()], []).append(folder)
    others = [folder for folder in top.folders if folder.name.lower() not in PARTS]
    if not any(_entries(folder).folders for folder in named.get("train", [])):
        if "train" in named and (not others or len(named) > 1):
            raise InputError(
                f"{named['train'][0]} holds no class folders: put its images into one folder a class "
                "(labels in a table, such as a .csv file, are not read)"
            )
        for folders in named.values():
            for folder in folders:
                inside = _entries(folder)
                if inside.folders and not inside.images:
                    raise InputError(f"{root} has {folder.name}/, but no train/: is {folder.name} a part, or a class?")
        return {"train": root}
    for folders in named.values():
        if len(folders) > 1:
            raise InputError(f"{root} has {_and(f'{f.name}/' for f in folders)}, which mean the same: keep one")
    left_out += top.others
    train = named["train"][0].name
    if top.images:
        left_out[f"image beside {train}/"] += len(top.images)
    for folder in others:
        left_out[f"folder {short(folder.name, 30)!r}"] += 1
    return {part: named[part][0] for part in ("train", "val", "test") if part in named}


def _named(folder: Path, inside: _Entries, part: str) -> dict[str, Path]:
    """The class folders of a part by their name, in order of the folders' names."""
    if inside.images and inside.folders:
        raise InputError(
            f"{_images(len(inside.images))} in {folder} beside the class folders, such as {inside.images[0].name}: "
            "move what belongs to a class into its folder, and the rest elsewhere"
        )
    if part != "train" and not inside.folders:
        what = "it holds images, but no class folders" if inside.images else "no class folder in it"
        raise InputError(f"{folder}: {what}; fill it, or remove it")
    if len(inside.folders) < 2:
        found = f"found {len(inside.folders)}"
        if part == "train":
            if inside.folders and _entries(inside.folders[0]).folders:
                found += f"; did you mean folder:{inside.folders[0]}?"
            raise InputError(f"{folder}: need at least 2 classes, one folder of images each, {found}")
    named: dict[str, Path] = {}
    for path in inside.folders:
        try:
            name = unicodedata.normalize("NFC", path.name)
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{folder}: the name {os.fsencode(path.name)!r} is no UTF-8: rename this class") from None
        if name in named:
            raise InputError(
                f"{folder} has two folders {name!r}, in two Unicode forms (NFC, NFD): put their images into one"
            )
        named[name] = path
    return named


def _images_in(folder: Path, left_out: Counter[str]) -> list[Path]:
    """All images below a class folder, sorted. InputError: there are none."""
    images: list[Path] = []
    waiting = [(folder, frozenset([_identity(folder)]))]
    while waiting:
        where, above = waiting.pop()
        inside = _entries(where)
        if where == folder:
            parts = {PARTS[f.name.lower()]: f.name for f in inside.folders if f.name.lower() in PARTS}
            if "train" in parts and len(parts) > 1:
                raise InputError(
                    f"{folder} has {_and(f'{name}/' for name in parts.values())}: put the parts first and the classes "
                    f"into them, such as {parts['train']}/{folder.name}/"
                )
        images += inside.images
        left_out += inside.others
        for inner in inside.folders:
            identity = _identity(inner)
            if identity in above:
                raise InputError(f"{inner} is a link to a folder that it lies in: remove it")
            waiting.append((inner, above | {identity}))
    if not images:
        raise InputError(f"{folder}: no image in this class folder; fill it, or remove it")
    return sorted(images)


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _images(count: int) -> str:
    return "1 image lies" if count == 1 else f"{count:,} images lie"


def _and(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))

"""Networks that runs have trained, with what they say of the validation data: what ensembles are chosen from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nastool.core import archfile, registry
from nastool.core.errors import InputError, short, why
from nastool.core.task import Attackable
from nastool.engine.command_options import nobody
from nastool.engine.events import Listener, Note
from nastool.engine.store import Store
from nastool.ensembles import stored
from nastool.ensembles.stored import Stored

if TYPE_CHECKING:
    from nastool.core.task import Data

_CHECKPOINT = re.compile(r"trial-(\d{6,})\.safetensors")


@dataclass(frozen=True)
class Candidate:
    """A trained network that may become a member."""

    stored: Stored
    run: Path
    """Folder that its weights are below."""
    trial: int

    @property
    def name(self) -> str:
        """For people."""
        return f"trial {self.trial} of {short(self.run, 80)}"


def candidates(runs: Sequence[str | Path], on_event: Listener = nobody) -> list[Candidate]:
    """The networks of runs that have weights, with their predictions, which are made where they are missing.

    Args:
        runs: Folders of runs or of `nastool eval --save`, and what lies directly below them, or single checkpoints.
        on_event: Told of what is left out or made.

    Raises:
        InputError: There are none, they predict other data, or predictions are missing and cannot be made.
    """
    found: dict[str, Candidate] = {}
    for run in runs:
        own = list(_of(Path(run), on_event))
        if not own:
            raise InputError(
                f"{short(run)} has no trained networks with weights: give a run folder whose evaluator trains, or one "
                "that `nastool eval --save` has written"
            )
        for each in own:  # the same network may have been copied
            found.setdefault(each.stored.about.get("weights") or str(each.stored.checkpoint), each)
    pool = list(found.values())
    stored.check_same([each.stored for each in pool])
    return pool


def _of(path: Path, on_event: Listener) -> Iterator[Candidate]:
    if path.name == "run.db":
        path = path.parent
    try:
        below = sorted(each for each in path.iterdir() if (each / "checkpoints").is_dir()) if path.is_dir() else []
        if not path.exists():
            raise FileNotFoundError(2, "No such file or directory")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {short(path)}: {why(error)}; give a run folder") from None
    if not path.is_dir():
        yield from _stored([path], path.parent.parent, on_event)
        return
    for folder in (path, *below):
        there = folder / "checkpoints"
        names = sorted(each.name for each in there.iterdir()) if there.is_dir() else []
        yield from _stored([there / name for name in names if _CHECKPOINT.fullmatch(name)], folder, on_event)
        lost = [name for name in names if ".predictions." in name and name.replace(".predictions", "") not in names]
        if lost:
            trials = ", ".join(str(int(name[6:].partition(".")[0])) for name in lost[:10])
            on_event(Note(f"note: the weights of trials {trials} of {short(folder)} are gone: they are left out"))


def _stored(paths: Sequence[Path], folder: Path, on_event: Listener) -> Iterator[Candidate]:
    """The networks of some checkpoints of a folder."""
    missing: list[Path] = []
    found: dict[Path, Stored] = {}
    for path in paths:
        try:
            found[path] = stored.read(path)
        except InputError:
            missing.append(path)
    if missing:
        found |= _predicted(missing, folder, on_event)
    for path in paths:
        if path in found:
            match = _CHECKPOINT.fullmatch(path.name)
            yield Candidate(found[path], folder, int(match[1]) if match else 0)


def _predicted(paths: Sequence[Path], folder: Path, on_event: Listener) -> dict[Path, Stored]:
    """What networks say whose predictions were not kept: they are asked again, and it is kept.

    InputError: it is not known what they were trained with, or that is not there any more.
    """
    what = f"{len(paths)} network{'s' * (len(paths) > 1)} of {short(folder)}"
    if not (folder / "run.db").is_file():
        raise InputError(
            f"{what} have no predictions, and it is not known what they were trained with: train them again with "
            "`nastool eval --save`"
        )
    with Store.read(folder / "run.db") as store:
        given = store.get("config")["evaluator"]["options"]
        digest = store.origin.get("data_digest")
    if given.get("all_data"):
        on_event(Note(f"note: {what} are left out: they were trained on the validation data, too"))
        return {}
    data = data_of(given.get("data", ""), given)
    if not getattr(data.task, "classes", 0):
        raise InputError(f"{what} do not say which class an example is of: their mean is of another kind")
    on_event(Note(f"asking {what} for the predictions that were not kept"))
    if digest is not None and data.describe().get("data_digest", digest) != digest:
        raise InputError(f"{what} have no predictions, and data {short(data.name)} are not those they were trained on")
    about = {"fingerprint": data.fingerprint, "data": data.name, "options": archfile.dumps(_ofdata_of(data, given))}
    found = {}
    for path in paths:
        said, labels = said_of(path, data, "val")
        stored.write(path, said, labels, about)
        found[path] = stored.read(path)
    return found


def _ofdata_of(data: Data, given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key in data.task.data_options and value is not None}


def data_of(name: str, given: Mapping[str, Any]) -> Data:
    """The data that some options name. InputError: they cannot be read."""
    family = registry.task_for(name)
    return family.load(name, **{k: v for k, v in given.items() if k in family.data_options and v is not None})


def said_of(
    path: Path, data: Data, part: Literal["val", "test"], shift: str | None = None
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """What the network of a checkpoint says of a part of the data, and the labels. InputError: it is for others.

    shift: As of `Attackable.shifted`; None: the examples are as they are.
    """
    import torch

    from nastool.deploy import models

    model = models.load(str(path))
    if model.task != data.task:
        raise InputError(f"{short(path)} is for {short(model.task)}, and data {short(data.name)} are for {data.task}")
    batches = data.batches(part, torch.device("cpu"))
    if batches is None or not len(batches):
        raise InputError(f"data {short(data.name)} have no {part} examples")
    with torch.inference_mode():
        shown = batches.in_order()
        if shift is not None:
            assert isinstance(data.task, Attackable)
            shown = data.task.shifted(batches, shift)
        said = data.task.predict(model.network, shown)
        labels = torch.cat([batch[-1] for batch in batches.in_order()])
    return said.numpy(), labels.numpy()

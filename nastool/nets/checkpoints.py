"""What a training leaves on disk, and beginning again from it.

`checkpoints/trial-000012.safetensors` holds the weights, and in its metadata what they belong to. Beside it
`trial-000012.optimizer.safetensors` holds the optimiser's memory, for trainings whose weights are handed down, and
`trial-000012.predictions.safetensors` what the network predicts, once it was part of an ensemble, and
`trial-000012.training.safetensors`, until it is finished, what a long training goes on from. What else an
evaluator leaves of a trial (`Evaluation.artifacts`) is named `trial-000012.artifact.NAME`; it goes with the checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nastool import __version__
from nastool.core import archfile, files
from nastool.core.errors import CannotGoOn, InputError, short, why
from nastool.core.folders import within
from nastool.core.task import FAMILY
from nastool.core.values import Arch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nastool.core.space import SearchSpace
    from nastool.core.task import Task

_NAME = re.compile(r"trial-(\d{6,})(?:(\.optimizer|\.predictions|\.training)?\.safetensors|\.artifact\.[\w.-]+)")


@dataclass(frozen=True)
class Checkpoint:
    """A trained network: its architecture, its state_dict, and what its optimiser remembers ({}: nothing was kept)."""

    arch: Arch
    weights: Mapping[str, Tensor]
    memory: Mapping[str, Tensor]


def name_of(trial_id: int) -> str:
    """Relative to the run's folder."""
    return f"checkpoints/trial-{trial_id:06d}.safetensors"


def optimizer_of(path: Path) -> Path:
    """Where the optimiser's memory that belongs to a checkpoint is."""
    return path.with_suffix(".optimizer.safetensors")


def training_of(path: Path) -> Path:
    """Where is kept what the training goes on from that will leave a checkpoint."""
    return path.with_suffix(".training.safetensors")


def predictions_of(path: Path) -> Path:
    """Where the predictions of a checkpoint's network are kept."""
    return path.with_suffix(".predictions.safetensors")


def artifact_of(trial_id: int, name: str) -> str:
    """Where a trial leaves a file besides, relative to the run's folder. name: letters, digits, "_", "-" and "."."""
    return f"checkpoints/trial-{trial_id:06d}.artifact.{name}"


def is_artifact(path: str, trial_id: int) -> bool:
    """Whether a path, relative to the run's folder, is of an artifact of the trial."""
    start = artifact_of(trial_id, "")
    return path.startswith(start) and _NAME.fullmatch(path.removeprefix("checkpoints/")) is not None


def write(
    path: Path,
    weights: Mapping[str, Tensor],
    memory: Mapping[str, Tensor] | None,
    metadata: Mapping[str, str],
) -> None:
    """Both files (memory: None, no second one). CannotGoOn: the disk is full, or the folder cannot be written."""
    optimizer = optimizer_of(path)
    try:
        if memory is None:
            optimizer.unlink(missing_ok=True)
        else:
            files.write_tensors(optimizer, memory, {"digest": digest(memory), "weights": digest(weights)})
        files.write_tensors(path, weights, {**metadata, "digest": digest(weights)})
    except OSError as error:
        if not path.exists():
            with suppress(OSError):
                optimizer.unlink(missing_ok=True)
        raise CannotGoOn(f"cannot write checkpoint {path}: {why(error)}") from error


def save(
    workdir: Path,
    trial_id: int,
    network: nn.Module,
    space: SearchSpace,
    arch: Arch,
    scale: Any,
    task: Task,
    about: Mapping[str, Any],
    memory: Mapping[str, Tensor] | None = None,
) -> str:
    """Writes a trained network's weights and what they belong to; the path relative to workdir.

    Args:
        workdir: The run's folder.
        trial_id: Number of its trial.
        network: The network.
        space, arch, scale, task: What it was built of.
        about: What is to be said of the data (`Data.metadata`).
        memory: The optimiser's, where a child will go on from here.

    Raises:
        CannotGoOn: The disk is full, or the folder cannot be written.
    """
    metadata = {
        "nastool": __version__,
        "trial": str(trial_id),
        "arch": json.dumps(archfile.to_json(space, arch)),
        "scale": json.dumps(dataclasses.asdict(scale)),
        "family": task.name,
        "task": json.dumps(task.to_json()),
        **{name: json.dumps(value) for name, value in about.items()},
    }
    name = name_of(trial_id)
    write(workdir / name, network.state_dict(), memory, metadata)
    return name


def read(
    path: Path, space: SearchSpace, scale: Any, task: Task, device: str = "cpu", trial: int | None = None
) -> Checkpoint:
    """A checkpoint to begin with. InputError: it is missing, damaged, changed, or of another space, scale or task.

    trial: whose it has to be; then the optimiser's memory has to be there, too.
    """
    import torch

    weights, metadata = files.read_tensors(path, device)
    if trial is not None and metadata.get("trial") != str(trial):
        raise InputError(f"{path} is no checkpoint of trial {trial}")
    own = check_digest(path, weights, metadata)
    try:
        arch = archfile.from_json(archfile.loads(metadata["arch"])).arch
        found = {what: archfile.loads(metadata[what]) for what in ("scale", "task")}
        found["family"] = metadata.get("family", FAMILY)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is no checkpoint of nastool: it does not say of which architecture") from error
    if arch.space != space.ref:
        raise InputError(f"checkpoint {path} is of space {arch.space}, not {space.ref}")
    wanted = {"family": task.name, "scale": dataclasses.asdict(scale), "task": task.to_json()}
    for what, value in wanted.items():
        if found[what] != json.loads(json.dumps(value)):
            raise InputError(f"checkpoint {path} is of {what} {short(found[what])}, not {value}")
    _check_shapes(path, weights, space, arch, scale, task)
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"checkpoint {path} is damaged: {name} holds numbers that are not finite")
    return Checkpoint(arch, weights, _memory(path, weights, own, device, needed=trial is not None))


def _check_shapes(
    path: Path, weights: Mapping[str, Tensor], space: SearchSpace, arch: Arch, scale: Any, task: Task
) -> None:
    import torch

    from nastool.nets.inheritance import shapes
    from nastool.nets.networks import build

    with torch.device("meta"):
        wanted = shapes(build(space, arch, task, scale))
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise InputError(
                f"checkpoint {path} does not fit the architecture it names: {name} is {found.get(name, 'missing')}, "
                f"not {wanted.get(name, 'there')}"
            )


def _memory(path: Path, weights: Mapping[str, Tensor], own: str, device: str, needed: bool) -> Mapping[str, Tensor]:
    """What belongs to these very weights, whose digest is own; nothing where there is no such file, unless needed."""
    optimizer = optimizer_of(path)
    if not needed and not optimizer.is_file():
        return {}
    memory, metadata = files.read_tensors(optimizer, device)
    if metadata.get("weights") != own:
        if needed:
            raise InputError(f"{optimizer} does not belong to the checkpoint beside it")
        return {}  # of an earlier writing of this checkpoint
    if metadata.get("digest") != digest(memory) or any(
        name not in weights or tensor.shape not in (weights[name].shape, ())
        for name, tensor in ((key.partition(":")[0], tensor) for key, tensor in memory.items())
    ):
        raise InputError(f"{optimizer} is damaged: its tensors were changed")
    return memory


def digest(tensors: Mapping[str, Tensor]) -> str:
    """32 hexadecimal digits that name these tensors, as they are written: half precision as float32."""
    import torch

    found = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach()
        if value.dtype in (torch.bfloat16, torch.float16):
            value = value.float()
        found.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def check_digest(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Their digest. InputError: these are not the tensors that were written. A file without a digest passes."""
    own = digest(tensors)
    if metadata.get("digest", own) != own:
        raise InputError(f"checkpoint {path} is damaged: its tensors were changed")
    return own


def named(path: Path) -> dict[str, str]:
    """What an architecture's line says of its weights: "weights", their file, and "weights_digest", the tensors'."""
    found = {"weights": str(path)}
    with suppress(InputError):
        about = files.check_tensors(path)
        if "digest" in about:
            found["weights_digest"] = about["digest"]
    return found


def is_there(path: Path) -> bool:
    """Whether a trial left its checkpoint or, as where its training goes on another time, an artifact."""
    return path.is_file() or any(path.parent.glob(f"{path.stem}.artifact.*"))


def remove(path: Path) -> None:
    """A checkpoint and what belongs to it, the trial's artifacts included."""
    artifacts = path.parent.glob(f"{path.stem}.artifact.*")
    for file in (path, optimizer_of(path), predictions_of(path), training_of(path), *artifacts):
        file.unlink(missing_ok=True)


def sweep(folder: Path, keep: Collection[int], parents: Collection[int], below: int) -> None:
    """Delete what is not kept any more, such as after a crash between two steps. Nobody is writing meanwhile.

    folder: the run's. keep: trials whose weights stay. parents: trials whose optimiser's memory stays. below: how many
    trials the run has; what is named after later ones is not its own. InputError: the checkpoints are elsewhere.
    """
    for file in files_of(folder):
        match = _NAME.fullmatch(file.name)
        if match is None:
            if files.is_unfinished(file.name):
                file.unlink(missing_ok=True)
        elif (
            match[2] != ".training"
            and int(match[1]) < below
            and int(match[1]) not in (parents if match[2] == ".optimizer" else keep)
        ):
            file.unlink(missing_ok=True)


def files_of(folder: Path) -> list[Path]:
    """What lies in a run's folder of checkpoints, as nastool names it. InputError: a link leads out of the run."""
    there = within(folder, "checkpoints")
    if not there.is_dir():
        return []
    ours = (
        file
        for file in there.iterdir()
        if _NAME.fullmatch(file.name) or files.is_unfinished(file.name) or file.name == "supernet.safetensors"
    )
    return sorted(ours)

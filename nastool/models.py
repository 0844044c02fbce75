"""A trained network as something to use: read from a run or a checkpoint, with all that it takes to feed it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nastool import __version__, archfile, checkpoints, files
from nastool.errors import InputError
from nastool.tasks import ImageTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nastool.core import Arch
    from nastool.interfaces import SearchSpace


@dataclass(frozen=True, repr=False)
class Model:
    """A trained network, in evaluation mode.

    mean, std: of each channel, of pixels in [0, 1]; what the network sees is (pixel - mean) / std.
    classes: the name of each class.
    """

    network: nn.Module
    space: SearchSpace
    arch: Arch
    scale: Any
    task: ImageTask
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    path: Path
    document: Mapping[str, Any]
    """What the run's best.json says, if these are its weights; else {}."""

    @property
    def facts(self) -> dict[str, str]:
        """What there is to say of it, by name: what it is, where it comes from, what was measured."""
        scale = ", ".join(f"{name}={value}" for name, value in dataclasses.asdict(self.scale).items())
        facts = {"architecture": self.arch.key, "space": str(self.space.ref), "scale": scale}
        evaluator, metrics = self.document.get("evaluator"), self.document.get("metrics")
        if "run" in self.document and "trial" in self.document:
            facts["found"] = f"trial {self.document['trial']} of {self.document['run']}"
        if isinstance(evaluator, dict) and isinstance(options := evaluator.get("options"), dict):
            facts["trained on"] = str(options.get("data", "unknown"))
        if isinstance(metrics, dict):
            numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float) and abs(v) < 1e300}
            facts["measured"] = ", ".join(f"{name} {value:.6g}" for name, value in numbers.items())
        return {**facts, "weights": self.path.name, "written by": f"nastool {__version__}"}

    def __repr__(self) -> str:
        return f"<model {self.path}: {self.arch.key} of {self.space.ref}, {self.task.classes} classes>"

    def inputs(self, images: NDArray[np.uint8]) -> Tensor:
        """uint8 (N, C, H, W) -> float32, normalised."""
        import torch

        mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (self.mean, self.std))
        pixels = torch.from_numpy(np.array(images, order="C")).float()  # a copy: images may be read-only, or a view
        return torch.addcmul(-mean / std, pixels, 1 / (255 * std))

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probability of each class, (N, classes). images: uint8 (N, C, H, W). InputError: they are no such."""
        import torch

        if getattr(images, "dtype", None) != np.uint8 or images.ndim != 4 or images.shape[1] != self.task.channels:
            found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
            raise InputError(
                f"need images as a numpy array, uint8 (N, {self.task.channels}, H, W) with values from 0 to 255; "
                f"got {found}"
            )
        with torch.inference_mode():
            probabilities: NDArray[np.float32] = self.network(self.inputs(images)).softmax(1).numpy()
        return probabilities


def find(source: str) -> Path:
    """The file with the weights of a run folder (its best), or the file itself. InputError: there is none."""
    path = Path(source)
    try:
        folder, there = path.is_dir(), path.exists()
    except (OSError, ValueError):
        folder = there = False
    if folder:
        path = path / "best.safetensors"
        there = path.is_file()
        if not there and (path.parent / "best.json").is_file():
            raise InputError(f"{source} has a result without weights: nastool retrain {source} --data ... trains it")
        if not there:
            raise InputError(f"{source} has no best.safetensors: give a run that has finished, or a checkpoint")
    if not there:
        raise InputError(f"no model {source}: give a run folder or a file of weights (.safetensors)")
    return path


def load(source: str) -> Model:
    """Read a run folder's best network, or a checkpoint. On the CPU. InputError: missing, damaged, or not nastool's."""
    import torch

    from nastool.networks import build

    path = find(source)
    _, metadata = files.read_tensors(path)
    try:
        document = archfile.from_json(archfile.loads(metadata["arch"]))
        task = ImageTask(**archfile.loads(metadata["task"]))
        scale = document.space.make_scale(dict(archfile.loads(metadata["scale"])))
        classes, mean, std = (tuple(archfile.loads(metadata[key])) for key in ("classes", "mean", "std"))
        if len(classes) != task.classes or not len(mean) == len(std) == task.channels:
            raise ValueError("names or statistics are not as many as classes or channels")
        mean, std = (tuple(map(float, values)) for values in (mean, std))
        if min(std) < 1e-20 or not all(isinstance(name, str) for name in classes):
            raise ValueError("a standard deviation is 0, or a class's name no text")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no checkpoint of nastool: it does not say of which network ({error})") from error
    found = checkpoints.read(path, document.space, scale, task)
    with torch.random.fork_rng(devices=[]):
        network = build(document.space, document.arch, task, scale)
    network.load_state_dict(found.weights)
    return Model(
        network.eval(), document.space, document.arch, scale, task, classes, mean, std, path, _said(path, document.arch)
    )


def _said(path: Path, arch: Arch) -> Mapping[str, Any]:
    """The object in best.json beside best.safetensors, if it is about that architecture."""
    if path.name != "best.safetensors":
        return {}
    try:
        found: dict[str, Any] = archfile.loads((path.parent / "best.json").read_text(encoding="utf-8"))
        return found if archfile.from_json(found).arch == arch else {}
    except (OSError, ValueError):
        return {}

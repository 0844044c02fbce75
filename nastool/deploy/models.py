"""A trained network as something to use: read from a run or a checkpoint, with all that it takes to feed it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nastool import __version__
from nastool.core import archfile, files, registry
from nastool.core.errors import InputError, short
from nastool.core.space import Lean, make_scale
from nastool.core.task import FAMILY, Task
from nastool.nets import checkpoints
from nastool.tasks.images.task import ImageTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nastool.core.archfile import ArchDocument
    from nastool.core.space import SearchSpace
    from nastool.core.values import Arch
    from nastool.deploy.ensembles import Ensemble


@dataclass(frozen=True, repr=False)
class Model:
    """A trained network, in evaluation mode.

    Attributes:
        classes: Name of each class; () where it says numbers.
        mean, std: Of each channel or feature; what the network sees is (x - mean) / std, of pixels (x / 255 - mean) /
            std. () where nothing is known to stand before it.
        targets: Name of each number that it says; () where it says classes.
        shift, spread: Of each target: what is said is output x spread + shift.
        columns: Of a table, as `tasks.tabular.table.Column` has them.
        about: What else its file says of the data.
    """

    network: nn.Module
    space: SearchSpace
    arch: Arch
    scale: Any
    task: Task
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    path: Path
    document: Mapping[str, Any]
    """What a line says that names these weights, such as the run's best.json; {}: there is none."""
    targets: tuple[str, ...] = ()
    shift: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    more: bool = False
    """Whether the file may have weights that only training needed; the network is without."""

    def build(self) -> nn.Module:
        """The same network, untrained."""
        from nastool.nets.networks import build

        return build(self.space, self.arch, self.task, self.scale)

    @property
    def origin(self) -> dict[str, str]:
        """Which network it is, for files in other tools' formats."""
        return {"arch": self.arch.key, "space": str(self.space.ref)}

    @property
    def title(self) -> str:
        """The same as a sentence."""
        return f"A network of nastool's search space {self.space.name}."

    @property
    def takes_pixels(self) -> bool:
        """Whether it is for images."""
        return isinstance(self.task, ImageTask)

    @property
    def normalises(self) -> bool:
        """Whether it is known what stands before the network, so that it can be given what the data hold."""
        return bool(self.mean)

    @property
    def facts(self) -> dict[str, str]:
        """What there is to say of it, by name: what it is, where it comes from, what was measured."""
        facts = self._built_of()
        evaluator, metrics = self.document.get("evaluator"), self.document.get("metrics")
        if "run" in self.document and "trial" in self.document:
            facts["found"] = f"trial {self.document['trial']} of {self.document['run']}"
        if isinstance(evaluator, dict) and isinstance(options := evaluator.get("options"), dict):
            facts["trained on"] = str(options.get("data", "unknown"))
        if isinstance(metrics, dict):
            numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float) and abs(v) < 1e300}
            facts["measured"] = ", ".join(f"{name} {value:.6g}" for name, value in numbers.items())
        return {**facts, "weights": self.path.name, "written by": f"nastool {__version__}"}

    def _built_of(self) -> dict[str, str]:
        scale = ", ".join(f"{name}={value}" for name, value in dataclasses.asdict(self.scale).items())
        return {"architecture": self.arch.key, "space": str(self.space.ref), "scale": scale}

    def __repr__(self) -> str:
        return f"<model {self.path}: {self.arch.key} of {self.space.ref}, for {self.task}>"

    def inputs(self, examples: NDArray[Any]) -> Tensor:
        """Examples as the data hold them, such as uint8 (N, C, H, W) -> float32, normalised."""
        import torch

        x = torch.from_numpy(np.array(examples, order="C")).float()  # a copy: it may be read-only, or a view
        return self.normalised(x, *(torch.tensor(values) for values in (self.mean, self.std)))

    def normalised(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """The same of a float32 tensor. mean, std: the model's."""
        import torch

        mean, std = (each.reshape(-1, *[1] * (x.ndim - 2)) for each in (mean, std))
        if self.takes_pixels:
            return torch.addcmul(-mean / std, x, 1 / (255 * std))
        found = (x - mean) / std
        return torch.where(found.isnan(), 0.0, found) if "columns" in self.about else found

    def predict(self, examples: NDArray[Any]) -> NDArray[np.float32]:
        """The probability of each class, (N, classes), or the numbers that are said, (N, targets).

        Args:
            examples: Images as uint8 (N, C, H, W); signals (N, C, L) as the data have them; of a table what
                `Task.read` makes of it.

        Raises:
            InputError: They are no such.
        """
        import torch

        task, shape = self.task, tuple(self.task.example(1, "meta")[0].shape[1:])
        if not self.normalises:
            raise InputError(f"{self.path} holds a network for {task.name}, which is given tensors: call its .network")
        wanted = np.uint8 if self.takes_pixels else np.floating
        fixed = slice(0, 1) if self.takes_pixels else slice(None)  # images of other sizes are seen as they are
        array = examples if isinstance(examples, np.ndarray) else np.empty(0, dtype=object)
        fits = array.ndim == len(shape) + 1 and array.shape[1:][fixed] == shape[fixed]
        if not np.issubdtype(array.dtype, wanted) or not fits:
            got = f"{array.dtype} {array.shape}" if array is examples else type(examples).__name__
            sizes = ", ".join(("C", "H", "W") if self.takes_pixels else map(str, shape)).replace("C", str(shape[0]), 1)
            kind = "uint8" if self.takes_pixels else "float32"
            values = " with values from 0 to 255" if self.takes_pixels else ""
            raise InputError(f"need {task.noun}s as a numpy array, {kind} (N, {sizes}){values}; got {got}")
        with torch.inference_mode():
            output = self.network(self.inputs(array))
            said = output * torch.tensor(self.spread) + torch.tensor(self.shift) if self.targets else output.softmax(1)
            found: NDArray[np.float32] = said.float().numpy()
        return found


DEPTH = 5
"""How many of the last parts of a file's name are looked for elsewhere, where folders have been moved."""


def weights_of(document: ArchDocument) -> Path | None:
    """The file with the weights that an architecture's line means; None: it names none.

    Looked for beside the file that the line was read from, then where the line says, as seen from here. A file counts
    if it holds this very architecture, and tensors of the digest that the line names; whoever reads them has to check
    that they are what their own metadata say (`checkpoints.read`). InputError: no such file is there.
    """
    named, digest = document.extra.get("weights"), document.extra.get("weights_digest")
    if named is None:
        return None
    where = "the line" if document.file is None else short(document.file)
    if not isinstance(named, str) or not isinstance(digest, str | None):
        raise InputError(f"{where}: 'weights' and 'weights_digest' must be texts, a file's name and its digest")
    if not named.endswith(".safetensors"):
        raise InputError(f"{where}: 'weights' must name a .safetensors file, got {short(named)}")
    others: dict[str, None] = {}
    for path in _places(document, named, digest is not None):
        try:
            there = path.is_file()
        except (OSError, ValueError):  # no name that a file could have
            there = False
        if there:
            problem = _other(path, document.arch, digest)
            if problem is None:
                return path
            others[f"{short(path)} {problem}"] = None
    advice = "give the run's folder as it was, or the right .safetensors file itself"
    if others:
        raise InputError(f"{where} means other weights than are there: {next(iter(others))}; {advice}")
    beside = "" if document.file is None else f", nor are they beside {where}"
    raise InputError(f"{where}: there is no {short(Path(named))}, which it names as its weights{beside}; {advice}")


def _places(document: ArchDocument, named: str, certain: bool) -> Iterator[Path]:
    """Where the weights may be, likely ones first. certain: a digest will tell them from others."""
    parts = Path(named).parts
    tails = [Path(*parts[-n:]) for n in range(1, min(len(parts), DEPTH) + 1) if ".." not in parts[-n:]]
    for folder in [document.file.parent, Path(os.path.realpath(document.file)).parent] if document.file else []:
        yield from (folder / tail for tail in (tails if certain else tails[:1]))
        trial, run = document.extra.get("trial"), document.extra.get("run")
        if certain and isinstance(trial, int) and trial >= 0:  # best.safetensors is a copy, and written apart
            yield folder / checkpoints.name_of(trial)
            if isinstance(run, str):
                yield folder / Path(run).name / checkpoints.name_of(trial)
    yield Path(named)
    yield from reversed(tails if certain else [])


def _other(path: Path, arch: Arch, digest: str | None) -> str | None:
    """What a file has that these weights have not; None: they may be the ones that are meant."""
    try:
        about = files.check_tensors(path)
        found = archfile.from_json(archfile.loads(about["arch"])).arch
    except (KeyError, ValueError):
        return "is no checkpoint of nastool, or damaged"
    if found != arch:
        return f"holds architecture {found.key} of {found.space}, not {arch.key} of {arch.space}"
    if digest is not None and about.get("digest") != digest:
        return "holds the same architecture, trained another time"
    return None


def located(document: ArchDocument) -> ArchDocument:
    """The same line with its weights as they are to be found from here. InputError: they are not there."""
    path = weights_of(document)
    return document if path is None else replace(document, extra={**document.extra, "weights": str(path)})


def of(document: ArchDocument) -> Model:
    """The trained network of an architecture's line. On the CPU. InputError: see `weights_of` and `load`."""
    path = weights_of(document)
    if path is None:
        raise InputError(f"{described(document)} names no weights: give a run, its weights, or a line that names some")
    return _read(path, document)


def task_in(path: Path) -> type[Task]:
    """The task of a file of weights, of no particular shapes; of one that cannot be read that for images."""
    family = FAMILY
    with suppress(InputError):
        family = files.check_tensors(path).get("family", FAMILY)
    try:
        found: type[Task] = registry.load("task", family)
    except InputError:
        found = registry.load("task", FAMILY)
    return found


def ensemble(source: str) -> Ensemble | None:
    """The ensemble whose folder or best.json this is; None: it is none. InputError: its weights are gone or damaged."""
    path = Path(source)
    file = path if path.suffix == ".json" else path / "best.json"
    found = archfile.ensemble_in(file)
    if found is None:
        return None
    from nastool.deploy import ensembles

    return ensembles.read(file.parent / "best.safetensors", found)


def described(document: ArchDocument) -> str:
    """What an architecture is called in messages."""
    said = document.extra
    named = (
        f"trial {said['trial']} of {short(said['run'])}" if "trial" in said and "run" in said else "this architecture"
    )
    return named if document.file is None else short(document.file)


def load(source: str) -> Model:
    """Read a run folder's best network, or a checkpoint. On the CPU. InputError: missing, damaged, or not nastool's."""
    path = Path(source)
    try:
        folder, there = path.is_dir(), path.exists()
    except (OSError, ValueError):
        folder = there = False
    if not there:
        raise InputError(f"no model {source}: give a run folder or a file of weights (.safetensors)")
    if not folder:
        return _read(path, None)
    if not (path / "best.json").is_file():
        raise InputError(f"{source} has no best.json: give a run that has finished, or a checkpoint")
    if (several := ensemble(source)) is not None:
        return several
    document = next(archfile.read_file(path / "best.json"))
    if "weights" not in document.extra:
        raise InputError(f"{source} has a result without weights: nastool retrain {source} --data ... trains it")
    return of(document)


def trained_for(metadata: Mapping[str, str]) -> tuple[Task, dict[str, Any]]:
    """The task that a file's network is for, and what is kept of its data. KeyError, TypeError, ValueError: damaged."""
    task: Task = registry.load("task", metadata.get("family", FAMILY)).from_json(archfile.loads(metadata["task"]))
    about = {key: archfile.loads(metadata[key]) for key in task.kept if key in metadata}
    task.check_kept(about)
    return task, about


def _read(path: Path, document: ArchDocument | None) -> Model:
    """A checkpoint; document: the line that names it; None: best.json beside it may be about it."""
    import torch

    from nastool.nets.networks import build

    metadata = files.check_tensors(path)
    if "ensemble" in metadata:
        from nastool.deploy import ensembles

        return ensembles.read(path)
    try:
        found = archfile.from_json(archfile.loads(metadata["arch"]))
        task, about = trained_for(metadata)
        scale = make_scale(found.space, dict(archfile.loads(metadata["scale"])))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no checkpoint of nastool: it does not say of which network ({error})") from error
    weights = checkpoints.read(path, found.space, scale, task).weights
    with torch.random.fork_rng(devices=[]):
        size = found.space.lean(scale) if isinstance(found.space, Lean) else scale
        network = build(found.space, found.arch, task, size)
    network.load_state_dict(weights, strict=size == scale)
    about_it = _said(path) if document is None else document.to_json()
    more = size != scale
    names = ("classes", "mean", "std", "targets", "target_mean", "target_std")
    classes, mean, std, targets, shift, spread = (tuple(about.pop(key, ())) for key in names)
    return Model(
        network.eval(),
        found.space,
        found.arch,
        size,
        task,
        classes,
        mean,
        std,
        path,
        about_it,
        targets,
        shift,
        spread,
        about,
        more,
    )


def _said(path: Path) -> Mapping[str, Any]:
    """The object in best.json beside best.safetensors, if it is about these weights."""
    if path.name != "best.safetensors":
        return {}
    try:
        document = next(archfile.read_file(path.parent / "best.json"))
    except InputError:
        return {}
    same = _other(path, document.arch, document.extra.get("weights_digest")) is None
    return document.to_json() if same else {}

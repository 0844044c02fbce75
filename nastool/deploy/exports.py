"""A trained network in other tools' formats, each loaded again and compared before it counts as written."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nastool.core.errors import InputError, NastoolError, one_line
from nastool.core.files import write_atomic, write_bytes
from nastool.deploy.models import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nastool.core.space import SearchSpace
    from nastool.core.values import Arch
    from nastool.tasks.images.task import ImageTask

IMAGES = 64
"""How many images an export is compared on."""
TOLERANCE = 1e-4
"""Largest difference of a logit to nastool's own, relative to the largest logit where that is above 1."""


def takes(model: Model, raw: bool) -> str:
    """What images a network takes, in a line. raw: the bare one."""
    task = model.task
    shape = f"(N, {task.channels}, {task.height}, {task.width})"
    return f"float32 {shape}: (pixel / 255 - mean) / std" if raw else f"uint8 {shape}: pixels from 0 (black) to 255"


def facts(model: Model, raw: bool) -> dict[str, str]:
    """What a file says of its network, as text."""
    task = model.task
    return {
        "arch": model.arch.key,
        "space": str(model.space.ref),
        "input": takes(model, raw),
        "mean": json.dumps(model.mean),
        "std": json.dumps(model.std),
        "output": f"logits (N, {task.classes})",
        "classes": json.dumps(model.classes),
    }


def python(model: Model, *, raw: bool = False) -> str:
    """Source of a module that needs nothing but torch, for these weights. InputError: the network cannot be written.

    raw: the bare network, which takes normalised images, not pixels; so for the others.
    """
    from nastool.deploy.codegen import python
    from nastool.nets.networks import build

    return python(
        lambda: build(model.space, model.arch, model.task, model.scale),
        model.task,
        trained=model.network,
        title=f"A network of nastool's search space {model.space.name}.",
        facts=model.facts,
        classes=model.classes,
        mean=model.mean,
        std=model.std,
        raw=raw,
    )


def untrained_python(space: SearchSpace, arch: Arch, task: ImageTask, scale: Any) -> str:
    """The same for an architecture alone."""
    from nastool.deploy.codegen import python
    from nastool.nets.networks import build

    title = f"A network of nastool's search space {space.name}, untrained."
    facts = {"architecture": arch.key, "scale": str(scale)}
    return python(lambda: build(space, arch, task, scale), task, title=title, facts=facts)


def example_images(model: Model) -> tuple[NDArray[np.uint8], str]:
    """Images to compare on, uint8 (N, C, H, W), and what they are: validation images where the run's data are there."""
    from nastool.tasks.images import data

    run = model.path.parent if model.path.name == "best.safetensors" else model.path.parent.parent
    try:
        document = model.document or json.loads((run / "best.json").read_text(encoding="utf-8"))
        options = document["evaluator"]["options"]
        names = ("split_seed", "val_fraction", "train_size", "image_size")
        found = data.load(options["data"], **{name: options[name] for name in names if name in options})
        if found.task == model.task and document.get("data_digest", found.digest) == found.digest:
            return (found.val.x[:IMAGES], "validation images") if len(found.val) else (found.train.x[:IMAGES], "images")
    except (OSError, ValueError, KeyError, TypeError):
        pass
    task = model.task
    shape = (IMAGES, task.channels, task.height, task.width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), "random images"


def _exported(model: Model, images: NDArray[np.uint8], raw: bool) -> tuple[nn.Module, Tensor]:
    """The network as it is exported, and these images as it takes them."""
    import torch
    from torch import nn

    if raw:
        return model.network, model.inputs(images)
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (model.mean, model.std))

    class WithPixels(nn.Module):
        """The network, and before it the normalisation as `Model.inputs` has it."""

        shift: Tensor
        factor: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = model.network
            self.register_buffer("shift", -mean / std)
            self.register_buffer("factor", 1 / (255 * std))

        def forward(self, images: Tensor) -> Any:
            return self.network(torch.addcmul(self.shift, images.float(), self.factor))

    return WithPixels().eval(), torch.from_numpy(np.array(images, order="C"))


def pt2(model: Model, path: Path, images: NDArray[np.uint8], *, raw: bool = False) -> float:
    """torch.export, for any batch size. images: uint8 (N, C, H, W), N >= 2, to compare on. Returns the difference."""
    import torch

    network, inputs = _exported(model, images, raw)
    content = io.BytesIO()
    with _quiet(path):
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(network, (inputs,), dynamic_shapes=({0: batch},))
        torch.export.save(program, content, extra_files={"nastool.json": json.dumps(facts(model, raw))})
        content.seek(0)
        again = torch.export.load(content).module()
        with torch.inference_mode():
            difference = _compare(model, {len(x): again(x) for x in (inputs, inputs[:1])}, images, path)
    write_bytes(path, content.getvalue())
    return difference


def onnx(model: Model, path: Path, images: NDArray[np.uint8], *, raw: bool = False) -> float:
    """ONNX, one file, for any batch size, compared by onnxruntime. Otherwise as `pt2`. InputError: no such package."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise InputError(f"--to onnx needs {error.name}: pip install 'nastool[onnx]'") from None
    import torch

    network, inputs = _exported(model, images, raw)
    with _quiet(path):
        program = torch.onnx.export(
            network,
            (inputs,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        proto = program.model_proto
        for key, value in facts(model, raw).items():
            proto.metadata_props.add(key=key, value=value)
        onnx.checker.check_model(proto)
        content = proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        found = {
            len(x): torch.from_numpy(np.asarray(session.run(None, {"images": x.numpy()})[0]))
            for x in (inputs, inputs[:1])
        }
        difference = _compare(model, found, images, path)
    write_bytes(path, content)
    return difference


def _compare(model: Model, found: Mapping[int, Tensor], images: NDArray[np.uint8], path: Path) -> float:
    """found: batch size -> logits of the first so many images. NastoolError: they are not the network's."""
    import torch

    worst = 0.0
    for count, logits in found.items():
        with torch.inference_mode():
            wanted = model.network(model.inputs(images[:count]))
        difference = (logits - wanted).abs().max().item() / max(1.0, wanted.abs().max().item())
        worst = max(worst, difference)
    if not worst <= TOLERANCE:
        raise NastoolError(f"{path} was not written: loaded again, its outputs differ by {worst:.1e}")
    return worst


@contextmanager
def _quiet(path: Path) -> Iterator[None]:
    """Exporters talk a lot. NastoolError: one failed, so that path was not written."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except NastoolError:
        raise
    except Exception as error:
        raise NastoolError(f"{path} was not written: {one_line(error)}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


SUFFIXES: Mapping[str, str] = {"python": ".py", "pt2": ".pt2", "onnx": ".onnx", "safetensors": ".safetensors"}
"""Suffix of a file in each form."""


def write(model: Model, form: str, path: Path, *, raw: bool = False) -> list[str]:
    """Write a trained network in one of the forms in SUFFIXES; return what to know of the file, a line each."""
    if form == "python":
        write_atomic(path, python(model, raw=raw))
        return []
    if form == "safetensors":
        write_bytes(path, model.path.read_bytes())
        return []
    images, which = example_images(model)
    difference = (pt2 if form == "pt2" else onnx)(model, path, images, raw=raw)
    return [
        f"loaded again: on {len(images)} {which}, logits differ by at most {difference:.1e}",
        f"takes images: {takes(model, raw)}",
    ]

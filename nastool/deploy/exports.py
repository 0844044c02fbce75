"""A trained network in other tools' formats, each loaded again and compared before it counts as written."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nastool.core.errors import InputError, NastoolError, one_line
from nastool.core.files import write_atomic, write_bytes
from nastool.deploy.models import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nastool.core.space import SearchSpace
    from nastool.core.task import Task
    from nastool.core.values import Arch

COUNT = 64
"""How many examples an export is compared on."""
TOLERANCE = 1e-4
"""Largest difference of a logit to nastool's own, relative to the largest logit where that is above 1."""


def takes(model: Model, raw: bool) -> str:
    """What a network takes, in a line. raw: the bare one."""
    found = []
    for x in _leaves(_inputs(model, 1)):
        found.append(f"{str(x.dtype).removeprefix('torch.')} ({', '.join(map(str, ('N', *x.shape[1:])))})")
    if model.takes_pixels:
        return (
            f"{found[0]}: (pixel / 255 - mean) / std" if raw else f"uint8{found[0][7:]}: pixels from 0 (black) to 255"
        )
    if not model.normalises:
        return " and ".join(found)
    missing = ", NaN where one is missing" if "columns" in model.about and not raw else ""
    return f"{found[0]}: {'(x - mean) / std' if raw else f'numbers as they are{missing}'}"


def _inputs(model: Model, n: int) -> tuple[Any, ...]:
    """What a network takes for n examples, values of no meaning; of texts one token and the state before it."""
    import torch

    inputs: tuple[Any, ...] = model.task.example(n)
    with torch.no_grad():
        found = model.network(*inputs)
    return (*inputs, found[1]) if isinstance(found, tuple) else inputs


def _leaves(values: object) -> list[Tensor]:
    """The tensors in tuples, nested or not."""
    from torch.utils._pytree import tree_leaves

    return tree_leaves(values)


def facts(model: Model, raw: bool) -> dict[str, str]:
    """What a file says of its network, as text."""
    about = {**model.origin, "input": takes(model, raw)}
    if not model.normalises:
        of_data = {key: json.dumps(value) for key, value in model.about.items()}
        fields = {key: str(value) for key, value in model.task.to_json().items()}
        return {**about, "task": model.task.name, **fields, **of_data}
    data: dict[str, Any] = {"mean": model.mean, "std": model.std}
    output = f"logits (N, {len(model.classes)})"
    if model.targets:
        output = f"{'(y - target_mean) / target_std' if raw else 'numbers'} (N, {len(model.targets)})"
        data |= {"targets": model.targets, "target_mean": model.shift, "target_std": model.spread}
    else:
        data["classes"] = model.classes
    return {**about, "output": output, **{key: json.dumps(value) for key, value in (data | dict(model.about)).items()}}


def python(model: Model, *, raw: bool = False) -> str:
    """Source of a module that needs nothing but torch, for these weights. InputError: the network cannot be written.

    raw: the bare network, which takes normalised images, not pixels; so for the others.
    """
    from nastool.deploy.codegen import python
    from nastool.deploy.codegen.use import Around

    return python(
        model.build,
        model.task,
        trained=model.network,
        title=model.title,
        facts=model.facts,
        around=Around(
            model.task,
            model.classes,
            model.mean,
            model.std,
            model.targets,
            model.shift,
            model.spread,
            model.about.get("columns", ()),
            raw,
        ),
        more=model.more,
    )


def untrained_python(space: SearchSpace, arch: Arch, task: Task, scale: Any) -> str:
    """The same for an architecture alone."""
    from nastool.deploy.codegen import python
    from nastool.nets.networks import build

    title = f"A network of nastool's search space {space.name}, untrained."
    facts = {"architecture": arch.key, "scale": str(scale)}
    return python(lambda: build(space, arch, task, scale), task, title=title, facts=facts)


def examples(model: Model) -> tuple[Any, str]:
    """What to compare on, and what it is.

    Images are uint8 (N, C, H, W), of the validation data where the run's are there. Of other tasks it is the network's
    inputs, whose real numbers are drawn at random.
    """
    if not model.takes_pixels:
        import torch
        from torch.utils._pytree import tree_map

        torch_rng = torch.Generator().manual_seed(0)
        draw = lambda x: torch.randn(x.shape, generator=torch_rng) if x.is_floating_point() else x  # noqa: E731
        drawn = tree_map(draw, _inputs(model, COUNT))
        if model.normalises:
            mean, std = (torch.tensor(v).reshape(-1, *[1] * (drawn[0].ndim - 2)) for v in (model.mean, model.std))
            return (drawn[0] * std + mean).numpy(), "random examples"
        return drawn, "random examples"
    from nastool.tasks.images import data

    run = model.path.parent if model.path.name == "best.safetensors" else model.path.parent.parent
    try:
        document = model.document or json.loads((run / "best.json").read_text(encoding="utf-8"))
        options = document["evaluator"]["options"]
        names = ("split_seed", "val_fraction", "train_size", "image_size", "predict")
        found = data.load(options["data"], **{name: options[name] for name in names if name in options})
        if found.task == model.task and document.get("data_digest", found.digest) == found.digest:
            return (found.val.x[:COUNT], "validation images") if len(found.val) else (found.train.x[:COUNT], "images")
    except (OSError, ValueError, KeyError, TypeError):
        pass
    shape = model.task.example(COUNT, "meta")[0].shape
    return np.random.default_rng(0).integers(0, 256, tuple(shape), dtype=np.uint8), "random images"


def _exported(model: Model, given: Any, raw: bool) -> tuple[nn.Module, tuple[Any, ...]]:
    """The network as it is exported, and what it takes of these examples."""
    import torch
    from torch import nn

    if raw or not model.normalises:
        return model.network, _seen(model, given)

    class Whole(nn.Module):
        """The network, and around it what `Model.predict` has."""

        mean: Tensor
        std: Tensor
        shift: Tensor
        spread: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = model.network
            for name in ("mean", "std", "shift", "spread"):
                self.register_buffer(name, torch.tensor(getattr(model, name)))

        def forward(self, examples: Tensor) -> Any:
            output = self.network(model.normalised(examples.float(), self.mean, self.std))
            return output * self.spread + self.shift if model.targets else output

    return Whole().eval(), (torch.from_numpy(np.array(given, order="C")),)


def _seen(model: Model, given: Any) -> tuple[Any, ...]:
    """What the bare network takes of examples."""
    return (model.inputs(given),) if model.normalises else given


def _wanted(model: Model, inputs: tuple[Any, ...], raw: bool) -> list[Tensor]:
    """What an export should say of what the bare network takes."""
    import torch

    output = model.network(*inputs)
    shown = output * torch.tensor(model.spread) + torch.tensor(model.shift) if model.targets and not raw else output
    return _leaves(shown)


def pt2(model: Model, path: Path, given: Any, *, raw: bool = False) -> float:
    """torch.export, for any batch size. given: at least 2 of `examples`, to compare on. Returns the difference."""
    import torch

    network, inputs = _exported(model, given, raw)
    content = io.BytesIO()
    with _quiet(path):
        program = torch.export.export(network, inputs, dynamic_shapes=_any_number(inputs))
        torch.export.save(program, content, extra_files={"nastool.json": json.dumps(facts(model, raw))})
        content.seek(0)
        again = torch.export.load(content).module()
        with torch.inference_mode():
            difference = _compare(model, [_leaves(again(*x)) for x in (inputs, _first(inputs))], given, path, raw)
    write_bytes(path, content.getvalue())
    return difference


def onnx(model: Model, path: Path, given: Any, *, raw: bool = False) -> float:
    """ONNX, one file, for any batch size, compared by onnxruntime. Otherwise as `pt2`. InputError: no such package."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise InputError(f"--to onnx needs {error.name}: pip install 'nastool[onnx]'") from None
    import torch

    network, inputs = _exported(model, given, raw)
    names = [f"{model.task.noun}s"] if model.normalises else [f"input{i}" for i in range(len(_leaves(inputs)))]
    states = [f"state{i}" for i in range(len(_wanted(model, _seen(model, given), raw)) - 1)]
    with _quiet(path):
        program = torch.onnx.export(
            network,
            inputs,
            input_names=names,
            output_names=["numbers" if model.targets else "logits", *states],
            dynamic_shapes=_any_number(inputs),
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
        found = []
        for x in (inputs, _first(inputs)):
            fed = dict(zip(names, (part.numpy() for part in _leaves(x)), strict=True))
            found.append([torch.from_numpy(np.asarray(output)) for output in session.run(None, fed)])
        difference = _compare(model, found, given, path, raw)
    write_bytes(path, content)
    return difference


def _first(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    from torch.utils._pytree import tree_map

    first: tuple[Any, ...] = tree_map(lambda x: x[:1], inputs)
    return first


def _any_number(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """What says that inputs may be of any number of examples."""
    import torch
    from torch.utils._pytree import tree_map

    batch = torch.export.Dim("batch", min=1)
    shapes: tuple[Any, ...] = tree_map(lambda _: {0: batch}, inputs)
    return shapes


def _compare(model: Model, found: Sequence[Sequence[Tensor]], given: Any, path: Path, raw: bool) -> float:
    """found: outputs for all examples, and for the first. NastoolError: they are not the network's."""
    import torch

    worst = 0.0
    inputs = _seen(model, given)
    for outputs, x in zip(found, (inputs, _first(inputs)), strict=True):
        with torch.inference_mode():
            all_wanted = _wanted(model, x, raw)
        for output, wanted in zip(outputs, all_wanted, strict=True):
            worst = max(worst, (output - wanted).abs().max().item() / max(1.0, wanted.abs().max().item()))
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
    given, which = examples(model)
    difference = (pt2 if form == "pt2" else onnx)(model, path, given, raw=raw)
    return [
        f"loaded again: on {len(given if model.normalises else given[0])} {which}, outputs differ by at most "
        f"{difference:.1e}",
        f"takes {model.task.noun}s: {takes(model, raw)}",
    ]

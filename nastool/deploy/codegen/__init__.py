"""The text of a stand-alone `model.py`: plain PyTorch of one network, and nothing of nastool in it.

`python` traces the network (`nastool.deploy.tracing`) and then
    plan      says which modules become classes, and which are written where they are called,
    forward   writes what a class does,
    classes   finds which modules share a class, and what their constructors make, as
    terms     whose differences become parameters;
    sharing   makes functions for what occurs several times, and
    written   writes all that down, in the format of
    layout    which is ruff's; around them stands
    use       what reads weights and images, and says what these show.
Before the text is returned it has been run: it computes what the network computes, from the same weights.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from nastool.core.errors import InputError, one_line
from nastool.deploy.codegen import use, written
from nastool.deploy.codegen.classes import definitions
from nastool.deploy.codegen.layout import WIDTH, display, lines, literal
from nastool.deploy.codegen.plan import Plan
from nastool.deploy.codegen.sharing import share
from nastool.deploy.tracing import evaluating, trace
from nastool.tasks.images.task import ImageTask


def python(
    network: nn.Module,
    task: ImageTask,
    *,
    title: str,
    facts: Mapping[str, str],
    classes: Sequence[str] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    raw: bool = False,
) -> str:
    """Source of a module with a class `Model` and a function `load`.

    title, facts: for its docstring, such as the architecture's name and {"val_acc": "0.94"}. classes, mean, std: become
    constants of it; with them `Model` takes pixels from 0 to 255 and normalises them by the last two, and as a program
    it classifies files of images. raw, or without them: `Model` is the bare network. InputError: something in the
    network cannot be traced or written.

    `Model` has the network's parameters and buffers by name, but not those that lead to nothing in evaluation mode,
    such as an auxiliary classifier's; `load` leaves these out. It is written for images of the task's size.
    """
    book = share(definitions(Plan(trace(network, task))))
    pixels = bool(classes and mean and std) and not raw
    root = "Network" if pixels else "Model"
    parts = []
    for name, definition in book.items():
        if "" in definition.attributes:
            parts.append(written.function(definition, book))
        elif name == "Model":
            about = (
                f"{'Normalised images' if pixels else 'Images'} (N, {use.shape(task)}) to logits (N, {task.classes})."
            )
            parts.append(written.class_(replace(definition, name=root), book, about))
        else:
            parts.append(written.class_(definition, book))
    body = "\n\n\n".join(map("\n".join, parts)) + (f"\n\n\n{use.model(task)}" if pixels else "")
    head = [*_docstring(title, facts, use.shape(task), "pixels" if pixels else "normalised" if mean else ""), ""]
    constants = _constants(classes, mean, std)
    checked = _checked("\n".join([*head, *_imports(body), *constants, body]), root, network, task)
    tail = use.tail(task, _unused(network, checked), pixels)
    head += [*_imports(f"{body}\n{tail}"), *constants]
    return "\n".join(head) + f"\n\n\n{body}\n\n\n{tail}"


# --- the file around the classes


def _docstring(title: str, facts: Mapping[str, str], shape: str, takes: str) -> Iterator[str]:
    yield f'"""{_quoted(title)}'
    yield ""
    for key, value in facts.items():
        yield from textwrap.wrap(f"{_quoted(key)}: {_quoted(value)}", WIDTH, subsequent_indent="    ")
    if facts:
        yield ""
    values = ", in [0, 1], less MEAN, divided by STD" if takes == "normalised" else ""
    values = " and pixels from 0 to 255" if takes == "pixels" else values
    yield f"For images of shape ({shape}){values}. Modules have the names that the weights have."
    if takes == "pixels":
        yield "As a program it says what images show: python model.py [WEIGHTS.safetensors] IMAGE..."
    yield '"""'


def _quoted(text: str) -> str:
    """On one line, with nothing that ends a docstring."""
    return " ".join(text.split()).replace("\\", "\\\\").replace('"""', "'''").strip('" ')


def _imports(body: str) -> list[str]:
    ordered = ["from collections import OrderedDict"] if "OrderedDict(" in body else []
    ordered += ["from contextlib import suppress"] if re.search(r"\bsuppress\b", body) else []
    ordered += ["from pathlib import Path"] if re.search(r"\bPath\b", body) else []
    tensor = "Tensor, " if re.search(r"\bTensor\b", body) else ""
    functional = ["from torch.nn import functional as F"] if re.search(r"\bF\.", body) else []
    return ["import json", "import sys", *ordered, "", "import torch", f"from torch import {tensor}nn", *functional]


def _constants(classes: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> list[str]:
    numbers = [[str(np.float32(value)) for value in values] for values in (mean, std)]
    found = ['DTYPES = {"F32": torch.float32, "I64": torch.int64}']
    for name, texts in zip(("CLASSES", "MEAN", "STD"), (list(map(literal, classes)), *numbers), strict=True):
        found += lines(display("(", tuple(texts), ")"), 0, f"{name} = ") if texts else []
    return ["", *found]


def _unused(network: nn.Module, model: nn.Module) -> list[str]:
    """How the names of weights begin that the model does not have; of whole modules, where they are left out."""
    there = list(model.state_dict())
    found: dict[str, None] = {}
    for name in network.state_dict():
        if name not in there:
            parts = name.split(".")
            starts = [".".join(parts[:i]) + "." for i in range(1, len(parts))]
            found[next((start for start in starts if not any(t.startswith(start) for t in there)), name)] = None
    return list(found)


# --- the check


def _checked(text: str, name: str, network: nn.Module, task: ImageTask) -> nn.Module:
    """An instance of the class of this name in the text. InputError: there is none, or it is not the network."""
    weights = network.state_dict()
    parameter = next(network.parameters())
    shape = (2, task.channels, task.height, task.width)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(parameter)
    variables: dict[str, Any] = {"__name__": "model"}
    try:
        exec(compile(text, "model.py", "exec"), variables)  # our own text: whatever a file said is quoted in it
        with torch.device("meta"):
            model: nn.Module = variables[name]().eval()
        model.to_empty(device=parameter.device).to(parameter.dtype)
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
        with torch.no_grad():
            found = model(images)
    except Exception as error:
        raise InputError(f"no code could be written for this network: {one_line(error)}") from error
    with torch.no_grad(), evaluating(network):
        expected = network(images)
    if found.shape != expected.shape:
        raise InputError("no code could be written for this network: what was written returns another shape")
    near = found.is_meta or torch.allclose(found, expected, 1e-4, 1e-4 * float(expected.abs().max()), equal_nan=True)
    shared = len({id(tensor) for tensor in model.state_dict(keep_vars=True).values()}) < len(model.state_dict())
    if shared or not near:
        raise InputError("no code could be written for this network: what was written computes something else")
    return model

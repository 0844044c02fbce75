"""The text of a stand-alone `model.py`: plain PyTorch of one network, and nothing of nastool in it.

`python` traces the network (`nastool.tracing`) and then
    plan      says which modules become classes, and which are written where they are called,
    forward   writes what a class does,
    classes   finds which modules share a class, and what their constructors make, as
    terms     whose differences become parameters;
    sharing   makes functions for what occurs several times, and
    written   writes all that down, in the format of
    layout    which is ruff's.
Before the text is returned it has been run: it computes what the network computes, from the same weights.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from nastool.codegen import written
from nastool.codegen.classes import definitions
from nastool.codegen.layout import WIDTH, display, lines, literal
from nastool.codegen.plan import Plan
from nastool.codegen.sharing import share
from nastool.errors import InputError, one_line
from nastool.tasks import ImageTask
from nastool.tracing import evaluating, trace


def python(
    network: nn.Module,
    task: ImageTask,
    *,
    title: str,
    facts: Mapping[str, str],
    classes: Sequence[str] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> str:
    """Source of a module with a class `Model` and a function `load`.

    title, facts: for its docstring, such as the architecture's name and {"val_acc": "0.94"}. classes, mean, std: become
    constants of it; images are normalised by the last two. InputError: something in the network cannot be traced or
    written.

    `Model` has the network's parameters and buffers by name, but not those that lead to nothing in evaluation mode,
    such as an auxiliary classifier's; `load` leaves these out. It is written for images of the task's size.
    """
    book = share(definitions(Plan(trace(network, task))))
    shape = f"{task.channels}, {task.height}, {task.width}"
    parts = []
    for name, definition in book.items():
        if "" in definition.attributes:
            parts.append(written.function(definition, book))
        else:
            about = f"Images (N, {shape}) to logits (N, {task.classes})." if name == "Model" else ""
            parts.append(written.class_(definition, book, about))
    body = "\n\n\n".join(map("\n".join, parts))
    head = "\n".join(
        [*_docstring(title, facts, shape, bool(mean)), "", *_imports(body), *_constants(classes, mean, std)]
    )
    text = f"{head}\n\n\n{body}"
    unused = _unused(network, _checked(text, network, task))
    return f"{text}\n\n\n" + "\n".join(_tail(shape, unused)) + "\n"


# --- the file around the classes


def _docstring(title: str, facts: Mapping[str, str], shape: str, normalised: bool) -> Iterator[str]:
    yield f'"""{_quoted(title)}'
    yield ""
    for key, value in facts.items():
        yield from textwrap.wrap(f"{_quoted(key)}: {_quoted(value)}", WIDTH, subsequent_indent="    ")
    if facts:
        yield ""
    values = ", in [0, 1], less MEAN, divided by STD" if normalised else ""
    yield f"For images of shape ({shape}){values}. Modules have the names that the weights have."
    yield '"""'


def _quoted(text: str) -> str:
    """On one line, with nothing that ends a docstring."""
    return " ".join(text.split()).replace("\\", "\\\\").replace('"""', "'''").strip('" ')


def _imports(body: str) -> list[str]:
    ordered = ["from collections import OrderedDict"] if "OrderedDict(" in body else []
    tensor = "Tensor, " if re.search(r"\bTensor\b", body) else ""
    functional = ["from torch.nn import functional as F"] if re.search(r"\bF\.", body) else []
    return ["import json", "import sys", *ordered, "", "import torch", f"from torch import {tensor}nn", *functional]


def _constants(classes: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> list[str]:
    numbers = [[str(np.float32(value)) for value in values] for values in (mean, std)]
    found = ['DTYPES = {"F32": torch.float32, "I64": torch.int64}']
    for name, texts in zip(("CLASSES", "MEAN", "STD"), (list(map(literal, classes)), *numbers), strict=True):
        found += lines(display("(", tuple(texts), ")"), 0, f"{name} = ") if texts else []
    return ["", *found]


def _tail(shape: str, unused: Sequence[str]) -> Iterator[str]:
    yield "def load(path: str) -> Model:"
    yield '    """The model with the weights of a safetensors file, in evaluation mode."""'
    yield '    with open(path, "rb") as file:'
    yield '        entries = json.loads(file.read(int.from_bytes(file.read(8), "little")))'
    yield "        data = bytearray(file.read())"
    yield '    entries.pop("__metadata__", None)'
    yield "    weights = {}"
    yield "    for name, entry in entries.items():"
    yield '        start, end = entry["data_offsets"]'
    yield '        values = torch.frombuffer(data[start:end], dtype=DTYPES[entry["dtype"]])'
    yield '        weights[name] = values.reshape(entry["shape"])'
    if unused:
        yield "    # Of modules that only training needs, or that lead to nothing:"
        yield from lines(display("(", tuple(map(literal, unused)), ")"), 4, "unused = ")
        yield "    weights = {name: value for name, value in weights.items() if not name.startswith(unused)}"
    yield "    model = Model()"
    yield "    model.load_state_dict(weights)"
    yield "    return model.eval()"
    yield ""
    yield ""
    yield 'if __name__ == "__main__":'
    yield "    model = load(sys.argv[1]) if len(sys.argv) > 1 else Model().eval()"
    yield "    with torch.no_grad():"
    yield f"        logits = model(torch.zeros(1, {shape}))"
    yield '    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, output {tuple(logits.shape)}")'


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


def _checked(text: str, network: nn.Module, task: ImageTask) -> nn.Module:
    """The model that the text makes. InputError: it is none, or computes something else than the network."""
    weights = network.state_dict()
    parameter = next(network.parameters())
    shape = (2, task.channels, task.height, task.width)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(parameter)
    variables: dict[str, Any] = {"__name__": "model"}
    try:
        exec(compile(text, "model.py", "exec"), variables)  # our own text: whatever a file said is quoted in it
        with torch.device("meta"):
            model: nn.Module = variables["Model"]().eval()
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

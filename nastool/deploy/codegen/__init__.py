"""The text of a stand-alone `model.py`: plain PyTorch of one network, and nothing of nastool in it.

The network is built once more, and
    recipe    writes the constructors' calls that were recorded as one expression,
    source    finds the source of the classes and functions in it, and of all that these use;
    flat      writes what `torch.export` says where there is no source. All that is put in the format of
    layout    which is ruff's; around it stands
    use       what reads weights and images, and says what these show.
Before the text is returned it has been run: it computes what the network computes, from the same weights.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from nastool.core.errors import InputError, one_line
from nastool.core.task import Task
from nastool.deploy.codegen import use
from nastool.deploy.codegen.flat import flat
from nastool.deploy.codegen.layout import WIDTH, call, display, lines, literal
from nastool.deploy.codegen.pruning import Lines, Ran, watched
from nastool.deploy.codegen.recipe import Recipe, Unwritable, recorded
from nastool.deploy.codegen.source import Sources
from nastool.nets.networks import evaluating, example

RESERVED = frozenset("BUFFERS CHOICES CLASSES DTYPES F MEAN Model PARAMETERS STD load main read".split())
"""Names that the file uses by itself."""


def python(
    build: Callable[[], nn.Module],
    task: Task,
    *,
    title: str,
    facts: Mapping[str, str],
    trained: nn.Module | None = None,
    classes: Sequence[str] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    raw: bool = False,
    more: bool = False,
) -> str:
    """Source of a module with a class `Model` and a function `load`.

    `Model` has the network's parameters and buffers by name. It is written for examples of the task's shape.

    Args:
        build: makes the network.
        title: begins the docstring.
        facts: stand in the docstring, such as {"val_acc": "0.94"}.
        trained: a network that was built so, with other weights.
        classes, mean, std: become constants; with them `Model` takes pixels from 0 to 255 and normalises them by the
            last two, and as a program it classifies files of images.
        raw: `Model` is the bare network all the same.
        more: Files of weights hold others besides, which are not loaded.

    Raises:
        InputError: The network can be written in no way.
    """
    pixels = bool(classes and mean and std) and not raw
    with torch.random.fork_rng(devices=[]):
        network, made, made_by = recorded(build)
        used: Lines = set()
        for training in (True, False):
            with suppress(Exception):  # the check will say what is wrong
                used |= watched(partial(network.train(training), *example(network, task, 2)))[1]
    trained = network if trained is None else trained
    given = task.example(1, "meta")
    zeros = (f"torch.zeros({tuple(x.shape)}{'' if x.is_floating_point() else f', dtype={x.dtype}'})" for x in given)
    tail = use.tail(", ".join(zeros), given[0].shape[1:], pixels, more)
    problems = []
    pruned, whole = (partial(_from_source, made=made, ran=which) for which in ((made_by, used), None))
    for write in (pruned, whole, _from_export):
        try:
            imports, body = write(network, task, pixels)
            head = [*_docstring(title, facts, task, pixels, bool(mean))]
            constants = _constants(classes, mean, std)
            text = "\n".join([*head, "", *_imports(f"{body}\n{tail}", imports), *constants, "", "", body, "", "", tail])
            _check(text, trained, task, pixels)
            return text
        except Unwritable as error:
            problems.append(one_line(error))
    raise InputError(f"no code could be written for this network: {problems[0]}; {problems[-1]}")


def _from_source(
    network: nn.Module, task: Task, pixels: bool, made: Mapping[nn.Module, Any], ran: tuple[Lines, Lines] | None
) -> tuple[Iterable[tuple[str, str]], str]:
    """Imports and definitions."""
    recipe = Recipe(made)
    arguments = call("super().__init__", *recipe.arguments(network))
    base = recipe.name(type(network))
    sources = Sources(recipe.used, RESERVED, ran and Ran(*ran, recipe.chosen))
    model = [f"class Model({base}):", f'    """{_about(task, pixels)}"""', ""]
    model += [*use.CONSTANTS, ""] if pixels else []
    model += ["    def __init__(self) -> None:", *lines(arguments, 8), *(use.FORWARD if pixels else ())]
    return sources.imports, "\n\n\n".join([*sources.joined(), *recipe.choices, "\n".join(model)])


def _from_export(network: nn.Module, task: Task, pixels: bool) -> tuple[Iterable[tuple[str, str]], str]:
    with evaluating(network):
        body = flat(network, task, _about(task, False))
    if pixels:
        body = body.replace("class Model(nn.Module):", "class Network(nn.Module):")
        model = ["class Model(Network):", f'    """{_about(task, True)}"""', "", *use.CONSTANTS, *use.FORWARD]
        body += "\n\n\n" + "\n".join(model)
    return {("operator", "")} if "operator." in body else (), body


# --- the file around the classes


def _shapes(task: Task, *first: str) -> str:
    """Of each input, such as (N, 3, 32, 32). first: names of dimensions before those of one example."""
    return " and ".join(f"({', '.join(map(str, (*first, *x.shape[1:])))})" for x in task.example(1, "meta"))


def _about(task: Task, pixels: bool) -> str:
    """What `Model` takes and returns, in a line."""
    takes = f"{task.noun.capitalize()}s {_shapes(task, 'N')}{', pixels from 0 to 255 as uint8 or float,' * pixels}"
    classes = task.to_json().get("classes")
    return f"{takes} to {'outputs' if classes is None else f'logits (N, {classes})'}."


def _docstring(title: str, facts: Mapping[str, str], task: Task, pixels: bool, normalised: bool) -> Iterator[str]:
    yield from (f'"""{_quoted(title)}', "")
    for key, value in facts.items():
        yield from textwrap.wrap(f"{_quoted(key)}: {_quoted(value)}", WIDTH, subsequent_indent="    ")
    yield from [""] if facts else []
    values = " and pixels from 0 to 255" if pixels else ", in [0, 1], less MEAN, divided by STD" if normalised else ""
    yield f"For {task.noun}s of shape {_shapes(task)}{values}. Modules have the names that the weights have."
    if pixels:
        yield "As a program it says what images show: python model.py [WEIGHTS.safetensors] IMAGE..."
    yield '"""'


def _quoted(text: str) -> str:
    """On one line, with nothing that ends a docstring."""
    text = text.encode(errors="backslashreplace").decode()  # names of files need not be text
    return " ".join(text.split()).replace("\\", "\\\\").replace('"""', "'''").strip('" ')


def _imports(body: str, needed: Iterable[tuple[str, str]]) -> list[str]:
    """Lines. needed: modules and names; name "": the module itself."""
    found = {("json", ""), ("sys", ""), ("torch", ""), ("torch", "nn"), *needed}
    usual = {"suppress": "contextlib", "Path": "pathlib", "Tensor": "torch"}
    found |= {(module, name) for name, module in usual.items() if re.search(rf"\b{name}\b", body)}
    found |= {("torch.nn", "functional as F")} if re.search(r"\bF\.", body) else set()
    modules = sorted({module for module, _ in found}, key=lambda module: ((module, "") not in found, module))
    groups: dict[bool, list[str]] = {False: [], True: []}
    for module in modules:
        own = module.partition(".")[0] == "torch"
        groups[own] += [f"import {module}"] if (module, "") in found else []
        names = sorted({name for other, name in found if other == module and name}, key=_rank)
        plain = ", ".join(name for name in names if " as " not in name)
        listed = [plain] if plain else []
        groups[own] += [f"from {module} import {name}" for name in listed + [name for name in names if " as " in name]]
    return [*groups[False], "", *groups[True]]


def _rank(name: str) -> tuple[bool, bool, str]:
    """Constants, classes, functions, as ruff sorts them."""
    return not name.isupper(), not name[0].isupper(), name


def _constants(classes: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> list[str]:
    numbers = [[str(np.float32(value)) for value in values] for values in (mean, std)]
    found = ['DTYPES = {"F32": torch.float32, "I64": torch.int64}']
    for name, texts in zip(("CLASSES", "MEAN", "STD"), (list(map(literal, classes)), *numbers), strict=True):
        found += lines(display("(", tuple(texts), ")"), 0, f"{name} = ") if texts else []
    return ["", *found]


# --- the check


def _check(text: str, network: nn.Module, task: Task, pixels: bool) -> None:
    """Unwritable: the text is not the network."""
    weights = network.state_dict()
    generator = torch.Generator().manual_seed(0)
    given = example(network, task, 2)
    inputs = [torch.rand(x.shape, generator=generator).to(x) if x.is_floating_point() else x for x in given]
    variables: dict[str, Any] = {"__name__": "model"}
    try:
        exec(compile(text, "model.py", "exec", dont_inherit=True), variables)  # what a file said is quoted in it
        with torch.device("meta"):
            model: nn.Module = variables["Model"]().eval()
        model.load_state_dict(weights, assign=True)
        with torch.no_grad():
            bare: Any = type(model).__mro__[1] if pixels else type(model)
            found = bare.forward(model, *inputs)
    except Exception as error:
        raise Unwritable(f"what was written cannot be run: {one_line(error)}") from error
    with torch.no_grad(), evaluating(network):
        expected = network(*inputs)
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        raise Unwritable("what was written returns another shape")
    near = found.is_meta or torch.allclose(found, expected, 1e-4, 1e-4 * float(expected.abs().max()), equal_nan=True)
    if not near:
        raise Unwritable("what was written computes something else")

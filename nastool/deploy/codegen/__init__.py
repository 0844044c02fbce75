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
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nastool.core.errors import InputError, one_line
from nastool.core.task import Task
from nastool.deploy.codegen import use
from nastool.deploy.codegen.flat import flat
from nastool.deploy.codegen.layout import WIDTH, call, display, lines, literal
from nastool.deploy.codegen.pruning import Lines, Ran, watched
from nastool.deploy.codegen.recipe import Recipe, Unwritable, recorded
from nastool.deploy.codegen.source import Sources
from nastool.deploy.codegen.use import Around
from nastool.nets.costs import example
from nastool.nets.networks import evaluating
from nastool.tasks.images.task import ImageTask
from nastool.tasks.tabular.table import MISSING

AT_ONCE = 256
"""Number of tokens that a network written as its source takes at once."""

RESERVED = frozenset(
    [
        *"ABSENT BUFFERS CHOICES CLASSES COLUMNS DTYPES F MEAN Model PARAMETERS SHIFT SPREAD STD TARGETS".split(),
        *"END features load main read tokens".split(),
    ]
)
"""Names that the file uses by itself."""


def python(
    build: Callable[[], nn.Module],
    task: Task,
    *,
    title: str,
    facts: Mapping[str, str],
    trained: nn.Module | None = None,
    around: Around | None = None,
    more: bool = False,
) -> str:
    """Source of a module with a class `Model` and a function `load`.

    `Model` has the network's parameters and buffers by name. It is written for examples of the task's shape.

    Args:
        build: makes the network.
        title: begins the docstring.
        facts: stand in the docstring, such as {"val_acc": "0.94"}.
        trained: a network that was built so, with other weights.
        around: What stands around the network: `Model` takes what the data hold, such as pixels from 0 to 255, and as a
            program it says what files of images, or rows of tables, show. None: nothing.
        more: Files of weights hold others besides, which are not loaded.

    Raises:
        InputError: The network can be written in no way.
    """
    around = around or use.Around(task)
    with torch.random.fork_rng(devices=[]):
        network, made, made_by = recorded(build)
        used: Lines = set()
        for training in (True, False):
            with suppress(Exception):  # the check will say what is wrong
                used |= watched(partial(network.train(training), *example(network, task, 2)))[1]
    trained = network if trained is None else trained
    given = task.example(1, "meta")
    zeros = (f"torch.zeros({tuple(x.shape)}{'' if x.is_floating_point() else f', dtype={x.dtype}'})" for x in given)
    inputs = ", ".join(zeros)
    with torch.no_grad(), evaluating(trained):
        index = "[0]" if isinstance(trained(*example(trained, task, 1)), tuple) else ""
    problems = []
    pruned, whole = (partial(_from_source, made=made, ran=which) for which in ((made_by, used), None))
    for write in (pruned, whole, _from_export):
        try:
            imports, body = write(network, around)
            tail = use.tail(inputs, around, more, index, 1 if write is _from_export else AT_ONCE)
            head = [*_docstring(title, facts, around)]
            constants = _constants(around)
            text = "\n".join([*head, "", *_imports(f"{body}\n{tail}", imports), *constants, "", "", body, "", "", tail])
            _check(text, trained, around)
            return text
        except Unwritable as error:
            problems.append(one_line(error))
    raise InputError(f"no code could be written for this network: {problems[0]}; {problems[-1]}")


def _from_source(
    network: nn.Module, around: Around, made: Mapping[nn.Module, Any], ran: tuple[Lines, Lines] | None
) -> tuple[Iterable[tuple[str, str]], str]:
    """Imports and definitions."""
    recipe = Recipe(made)
    arguments = call("super().__init__", *recipe.arguments(network))
    base = recipe.name(type(network))
    sources = Sources(recipe.used, RESERVED, ran and Ran(*ran, recipe.chosen))
    model = [f"class Model({base}):", f'    """{_about(around)}"""', ""]
    model += [around.attributes, ""] if around.attributes else []
    model += ["    def __init__(self) -> None:", *lines(arguments, 8), *(around.forward if around.there else ())]
    return sources.imports, "\n\n\n".join([*sources.joined(), *recipe.choices, "\n".join(model)])


def _from_export(network: nn.Module, around: Around) -> tuple[Iterable[tuple[str, str]], str]:
    with evaluating(network):
        body = flat(network, around.task, _about(use.Around(around.task)))
    if around.attributes:
        body = body.replace("class Model(nn.Module):", "class Network(nn.Module):")
        model = ["class Model(Network):", f'    """{_about(around)}"""', "", around.attributes]
        model += around.forward if around.there else []
        body += "\n\n\n" + "\n".join(model)
    return {("operator", "")} if "operator." in body else (), body


# --- the file around the classes


def _shapes(task: Task, *first: str) -> str:
    """Of each input, such as (N, 3, 32, 32). first: names of dimensions before those of one example."""
    return " and ".join(f"({', '.join((*first, shape))})" for shape in task.shapes())


def _about(around: Around) -> str:
    """What `Model` takes and returns, in a line."""
    task = around.task
    values = ", pixels from 0 to 255 as uint8 or float," if around.pixels else ""
    takes = f"{task.noun.capitalize()}s {_shapes(task, 'N')}{values}"
    if around.targets and around.there:
        return f"{takes} to {', '.join(map(_quoted, around.targets))} (N, {len(around.targets)})."
    return f"{takes} to {task.returns()}."


def _docstring(title: str, facts: Mapping[str, str], around: Around) -> Iterator[str]:
    task = around.task
    yield from (f'"""{_quoted(title)}', "")
    for key, value in facts.items():
        yield from textwrap.wrap(f"{_quoted(key)}: {_quoted(value)}", WIDTH, subsequent_indent="    ")
    yield from [""] if facts else []
    values = ""
    if around.pixels:
        values = " and pixels from 0 to 255"
    elif around.mean and not around.there:
        values = (", in [0, 1]" if isinstance(task, ImageTask) else "") + ", less MEAN, divided by STD"
    yield f"For {task.noun}s of shape {_shapes(task)}{values}. Modules have the names that the weights have."
    if around.pixels:
        yield "As a program it says what images show: python model.py [WEIGHTS.safetensors] IMAGE..."
    elif around.rows:
        yield "As a program it says what rows show: python model.py [WEIGHTS.safetensors] TABLE.csv..."
    elif around.unit:
        what = "how likely texts are, and what comes next"
        yield f"As a program it says {what}: python model.py [WEIGHTS.safetensors] TEXT..."
    yield '"""'


def _quoted(text: str) -> str:
    """On one line, with nothing that ends a docstring."""
    text = text.encode(errors="backslashreplace").decode()  # names of files need not be text
    return " ".join(text.split()).replace("\\", "\\\\").replace('"""', "'''").strip('" ')


def _imports(body: str, needed: Iterable[tuple[str, str]]) -> list[str]:
    """Lines. needed: modules and names; name "": the module itself."""
    found = {("json", ""), ("sys", ""), ("torch", ""), ("torch", "nn"), *needed}
    found |= {(module, "") for module in ("csv", "math") if re.search(rf"\b{module}\.", body)}
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


def _constants(around: Around) -> list[str]:
    found = ['DTYPES = {"F32": torch.float32, "I64": torch.int64}']
    found += [f"END = {literal(around.end)}"] if around.unit else []
    for name, values in around.constants():
        texts = [literal(value) if isinstance(value, str) else str(np.float32(value)) for value in values]
        found += lines(display("(", tuple(texts), ")"), 0, f"{name} = ") if texts else []
    if around.rows:
        absent = display("{", tuple(map(literal, sorted(MISSING))), "}")
        columns = [
            display(
                "(",
                (literal(c["name"]), display("(", tuple(map(literal, c["categories"])), ")"), str(c["missing"])),
                ")",
            )
            for c in around.columns
        ]
        found += [*lines(absent, 0, "ABSENT = "), *lines(display("(", tuple(columns), ")"), 0, "COLUMNS = ")]
    return ["", *found]


# --- the check


def _check(text: str, network: nn.Module, around: Around) -> None:
    """Unwritable: the text is not the network, at first or in the state that it returns."""
    weights = network.state_dict()
    generator = torch.Generator().manual_seed(0)
    given = example(network, around.task, 2)
    inputs = [torch.rand(x.shape, generator=generator).to(x) if x.is_floating_point() else x for x in given]
    variables: dict[str, Any] = {"__name__": "model"}
    try:
        exec(compile(text, "model.py", "exec", dont_inherit=True), variables)  # what a file said is quoted in it
        with torch.device("meta"):
            model: nn.Module = variables["Model"]().eval()
        model.load_state_dict(weights, assign=True)
        with torch.no_grad():
            bare: Any = type(model).__mro__[1] if around.there else type(model)
            written = _outputs(partial(bare.forward, model), inputs)
    except Exception as error:
        raise Unwritable(f"what was written cannot be run: {one_line(error)}") from error
    with torch.no_grad(), evaluating(network):
        wanted = _outputs(network, inputs)
    if [found.shape for found in written] != [expected.shape for expected in wanted]:
        raise Unwritable("what was written returns another shape")
    for found, expected in zip(written, wanted, strict=True):
        if found.is_meta:
            continue
        if not torch.allclose(found, expected, 1e-4, 1e-4 * float(expected.abs().max()), equal_nan=True):
            raise Unwritable("what was written computes something else")


def _outputs(network: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """All that it returns; where that is an output and a state, also what it returns from there."""
    found = network(*inputs)
    leaves = tree_leaves((found, network(*inputs, found[1])) if isinstance(found, tuple) else found)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

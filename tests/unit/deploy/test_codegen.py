"""Code that is written for a network is plain PyTorch and computes the same.

`python -m tests.unit.deploy.test_codegen` writes the example in tests/reference anew.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from nastool.core import archfile, registry, zoo
from nastool.core.errors import InputError
from nastool.core.space import SearchSpace, make_scale
from nastool.core.task import Task
from nastool.core.values import Arch
from nastool.deploy import codegen
from nastool.deploy.codegen import use
from nastool.nets import networks
from nastool.tasks.images.task import ImageTask
from nastool.tasks.language.task import LanguageTask
from nastool.tasks.signals import SignalTask
from nastool.tasks.supervised import Supervised
from nastool.tasks.tabular.task import TabularTask
from nastool.testing.spaces import inputs_of, said

EXAMPLE = Path(__file__).parents[2] / "reference" / "nasbench201_model.txt"
TASKS = [ImageTask(3, 8, 8, 5), ImageTask(1, 16, 16, 10), ImageTask(2, 7, 5, 3), ImageTask(1, 1, 1, 2)]
SPACES: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    ("cell-cnn", {}, {"channels": 4, "cells": 1}),
    ("cell-cnn", {"ops": "darts", "blocks": 4, "normal_output": "all", "reduce_output": "all"}, {"channels": 3}),
    ("cell-cnn", {"ops": "nasnet", "combine": "search"}, {"channels": 4, "cells": 2, "auxiliary": 1, "twice": 1}),
    ("cell-cnn", {"blocks": 2, "combine": "concat"}, {"channels": 2, "cells": 2}),
    ("layerwise-cnn", {}, {"width": 10}),
    ("layerwise-cnn", {"types": True, "strides": True, "min_layers": 1}, {"width": 10}),
    ("macro-cnn", {}, {"channels": 4}),
    ("macro-cnn", {"layers": 6}, {"channels": 3, "widen": 1, "concat": 1}),
    ("morph-cnn", {}, {"channels": 4}),
    ("nasbench101", {}, {"channels": 4, "cells": 2}),
    ("nasbench201", {}, {"channels": 4, "cells": 3}),
    ("nasbench-macro", {}, {"channels": 4, "head": 8}),
    ("recurrent-cell", {}, {"hidden": 4, "edges": 1}),
    ("recurrent-cell", {"nodes": 4, "output": "all"}, {"hidden": 4, "tied": 0, "bias": 1}),
    ("recurrent-tree", {}, {"hidden": 4}),
    ("multi-headed", {"heads": 2}, {"channels": 4, "cells": 1}),
    ("signal-cnn", {}, {"channels": 4}),
    ("stacked-rnn", {}, {"hidden": 4, "embedding": 3}),
    ("stacked-rnn", {}, {"hidden": 4, "tied": 0, "biases": 1}),
    ("tabular-net", {}, {"width": 50}),
]


def make_space(name: str, options: Mapping[str, Any]) -> SearchSpace:
    space: SearchSpace = registry.make("space", name, given=options)
    return space


def task_for(space: SearchSpace, i: int) -> Task:
    """One of several tasks that a space has networks for."""
    if "language-model" in space.tasks:
        return LanguageTask(7 + i)
    if "tabular" in space.tasks:
        return TabularTask(5 + i, 3)
    return SignalTask(1 + i, 20, 4) if "signals" in space.tasks else TASKS[i % len(TASKS)]


def build(space: SearchSpace, arch: Arch, task: Task, scale: Mapping[str, int]) -> nn.Module:
    """A network with numbers in all its weights and statistics, as after a training."""
    if "cells" in scale or space.name != "cell-cnn":
        made = make_scale(space, scale)
    else:
        made = make_scale(space, {"cells": 1, **scale})
    network = networks.build(space, arch, task, made)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    for name, parameter in network.named_parameters():
        if name.endswith("share"):
            nn.init.uniform_(parameter, -0.5, 1.5)
    return network


def write(build: Callable[[], nn.Module], task: Task, trained: nn.Module | None = None) -> str:
    return codegen.python(build, task, title="A network", facts={"val_acc": "0.9"}, trained=trained)


def written(space: SearchSpace, arch: Arch, task: Task, scale: Mapping[str, int]) -> str:
    """Checked code for a network of a space."""
    trained = build(space, arch, task, scale)
    return check(lambda: build(space, arch, task, scale), task, trained)


def run(text: str) -> dict[str, Any]:
    """The variables of the module, which imports nothing but torch and the standard library."""
    tree = ast.parse(text)
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= {*sys.stdlib_module_names, "torch", "PIL"}
    variables: dict[str, Any] = {"__name__": "model"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(text, "model.py", "exec", dont_inherit=True), variables)
    return variables


def check(make: Callable[[], nn.Module], task: Task, network: nn.Module | None = None) -> str:
    """Write code for a network and compare them; the code."""
    network = make() if network is None else network
    text = write(make, task, network)
    model: nn.Module = run(text)["Model"]()
    model.load_state_dict(network.state_dict())
    inputs = inputs_of(task, 4)
    with torch.no_grad():
        torch.testing.assert_close(said(model.eval(), inputs), said(network.eval(), inputs), rtol=1e-5, atol=1e-5)
    if inputs[0].numel() > 4:
        output, expected = model.train()(*inputs), network.train()(*inputs)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
        (output[0] if isinstance(output, tuple) else output).sum().backward()
    else:
        said(model.eval(), inputs).sum().backward()  # type: ignore[no-untyped-call]  # torch's stub
    assert any(parameter.grad is not None for parameter in model.parameters())
    return text


def samples(space: SearchSpace, count: int) -> Iterator[Arch]:
    rng = np.random.default_rng(0)
    return (space.sample(rng) for _ in range(count))


def ruff() -> str:
    found = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if found is None:
        pytest.skip("ruff is not installed")
    return found


@pytest.mark.parametrize(("name", "options", "scale"), SPACES, ids=lambda value: str(value) if value else "")
def test_code_computes_the_same(name: str, options: dict[str, Any], scale: dict[str, int], tmp_path: Path) -> None:
    space = make_space(name, options)
    for i, arch in enumerate(samples(space, 3)):
        task = task_for(space, i)
        (tmp_path / f"model{i}.py").write_text(written(space, arch, task, scale))
        if not isinstance(task, Supervised) or (i and name == "cell-cnn"):  # whose networks are large
            continue
        channels = task.example(1, "meta")[0].shape[1]
        data: dict[str, Any] = {"mean": [0.4] * channels, "std": [0.2] * channels}
        make = partial(build, space, arch, task, scale)
        around = use.Around(task, ["a"] * task.classes, **data)
        text = codegen.python(make, task, title="With pixels", facts={}, around=around)
        (tmp_path / f"pixels{i}.py").write_text(text)
    command = ruff()
    assert subprocess.run([command, "check", "--isolated", "--quiet", str(tmp_path)]).returncode == 0
    formatted = [command, "format", "--isolated", "--line-length=120", "--diff", str(tmp_path)]
    assert subprocess.run(formatted).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "scale"), SPACES, ids=lambda value: str(value) if value else "")
def test_code_computes_the_same_for_many(name: str, options: dict[str, Any], scale: dict[str, int]) -> None:
    space = make_space(name, options)
    for i, arch in enumerate(samples(space, 100)):
        written(space, arch, task_for(space, i), scale)


def test_every_space_is_there() -> None:
    own = {name for name, plugin in registry.plugins("space").items() if plugin.owner == "nastool"}
    assert own == {name for name, _, _ in SPACES}


@pytest.mark.parametrize("name", zoo.PUBLISHED)
def test_published_networks(name: str) -> None:
    document = archfile.from_json(zoo.document(name))
    scale = {**document.extra["scale"], "hidden" if "language-model" in document.space.tasks else "channels": 4}
    if "cells" in scale:
        scale["cells"] = 2
    text = written(document.space, document.arch, task_for(document.space, 0), scale)
    assert "PARAMETERS" not in text, "it is source, not a list of operations"


# --- the file


def test_example() -> None:
    """One to read: changes of what is written show here."""
    assert EXAMPLE.read_text() == example()


def example() -> str:
    space = make_space("nasbench201", {})
    text = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
    arch = archfile.read_text(text, space).arch
    task = ImageTask(3, 32, 32, 10)
    return codegen.python(
        lambda: networks.build(space, arch, task, make_scale(space, {})),
        task,
        title=f"NAS-Bench-201 {text}",
        facts={"val_acc": "0.912", "trained": "200 epochs, seed 0"},
        around=use.Around(
            task,
            ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
            [0.4914, 0.4822, 0.4465],
            [0.247, 0.2435, 0.2616],
        ),
    )


def test_the_same_architecture_gives_the_same_text() -> None:
    space = make_space("cell-cnn", {"blocks": 3})
    arch = next(samples(space, 1))
    small = {"channels": 4, "cells": 1}
    one, two = (write(partial(build, space, arch, TASKS[0], small), TASKS[0]) for _ in range(2))
    assert one == two
    with torch.device("meta"):
        assert write(lambda: networks.build(space, arch, TASKS[0], make_scale(space, small)), TASKS[0]) == one


def test_the_network_stays_as_it_was() -> None:
    space = make_space("nasbench201", {})
    arch, scale = next(samples(space, 1)), make_scale(space, {"channels": 4, "cells": 1})
    network = build(space, arch, TASKS[0], {"channels": 4, "cells": 1})
    network.train()
    first = next(iter(network.children())).eval()
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    write(partial(networks.build, space, arch, TASKS[0], scale), TASKS[0], network)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training and not first.training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("name", "options", "choices"),
    [("nasbench201", {}, [3, 2, 0, 2, 0, 0]), ("cell-cnn", {"blocks": 2, "ops": "darts"}, [1, 4] * 8)],
)
def test_weights_are_loaded(name: str, options: dict[str, Any], choices: list[int], tmp_path: Path) -> None:
    """All of them: also those of edges that lead to nothing, and, where the network has them, of an auxiliary head."""
    space = make_space(name, options)
    scale = {"channels": 4, "cells": 1} | ({"auxiliary": 1} if name == "cell-cnn" else {})
    network = build(space, space.arch(choices), TASKS[0], scale)
    save_file(network.state_dict(), tmp_path / "best.safetensors")
    text = write(partial(build, space, space.arch(choices), TASKS[0], scale), TASKS[0], network)
    model = run(text)["load"](str(tmp_path / "best.safetensors"))
    assert not model.training
    assert model.state_dict().keys() == network.state_dict().keys()
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model(images), network.eval()(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "options", "scale"), SPACES, ids=lambda value: str(value) if value else "")
def test_nothing_of_supernets_is_written(name: str, options: dict[str, Any], scale: dict[str, int]) -> None:
    space = make_space(name, options)
    task = task_for(space, 0)
    text = write(partial(build, space, next(samples(space, 1)), task, scale), task)
    assert not re.search(
        r"are_few|few_launches|together|deferred|OneOf|nastool\.(?!.*space)|def joins|type: ignore", text
    )


def test_nothing_that_is_not_chosen_is_written() -> None:
    """Neither options nor what they alone are made of, nor branches that are never taken."""
    space = make_space("nasbench201", {})
    text = write(partial(build, space, space.arch([3] * 6), TASKS[0], {"channels": 4}), TASKS[0])
    assert '"nor_conv_3x3": partial(' in text
    assert not re.search(r'"(none|skip_connect|nor_conv_1x1|avg_pool_3x3)"', text)
    cells = zoo.document("darts-v2")
    document = archfile.from_json(cells)
    text = write(partial(build, document.space, document.arch, TASKS[0], {"channels": 4, "cells": 2}), TASKS[0])
    assert not re.search(r"cross_conv|class Zero|class Concat|AvgPool2d\(kernel|uxiliary|sep_conv_5x5\(", text)
    assert len(text.splitlines()) < 520


class Choosing(nn.Module):
    """Branches of all kinds, of which some are taken."""

    def __init__(self, kind: str, sizes: tuple[int, ...]) -> None:
        super().__init__()
        made: list[nn.Module] = []
        for size in sizes:
            if size == 0:
                made.append(nn.Conv2d(4, 4, 7))
            elif size == 1:
                made.append(nn.Conv2d(4, 4, 1))
            elif size == 2:
                made.append(nn.Conv2d(4, 4, 2))
            else:
                made.append(nn.Conv2d(4, 4, size, padding=size // 2))
        if kind == "never":
            made.append(nn.Tanh())
        if kind == "no":
            made.append(nn.Tanh())
        elif kind == "neither":
            made.append(nn.Sigmoid())
        else:
            if kind == "inner":
                for _ in range(3):
                    if kind == "never":
                        made.append(nn.Hardtanh())
            made.append(
                nn.LeakyReLU(0.2),
            )
        self.parts = nn.Sequential(*made)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 100_000:
            x = x.abs()
        out: Tensor = self.parts(x)
        return out


def test_branches_that_were_not_taken_are_left_out() -> None:
    for sizes, there in (((3, 1), ("size == 1", "else:")), ((3,), ()), ((1, 2), ("size == 1", "size == 2"))):
        text = check(lambda sizes=sizes: Around(Choosing("inner", sizes)), ImageTask(3, 8, 8, 6))  # type: ignore[misc]
        assert "class Choosing" in text and "PARAMETERS" not in text
        assert not re.search(r"Conv2d\(4, 4, 7\)|Tanh|Sigmoid|Hardtanh", text), text
        assert all(condition in text for condition in there) and text.count("size ==") == len(there) - (
            "else:" in there
        )
        assert "abs()" in text, "what depends on the inputs stays"


def test_constants_and_docstring(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in them, they are read back, and end no docstring."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Head(4))
    names = ["it's", 'a "cat"', "back\\slash", "both ' and \"", "ünï", "new\nline"]
    text = codegen.python(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Head(4)),
        ImageTask(3, 8, 8, 6),
        title='"""quoted""" \\N{x} "',
        facts={"from": 'a "b"\nc\\', "long": "word " * 60},
        around=use.Around(ImageTask(3, 8, 8, 6), names, [0.1, 0.2, 1 / 3], [0.25, 1.0, 1e-7]),
    )
    variables = run(text)
    assert list(variables["CLASSES"]) == names
    assert np.array_equal(np.array(variables["MEAN"], np.float32), np.array([0.1, 0.2, 1 / 3], np.float32))
    assert np.array_equal(np.array(variables["STD"], np.float32), np.array([0.25, 1.0, 1e-7], np.float32))
    assert max(map(len, text.splitlines())) <= 120
    monkeypatch.setattr(sys, "argv", ["model.py"])
    with pytest.raises(SystemExit, match=r"^0$"):
        exec(text, {"__name__": "__main__"})
    assert capsys.readouterr().out.startswith(f"{networks.count_params(network):,} parameters; to classify: ")


# --- modules as other people's spaces may have them


class Head(nn.Module):
    def __init__(self, channels: int, classes: int = 6) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.mean((2, 3)))
        return out


class Around(nn.Module):
    """A body, as each network here needs a stem and a head."""

    def __init__(self, *bodies: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.bodies = nn.ModuleList(bodies)
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for body in self.bodies:
            x = body(x)
        out: Tensor = self.head(x)
        return out


class Function(nn.Module):
    """A function of a tensor, and of a module."""

    def __init__(self, function: Callable[[Tensor, nn.Module], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.inner = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.inner)


class Mixed(nn.Module):
    """A list -> a dict, of which not all is used."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, xs: list[Tensor], *, factor: float) -> dict[str, Tensor]:
        return {"low": self.one(torch.cat(xs, 1)), "high": self.two(xs[0]).relu_() * factor, "no": self.three(xs[1])}


class UsesMixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Mixed(), Mixed()

    def forward(self, x: Tensor) -> Tensor:
        made = self.first([x, x * 2], factor=2.0)
        made = self.second([made["low"], made["high"]], factor=2.0)
        out: Tensor = made["low"] - made["high"] / 3
        return out


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.body(x), inplace=True)


class Attention(nn.Module):
    """Shapes from the batch, bare parameters, a buffer, dropout."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 64, 4))
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("steps", torch.tensor(7))
        self.qkv = nn.Linear(4, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.flatten(2).transpose(1, 2) + self.position
        q, k, v = self.qkv(x).reshape(n, h * w, 3, 2, 2).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-2, -1) / self.scale + self.steps).softmax(-1)
        x = x + functional.dropout((a @ v).transpose(1, 2).reshape(n, h * w, c), 0.0, self.training)
        return x.transpose(1, 2).reshape(n, c, h, w)


class Standardised(nn.Conv2d):
    """A subclass of torch's own with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class MultiHead(nn.Module):
    """A module of torch's own with several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2).transpose(1, 2)
        found: Tensor
        found, _ = self.attend(y, y, y, need_weights=False)
        return x + found.transpose(1, 2).reshape(x.shape)


class Twice(nn.Module):
    """One module in two places of a forward, another of two arguments that are the same."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.d, self.norm = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            out: Tensor = torch.sigmoid(self.norm(self.c(x))) * y + self.d(x) - 1 + (2 - y) / (3 + y**2)
            return out

    def __init__(self) -> None:
        super().__init__()
        self.pair = self.Pair()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pair(self.pair(x, x), x)
        return out


class Two(nn.Module):
    """Two modules that differ from instance to instance."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = nn.Sequential(OrderedDict(relu=nn.ReLU(), body=first))
        self.second = nn.Sequential(OrderedDict(relu=nn.ReLU(), body=second))
        self.third = nn.Sequential(OrderedDict(one=nn.Conv2d(4, 4, 1), two=nn.ReLU(), three=nn.Conv2d(4, 4, 1)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.third(self.first(x) + self.second(x)) + x
        return out


class Keys(nn.Module):
    """Names that an nn.ModuleDict has no room for, or Python."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.kinds = nn.ModuleDict({"class": nn.Conv2d(4, 4, 1), "a b": nn.Conv2d(4, 4, 1)})
        self.chain = nn.Sequential(OrderedDict({"1x1": nn.Conv2d(4, 4, 1), "if": nn.ReLU()}))

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self.kinds["class"](self.keys(input)) + self.kinds["a b"](self.chain(self.values(input)))
        return out


class Slices(nn.Module):
    """The same but for numbers, with and without parameters."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, self.start :], (0, 0, self.start, 0)) * x + x.relu()


def split(x: Tensor, module: nn.Module) -> Tensor:
    a, b = x.chunk(2, 1)
    n, c, h, w = x.shape
    x = torch.cat((b, a), dim=1).view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1, h, w)
    x = module(x - x.max(1, keepdim=True)[0]) + torch.arange(4, device=x.device, dtype=x.dtype)[:, None, None]
    return torch.einsum("nchw,nchw->nchw", x, -x).clamp(min=-1)


WRITABLE: dict[str, Callable[[], nn.Module]] = {
    "lists": UsesMixed,
    "attention": Attention,
    "multi-head": MultiHead,
    "nested": lambda: Residual(Residual(nn.Sequential(nn.Conv2d(4, 4, 1), Residual(nn.Conv2d(4, 4, 1))))),
    "own convolution": lambda: nn.Sequential(Standardised(4, 4, 3, padding=1), nn.PReLU(), nn.GroupNorm(2, 4)),
    "twice": Twice,
    "split": lambda: Function(split),
    "two": lambda: nn.Sequential(
        Two(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)), Two(Residual(nn.Conv2d(4, 4, 1)), Residual(nn.Conv2d(4, 4, 1)))
    ),
    "inner dropout": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.0), nn.Identity(), nn.Upsample((3, 3))),
    "one of many": lambda: Function(lambda x, inner: inner(x).topk(2, 1)[0].repeat(1, 2, 1, 1)),
    "names": Keys,
    "numbers": lambda: nn.Sequential(Slices(2), Slices(3), Slices(4)),
}


@pytest.mark.parametrize("name", WRITABLE)
def test_other_modules(name: str) -> None:
    check(lambda: Around(WRITABLE[name]()), ImageTask(3, 8, 8, 6))


def test_a_list_of_modules_is_a_loop() -> None:
    def make() -> nn.Module:
        bodies = (nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)) for _ in range(5))
        return Around(*map(Residual, bodies))

    text = check(make, ImageTask(3, 8, 8, 6))
    assert "for _ in range(5)]" in text and text.count("nn.Conv2d(4, 4, 3, padding=1)") == 1


def value(x: Tensor, module: nn.Module) -> Tensor:
    return -x if x.sum() > 0 else x


def fill(x: Tensor, module: nn.Module) -> Tensor:
    x = x.clone()
    x[:, 0] = 0
    return x


def alias(x: Tensor, module: nn.Module) -> Tensor:
    x = x + 1
    x[:, :2].mul_(3.0)
    return x


CONSTANT = torch.ones(1)


@pytest.mark.parametrize("function", [value, fill, alias])
def test_what_depends_on_values_is_written_as_it_is(function: Callable[[Tensor, nn.Module], Tensor]) -> None:
    check(lambda: Around(Function(function)), ImageTask(3, 8, 8, 6))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, _: -x if x.sum() > 0 else x,
        lambda x, _: x * float(x.max()),
        lambda x, _: x * CONSTANT,
        lambda x, _: x if len(x) == 1 else 2 * x,
        lambda x, _: torch.from_numpy(x.numpy() * 2),
    ],
    ids=range(5),
)
def test_what_cannot_be_written(function: Callable[[Tensor, nn.Module], Tensor]) -> None:
    """It has no source of its own, and does something that an export cannot say."""
    with pytest.raises(InputError, match=r"no code could be written for this network: .*lambda.*; .*"):
        write(lambda: Around(Function(function)), ImageTask(3, 8, 8, 6))


def test_without_source_operations_are_written() -> None:
    def make() -> nn.Module:
        class Local(Around):
            pass

        return Local(nn.BatchNorm2d(4), nn.Dropout(0.5), Residual(nn.Conv2d(4, 4, 1)))

    network = make()
    text = write(make, ImageTask(3, 8, 8, 6), network)
    assert "PARAMETERS" in text and "training" in text
    model: nn.Module = run(text)["Model"]()
    model.load_state_dict(network.state_dict())
    images = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(model.eval()(images), network.eval()(images))
    torch.manual_seed(0)
    output = model.train()(images)
    torch.manual_seed(0)
    torch.testing.assert_close(output, network.train()(images))
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_other_networks_that_cannot_be_written() -> None:
    def shared() -> nn.Module:
        conv = nn.Conv2d(4, 4, 1)
        return Around(conv, conv)

    with pytest.raises(InputError, match="a Conv2d stands in two places"):
        write(shared, ImageTask(3, 8, 8, 6))

    def changed() -> nn.Module:
        network = Around(nn.BatchNorm2d(4))
        network.bodies[0].register_parameter("weight", None)
        return network

    text = write(changed, ImageTask(3, 8, 8, 6))
    assert "PARAMETERS" in text, "it is not as its constructor made it"


if __name__ == "__main__":
    EXAMPLE.write_text(example())

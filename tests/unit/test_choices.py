"""Spaces whose decisions are what their network definition asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nastool import choices as c
from nastool.core.diagram import by_decisions
from nastool.core.errors import CannotGoOn, InputError
from nastool.core.values import Decision
from nastool.nets import networks
from nastool.nets.costs import NetworkCosts, count_flops
from nastool.nets.definitions.language import LanguageModel
from nastool.nets.onepass import OnePass
from nastool.tasks.images.task import ImageTask
from nastool.tasks.language.task import LanguageTask
from tests.helpers.examples import EXAMPLES, example
from tests.helpers.running import Run

TASK = ImageTask(3, 8, 8, 5)


def conv(c_in: int, c_out: int, kernel: int = 3, **more: Any) -> nn.Module:
    layer = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, **more)
    return nn.Sequential(layer, nn.BatchNorm2d(c_out), nn.ReLU())


def head(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def net() -> c.Space:
    space: c.Space = example("own_space", "Net")()
    return space


class Switched(nn.Module):
    def __init__(self, stem: nn.Module, one: nn.Module, two: nn.Module, sum: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.sum, self.head = stem, one, two, sum, head

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        one = self.one(stem)
        two = self.two(one)
        return self.head(self.sum(stem, one, two))  # type: ignore[no-any-return]


class Wide(c.Space):
    """Grouped and depthwise convolutions, blocks taken apart, several inputs, one decision in two places."""

    def __init__(self, *, most: int = 16) -> None:
        self.most = most
        super().__init__(most=most)

    def network(self, choose: c.Choose, task: Any, scale: Any) -> nn.Module:
        width = choose.value("width", [4, self.most])
        inner = choose.value("inner", [2, 4])
        ops = {"dense": lambda: conv(width, width), "depthwise": lambda: conv(width, width, groups=width)}
        one = choose.layer("op", ops, tied=True)
        several = choose.repeat("depth", 0, 2, lambda i: choose.layer("op", ops, tied=True))
        two = nn.Sequential(conv(width, inner * width), *several_of(several, inner * width, width))
        sum = choose.inputs("sum", ["stem", "one", "two"], several=True)
        return Switched(conv(task.channels, width), one, two, sum, head(width, task.outputs))


def several_of(blocks: nn.Sequential, c_in: int, width: int) -> list[nn.Module]:
    """Blocks taken apart."""
    return [conv(c_in, width), *blocks, nn.Identity()]


def test_decisions_are_found_in_the_order_in_which_they_are_asked_for() -> None:
    space = net()
    assert [decision.name for decision in space.decisions] == [
        *("width", "depth", "op0", "kernel0", "op1", "kernel1", "op2", "kernel2", "op3", "kernel3", "read"),
    ]
    assert space.decisions[0] == Decision("width", ("16", "32", "64"))
    assert space.decisions[1].options == ("1", "2", "3", "4")
    assert space.decisions[-1].refers == ("stem", "blocks", "both")
    assert [d.name for d in Wide().decisions] == ["width", "inner", "op", "depth", "sum.stem", "sum.one", "sum.two"]
    assert str(Wide(most=8).ref) == "Wide(most=8)"
    assert Wide(most=8).decisions[0].options == ("4", "8") != Wide().decisions[0].options


def test_what_does_not_apply_does_not_matter() -> None:
    space = net()
    #            width depth op0 k0  op1 k1  op2 k2  op3 k3  read
    arch = space.arch((0, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1))  # two layers: convolution, pooling
    assert space.canonical(arch) == "0 1 0 1 1 - - - - - 1"
    for column, matters in ((5, False), (6, False), (8, False), (3, True), (4, True), (10, True)):
        choices = list(arch.choices)
        choices[column] ^= 1
        same = space.canonical(space.arch(choices)) == space.canonical(arch)
        assert same is not matters
        built = [networks.build(space, each, TASK, space.Scale()) for each in (arch, space.arch(choices))]
        assert not same or str(built[0]) == str(built[1])
    rng = np.random.default_rng(0)
    others = [*space.neighbors(arch), *(space.mutate(arch, rng) for _ in range(50))]
    assert all(space.canonical(other) != space.canonical(arch) for other in others)
    assert len(list(space.neighbors(arch))) == 2 + 3 + 1 + 1 + 1 + 2  # of what matters
    drawn = by_decisions(space, arch)
    assert [node.name for node in drawn.nodes if "op" in node.name] == ["op0", "op1"]


@pytest.mark.parametrize("space", [net(), Wide()], ids=lambda space: space.name)
def test_a_child_computes_what_the_supernet_does(space: c.Space) -> None:
    supernet = networks.Supernet(space, TASK, space.Scale()).double()
    images, rng = torch.rand(4, 3, 8, 8, dtype=torch.float64), np.random.default_rng(1)
    for _ in range(25):
        arch = space.sample(rng)
        supernet.select(arch)
        child = networks.build(space, arch, TASK, space.Scale()).double()
        child.load_state_dict(supernet.child_state(arch))
        for training in (True, False):
            outputs = [network.train(training)(images) for network in (supernet, child)]
            torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
        gradients = []
        for network in (supernet, child):
            network.zero_grad()
            network.train()(images).square().sum().backward()
            gradients.append({id(p): p.grad for p in network.parameters()})
        total = [sum(float(g.abs().sum()) for g in of.values() if g is not None) for of in gradients]
        assert total[0] == pytest.approx(total[1], rel=1e-9)


def test_shared_weights_learn_step_by_step_of_every_width() -> None:
    space = Wide()
    supernet = networks.Supernet(space, TASK, space.Scale())
    wide, narrow = (space.arch((width, 0, 0, 1, 1, 1, 1)) for width in (1, 0))
    weight = next(p for name, p in supernet.named_parameters() if name.endswith("stem.0.weight"))
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1)
    for arch, changed in ((narrow, 4), (narrow, 4), (wide, 16)):
        before = weight.detach().clone()
        supernet.select(arch)
        for _ in range(2):  # also without selecting anew
            optimizer.zero_grad()
            supernet(torch.rand(4, 3, 8, 8)).square().mean().backward()
            optimizer.step()
        differ = (weight != before).flatten(1).any(1)
        assert differ[:changed].all() and not differ[changed:].any()


def test_children_in_one_pass_and_costs_know_of_widths() -> None:
    space, rng = net(), np.random.default_rng(2)
    archs = [space.sample(rng) for _ in range(6)]
    supernet = networks.Supernet(space, TASK, space.Scale()).eval()
    images = torch.rand(4, 3, 8, 8)
    with OnePass(supernet).installed() as one_pass:
        found = one_pass.logits(archs, images)
    costs = NetworkCosts(space, TASK, space.Scale())
    for arch, logits in zip(archs, found, strict=True):
        supernet.select(arch)
        torch.testing.assert_close(logits, supernet(images))
        assert costs.of(arch, ["params"])["params"] == networks.count_params(
            networks.build(space, arch, TASK, space.Scale())
        )


class Gated(nn.Module):
    """torch's own layer, whose state begins with the examples as the task wants it."""

    def __init__(self, activation: nn.Module, width: int) -> None:
        super().__init__()
        self.activation, self.layer = activation, nn.GRU(width, width, batch_first=True)

    def forward(self, x: Tensor, state: tuple[Tensor] | None = None) -> tuple[Tensor, tuple[Tensor]]:
        y, after = self.layer(x, None if state is None else state[0].transpose(0, 1))
        return self.activation(y), (after.transpose(0, 1),)


class Reads(c.Space):
    """Networks for texts, whose decoder has the embedding's weights."""

    tasks = frozenset({"language-model"})

    def network(self, choose: c.Choose, task: Any, scale: Any) -> nn.Module:
        width = choose.value("width", [4, 8])
        cell = Gated(choose.layer("activation", {"none": nn.Identity, "relu": nn.ReLU}), width)
        return LanguageModel(task.vocabulary, width, cell)


def test_a_space_for_texts_has_children_as_in_its_supernet() -> None:
    """Weights that two layers have, and of which a value takes a part, count once."""
    space, task = Reads(), LanguageTask(7)
    supernet = networks.Supernet(space, task, space.Scale()).eval()
    costs = NetworkCosts(space, task, space.Scale())
    tokens = torch.randint(7, (2, 5))
    for arch in [*space.members()] * 3:  # the first ones are counted in networks of their own
        child = networks.build(space, arch, task, space.Scale()).eval()
        supernet.select(arch)
        child.load_state_dict(supernet.child_state(arch))
        torch.testing.assert_close(child(tokens), supernet(tokens))
        found = costs.of(arch, ["params", "flops"])
        assert found == {"params": networks.count_params(child), "flops": count_flops(child, task)}
    assert costs._supernet is not None


def test_a_soft_choice_mixes_layers_and_numbers_of_layers_but_no_values() -> None:
    space = net()
    supernet = networks.Supernet(space, TASK, space.Scale()).eval()
    network: Any = supernet.network
    arch = space.arch((2, 0, 0, 1, 1, 1, 0, 0, 1, 0, 1))
    images = torch.rand(2, 3, 8, 8)
    chosen: dict[str, Any] = networks.chosen_options(space, arch)
    outputs = []
    for depth in ("1", "2"):
        supernet.select({**chosen, "depth": depth})
        outputs.append(network.blocks(network.stem(images)))
    supernet.select({**chosen, "depth": {"1": torch.tensor(0.25), "2": torch.tensor(0.75)}})
    mixed = network.blocks(network.stem(images))
    torch.testing.assert_close(mixed, 0.25 * outputs[0] + 0.75 * outputs[1])
    with pytest.raises(CannotGoOn, match="'width' cannot be mixed"):
        supernet.select({**chosen, "width": {"16": torch.tensor(0.5), "32": torch.tensor(0.5)}})


# --- mistakes


def made(definition: Any) -> InputError:
    """The error of a space of this definition."""
    space = type("Mine", (c.Space,), {"network": definition})
    with pytest.raises(InputError) as error:
        space()
    assert len(str(error.value)) < 250 and "\n" not in str(error.value)
    return error.value


def line(offset: int, definition: Any) -> str:
    return f"test_choices.py, line {definition.__code__.co_firstlineno + offset}: "


OPS = {"a": lambda: conv(8, 8), "b": nn.Identity}


def test_a_name_used_twice() -> None:
    def loop(self: Any, choose: c.Choose, task: Any, scale: Any) -> nn.Module:
        return nn.Sequential(*(choose.layer("op", OPS) for _ in range(2)))

    assert str(made(loop)).startswith(
        line(1, loop) + "the name 'op' is used several times here: give each choice its own"
    )

    def other(self: Any, choose: c.Choose, task: Any, scale: Any) -> nn.Module:
        width = choose.value("op", [4, 8])
        return nn.Sequential(conv(3, width), choose.layer("op", OPS))

    assert str(made(other)).startswith(line(2, other) + f"the name 'op' is used in {line(1, other)[:-2]} already")


def test_a_choice_that_is_never_reached() -> None:
    def unused(self: Any, choose: c.Choose, task: Any, scale: Any) -> nn.Module:
        choose.layer("op", OPS)
        return nn.Sequential(conv(3, 8), choose.layer("other", OPS))

    assert str(made(unused)).startswith(line(1, unused) + "'op' is never reached")

    def no_blocks(self: Any, choose: c.Choose, task: Any, scale: Any) -> nn.Module:
        choose.repeat("depth", 1, 2, lambda i: nn.ReLU())
        return nn.Sequential(conv(3, 8))

    assert str(made(no_blocks)).startswith(line(1, no_blocks) + "'depth' is never reached")


class Pair(nn.Sequential):
    def forward(self, x: Tensor) -> Any:
        return self[1](self[0](x)), x


def test_a_network_that_returns_a_tuple() -> None:
    def pair(self: Any, choose: c.Choose, task: Any, scale: Any) -> nn.Module:
        return Pair(conv(3, 8), choose.layer("op", OPS))

    where = Pair.forward.__code__.co_firstlineno
    assert str(made(pair)).startswith(f"test_choices.py, line {where}: the network returns a tuple, not a tensor")

    def modules(self: Any, choose: c.Choose, task: Any, scale: Any) -> Any:
        return conv(3, 8), choose.layer("op", OPS)

    assert str(made(modules)).startswith(line(0, modules) + "network returns a tuple, not a torch.nn.Module")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda choose: choose.layer("op", {"a": nn.ReLU(), "b": nn.Identity}),
            "option 'a' of 'op' is a ReLU: give a fu",
        ),
        (lambda choose: choose.layer("op", {"a": lambda: 3}), "option 'a' of 'op' makes a int, not a torch.nn.Module"),
        (lambda choose: choose.layer("op", {"a.b": nn.ReLU}), "option 'a.b' of 'op' needs a text without dots"),
        (lambda choose: choose.layer("op", [nn.ReLU]), "options of 'op' are a list: give {name: maker}"),
        (lambda choose: choose.layer("op", {}), "'op' has no options"),
        (lambda choose: choose.layer("a=b", OPS), "'a=b' is no name for a choice"),
        (lambda choose: choose.value("v", [1, 1]), "'v' has no options, or one of them twice: ['1', '1']"),
        (lambda choose: choose.value("v", [[1], [2]]), "values of 'v': give numbers or texts"),
        (lambda choose: choose.repeat("n", 3, 2, lambda i: nn.ReLU()), "'n' repeats from 3 to 2 times"),
        (lambda choose: choose.repeat("n", 1, 2, lambda i: None), "'n' makes nothing, not a torch.nn.Module"),
        (lambda choose: choose.inputs("i", "ab"), "sources of 'i': give a list of names"),
        (lambda choose: choose.option("x"), "ask for 'x' with choose.value"),
        (lambda choose: conv(8, "x"), "TypeError"),  # type: ignore[arg-type]
    ],
)
def test_other_mistakes_are_named_with_their_line(ask: Any, message: str) -> None:
    def definition(self: Any, choose: c.Choose, task: Any, scale: Any) -> nn.Module:
        return nn.Sequential(conv(3, 8), ask(choose))

    error = str(made(definition))
    assert message in error and error.startswith("test_choices.py, line ")


def test_nothing_is_asked_for() -> None:
    def definition(self: Any, choose: c.Choose, task: Any, scale: Any) -> nn.Module:
        return conv(3, 8)

    assert "asks for nothing" in str(made(definition))


def test_decisions_that_depend_on_a_value() -> None:
    class Grows(c.Space):
        def network(self, choose: c.Choose, task: Any, scale: Any) -> nn.Module:
            n = choose.value("n", [1, 2])
            return nn.Sequential(
                conv(3, 8), *(choose.layer(f"op{i}", OPS) for i in range(3 - n)), head(8, task.outputs)
            )

    space = Grows()
    with pytest.raises(InputError, match=r"'op1' is no decision of the space.*`repeat` makes a number of layers"):
        networks.build(space, space.arch((0, 0)), TASK, space.Scale())
    with pytest.raises(CannotGoOn, match="n=1 changes which modules there are"):
        networks.Supernet(space, TASK, space.Scale())


def test_shapes_that_do_not_fit_are_found_at_the_first_trial(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(
        (EXAMPLES / "own_space.py")
        .read_text()
        .replace("conv(width, width, kernel())", "conv(width, 2 * width, kernel())")
    )
    found = run("search", "-s", "random", "--space", "my.py:Net", "--epochs", "1", "-n", "3", "--executor", "inline")
    assert "failed: RuntimeError: " in found.err
    assert ", with width=" in found.err and "op0=conv" in found.err
    assert "; see space my.py:Net@" in found.err and "(my.py, line " in found.err


def test_a_search_with_shared_weights_from_the_command_line(run: Run) -> None:
    space, more = ("--space", f"{EXAMPLES}/own_space.py:Net"), ("--retrain", "0", "--executor", "inline")
    found = run("search", "-s", "random", "--evaluator", "supernet", *space, "--epochs", "1", "-n", "3", *more)
    assert found.code == 0, found.err
    assert 0 <= found.accepted()[0]["metrics"]["shared_acc"] <= 1

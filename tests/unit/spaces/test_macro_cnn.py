"""The macro space against what was published about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nastool.core.errors import InputError
from nastool.core.values import Arch
from nastool.nets import networks
from nastool.spaces.macro_cnn import MacroCNN
from nastool.tasks.images.task import ImageTask

SPACE = MacroCNN(layers=6)
TASK = ImageTask(3, 9, 8, 5)
SCALES = [SPACE.Scale(channels=3), SPACE.Scale(channels=3, widen=1), SPACE.Scale(channels=2, widen=1, concat=1)]


def arch_of(space: MacroCNN, **given: str) -> Arch:
    """The named decisions ("layer2_op"), conv_3x3 and no skips elsewhere."""
    named = {name.replace("_", ".", 1): option for name, option in given.items()}
    return space.arch([d.options.index(named.get(d.name, d.options[0])) for d in space.decisions])


@pytest.mark.parametrize("layers", [4, 12, 24])
def test_size_and_order(layers: int) -> None:
    space = MacroCNN(layers=layers)
    assert space.size == 6**layers * 2 ** (layers * (layers - 1) // 2)
    names = [decision.name for decision in space.decisions]
    assert names[:6] == ["layer1.op", "layer2.op", "layer2.skip1", "layer3.op", "layer3.skip1", "layer3.skip2"]
    switches = [decision for decision in space.decisions if decision.is_switch]
    assert len(switches) == layers * (layers - 1) // 2
    assert switches[1].refers == ("", "layer1")
    assert switches[1].place == "layer3"


@pytest.mark.parametrize("layers", [3, 101])
def test_bad_layers(layers: int) -> None:
    with pytest.raises(InputError, match="need 4 <= layers <= 100"):
        MacroCNN(layers=layers)


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_child_equals_supernet_and_gets_all_gradients(scale: Any) -> None:
    supernet = networks.Supernet(SPACE, TASK, scale).double()
    images = torch.rand(4, 3, 9, 8, dtype=torch.float64)
    rng = np.random.default_rng(0)
    for arch in (SPACE.sample(rng) for _ in range(5)):
        supernet.select(arch)
        state = supernet.child_state(arch)
        child = networks.build(SPACE, arch, TASK, scale).double()
        child.load_state_dict(state)
        for training in (False, True):
            supernet.train(training)
            child.train(training)
            torch.testing.assert_close(child(images), supernet(images), rtol=1e-9, atol=1e-9)
        supernet.zero_grad(set_to_none=True)
        supernet(images).sum().backward()
        touched = {p.data_ptr() for p in supernet.parameters() if p.grad is not None}
        assert touched == {state[name].data_ptr() for name, _ in child.named_parameters()}


def test_architectures_share_the_parameters_of_a_layer() -> None:
    supernet = networks.Supernet(SPACE, TASK, SCALES[0])
    one = supernet.child_state(arch_of(SPACE, layer2_op="sep_conv_5x5", layer3_skip1="1"))
    other = supernet.child_state(arch_of(SPACE, layer2_op="sep_conv_5x5", layer3_op="max_pool_3x3"))
    key = "layers.1.operation.3.depthwise.weight"
    assert one[key].data_ptr() == other[key].data_ptr()
    assert one["layers.2.operation.0.weight"].data_ptr() != other["layers.2.operation.0.weight"].data_ptr()


def test_only_outputs_that_are_read_are_reduced() -> None:
    """Reductions after layers 2 and 4 of 6."""

    def reduced(arch: Arch) -> list[list[str]]:
        network: Any = networks.build(SPACE, arch, TASK, SCALES[0])
        return [list(layer.reductions.members) for layer in network.layers if layer.reductions is not None]

    assert reduced(arch_of(SPACE)) == [["layer2"], ["layer4"]]
    assert reduced(arch_of(SPACE, layer2_skip1="1")) == [["layer2"], ["layer4"]]
    assert reduced(arch_of(SPACE, layer3_skip1="1")) == [["layer1", "layer2"], ["layer4"]]
    assert reduced(arch_of(SPACE, layer6_skip1="1", layer5_skip3="1")) == [
        ["layer1", "layer2"],
        ["layer1", "layer3", "layer4"],
    ]


def test_parameters_counted_by_hand() -> None:
    """4 layers of 2 channels, reductions after 1 and 2, a skip from layer 1 to layer 4."""
    space = MacroCNN(layers=4)
    arch = arch_of(
        space, layer2_op="sep_conv_3x3", layer3_op="avg_pool_3x3", layer4_op="max_pool_3x3", layer4_skip1="1"
    )
    layers = [8 + 40, 8 + (18 + 4 + 4) + 4, 8 + 4, 8 + 4]
    reductions = 8 + (8 + 8)
    expected = (54 + 4) + sum(layers) + reductions + (20 + 10)
    task = ImageTask(3, 8, 8, 10)
    assert networks.count_params(networks.build(space, arch, task, space.Scale(channels=2))) == expected
    concat = networks.build(space, arch, task, space.Scale(channels=2, concat=1))
    assert networks.count_params(concat) == expected + 4 + 4 + 8, "1x1 convolutions of 1, 1 and 2 parts"


def test_a_sum_adds_the_outputs_that_are_skipped_to() -> None:
    space = MacroCNN(layers=4)
    network: Any = networks.build(space, arch_of(space, layer2_skip1="1"), TASK, space.Scale(channels=2)).eval()
    x = torch.rand(2, 2, 4, 4)
    layer = network.layers[1]
    layer.reductions = None
    out = layer(x, {"layer1": x})["layer2"]
    torch.testing.assert_close(out, layer.merge[1](layer.operation(x) + x))


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("task", [ImageTask(1, 1, 1, 2), ImageTask(2, 7, 5, 3), ImageTask(3, 32, 20, 4)], ids=str)
def test_an_architecture_is_rebuilt_for_any_task(task: ImageTask, scale: Any) -> None:
    arch = SPACE.sample(np.random.default_rng(1))
    network = networks.build(SPACE, arch, task, scale)
    assert network(torch.rand(2, task.channels, task.height, task.width)).shape == (2, task.classes)


def test_gradients_stay_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient in another format makes every batch normalisation before it several times slower on a CPU."""
    space = MacroCNN(layers=6)
    network = networks.Supernet(space, ImageTask(3, 16, 16, 10), space.Scale(channels=8))
    network = network.to(memory_format=torch.channels_last)
    formats: list[bool] = []

    def look(module: nn.Module, inputs: Any, outputs: Any) -> None:
        formats.append(outputs[0].is_contiguous(memory_format=torch.channels_last))

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_full_backward_hook(look)
    rng = np.random.default_rng(0)
    images = torch.rand(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    for _ in range(5):
        network.select(space.sample(rng))
        network(images).sum().backward()
    assert len(formats) > 50
    assert formats.count(False) <= 5  # that of the global pooling, once a step

"""The convolutional space of NAS-RL."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nastool.core.errors import InputError, TrialFailed
from nastool.core.values import Arch
from nastool.nets import networks
from nastool.nets.definitions.layerwise_form import Layer, loose_ends
from nastool.spaces.layerwise_cnn import LayerwiseCNN
from nastool.tasks.images.task import ImageTask

TASK = ImageTask(3, 8, 8, 10)


def arch(space: LayerwiseCNN, **chosen: str) -> Arch:
    """These options (layer1_skip2 for layer1.skip2), the first one of every other decision."""
    options = {name.replace("_", ".", 1): option for name, option in chosen.items()}
    assert options.keys() <= {decision.name for decision in space.decisions}
    return space.arch(
        [decision.options.index(options.get(decision.name, decision.options[0])) for decision in space.decisions]
    )


def build(space: LayerwiseCNN, member: Arch, task: ImageTask = TASK, width: int = 100) -> nn.Module:
    torch.manual_seed(0)
    return networks.build(space, member, task, space.Scale(width))


def test_the_decisions_are_in_the_paper_s_order() -> None:
    names = [decision.name for decision in LayerwiseCNN(layers=3, min_layers=2, types=True, strides=True).decisions]
    attributes = ["type", "filter_height", "filter_width", "stride_height", "stride_width", "filters"]
    assert names[:8] == ["depth", *(f"layer1.{name}" for name in attributes), "layer2.type"]
    assert names[-3:] == ["layer3.filters", "layer3.skip1", "layer3.skip2"]
    last = LayerwiseCNN(layers=3).decisions[-1]
    assert last.is_switch and last.place == "layer3" and last.refers == ("", "layer2")
    assert LayerwiseCNN().size == 64**6 * 2**15


@pytest.mark.parametrize(
    "options",
    [{"layers": 0}, {"layers": 51}, {"layers": 4, "min_layers": 5}, {"layers": 4, "min_layers": 0}],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="layers"):
        LayerwiseCNN(**options)


# --- the three repair rules


def test_a_layer_without_inputs_reads_the_image() -> None:
    """Three layers side by side, as no switch is on: each has the image's channels, and all are read at the end."""
    space = LayerwiseCNN(layers=3)
    network: Any = build(space, arch(space))
    assert [operation[0].in_channels for operation in network.operations] == [3, 3, 3]
    assert network.classifier.in_features == 3 * 24


def test_what_no_layer_reads_is_concatenated_at_the_end() -> None:
    layers = [Layer("conv", (1, 1), (1, 1), 24, inputs) for inputs in ((), (), (1,), ())]
    assert loose_ends(layers) == [2, 3, 4]
    space = LayerwiseCNN(layers=4)
    member = arch(space, layer3_skip1="1", layer1_filters="64", layer2_filters="36", layer4_filters="48")
    network: Any = build(space, member)
    assert network.ends == [2, 3, 4]
    assert network.classifier.in_features == 36 + 24 + 48


def test_smaller_inputs_are_padded_with_zeros_on_both_sides() -> None:
    """Layer 3 reads layer 1 (8 x 8) and layer 2 (stride 3 in height, 2 in width: 3 x 4)."""
    space = LayerwiseCNN(layers=3, strides=True)
    member = arch(space, layer2_stride_height="3", layer2_stride_width="2", layer3_skip1="1", layer3_skip2="1")
    network: Any = build(space, member).eval()
    seen: list[torch.Tensor] = []
    network.operations[2].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.rand(2, 3, 8, 8)
    network(images)
    one, two = network.operations[0](images), network.operations[1](images)
    assert two.shape == (2, 24, 3, 4)
    expected = torch.zeros(2, 48, 8, 8)
    expected[:, :24] = one
    expected[:, 24:, 2:5, 2:6] = two  # 5 rows more: 2 above, 3 below; 4 columns more: 2 and 2
    torch.testing.assert_close(seen[0], expected)


def test_a_chain_without_skips() -> None:
    space = LayerwiseCNN(layers=3, skips=False)
    network: Any = build(space, arch(space, layer1_filters="36"))
    assert [operation[0].in_channels for operation in network.operations] == [3, 36, 24]
    assert network.classifier.in_features == 24


@pytest.mark.parametrize("options", [{}, {"layers": 9, "min_layers": 1, "types": True, "strides": True}])
def test_every_architecture_is_connected(options: dict[str, Any]) -> None:
    """The loss reaches every parameter and the image; every layer has a way to the classifier."""
    space = LayerwiseCNN(**options)
    rng = np.random.default_rng(0)
    for _ in range(25):
        network = build(space, space.sample(rng), width=4).double()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # as in training: not all the same
                nn.init.uniform_(module.weight)
                nn.init.uniform_(module.bias)
        images = torch.rand(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
        network(images).square().sum().backward()
        assert images.grad is not None and images.grad.any()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), name


def test_every_skip_matrix_is_connected() -> None:
    """All 64 of four layers, by gradient to a layer's own weights."""
    space = LayerwiseCNN(layers=4)
    switches = [decision.name for decision in space.decisions if decision.is_switch]
    for number in range(2 ** len(switches)):
        chosen = {name.replace(".", "_", 1): str(number >> i & 1) for i, name in enumerate(switches)}
        network: Any = build(space, arch(space, **chosen), width=10)
        network(torch.rand(4, 3, 4, 4)).square().sum().backward()
        assert all(operation[0].weight.grad is not None for operation in network.operations)


# --- sizes


def test_parameters_by_hand() -> None:
    """Layer 1: 3x5, 36 filters on 3 channels; layer 2: 7x1, 64 filters on layer 1's; a linear layer on both of 10.

    Layer 2 reads layer 1, so the classifier has its 64 alone.
    """
    space = LayerwiseCNN(layers=2)
    member = arch(
        space,
        layer1_filter_height="3",
        layer1_filter_width="5",
        layer1_filters="36",
        layer2_filter_height="7",
        layer2_filters="64",
        layer2_skip1="1",
    )
    network = build(space, member)
    expected = (3 * 5 * 3 * 36 + 2 * 36) + (7 * 36 * 64 + 2 * 64) + (64 * 10 + 10)
    assert networks.count_params(network) == expected
    halved = (3 * 5 * 3 * 18 + 2 * 18) + (7 * 18 * 32 + 2 * 32) + (32 * 10 + 10)
    assert networks.count_params(build(space, member, width=50)) == halved
    more = (3 * 5 * 3 * 76 + 2 * 76) + (7 * 76 * 104 + 2 * 104) + (104 * 10 + 10)
    assert networks.count_params(networks.build(space, member, TASK, space.Scale(more_filters=40))) == more


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (8, 8)])
def test_strides_round_up(size: tuple[int, int]) -> None:
    """In a convolution and in a pooling, whatever the filter size."""
    space = LayerwiseCNN(layers=1, strides=True, types=True)
    for kind in ("conv", "max_pool"):
        for filter_size in ("1", "3", "5", "7"):
            member = arch(
                space,
                layer1_type=kind,
                layer1_filter_height=filter_size,
                layer1_filter_width="3",
                layer1_stride_height="3",
                layer1_stride_width="2",
            )
            network: Any = build(space, member, ImageTask(3, *size, 10)).eval()
            shape = network.operations[0](torch.rand(2, 3, *size)).shape
            assert shape[2:] == (-(-size[0] // 3), -(-size[1] // 2))


def test_layers_of_other_types() -> None:
    space = LayerwiseCNN(layers=3, types=True, skips=False)
    member = arch(space, layer2_type="batch_norm", layer3_type="max_pool", layer3_filter_height="3")
    network: Any = build(space, member).eval()
    _, norm, pool = network.operations
    assert isinstance(norm, nn.BatchNorm2d) and norm.num_features == 24
    assert isinstance(pool, nn.MaxPool2d) and pool.kernel_size == (3, 1)
    assert network.classifier.in_features == 24


def test_channels_that_double_at_each_layer_end_the_trial_not_the_machine() -> None:
    space = LayerwiseCNN(layers=40, types=True)
    chosen = {d.name.replace(".", "_", 1): d.options[1] for d in space.decisions if d.is_switch or "type" in d.name}
    with pytest.raises(TrialFailed, match="channels, more than"):
        build(space, arch(space, **chosen))


# --- what does not matter


def test_what_lies_beyond_the_depth_does_not_matter() -> None:
    space = LayerwiseCNN(layers=3, min_layers=1)
    assert space.depth == space.decisions[0].name == "depth"
    short, other, full = (
        arch(space, depth="2", layer3_filters="64", layer3_skip1="1"),
        arch(space, depth="2"),
        arch(space, depth="3"),
    )
    assert space.canonical(short) == space.canonical(other) != space.canonical(full)
    active = space.active_many(np.array([short.choices, full.choices]))
    beyond = [decision.place == "layer3" for decision in space.decisions]
    assert (active[0] == ~np.array(beyond)).all() and active[1].all()
    states = [build(space, member).state_dict() for member in (short, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0].keys() | states[1].keys())


def test_what_a_type_does_not_use_does_not_matter() -> None:
    space = LayerwiseCNN(layers=1, types=True, strides=True)
    active = {}
    for kind in ("conv", "max_pool", "batch_norm"):
        mask = space.active_many(np.array([arch(space, layer1_type=kind).choices]))[0]
        active[kind] = [d.name.partition(".")[2] for d, there in zip(space.decisions, mask, strict=True) if there]
    sizes = ["filter_height", "filter_width", "stride_height", "stride_width"]
    assert active == {
        "conv": ["type", *sizes, "filters"],
        "max_pool": ["type", *sizes],
        "batch_norm": ["type"],
    }


def test_architectures_of_one_form_are_one_network() -> None:
    """Changing what does not matter keeps the form and the network; changing what does changes the form."""
    space = LayerwiseCNN(layers=4, min_layers=1, types=True, strides=True)
    rng = np.random.default_rng(3)
    for _ in range(10):
        member = space.sample(rng)
        active = space.active_many(np.array([member.choices]))[0]
        for i, decision in enumerate(space.decisions):
            choices = list(member.choices)
            choices[i] = (choices[i] + 1) % len(decision.options)
            other = space.arch(choices)
            assert (space.canonical(other) == space.canonical(member)) == (not active[i]), decision
            if not active[i]:
                assert str(build(space, other, width=4)) == str(build(space, member, width=4))

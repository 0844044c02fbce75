"""The space of network morphism: what grows keeps its function, and what is new can be trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nastool.core.errors import InputError
from nastool.core.values import Arch
from nastool.nets import networks
from nastool.spaces.morph_cnn import KINDS, MorphCNN
from nastool.tasks.images.task import ImageTask

SPACE = MorphCNN(stages=2, layers=4)
SCALE = SPACE.Scale(channels=2)
TASK = ImageTask(3, 6, 6, 4)
PRECISIONS = [pytest.param(torch.float32, 1e-5, id="float32"), pytest.param(torch.float64, 1e-10, id="float64")]
Rng = np.random.Generator


def arch_of(**given: str) -> Arch:
    """The named options ("stage1_layer2_conv"), the first one of every other decision."""
    options = {name.replace("_", "."): option for name, option in given.items()}
    assert options.keys() <= {decision.name for decision in SPACE.decisions}
    return SPACE.arch([d.options.index(options.get(d.name, d.options[0])) for d in SPACE.decisions])


def build(arch: Arch, dtype: torch.dtype = torch.float64, space: MorphCNN = SPACE) -> nn.Module:
    return networks.build(space, arch, TASK, SCALE).to(dtype)


def count(arch: Arch) -> int:
    return networks.count_params(build(arch))


def images_like(network: nn.Module, number: int = 4) -> Tensor:
    return torch.randn(number, 3, 6, 6, dtype=next(network.parameters()).dtype)


def disturb(network: nn.Module, size: float) -> None:
    """As training would: other weights, statistics and shares."""
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("share"):
                value.uniform_(0, 1)
            elif name.endswith("running_var"):
                value.mul_((size * torch.randn_like(value)).exp())
            elif value.is_floating_point():
                value.add_(size * torch.randn_like(value))


def disturbed(arch: Arch, dtype: torch.dtype = torch.float64, space: MorphCNN = SPACE) -> nn.Module:
    """A network with statistics of random images, then disturbed."""
    network = build(arch, dtype, space).train()
    with torch.no_grad():
        for _ in range(5):
            network(images_like(network))
    disturb(network, 0.1)
    return network


def hand_down(before: Arch, after: Arch, parent: nn.Module, space: MorphCNN = SPACE) -> nn.Module:
    """The child before calibration."""
    child = build(after, next(parent.parameters()).dtype, space)
    space.inherit(before, after, TASK, SCALE).apply(child, parent.state_dict())
    return child


def difference(child: nn.Module, parent: nn.Module, images: Tensor) -> float:
    """max |child - parent| / max |parent| of the logits in evaluation mode."""
    with torch.no_grad():
        was = parent.eval()(images)
        return float((child.eval()(images) - was).abs().max() / was.abs().max())


def exact_child(before: Arch, after: Arch, parent: nn.Module, bound: float, space: MorphCNN = SPACE) -> nn.Module:
    """Calibrated, once it has turned out to compute what the parent does, before calibration and after."""
    inheritance = space.inherit(before, after, TASK, SCALE)
    assert inheritance.exact
    images = images_like(parent)
    child = hand_down(before, after, parent, space)
    assert difference(child, parent, images) <= bound
    inheritance.calibrate(child, images)
    assert difference(child, parent, images) <= bound
    return child


def walk(arch: Arch, length: int, rng: Rng, only: str | None = None, space: MorphCNN = SPACE) -> Iterator[Arch]:
    """Random morphisms, one after another: first a kind, then one of this kind."""
    for _ in range(length):
        found = space.morphisms(arch)
        kinds = [kind for kind in KINDS if found[kind] and only in (None, kind)]
        if not kinds:
            return
        others = found[kinds[int(rng.integers(len(kinds)))]]
        arch = others[int(rng.integers(len(others)))]
        yield arch


# --- what grows keeps its function


@pytest.mark.parametrize("dtype, bound", PRECISIONS)
@pytest.mark.parametrize("chains", [8, pytest.param(1000, marks=pytest.mark.slow)])
def test_chains_of_morphisms_keep_the_function(chains: int, dtype: torch.dtype, bound: float) -> None:
    """20 morphisms from the start or a random member: each of them, and the first network to the last in one go."""
    space = MorphCNN(stages=3, layers=4, max_width=4)
    lengths = []
    for number in range(chains):
        torch.manual_seed(number)
        rng = np.random.default_rng(number)
        before = first = space.sample(rng) if number % 2 else space.start()
        beginning = parent = disturbed(first, dtype, space)
        steps = list(walk(first, 20, rng, space=space))
        lengths.append(len(steps))
        for after in steps:
            parent = exact_child(before, after, parent, bound, space)
            disturb(parent, 0.03)
            before = after
        exact_child(first, before, beginning, bound, space)
    assert np.mean(lengths) > 18, "few come to the end of the space"


@pytest.mark.parametrize("dtype, bound", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_alone_keeps_the_function(kind: str, dtype: torch.dtype, bound: float) -> None:
    """Until there is no more of it."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    for first in (SPACE.start(), SPACE.sample(rng), SPACE.sample(rng)):
        beginning, before = disturbed(first, dtype), first
        for after in walk(first, 100, rng, kind):
            exact_child(before, after, disturbed(before, dtype), bound)
            before = after
        assert not SPACE.morphisms(before)[kind]
        exact_child(first, before, beginning, bound)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_in_training_keeps_its_function(kind: str) -> None:
    """Real statistics, momentum and shares: three times grown and trained on digits, then every morphism of a kind."""
    torch.manual_seed(2)
    rng = np.random.default_rng(2)
    digits = Digits()
    arch = SPACE.start()
    network = networks.build(SPACE, arch, digits.task, SCALE)
    digits.train(network, 10)
    for _ in range(2):
        *_, child = walk(arch, 4, rng)
        network = digits.grow(arch, child, network)
        digits.train(network, 10)
        arch = child
    others = SPACE.morphisms(arch)[kind]
    assert others
    for other in others:
        for calibrated in (False, True):
            assert difference(digits.grow(arch, other, network, calibrated), network, digits.images[:100]) <= 1e-5


@pytest.mark.parametrize("kind", ["wider", "concat", "add", "kernel"])
def test_kinds_without_a_new_normalisation_keep_the_function_in_training(kind: str) -> None:
    torch.manual_seed(3)
    rng = np.random.default_rng(3)
    for before in (SPACE.start(), SPACE.sample(rng)):
        parent = disturbed(before)
        *_, after = walk(before, 3, rng, kind)
        child = hand_down(before, after, parent)
        images = images_like(parent)
        torch.testing.assert_close(child.train()(images), parent.train()(images), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_morphism_undone_gives_the_function_back(kind: str) -> None:
    """It is not known to be exact, but what is dropped reads as a new zero, or is an identity."""
    torch.manual_seed(4)
    rng = np.random.default_rng(4)
    for arch in (SPACE.start(), SPACE.sample(rng)):
        parent = disturbed(arch)
        for grown in SPACE.morphisms(arch)[kind]:
            child = exact_child(arch, grown, parent, 1e-10)
            assert not SPACE.inherit(grown, arch, TASK, SCALE).exact
            again = hand_down(grown, arch, child)
            assert difference(again, parent, images_like(parent)) <= 1e-10


# --- training mode


class Digits:
    """scikit-learn's, standardised, in random batches."""

    def __init__(self) -> None:
        images, labels = load_digits(return_X_y=True)
        images = (images - images.mean()) / images.std()
        self.task = ImageTask(1, 8, 8, 10)
        self.images = torch.from_numpy(images.reshape(-1, 1, 8, 8)).float()
        self.labels = torch.from_numpy(labels)

    def train(self, network: nn.Module, steps: int) -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        network.train()
        for _ in range(steps):
            chosen = torch.randperm(len(self.images))[:64]
            optimizer.zero_grad()
            cross_entropy(network(self.images[chosen]), self.labels[chosen]).backward()  # type: ignore[no-untyped-call]  # torch's stub
            optimizer.step()
            schedule.step()

    def grow(self, before: Arch, after: Arch, parent: nn.Module, calibrated: bool = True) -> nn.Module:
        """The child, calibrated on 512 images."""
        child = networks.build(SPACE, after, self.task, SCALE)
        inheritance = SPACE.inherit(before, after, self.task, SCALE)
        inheritance.apply(child, parent.state_dict())
        if calibrated:
            inheritance.calibrate(child, self.images[torch.randperm(len(self.images))[:512]])
        return child

    def error(self, child: nn.Module, parent: nn.Module, batch: int) -> float:
        """Root mean square of the logits' difference in training mode, in standard deviations of the parent's."""
        images = self.images[torch.randperm(len(self.images))[:batch]]
        with torch.no_grad():
            was, now = (copy.deepcopy(network).train()(images) for network in (parent, child))
        return float((now - was).square().mean().sqrt() / was.std())


@pytest.mark.parametrize("batch", [64, 128])
def test_calibrated_networks_begin_near_their_parents_in_training_mode(batch: int) -> None:
    """After 5 morphisms, one of them deeper. benchmarks/morphisms.py measures it more broadly."""
    torch.manual_seed(5)
    rng = np.random.default_rng(5)
    digits = Digits()
    errors: dict[bool, list[float]] = {True: [], False: []}
    for first in (SPACE.start(), SPACE.sample(rng), SPACE.sample(rng)):
        parent = networks.build(SPACE, first, digits.task, SCALE)
        digits.train(parent, 60)
        for _ in range(5):
            *_, deeper = walk(first, 1, rng, "deeper")
            *_, last = walk(deeper, 4, rng)
            for calibrated, found in errors.items():
                found.append(digits.error(digits.grow(first, last, parent, calibrated), parent, batch))
    assert max(errors[True]) < 0.3
    assert np.median(errors[True]) < min(0.1, 0.3 * np.median(errors[False]))


# --- sizes

SMALL = {"stage1_layer3_conv": "3x3", "stage1_layer3_width": "2"}
"""Channels: 3 of the image -> 2 -> 4 | 4 -> 4 classes; free slots after each layer."""
CONCAT = {"stage1_layer3_skip": "layer1", "stage1_layer3_join": "concat"}
ADD = {"stage1_layer3_skip": "layer1", "stage1_layer3_join": "add"}


def test_parameters_by_hand() -> None:
    normal = (3 * 2 * 9 + 4) + (2 * 4 * 9 + 8) + (4 * 4 * 9 + 8)
    assert count(arch_of(**SMALL)) == normal + 4 * 4 + 4
    assert count(arch_of(**SMALL, **CONCAT)) == normal + 2 * 4 * 9 + 4 * 4 + 4
    assert count(arch_of(**SMALL, **ADD)) == normal + 2 + 4 * 4 + 4


@pytest.mark.parametrize(
    "kind, before, change, more",
    [
        pytest.param("deeper", {}, {"stage1_layer2_conv": "3x3"}, 2 * 2 * 9 + 4, id="deeper"),
        pytest.param("deeper", {}, {"stage1_layer2_conv": "5x5"}, 2 * 2 * 25 + 4, id="deeper-5x5"),
        pytest.param(
            "deeper",
            {},
            {"stage1_layer4_conv": "3x3", "stage1_layer4_width": "2"},
            4 * 4 * 9 + 8,
            id="deeper-at-the-end-of-a-stage",
        ),
        pytest.param("deeper", {}, {"stage2_layer3_conv": "3x3"}, 4 * 4 * 9 + 8, id="deeper-at-the-end"),
        pytest.param(
            "deeper",
            CONCAT,
            {"stage1_layer4_conv": "3x3", "stage1_layer4_width": "4"},
            (6 * 8 * 9 + 16) + (8 - 6) * 4 * 9,  # 6 channels of 4 + 2 in 8, which the next layer reads
            id="deeper-after-concat",
        ),
        pytest.param("wider", {}, {"stage1_layer1_width": "2"}, 2 * (3 * 9 + 2) + 2 * 4 * 9, id="wider"),
        pytest.param("wider", {}, {"stage1_layer1_width": "4"}, 6 * (3 * 9 + 2) + 6 * 4 * 9, id="wider-by-4"),
        pytest.param(
            "wider",
            CONCAT,
            {"stage1_layer1_width": "2"},
            2 * (3 * 9 + 2) + 2 * 4 * 9 + 2 * 4 * 9,  # the last layer of the stage and the first of the next
            id="wider-and-concatenated",
        ),
        pytest.param(
            "wider",
            ADD,
            {"stage1_layer1_width": "2"},
            2 * (3 * 9 + 2) + 2 * 4 * 9 + 2,  # two more channels meet in the sum
            id="wider-and-added",
        ),
        pytest.param(
            "wider", ADD, {"stage1_layer3_width": "4"}, 4 * (2 * 9 + 2) + 4 * 4 * 9, id="wider-than-what-it-adds"
        ),
        pytest.param("wider", {}, {"stage2_layer1_width": "2"}, 4 * (4 * 9 + 2) + 4 * 4, id="wider-at-the-end"),
        pytest.param("concat", {}, CONCAT, 2 * 4 * 9, id="concat"),
        pytest.param(
            "concat", {}, {"stage2_layer1_skip": "input", "stage2_layer1_join": "concat"}, 4 * 4, id="concat-at-the-end"
        ),
        pytest.param("add", {}, ADD, 2, id="add"),
        pytest.param("add", {}, {"stage2_layer1_skip": "input", "stage2_layer1_join": "add"}, 4, id="add-the-input"),
        pytest.param("kernel", {}, {"stage1_layer1_conv": "5x5"}, 3 * 2 * (25 - 9), id="kernel"),
        pytest.param("kernel", CONCAT, {"stage2_layer1_conv": "5x5"}, 6 * 4 * (25 - 9), id="kernel-after-concat"),
    ],
)
def test_growth_by_hand(kind: str, before: dict[str, str], change: dict[str, str], more: int) -> None:
    parent, child = (arch_of(**{**SMALL, **before, **new}) for new in ({}, change))
    assert child in SPACE.morphisms(parent)[kind]
    assert count(child) - count(parent) == more
    exact_child(parent, child, disturbed(parent), 1e-10)


# --- sums


@pytest.mark.parametrize("width", ["1", "2", "4"])
def test_a_sum_is_convex_in_each_channel_that_both_have(width: str) -> None:
    """A layer of 2, 4 or 8 channels plus one of 4; beyond the fourth there is nothing to add."""
    network: Any = disturbed(
        arch_of(
            stage1_layer1_width="2",
            stage1_layer2_conv="3x3",
            stage1_layer2_width=width,
            stage1_layer2_skip="layer1",
            stage1_layer2_join="add",
        )
    ).eval()
    first, joined = network.layers["stage1_layer1"], network.layers["stage1_layer2"]
    v = first(images_like(network), None)
    y = joined(v, None)
    both = min(4, y.shape[1])
    assert joined.share.shape == (both,)
    r = joined.share[:, None, None]
    expected = y.clone()
    expected[:, :both] = r * y[:, :both] + (1 - r) * v[:, :both]
    torch.testing.assert_close(joined(v, v), expected)


def test_shares_stay_shares_while_they_are_trained() -> None:
    network: Any = build(arch_of(**SMALL, **ADD))
    share = network.layers["stage1_layer3"].share
    assert share.tolist() == [1, 1]
    images = images_like(network)
    optimizer = torch.optim.SGD([share], lr=1e3)
    reached = set()
    for step in range(8):
        optimizer.zero_grad()
        (network.train()(images).sum() * (-1) ** (step // 2)).backward()
        assert ((share >= 0) & (share <= 1)).all(), "projected before it is used"
        assert share.grad is not None and share.grad.all(), "at the bounds, too"
        reached |= set(share.tolist())
        optimizer.step()
        beyond = share.detach().clone()
        with torch.no_grad():
            now = network.eval()(images)
            share.clamp_(0, 1)
            torch.testing.assert_close(now, network(images), rtol=0, atol=0)  # evaluation projects, too, but
            share.copy_(beyond)  # leaves them as they are
    assert {0.0, 1.0} <= reached


def test_several_passes_may_come_before_a_backward_one() -> None:
    network = disturbed(arch_of(**SMALL, **ADD)).train()
    (network(images_like(network)).sum() + network(images_like(network)).sum()).backward()
    assert all(value.grad is not None for value in network.parameters())


# --- what is new can be trained


def gradients(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    cross_entropy(network.train()(images), torch.arange(len(images)) % TASK.classes).backward()  # type: ignore[no-untyped-call]  # torch's stub
    return {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}


def grown(change: dict[str, str]) -> tuple[nn.Module, Tensor]:
    """A disturbed network of `SMALL`'s architecture with a change, calibrated; and images."""
    torch.manual_seed(6)
    parent, child = arch_of(**SMALL), arch_of(**{**SMALL, **change})
    network = exact_child(parent, child, disturbed(parent), 1e-10)
    return network, images_like(network, 16)


def test_new_channels_are_read_after_one_step_and_learn_after_two() -> None:
    """Their own filters are as freshly drawn, but get no gradient as long as nobody reads them."""
    network, images = grown({"stage1_layer1_width": "2"})
    filters, readers = "layers.stage1_layer1.conv.0.weight", "layers.stage1_layer3.conv.0.weight"
    state = network.state_dict()
    assert not state[readers][:, 2:].any() and state[filters][2:].all()
    assert state["layers.stage1_layer1.conv.1.running_mean"][2:].all(), "calibrated"
    first = gradients(network, images)
    assert first[readers][:, 2:].all()
    assert not first[filters][2:].any() and first[filters][:2].all()
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    assert gradients(network, images)[filters][2:].all()


@pytest.mark.parametrize(
    "change, name, where",
    [
        (CONCAT, "layers.stage2_layer1.conv.0.weight", np.s_[:, 4:]),
        ({"stage1_layer3_conv": "5x5"}, "layers.stage1_layer3.conv.0.weight", np.s_[:, :, 0]),
        ({"stage2_layer1_width": "4"}, "classifier.weight", np.s_[:, 4:]),
        (
            {"stage2_layer1_skip": "input", "stage2_layer1_join": "concat"},
            "classifier.weight",
            np.s_[:, 4:],
        ),
    ],
    ids=["concat", "kernel", "wider-at-the-end", "concat-at-the-end"],
)
def test_zeros_get_a_gradient_at_once(change: dict[str, str], name: str, where: Any) -> None:
    network, images = grown(change)
    assert not network.state_dict()[name][where].any()
    assert gradients(network, images)[name][where].all()


def test_an_identity_gets_a_gradient_at_once() -> None:
    network, images = grown({"stage1_layer2_conv": "3x3"})
    expected = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    expected[0, 0, 1, 1] = expected[1, 1, 1, 1] = 1
    assert torch.equal(network.state_dict()["layers.stage1_layer2.conv.0.weight"], expected)
    assert gradients(network, images)["layers.stage1_layer2.conv.0.weight"].all()


def test_a_share_of_one_gets_a_gradient_at_once() -> None:
    network, images = grown(ADD)
    assert gradients(network, images)["layers.stage1_layer3.share"].all()


@pytest.mark.parametrize("kind", KINDS)
def test_momentum_moves_with_the_weights(kind: str) -> None:
    """Each entry of the parent's memory is in the child's once, where its weight is; all others are zero."""
    torch.manual_seed(7)
    arch = SPACE.sample(np.random.default_rng(7))
    parent = disturbed(arch)
    memory = {name: value.detach() for name, value in parent.named_parameters()}  # so that each can be recognised
    for other in SPACE.morphisms(arch)[kind]:
        child = hand_down(arch, other, parent)
        expanded = SPACE.inherit(arch, other, TASK, SCALE).expand(memory, child)
        assert list(expanded) == [name for name, _ in child.named_parameters()]
        moved = torch.cat([value[value != 0] for value in expanded.values()])
        everything = torch.cat([value.flatten() for value in memory.values()])
        assert torch.equal(moved.sort().values, everything.sort().values)
        for name, value in child.named_parameters():
            assert torch.equal(expanded[name][expanded[name] != 0], value[expanded[name] != 0]), name


def test_momentum_of_a_wider_layer_by_hand() -> None:
    arch, other = arch_of(**SMALL), arch_of(**SMALL, stage1_layer1_width="2")
    parent = build(arch)
    memory = {name: torch.randn_like(value) for name, value in parent.named_parameters()}
    expanded = SPACE.inherit(arch, other, TASK, SCALE).expand(memory, build(other))
    cuts: dict[str, Any] = {
        "layers.stage1_layer1.conv.0.weight": np.s_[:2],
        "layers.stage1_layer1.conv.1.bias": np.s_[:2],
        "layers.stage1_layer3.conv.0.weight": np.s_[:, :2],
        "classifier.weight": np.s_[:],
    }
    for name, cut in cuts.items():
        expected = torch.zeros_like(expanded[name])
        expected[cut] = memory[name]
        assert torch.equal(expanded[name], expected), name


# --- what is no morphism


FIRST, LAST, NEXT = (f"layers.{name}.conv.0.weight" for name in ("stage1_layer1", "stage1_layer3", "stage2_layer1"))


@pytest.mark.parametrize(
    "before, change, kept",
    [
        pytest.param(
            {"stage1_layer1_width": "4"},
            {"stage1_layer1_width": "2"},
            {FIRST: (np.s_[:], np.s_[:4]), LAST: (np.s_[:], np.s_[:, :4])},
            id="narrower",
        ),
        pytest.param({}, {"stage1_layer3_conv": "none"}, {NEXT: (np.s_[:], np.s_[:, :2])}, id="removed"),
        pytest.param(
            {"stage1_layer1_conv": "5x5"},
            {"stage1_layer1_conv": "3x3"},
            {FIRST: (np.s_[:], np.s_[..., 1:-1, 1:-1])},
            id="kernel",
        ),
        pytest.param(CONCAT, ADD, {LAST: (np.s_[:], np.s_[:]), NEXT: (np.s_[:], np.s_[:, :4])}, id="concat-to-add"),
        pytest.param(ADD, CONCAT, {LAST: (np.s_[:], np.s_[:]), NEXT: (np.s_[:, :4], np.s_[:])}, id="add-to-concat"),
        pytest.param(CONCAT, {"stage1_layer3_skip": "none"}, {NEXT: (np.s_[:], np.s_[:, :4])}, id="concat-to-none"),
        pytest.param(ADD, {"stage1_layer3_skip": "none"}, {NEXT: (np.s_[:], np.s_[:])}, id="add-to-none"),
        pytest.param(
            {},
            {"stage1_layer2_conv": "3x3", "stage1_layer1_width": "2", "stage1_layer3_width": "1"},
            {FIRST: (np.s_[:2], np.s_[:]), LAST: (np.s_[:, :2], np.s_[:2]), NEXT: (np.s_[:], np.s_[:, :2])},
            id="deeper-wider-narrower",
        ),
        pytest.param(
            {"stage1_layer1_width": "2"},
            {"stage1_layer2_conv": "3x3"},
            {FIRST: (np.s_[:], np.s_[:]), LAST: (np.s_[:], np.s_[:, :2])},
            id="too-narrow-for-an-identity",
        ),
    ],
)
def test_other_changes_are_not_exact_but_keep_what_both_have(
    before: dict[str, str], change: dict[str, str], kept: dict[str, tuple[Any, Any]]
) -> None:
    """kept: weight -> where it is in the child, and where in the parent."""
    torch.manual_seed(8)
    parent_arch, child_arch = (arch_of(**{**SMALL, **before, **new}) for new in ({}, change))
    inheritance = SPACE.inherit(parent_arch, child_arch, TASK, SCALE)
    assert not inheritance.exact
    parent = disturbed(parent_arch)
    child = hand_down(parent_arch, child_arch, parent)
    inheritance.calibrate(child, images_like(child))
    assert difference(child, parent, images_like(child)) > 1e-3
    assert child.train()(images_like(child)).isfinite().all()
    was, now = parent.state_dict(), child.state_dict()
    for name, (target, source) in kept.items():
        assert torch.equal(now[name][target], was[name][source]), name
    assert torch.equal(now["classifier.bias"], was["classifier.bias"])


@pytest.mark.parametrize("seed", range(3))
def test_any_member_inherits_from_any_other(seed: int) -> None:
    """Even where layers between are gone: finite in training, and exact only if it is."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    for _ in range(10):
        before, after = SPACE.sample(rng), SPACE.sample(rng)
        parent = disturbed(before)
        inheritance = SPACE.inherit(before, after, TASK, SCALE)
        child = hand_down(before, after, parent)
        inheritance.calibrate(child, images_like(child))
        found = difference(child, parent, images_like(child))
        assert inheritance.exact == (found < 1e-10)
        logits = child.train()(images_like(child))
        logits.sum().backward()
        assert logits.isfinite().all()


# --- the space


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stages": 0}, "need 1 <= stages <= 8, got 0"),
        ({"stages": 9}, "need 1 <= stages <= 8, got 9"),
        ({"layers": 0}, "need 1 <= layers <= 30, got 0"),
        ({"layers": 31}, "need 1 <= layers <= 30, got 31"),
        ({"max_width": 6}, "max_width: need a power of two from 1 to 1,024, got 6"),
        ({"max_width": 2048}, "max_width: need a power of two"),
        ({"min_width": 0}, "min_width: need a power of two"),
        ({"min_width": 4, "max_width": 2}, "min_width = 4, which max_width = 2 does not allow: raise max_width"),
    ],
)
def test_bad_options(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MorphCNN(**options)


def test_the_smallest_space_has_two_members() -> None:
    space = MorphCNN(stages=1, layers=1, max_width=1)
    assert space.size == 2
    found = space.morphisms(space.start())
    assert [len(found[kind]) for kind in KINDS] == [0, 0, 0, 0, 1]
    assert not any(space.morphisms(found["kernel"][0]).values())


def test_morphisms_by_hand() -> None:
    """From 3x1 3x2 | 3x2: widths are in channels, whose number doubles with the stage."""
    found = SPACE.morphisms(arch_of(**SMALL))
    forms = {kind: [SPACE.canonical(arch) for arch in archs] for kind, archs in found.items()}
    assert forms == {
        "deeper": [
            *("3x1 3x1 3x2 | 3x2", "3x1 5x1 3x2 | 3x2"),
            *("3x1 3x2 3x2 | 3x2", "3x1 3x2 5x2 | 3x2"),
            *("3x1 3x2 | 3x2 3x2", "3x1 3x2 | 3x2 5x2"),
        ],
        "wider": [
            *("3x2 3x2 | 3x2", "3x4 3x2 | 3x2"),
            *("3x1 3x4 | 3x2", "3x1 3x8 | 3x2"),
            *("3x1 3x2 | 3x4", "3x1 3x2 | 3x8"),
        ],
        "concat": ["3x1 3x2,1 | 3x2", "3x1 3x2 | 3x2,0"],
        "add": ["3x1 3x2+1 | 3x2", "3x1 3x2 | 3x2+0"],
        "kernel": ["5x1 3x2 | 3x2", "3x1 5x2 | 3x2", "3x1 3x2 | 5x2"],
    }


def test_a_layer_that_would_need_more_than_the_largest_width_is_not_inserted() -> None:
    """8 + 1 after the concatenation, where 8 is all there is."""
    joined = arch_of(**{**SMALL, **CONCAT, "stage1_layer3_width": "8"})
    forms = [SPACE.canonical(arch) for arch in SPACE.morphisms(joined)["deeper"]]
    assert [form for form in forms if not form.startswith("3x1 3x8,1 | 3x2 ")] == [
        "3x1 3x1 3x8,1 | 3x2",
        "3x1 5x1 3x8,1 | 3x2",
    ]


def test_a_skip_from_an_empty_slot_is_none() -> None:
    """And stays none when a layer comes into the slot."""
    dormant = arch_of(**SMALL, stage1_layer3_skip="layer2", stage1_layer3_join="add")
    assert SPACE.canonical(dormant) == SPACE.canonical(arch_of(**SMALL)) == "3x1 3x2 | 3x2"
    assert str(build(dormant)) == str(build(arch_of(**SMALL)))
    found, plain = SPACE.morphisms(dormant), SPACE.morphisms(arch_of(**SMALL))
    for kind in KINDS:
        assert list(map(SPACE.canonical, found[kind])) == list(map(SPACE.canonical, plain[kind]))


def test_slots_do_not_matter_but_their_order() -> None:
    one = arch_of(stage1_layer2_conv="5x5", stage1_layer4_conv="3x3", stage1_layer4_skip="layer2")
    other = arch_of(stage1_layer3_conv="5x5", stage1_layer4_conv="3x3", stage1_layer4_skip="layer3")
    swapped = arch_of(stage1_layer2_conv="3x3", stage1_layer4_conv="5x5", stage1_layer4_skip="layer2")
    assert SPACE.canonical(one) == SPACE.canonical(other) == "3x1 5x1 3x1,2 | 3x2" != SPACE.canonical(swapped)
    assert count(one) == count(other)


def test_decisions_that_do_not_matter() -> None:
    rng = np.random.default_rng(9)
    for _ in range(30):
        arch = SPACE.sample(rng)
        active = SPACE.active_many(np.array([arch.choices], np.uint8))[0]
        for i, decision in enumerate(SPACE.decisions):
            forms = {
                SPACE.canonical(SPACE.arch([*arch.choices[:i], option, *arch.choices[i + 1 :]]))
                for option in range(len(decision.options))
            }
            assert (len(forms) > 1) == active[i], decision

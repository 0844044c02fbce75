"""nastool.tasks.images.robustness: attacks and shifts against their definitions, and what networks make of them."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from nastool.core.errors import InputError
from nastool.tasks.images import robustness
from nastool.tasks.images.augment import ImageBatches
from nastool.tasks.images.data import ImageData, load
from nastool.tasks.images.robustness import FGSM, PGD, SEVERITIES, SHIFTS, attack_of, measured, shifted, shifts_of

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 20, channels: int = 3, side: int = 6) -> Tensor:
    return torch.rand(n, channels, side, side, generator=generator(7))


def network(channels: int = 3, side: int = 6, classes: int = 4, width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * side * side, width), nn.Tanh(), nn.Linear(width, classes)
    ).eval()


LABELS = torch.arange(20) % 4


@cache
def trained(name: str) -> tuple[ImageData, ImageBatches, nn.Module]:
    """A data set, its test images, and a small network that has learnt something of it."""
    data = load(name)
    train, test = (data.batches(part, torch.device("cpu")) for part in ("train", "test"))
    assert train is not None and test is not None
    torch.manual_seed(0)
    side = data.task.height
    found = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * side * side, 10)
    )
    optimizer = torch.optim.Adam(found.parameters(), 0.01)
    batches = train.minibatches(100, generator())
    for _ in range(120):
        x, y = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(found(x), y).backward()  # type: ignore[no-untyped-call]  # torch's stub
        optimizer.step()
    return data, test, found.eval()


@given(st.floats(0, 1), st.integers(1, 4), st.booleans(), st.sampled_from([None, 0.0, 0.03, 1.0]))
@settings(max_examples=40)
def test_no_pixel_changes_by_more_than_eps_or_leaves_its_range(
    eps: float, steps: int, random_start: bool, step: float | None
) -> None:
    attack = PGD(eps=eps, steps=steps, step=step, random_start=random_start)
    found = attack(network(), images(), LABELS, generator())
    assert (found - images()).abs().max() <= eps + 1e-7
    assert found.min() >= 0 and found.max() <= 1
    if eps == 0:
        assert torch.equal(found, images())


def test_the_start_is_drawn_from_all_within_eps_and_by_the_generator() -> None:
    attack = PGD(eps=0.1, steps=1, step=0)
    x = torch.full((50, 3, 6, 6), 0.5)
    found = attack(network(), x, LABELS.repeat(3)[:50], generator(1))
    change = found - x
    assert change.min() < -0.099 and change.max() > 0.099
    assert abs(change.mean().item()) < 0.005 and change.std().item() == pytest.approx(0.2 / 12**0.5, rel=0.05)
    assert torch.equal(found, attack(network(), x, LABELS.repeat(3)[:50], generator(1)))
    assert not torch.equal(found, attack(network(), x, LABELS.repeat(3)[:50], generator(2)))


def test_fgsm_is_a_step_along_the_sign_of_the_gradient_worked_out_by_hand() -> None:
    """Of a linear network with its own normalisation: the gradient is (softmax - one-hot) W / std."""
    weight = torch.randn(4, 3 * 6 * 6, generator=generator(3))
    mean, std = torch.rand(3, 1, 1, generator=generator(4)), torch.rand(3, 1, 1, generator=generator(5)) + 0.1
    x = images()

    def linear(pixels: Tensor) -> Tensor:
        return ((pixels - mean) / std).flatten(1) @ weight.T

    error = linear(x).softmax(1) - F.one_hot(LABELS, 4)
    expected = (x + 0.05 * ((error @ weight).view_as(x) / std).sign()).clamp(0, 1)
    assert torch.allclose(FGSM(eps=0.05)(linear, x, LABELS), expected, atol=1e-6)
    one_step = PGD(eps=0.05, steps=1, step=0.05, random_start=False)
    assert torch.equal(one_step(linear, x, LABELS), FGSM(eps=0.05)(linear, x, LABELS))


def test_of_numbers_the_squared_error_grows() -> None:
    x, y = images(), torch.randn(20, 2, generator=generator(2))
    found = network(classes=2)
    attacked = FGSM(eps=0.05)(found, x, y)
    assert ((found(attacked) - y) ** 2).mean() > ((found(x) - y) ** 2).mean()


def test_logarithms_of_probabilities_are_attacked_as_logits_are() -> None:
    attack = PGD(eps=0.1, steps=3)
    one = network()
    of_logits = attack(one, images(), LABELS, generator())
    of_logarithms = attack(lambda x: one(x).log_softmax(1), images(), LABELS, generator())
    assert torch.equal(of_logits, of_logarithms)


def test_an_averaged_ensemble_is_attacked_as_a_whole() -> None:
    """The attack on the mean of the probabilities hurts it more than the attack on one member does."""
    torch.manual_seed(1)
    members = [network(), nn.Sequential(nn.Flatten(), nn.Linear(108, 4)).eval()]

    def mean(x: Tensor) -> Tensor:
        return torch.stack([member(x).softmax(1) for member in members]).mean(0).log()

    attack = PGD(eps=0.1, steps=10, random_start=False)
    losses = [F.nll_loss(mean(attack(attacked, images(), LABELS)), LABELS).item() for attacked in (mean, members[0])]
    assert losses[0] > losses[1]


def test_a_network_that_is_sure_of_itself_is_attacked_all_the_same() -> None:
    """In float32 the probability of the label would be 1 to the last bit, and its part of the gradient 0."""
    weight = torch.randn(4, 3 * 6 * 6, generator=generator(3))
    y = (images().flatten(1) @ weight.T).argmax(1)

    def sure(x: Tensor) -> Tensor:
        return 20 * x.flatten(1) @ weight.T

    margin = [sure(x).gather(1, y[:, None]).mean() for x in (images(), FGSM(eps=0.01)(sure, images(), y))]
    assert sure(images()).softmax(1).amax(1).eq(1).any()
    assert margin[1] < margin[0]


def test_nothing_of_eps_0_changes_what_is_measured() -> None:
    data, test, found = trained("digits")
    clean = data.task.measure(found, test.in_order())
    for spec in ("fgsm:eps=0", "pgd:eps=0,steps=3"):
        assert measured(data.task, found, test, spec, None) == {f"robust_{name}": clean[name] for name in clean}


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_stronger_attacks_and_shifts_leave_less_of_the_accuracy(name: str) -> None:
    data, test, found = trained(name)
    clean = data.task.measure(found, test.in_order())
    accuracies = [clean["acc"]]
    for spec in ("fgsm:eps=4/255", "pgd:eps=4/255,steps=10", "pgd:eps=16/255,steps=10"):
        accuracies.append(measured(data.task, found, test, spec, None)["robust_acc"])
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[-1] < accuracies[0] - 0.1
    metrics = measured(data.task, found, test, None, "all")
    severities = [clean["acc"], *(metrics[f"severity{severity}_acc"] for severity in SEVERITIES)]
    assert severities == sorted(severities, reverse=True) and severities[-1] < severities[0] - 0.05
    for metric in ("acc", "loss"):
        mean = metrics[f"shifted_{metric}"]
        assert mean == pytest.approx(sum(metrics[f"{kind}_{metric}"] for kind in SHIFTS) / len(SHIFTS))
        assert mean == pytest.approx(sum(metrics[f"severity{s}_{metric}"] for s in SEVERITIES) / len(SEVERITIES))
    assert metrics == measured(data.task, found, test, None, "all")
    assert measured(data.task, found, test, None, "noise")["shifted_acc"] == metrics["noise_acc"]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_its_standard_deviation_and_is_drawn_by_the_generator(severity: int) -> None:
    x = torch.full((100, 1, 10, 10), 0.5)
    found = shifted(x, "noise", severity, generator())
    assert found.std().item() == pytest.approx((0.04, 0.06, 0.08, 0.09, 0.1)[severity - 1], rel=0.03)
    assert torch.equal(found, shifted(x, "noise", severity, generator()))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_spreads_a_point_by_its_standard_deviation_and_keeps_flat_images(severity: int) -> None:
    point = torch.zeros(1, 2, 15, 15)
    point[0, 1, 7, 7] = 1
    found = shifted(point, "blur", severity)[0]
    assert not found[0].any() and found[1].sum().item() == pytest.approx(1)
    assert torch.allclose(found[1], found[1].T) and torch.allclose(found[1], found[1].flip(0))
    variance = (found[1].sum(0) * (torch.arange(15) - 7) ** 2).sum().item()
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1]
    weights = {d: 2.718281828 ** (-0.5 * (d / sigma) ** 2) for d in range(-4, 5)}
    assert variance == pytest.approx(sum(d * d * w for d, w in weights.items()) / sum(weights.values()), rel=1e-3)
    assert torch.allclose(shifted(torch.full((1, 3, 8, 8), 0.3), "blur", severity), torch.tensor(0.3))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_keeps_the_mean_of_each_channel_and_a_share_of_what_differs(severity: int) -> None:
    x = images()
    found = shifted(x, "contrast", severity)
    assert torch.allclose(found.mean((2, 3)), x.mean((2, 3)), atol=1e-6)
    share = found.std((2, 3)) / x.std((2, 3))
    assert torch.allclose(share, torch.tensor((0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]), atol=1e-5)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_raises_the_value_and_keeps_hue_and_saturation(severity: int) -> None:
    x, more = images(), (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    found = shifted(x, "brightness", severity)
    assert torch.allclose(found.amax(1), (x.amax(1) + more).clamp(max=1))
    assert torch.allclose(found / found.amax(1, keepdim=True), x / x.amax(1, keepdim=True), atol=1e-5)
    assert torch.allclose(shifted(torch.zeros(1, 3, 2, 2), "brightness", severity), torch.tensor(more))


def test_specifications_are_read_with_their_defaults() -> None:
    plain = attack_of("pgd")
    assert (plain.eps, plain.steps, plain.step, plain.random_start) == (8 / 255, 20, 2 / 255, True)
    given = attack_of("pgd:eps=0.1,steps=5,step=1/50,random_start=no")
    assert (given.eps, given.steps, given.step, given.random_start) == (0.1, 5, 0.02, False)
    assert attack_of("fgsm:eps=16/255").eps == 16 / 255
    assert shifts_of("all") == [*SHIFTS] and shifts_of("blur, noise") == ["blur", "noise"]


@pytest.mark.parametrize(
    ("read", "spec", "says"),
    [
        (attack_of, "pdg", "no attack pdg; did you mean 'pgd'?"),
        (attack_of, "pgd:eps=8", "attack pgd: eps: need a number or a fraction from 0 to 1, such as 8/255, got 8.0"),
        (attack_of, "pgd:eps=8/0", "eps: need a number or a fraction from 0 to 1, such as 8/255, got 8/0"),
        (attack_of, "pgd:eps=nan", "eps: need"),
        (attack_of, "pgd:step=-1/255", "step: need"),
        (attack_of, "pgd:steps=0", "attack pgd: steps: need at least 1, got 0"),
        (attack_of, "pgd:steps=many", "option steps must be int"),
        (attack_of, "fgsm:steps=3", "attack fgsm has no option 'steps'"),
        (attack_of, "pgd:8/255", "write attack NAME or attack NAME:KEY=VALUE"),
        (shifts_of, "blurr", "no shift 'blurr'; did you mean 'blur'?"),
        (shifts_of, "noise,noise", "noise is given twice"),
        (shifts_of, "", "no shift ''"),
    ],
)
def test_what_is_wrong_with_a_specification_is_said(read: Any, spec: str, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)) as found:
        read(spec)
    assert len(str(found.value)) < 400


def test_all_that_is_named_is_there() -> None:
    assert all(shifts_of(kind) == [kind] for kind in robustness.SHIFTS)
    assert all(isinstance(attack_of(name), PGD) for name in robustness.ATTACKS)


def test_kinds_of_shifts_take_turns_whatever_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    _, batches, _ = trained("digits")
    kinds = [kind for kind in SHIFTS if kind != "noise"]
    whole = torch.cat([x for x, _ in robustness.in_turn(batches, ",".join(kinds))])
    monkeypatch.setattr(batches, "at_once", 7)
    parts = [x for x, _ in robustness.in_turn(batches, ",".join(kinds))]
    assert len(parts) > 2
    torch.testing.assert_close(torch.cat(parts), whole)
    pixels = torch.cat([x for x, _ in batches.pixels()])
    for i, kind in enumerate(kinds):
        torch.testing.assert_close(whole[i :: len(kinds)], batches.of_pixels(shifted(pixels, kind, 5))[i :: len(kinds)])


def test_the_same_images_are_shifted_alike_each_time() -> None:
    _, batches, _ = trained("digits")
    first, again = (torch.cat([x for x, _ in robustness.in_turn(batches, "all")]) for _ in range(2))
    assert torch.equal(first, again)

"""nastool.training.unrolled: the gradient through a step of the weights, against exact differentiation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nastool.training.unrolled import unrolled

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.03


def quadratic(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights (4,), architecture (3,), and matrices that make the losses of them; float64."""
    g = torch.Generator().manual_seed(seed)
    w, a, mix, want = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((4,), (3,), (4, 3), (4,)))
    return w.requires_grad_(), a.requires_grad_(), mix, want


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bilinear", [False, True])
def test_it_is_exact_on_a_quadratic(seed: int, bilinear: bool) -> None:
    """The differences of a gradient that is linear in the weights are its derivative."""
    w, a, mix, want = quadratic(seed)
    velocity = mix[:, 0] / 7

    def train(weights: Tensor) -> Tensor:
        fit = (weights - mix @ a).square().sum() / 2
        return fit + (3 * weights @ mix @ a if bilinear else 0.0)

    def val(weights: Tensor) -> Tensor:
        return (weights - want).square().sum() / 2 + (a**3).sum()

    (gradient,) = torch.autograd.grad(train(w), w, create_graph=True)
    after = w - LR * (gradient + DECAY * w.detach() + MOMENTUM * velocity)
    (exact,) = torch.autograd.grad(val(after), a)
    before = w.detach().clone()
    pull = [DECAY * w.detach() + MOMENTUM * velocity]
    loss, (found,) = unrolled(lambda: train(w), lambda: val(w), [w], [a], lr=LR, pull=pull)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)
    assert loss.item() == pytest.approx(val(after).item()) and not loss.requires_grad
    assert torch.equal(w, before), "the weights are what they were"
    (first,) = torch.autograd.grad(val(w), a)
    assert not torch.allclose(found, first), "the first order is another one"


def test_weights_are_put_back_where_a_loss_fails() -> None:
    w, a, mix, _ = quadratic(0)
    before = w.detach().clone()

    def fails() -> Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        unrolled(lambda: (w - mix @ a).square().sum(), fails, [w], [a], lr=LR, pull=[0.0])
    assert torch.equal(w, before)


def test_what_has_no_part_in_a_loss_has_no_gradient() -> None:
    w, a, mix, _ = quadratic(0)
    unused = torch.ones(2, dtype=torch.float64, requires_grad=True)
    _, found = unrolled(
        lambda: (w - mix @ a).square().sum(), lambda: w.square().sum(), [w, unused], [a, unused], lr=LR, pull=[0.0, 0.0]
    )
    assert found[0].abs().sum() > 0 and torch.equal(found[1], torch.zeros_like(unused))

"""nastool.nets.crossentropy: torch's own, part by part."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from nastool.nets import crossentropy

TARGETS = torch.tensor([1, 2, -100, 0, 8, 3, -100])


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize(("dtype", "near"), [(torch.double, 1e-10), (torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_it_is_torchs_own(monkeypatch: pytest.MonkeyPatch, rows: int, dtype: torch.dtype, near: float) -> None:
    monkeypatch.setattr(crossentropy, "IN_CACHE", 9 * rows)
    logits = (3 * torch.randn(7, 9)).to(dtype).requires_grad_()
    loss = crossentropy.mean_loss(logits, TARGETS)
    (found,) = torch.autograd.grad(2 * loss, logits)
    right = functional.cross_entropy(logits.double(), TARGETS)
    (gradient,) = torch.autograd.grad(2 * right, logits)
    torch.testing.assert_close(loss.double(), right, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.double(), gradient.double(), atol=near, rtol=near)
    each = functional.cross_entropy(logits.float(), TARGETS, reduction="none")
    torch.testing.assert_close(crossentropy.losses(logits, TARGETS), each)
    with torch.no_grad():
        torch.testing.assert_close(crossentropy.mean_loss(logits, TARGETS), loss, check_dtype=False)


def test_smoothed_labels() -> None:
    logits = torch.randn(7, 9, requires_grad=True)
    right = functional.cross_entropy(logits, TARGETS, label_smoothing=0.1)
    torch.testing.assert_close(crossentropy.mean_loss(logits, TARGETS, 0.1), right)

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nastool.nets.averaging import Averaged


class Fixed(nn.Module):
    """Says the same logits of every example."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


@pytest.fixture
def networks() -> list[nn.Module]:
    return [Fixed(torch.randn(4, generator=torch.Generator().manual_seed(i))) for i in range(3)]


def test_its_softmax_is_the_weighted_mean_of_probabilities(networks: list[nn.Module]) -> None:
    weights, hot = (0.5, 0.3, 0.2), (1.0, 0.5, 2.0)
    x = torch.zeros(2, 1)
    said = [(network(x) / t).softmax(1) for network, t in zip(networks, hot, strict=True)]
    wanted = sum(weight * each for weight, each in zip(weights, said, strict=True))
    assert isinstance(wanted, Tensor)
    assert torch.allclose(Averaged(networks, weights, hot)(x).softmax(1), wanted)
    cooled = Averaged(networks, weights, hot, 0.5)(x).softmax(1)
    assert torch.allclose(cooled, wanted**2 / (wanted**2).sum(1, keepdim=True))


def test_one_member_is_the_network_itself(networks: list[nn.Module]) -> None:
    x = torch.zeros(2, 1)
    assert torch.equal(Averaged(networks[:1], [1.0], [1.0])(x).argmax(1), networks[0](x).argmax(1))
    assert torch.allclose(Averaged(networks[:1], [1.0], [1.0])(x).softmax(1), networks[0](x).softmax(1))


def test_probabilities_that_underflow_stay_finite() -> None:
    sure = [Fixed(torch.tensor([200.0, 0.0])), Fixed(torch.tensor([150.0, 0.0]))]
    said = Averaged(sure, [0.5, 0.5], [1.0, 1.0])(torch.zeros(1, 1))
    assert said.isfinite().all() and said.argmax() == 0

"""The samplers of differentiable strategies: densities, means, costs and pushes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from nastool.learners import draws
from nastool.strategies.drnas import Dirichlet, concentration
from nastool.strategies.fairdarts import Sigmoid
from nastool.strategies.snas import Concrete, expected, log_density, mixed


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestConcrete:
    def test_the_golden_density(self) -> None:
        """K = 3, alpha = (1, 2, 3), Z = (.2, .3, .5), temperature .5."""
        alpha, z = torch.tensor([[1.0, 2.0, 3.0]]).double(), torch.tensor([[0.2, 0.3, 0.5]]).double()
        assert log_density(alpha.log(), z, 0.5).item() == pytest.approx(-0.588112, abs=5e-7)

    def test_the_density_adds_up_to_one(self) -> None:
        """A Riemann sum over the simplex at temperature 1.5, where it is bounded."""
        n = 400
        first, second = np.meshgrid(np.arange(n) + 1 / 3, np.arange(n) + 1 / 3)
        points = np.stack([first, second, n - first - second], -1).reshape(-1, 3) / n
        z = torch.from_numpy(points[(points > 0).all(1)])
        alpha = torch.tensor([1.0, 2.0, 3.0]).double().log().expand_as(z)
        assert log_density(alpha, z, 1.5).exp().sum().item() / n**2 == pytest.approx(1, abs=0.01)

    @pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
    def test_the_largest_is_drawn_with_softmax_whatever_the_temperature(self, progress: float) -> None:
        alpha = torch.tensor([0.5, -1.0, 1.0, 0.0])
        drawn = Concrete().draw(alpha.expand(4000, 4), progress, generator())
        torch.testing.assert_close(drawn.sum(1), torch.ones(4000))
        counts = np.bincount(drawn.argmax(1).numpy(), minlength=4)
        shares = alpha.double().softmax(0).numpy()
        assert stats.chisquare(counts, 4000 * shares / shares.sum()).pvalue > 0.01

    def test_it_becomes_one_hot(self) -> None:
        alpha = torch.randn(500, 5, generator=generator())
        largest = [Concrete().draw(alpha, progress, generator(1)).amax(1).mean().item() for progress in (0, 0.5, 1)]
        assert largest[0] < 0.7 < largest[1] < 0.98 < largest[2]
        assert [Concrete().temperature(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1, 0.515, 0.03])

    def test_gradients_stay_finite_at_the_end(self) -> None:
        for estimator in ("sample", "policy", "expectation"):
            sampler = Concrete(resource=1.0, estimator=estimator)
            alpha = (3 * torch.randn(100, 5, generator=generator())).requires_grad_()
            weights = sampler.draw(alpha, 1.0, generator(1))
            costs = [torch.rand(2, 5, 3) * 1e6] * 100
            extra = sampler.extra(alpha, weights, costs, 1.0)
            assert isinstance(extra, Tensor)
            (gradient,) = torch.autograd.grad(extra, alpha)
            assert bool(gradient.isfinite().all()), estimator


def costs_of(*options: float) -> list[Tensor]:
    """Of two decisions with the same options, in two places each; all three costs alike."""
    return [torch.tensor(options)[None, :, None].expand(2, len(options), 3).contiguous() for _ in range(2)]


class TestCosts:
    def test_the_expected_cost_is_that_of_enumerated_cells(self) -> None:
        """Two edges of 8 operations: 64 cells."""
        alpha = torch.randn(2, 8, generator=generator()).double()
        shares = alpha.softmax(1)
        costs = [torch.rand(3, 8, 3, generator=generator(i)).double() * 10 ** (i + 2) for i in range(2)]
        enumerated = 0.0
        for cell in itertools.product(range(8), repeat=2):
            one_hot = torch.zeros(2, 8).double()
            one_hot[[0, 1], list(cell)] = 1
            probability = float(shares[0, cell[0]] * shares[1, cell[1]])
            enumerated += probability * mixed(one_hot, costs).sum().item()
        assert expected(shares, costs).sum().item() == pytest.approx(enumerated, rel=1e-12)

    def test_by_hand(self) -> None:
        """The mean of three logarithms, of sums of which those below 1 count as 1."""
        costs = [torch.tensor([[[math.e**2, math.e**4, math.e**6], [0.0, 0.0, 0.0]]])]
        assert mixed(torch.tensor([[1.0, 0.0]]), costs).item() == pytest.approx(4)
        assert mixed(torch.tensor([[0.0, 1.0]]), costs).item() == 0
        assert mixed(torch.tensor([[math.exp(-5), 0.0]]), costs).item() == pytest.approx(1 / 3)

    @pytest.mark.parametrize("estimator", ["sample", "policy", "expectation"])
    def test_the_cheaper_of_two_equal_options_becomes_likelier(self, estimator: str) -> None:
        """The cost is not that of the likeliest architecture, which has no gradient. By the mean of many draws."""
        sampler = Concrete(resource=1.0, estimator=estimator)
        alpha = torch.zeros(2, 2, requires_grad=True)
        total = torch.zeros(2, 2)
        source = generator()
        for _ in range(2000):
            weights = sampler.draw(alpha, 0.0, source)
            extra = sampler.extra(alpha, weights, costs_of(1000.0, 10.0), 0.0)
            assert isinstance(extra, Tensor)
            total += torch.autograd.grad(extra, alpha)[0]
        down = -total / 2000
        assert bool((down[:, 1] > 0.1).all()) and bool((down[:, 0] < -0.1).all())

    def test_no_weight_no_cost(self) -> None:
        sampler = Concrete()
        assert not sampler.counts_costs and sampler.extra(torch.zeros(2, 2), torch.zeros(2, 2), None, 0.0) == 0


class TestDirichlet:
    def test_draws_and_gradients_are_torchs(self) -> None:
        """Its own distribution draws from the global generator."""
        concentrations = (0.3 + 2 * torch.rand(50, 5, generator=generator())).requires_grad_()
        drawn = draws.dirichlet(concentrations, generator(7))
        (found,) = torch.autograd.grad((drawn * torch.arange(5.0)).sum(), concentrations)
        with torch.random.fork_rng():
            torch.manual_seed(7)
            theirs = torch.distributions.Dirichlet(concentrations).rsample()
        (exact,) = torch.autograd.grad((theirs * torch.arange(5.0)).sum(), concentrations)
        torch.testing.assert_close(drawn, theirs)
        torch.testing.assert_close(found, exact)

    def test_the_divergence_is_torchs(self) -> None:
        concentrations = 0.2 + 3 * torch.rand(20, 5, generator=generator())
        mine, uniform = torch.distributions.Dirichlet(concentrations), torch.distributions.Dirichlet(torch.ones(20, 5))
        exact = torch.distributions.kl_divergence(mine, uniform)
        torch.testing.assert_close(draws.from_uniform(concentrations), exact, rtol=1e-4, atol=1e-5)

    def test_all_mixtures_are_alike_at_first(self) -> None:
        alpha = torch.zeros(2, 5)
        torch.testing.assert_close(concentration(alpha), torch.ones(2, 5))
        torch.testing.assert_close(Dirichlet().still(alpha), torch.full((2, 5), 0.2))

    def test_the_anchor_pulls_back(self) -> None:
        alpha = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
        extra = Dirichlet(anchor=1.0).extra(alpha, alpha, None, 0.0)
        assert isinstance(extra, Tensor)
        (gradient,) = torch.autograd.grad(extra, alpha)
        assert gradient[0, 0] > 0 > gradient[0, 2]


def test_fair_weights_are_pushed_to_either_end() -> None:
    alpha = torch.tensor([[0.5, -0.5, 0.0]], requires_grad=True)
    sampler = Sigmoid(separation=10.0)
    extra = sampler.extra(alpha, sampler.still(alpha), None, 0.0)
    assert isinstance(extra, Tensor)
    assert extra.item() == pytest.approx(-10 * 2 * (1 / (1 + math.exp(-0.5)) - 0.5) ** 2 / 3, rel=1e-5)
    (gradient,) = torch.autograd.grad(extra, alpha)
    assert gradient[0, 0] < 0 < gradient[0, 1] and gradient[0, 2] == 0

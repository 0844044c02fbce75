"""Pruning of ensembles: entropies, and which members stay."""

from __future__ import annotations

import numpy as np
import pytest

from nastool.core.errors import InputError
from nastool.ensembles.metrics import accuracy, mixture_of
from nastool.ensembles.pruning import (
    by_accuracy,
    by_entropy,
    entropy,
    mutual_information,
    tradeoff,
    variation_of_information,
)
from nastool.ensembles.selection import SELECTORS, stacking

X, Y, L = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2, 0, 2, 2]), np.array([0, 1, 2, 0, 1, 1])


def sure(said: np.ndarray, certainty: float = 0.9) -> np.ndarray:
    """Probabilities of members that say these classes, of three."""
    return np.where(np.eye(3, dtype=bool)[said], certainty, (1 - certainty) / 2)


class TestEntropies:
    """What two members have in common, in nats."""

    def test_golden_numbers(self) -> None:
        assert mutual_information(X, L) == pytest.approx(0.740300, abs=5e-7)
        assert mutual_information(Y, L) == pytest.approx(0.685331, abs=5e-7)
        assert variation_of_information(X, Y) == pytest.approx(0.413117, abs=5e-7)
        assert tradeoff(X, Y, L) == pytest.approx(0.562967, abs=5e-7)

    def test_members_that_say_the_same(self) -> None:
        assert mutual_information(X, X) == pytest.approx(1)
        assert variation_of_information(X, X) == pytest.approx(0)
        assert variation_of_information(X, (X + 1) % 3) == pytest.approx(0)  # one follows from the other
        assert tradeoff(X, X, L) == 0

    def test_members_that_have_nothing_in_common(self) -> None:
        a, b = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
        assert mutual_information(a, b) == pytest.approx(0)
        assert variation_of_information(a, b) == pytest.approx(1)

    def test_a_member_that_always_says_the_same_divides_by_nothing(self) -> None:
        constant = np.zeros(6, dtype=int)
        assert mutual_information(constant, L) == 0
        assert variation_of_information(constant, constant) == 0

    def test_entropy(self) -> None:
        assert entropy(np.array([0.5, 0.5, 0.0])) == pytest.approx(np.log(2))


class TestByAccuracy:
    """PAP, with the sign that its name promises."""

    def test_a_member_that_spoils_the_accuracy_goes(self) -> None:
        """Two are right where the third, surer of itself, is wrong."""
        labels = np.array([0, 1, 2, 0, 1, 2])
        good = sure(labels, 0.5)
        probabilities = np.stack([good, sure((labels + 1) % 3, 0.98), good])
        kept = by_accuracy(probabilities, labels, 3, np.full(3, 1 / 3))
        assert sorted(kept) == [0, 2]
        assert accuracy(mixture_of(probabilities[kept]), labels) > accuracy(mixture_of(probabilities), labels)

    def test_it_is_never_empty(self) -> None:
        """Two members each of which alone is better than both: the removal of either helps."""
        labels = np.array([0, 1, 2])
        a = np.array([[0.5, 0.4, 0.1], [0.1, 0.5, 0.4], [0.9, 0.0, 0.1]])
        b = np.array([[0.5, 0.4, 0.1], [0.9, 0.1, 0.0], [0.1, 0.4, 0.5]])
        probabilities = np.stack([a, b])
        mean = accuracy(mixture_of(probabilities), labels)
        assert min(accuracy(a, labels), accuracy(b, labels)) > mean
        assert sorted(by_accuracy(probabilities, labels, 2, np.full(2, 0.5))) == [0, 1]

    def test_of_more_than_are_wanted_those_stay_that_matter_most(self) -> None:
        labels = np.array([0, 1, 2, 0])
        right = sure(labels, 0.6)
        other = sure(np.array([0, 1, 1, 1]), 0.7)  # beside it the sum is right by the first alone
        probabilities = np.stack([other, right, 0.2 * other + 0.8 * sure(labels, 0.4)])
        weights = np.array([0.45, 0.5, 0.05])
        assert by_accuracy(probabilities, labels, 1, weights) == [1]


class TestByEntropy:
    """PIE: diverse and accurate members."""

    labels = np.random.default_rng(0).integers(3, size=200)

    def members(self, *accuracies: float) -> np.ndarray:
        """Members that are right so often, and say any class otherwise."""
        rng = np.random.default_rng(1)
        return np.stack([np.where(rng.random(200) < a, self.labels, rng.integers(3, size=200)) for a in accuracies])

    def test_accuracy_alone_takes_the_most_accurate(self) -> None:
        said = self.members(0.98, 0.3, 0.8, 0.2, 0.6)
        for seed in range(5):
            first, *others = by_entropy(said, self.labels, 3, 0.0, np.random.default_rng(seed))
            assert others == [each for each in (0, 2, 4) if each != first][:2]

    def test_diversity_alone_takes_the_most_different(self) -> None:
        said = self.members(0.95, 0.94, 0.93, 0.1)
        first = next(seed for seed in range(20) if np.random.default_rng(seed).integers(4) == 0)
        assert by_entropy(said, self.labels, 2, 1.0, np.random.default_rng(first)) == [0, 3]

    def test_it_maximises_the_sum_of_trade_offs(self) -> None:
        said = self.members(0.9, 0.8, 0.6, 0.5, 0.85, 0.3)
        kept = by_entropy(said, self.labels, 4, 0.5, np.random.default_rng(0))
        for k in range(1, 4):
            sums = {
                i: sum(tradeoff(said[i], said[j], self.labels) for j in kept[:k]) for i in range(6) if i not in kept[:k]
            }
            assert kept[k] == max(sums, key=sums.__getitem__)

    def test_a_step_removes_exactly_one(self) -> None:
        said = self.members(0.9, 0.8, 0.6)
        assert len(by_entropy(said, self.labels, 2, 0.5, np.random.default_rng(0))) == 2
        assert len(by_entropy(said, self.labels, 9, 0.5, np.random.default_rng(0))) == 3

    def test_copies_of_a_member_are_taken_last(self) -> None:
        said = self.members(0.9, 0.8, 0.6)[[0, 0, 1, 2]]
        kept = by_entropy(said, self.labels, 3, 0.5, np.random.default_rng(3))
        assert len({0, 1} & {*kept}) == 1

    def test_alpha_is_a_share(self) -> None:
        with pytest.raises(InputError, match=r"alpha: need a number in \[0, 1\], got 2"):
            by_entropy(self.members(0.9, 0.8), self.labels, 2, 2.0, np.random.default_rng(0))


class TestSelectors:
    """The three as selectors, all alike (.O) and by weights (.W)."""

    labels = np.random.default_rng(0).integers(4, size=300)

    def pool(self, members: int = 8) -> np.ndarray:
        """Probabilities of so many members, the later the better."""
        rng = np.random.default_rng(2)
        logits = rng.normal(size=(members, 300, 4))
        logits[:, np.arange(300), self.labels] += np.linspace(0, 2, members)[:, None]
        powers = np.exp(logits)
        found: np.ndarray = powers / powers.sum(2, keepdims=True)
        return found

    @pytest.mark.parametrize("name", ["prs", "pap", "pie"])
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("size", [1, 2, 5, 8, 20])
    def test_they_choose_members(self, name: str, weighted: bool, size: int) -> None:
        found = SELECTORS[name](self.pool(), self.labels, size, weighted=weighted)  # type: ignore[call-arg]
        assert 1 <= len(found.members) <= min(size, 8)
        assert len({*found.members}) == len(found.members)
        assert (found.weights > 0).all()
        assert found.weights.sum() == pytest.approx(1)
        if not weighted:
            assert len({*found.weights}) == 1

    def test_weights_are_those_of_stacking(self) -> None:
        probabilities = self.pool()
        whole = stacking(probabilities, self.labels, 8)
        weight = dict(zip(whole.members, whole.weights, strict=True))
        found = SELECTORS["pie"](probabilities, self.labels, 4, weighted=True)  # type: ignore[call-arg]
        expected = np.array([weight[each] for each in found.members])
        np.testing.assert_allclose(found.weights, expected / expected.sum())

    def test_other_seeds_take_others(self) -> None:
        drawn = {tuple(SELECTORS["prs"](self.pool(), self.labels, 3, seed=seed).members) for seed in range(5)}  # type: ignore[call-arg]
        assert len(drawn) > 1
        once, again = (SELECTORS["prs"](self.pool(), self.labels, 3, seed=1) for _ in range(2))  # type: ignore[call-arg]
        assert once.members == again.members

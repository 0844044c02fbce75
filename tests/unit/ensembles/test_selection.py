from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nastool.core.errors import InputError
from nastool.ensembles import metrics, selection
from nastool.ensembles.metrics import Floats, Labels
from nastool.ensembles.selection import SELECTORS, Selection
from tests.unit.ensembles.test_metrics import GOLDEN, LABELS, drawn


def loss(probabilities: Floats, labels: Labels, chosen: Selection) -> float:
    return metrics.nll(metrics.mixture_of(probabilities[chosen.members], chosen.weights), labels)


def test_forward_takes_the_published_order() -> None:
    assert selection.forward(GOLDEN, LABELS, 2).members == [0, 2]


@pytest.mark.parametrize("name", SELECTORS)
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 8), half=st.booleans())
def test_every_selector_names_different_members_and_weights(name: str, seed: int, size: int, half: bool) -> None:
    probabilities, labels = drawn(seed, members=6)
    given = probabilities.astype(np.float16) if half else probabilities
    found = SELECTORS[name](given, labels, size)
    assert 1 <= len(found.members) == len(set(found.members)) == len(found.weights) <= min(size, 6)
    assert set(found.members) <= set(range(6)) and all(type(each) is int for each in found.members)
    assert (found.weights > 0).all() and found.weights.sum() == pytest.approx(1)
    again = SELECTORS[name](given, labels, size)
    assert again.members == found.members and np.array_equal(again.weights, found.weights)


@pytest.mark.parametrize("name", SELECTORS)
def test_one_member_is_the_best_by_itself(name: str) -> None:
    probabilities, labels = drawn(5)
    found = SELECTORS[name](probabilities, labels, 1)
    if name not in ("stacking", "prs", "pap", "pie"):  # they go by what the whole pool needs, by errors, or by chance
        assert found.members == [int(metrics.member_nlls(probabilities, labels).argmin())]
    assert list(found.weights) == [1.0]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_forward_is_what_its_definition_says(seed: int) -> None:
    probabilities, labels = drawn(seed)
    taken: list[int] = []
    for _ in range(3):
        others = [each for each in range(5) if each not in taken]
        losses = [metrics.nll(metrics.mixture_of(probabilities[[*taken, each]]), labels) for each in others]
        taken.append(others[int(np.argmin(losses))])
    assert selection.forward(probabilities, labels, 3).members == taken
    assert selection.beam(probabilities, labels, 3, width=1).members == taken


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_a_beam_that_holds_all_sets_finds_the_best(seed: int) -> None:
    probabilities, labels = drawn(seed)
    found = selection.beam(probabilities, labels, 3, width=20)
    losses = {
        each: metrics.nll(metrics.mixture_of(probabilities[list(each)]), labels) for each in combinations(range(5), 3)
    }
    assert loss(probabilities, labels, found) == pytest.approx(min(losses.values()), rel=1e-12)
    assert (
        loss(probabilities, labels, found)
        <= loss(probabilities, labels, selection.forward(probabilities, labels, 3)) + 1e-12
    )


def test_members_that_are_added_again_weigh_more() -> None:
    probabilities, labels = drawn(6)
    better = np.concatenate([metrics.at_temperature(np.eye(4)[labels] * 0.9 + 0.025, 1.0)[None], probabilities])
    found = selection.forward(better, labels, 4, replacement=True)
    assert found.members == [0] and list(found.weights) == [1.0]
    assert len(selection.forward(better, labels, 4).members) == 4
    mixed = selection.forward(probabilities, labels, 7, replacement=True)
    assert np.allclose(mixed.weights * 7, np.round(mixed.weights * 7))


def test_quick_greedy_stops_where_nobody_helps() -> None:
    probabilities, labels = drawn(7)
    twins = np.stack([probabilities[0]] * 4)
    assert selection.quick_greedy(twins, labels, 4).members == [0]
    found = selection.quick_greedy(probabilities, labels, 5)
    assert loss(probabilities, labels, found) <= metrics.member_nlls(probabilities, labels).min() + 1e-12


def test_top_is_the_order_of_losses() -> None:
    probabilities, labels = drawn(8)
    assert selection.top(probabilities, labels, 3).members == list(
        metrics.member_nlls(probabilities, labels).argsort()[:3]
    )


def test_stacking_finds_the_weights_of_the_best_mixture() -> None:
    probabilities, labels = drawn(9, members=4, samples=400)
    found = selection.stacking(probabilities, labels, 4, iterations=100_000)
    least = loss(probabilities, labels, found)
    assert least < loss(probabilities, labels, selection.uniform([0, 1, 2, 3]))
    rng = np.random.default_rng(0)
    for weights in (*rng.dirichlet(np.ones(4), 200), *np.eye(4)):
        assert least <= metrics.nll(metrics.mixture_of(probabilities, weights), labels) + 1e-5
    two = selection.stacking(probabilities, labels, 2)
    assert len(two.members) == 2


def test_diversity_is_the_distance_to_the_mean() -> None:
    probabilities, labels = drawn(10)

    def score(chosen: list[int], strength: float) -> float:
        own = probabilities[chosen]
        mixture = metrics.mixture_of(own)
        return metrics.nll(mixture, labels) - strength * float(np.square(own - mixture).sum(-1).mean())

    for strength in (0.0, 0.3, 5.0):
        found = selection.diversity(probabilities, labels, 3, strength=strength, width=20)
        scores = [score(list(each), strength) for each in combinations(range(5), 3)]
        assert score(found.members, strength) == pytest.approx(min(scores), rel=1e-5)

    def apart(strength: float) -> float:
        return metrics.mean_of_pairs(
            metrics.disagreements(
                probabilities[selection.diversity(probabilities, labels, 3, strength=strength).members]
            )
        )

    assert apart(0.0) < apart(5.0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("beam", {"width": 0}, "width: need 1 or more sets, got 0"),
        ("diversity", {"strength": -1.0}, "strength: need a number >= 0, got -1"),
        ("diversity", {"strength": float("nan")}, "strength: need a number >= 0, got nan"),
        ("stacking", {"iterations": 0}, "iterations: need 1 or more, got 0"),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError) as caught:
        SELECTORS[name](GOLDEN, LABELS, 2, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", SELECTORS)
def test_what_cannot_be_chosen_from(name: str) -> None:
    for probabilities, labels, size, words in (
        (GOLDEN, LABELS, 0, "size: need 1 or more"),
        (GOLDEN[:0], LABELS, 2, "no predictions"),
        (GOLDEN, LABELS[:3], 2, "do not fit 3 labels"),
    ):
        with pytest.raises(InputError, match=words):
            SELECTORS[name](probabilities, labels, size)

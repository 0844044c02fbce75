from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nastool.ensembles import metrics
from nastool.ensembles.metrics import Floats, Labels

GOLDEN = np.array(
    [
        [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5], [0.5, 0.4, 0.1]],
        [[0.6, 0.3, 0.1], [0.3, 0.5, 0.2], [0.4, 0.4, 0.2], [0.2, 0.7, 0.1]],
        [[0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]],
    ]
)
"""3 members, 4 samples, 3 classes: computed by hand, from the definitions in the papers."""
LABELS = np.array([0, 1, 2, 0])


def drawn(seed: int, members: int = 5, samples: int = 60, classes: int = 4) -> tuple[Floats, Labels]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=samples)
    logits = 1.5 * rng.standard_normal((members, samples, classes))
    logits[:, np.arange(samples), labels] += rng.uniform(0, 3, (members, 1))
    powers = np.exp(logits)
    return powers / powers.sum(-1, keepdims=True), labels


def test_published_definitions_on_three_members() -> None:
    mixture = metrics.mixture_of(GOLDEN)
    assert metrics.member_nlls(GOLDEN, LABELS) == pytest.approx([0.563449, 1.105712, 0.675021], abs=5e-7)
    assert metrics.member_nlls(GOLDEN, LABELS).mean() == pytest.approx(0.781394, abs=5e-7)
    assert metrics.nll(mixture, LABELS) == pytest.approx(0.687073, abs=5e-7)
    assert metrics.oracle_nll(GOLDEN, LABELS) == pytest.approx(0.361830, abs=5e-7)
    assert [metrics.accuracy(each, LABELS) for each in (*GOLDEN, mixture)] == [1.0, 0.5, 0.75, 0.75]
    measured = metrics.measured(GOLDEN, LABELS)
    assert measured["disagreement"] == 0.5 and measured["normalised_disagreement"] == pytest.approx(2.0)
    eces = [metrics.binned(each, LABELS, 10).ece for each in (*GOLDEN, mixture)]
    assert eces == pytest.approx([0.425, 0.5, 0.35, 0.233333], abs=5e-7)
    assert measured["jensen_gap"] == pytest.approx(0.781394 - 0.687073, abs=1e-6)


def test_brier_is_the_squared_distance_to_the_label() -> None:
    onehot = np.eye(3)[LABELS]
    for each in GOLDEN:
        assert metrics.brier(each, LABELS) == pytest.approx(np.square(each - onehot).sum(-1).mean())
    assert metrics.brier(onehot, LABELS) == 0.0
    assert metrics.brier(np.eye(3)[[1, 2, 0, 1]], LABELS) == 2.0


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_mean_is_never_worse_than_its_members_in_the_mean(seed: int, weighted: bool) -> None:
    probabilities, labels = drawn(seed)
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(probabilities))) if weighted else None
    assert metrics.jensen_gap(probabilities, labels, weights) >= 0


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_the_oracle_is_at_least_as_good_as_each(seed: int) -> None:
    probabilities, labels = drawn(seed)
    assert metrics.oracle_nll(probabilities, labels) <= metrics.member_nlls(probabilities, labels).min()


def test_one_member_is_the_network_itself() -> None:
    probabilities, labels = drawn(1, members=1)
    assert np.array_equal(metrics.mixture_of(probabilities), probabilities[0])
    assert np.array_equal(metrics.mixture_of(probabilities, [1.0]), probabilities[0])
    measured = metrics.measured(probabilities, labels)
    assert measured["nll"] == measured["oracle_nll"] == metrics.nll(probabilities[0], labels)
    assert measured["disagreement"] == measured["normalised_disagreement"] == measured["jensen_gap"] == 0


def test_networks_without_errors_do_not_divide_by_zero() -> None:
    sure = np.stack([np.eye(3)[LABELS]] * 2)
    assert np.array_equal(metrics.disagreements(sure, LABELS), np.zeros((2, 2)))
    assert metrics.measured(sure, LABELS)["nll"] == 0
    assert metrics.nll(np.eye(3)[[1, 1, 2, 0]], LABELS) == pytest.approx(-math.log(metrics.FLOOR) / 4)


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("adaptive", [False, True], ids=["equal", "adaptive"])
def test_bins_hold_each_sample_once(bins: int, adaptive: bool) -> None:
    probabilities, labels = drawn(2, samples=97)
    found = metrics.binned(probabilities[0], labels, bins, adaptive=adaptive)
    assert found.counts.sum() == 97 and len(found.counts) <= bins
    assert np.dot(found.counts, found.accuracies) / 97 == pytest.approx(metrics.accuracy(probabilities[0], labels))
    assert np.dot(found.counts, found.confidences) / 97 == pytest.approx(probabilities[0].max(-1).mean())
    assert (np.diff(found.confidences) > 0).all()
    if adaptive:
        assert found.counts.max() - found.counts.min() <= 1


def test_a_confidence_on_a_border_is_of_the_lower_bin() -> None:
    for tenth in range(1, 11):
        sure = tenth / 10
        mixture = np.array([[sure, 0.0], [sure - 0.05, 0.0], [sure + 1e-3, 0.0]])
        counts = metrics.binned(mixture, np.zeros(3, int), 10).counts
        assert list(counts) == ([2, 1] if tenth < 10 else [3])


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5])
def test_the_temperature_is_found_by_which_predictions_were_spoilt(true: float) -> None:
    rng = np.random.default_rng(3)
    honest = metrics.at_temperature(rng.dirichlet(np.ones(4), 20_000), 1.0)
    labels = (rng.random((20_000, 1)) < honest.cumsum(-1)).argmax(-1)
    spoilt = metrics.at_temperature(honest, true)
    found = metrics.temperature_of(spoilt, labels)
    assert found == pytest.approx(1 / true, rel=0.05)
    least = metrics.nll(metrics.at_temperature(spoilt, found), labels)
    for other in (found * 0.99, found * 1.01):
        assert metrics.nll(metrics.at_temperature(spoilt, other), labels) > least


def test_temperatures_of_members_and_of_what_cannot_be_calibrated() -> None:
    probabilities, labels = drawn(4)
    own = np.array([metrics.temperature_of(each, labels) for each in probabilities])
    scaled = metrics.at_temperature(probabilities, own)
    assert np.allclose(scaled.sum(-1), 1) and np.allclose(scaled[2], metrics.at_temperature(probabilities[2], own[2]))
    assert (metrics.member_nlls(scaled, labels) <= metrics.member_nlls(probabilities, labels) + 1e-12).all()
    assert metrics.temperature_of(np.eye(3)[LABELS] * 0.8 + 0.2 / 3, LABELS) == pytest.approx(metrics.COLDEST)
    assert metrics.temperature_of(np.eye(3)[[1, 2, 0, 1]] * 0.8 + 0.2 / 3, LABELS) == pytest.approx(metrics.HOTTEST)
    assert 1 < metrics.temperature_of(np.full((4, 3), 1 / 3), LABELS) + 1  # nothing to choose by: some temperature
